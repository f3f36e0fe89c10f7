SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE SCHEMA quietdesk;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE quietdesk.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE quietdesk.backup (
    path text NOT NULL,
    made_at bigint NOT NULL
);
CREATE TABLE quietdesk.conversation (
    number bigint NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    title text NOT NULL,
    customer text,
    system text NOT NULL,
    metadata text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    deleted_at bigint,
    leaf integer,
    last_place integer NOT NULL
);
CREATE SEQUENCE quietdesk.conversation_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE quietdesk.conversation_number_seq OWNED BY quietdesk.conversation.number;
CREATE TABLE quietdesk.facet (
    conversation bigint NOT NULL,
    name text NOT NULL,
    value text NOT NULL
);
CREATE TABLE quietdesk.message (
    conversation bigint NOT NULL,
    place integer NOT NULL,
    parent integer,
    depth integer NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    author text NOT NULL,
    text text NOT NULL,
    created_at bigint NOT NULL,
    finish_reason text,
    tool_call_id text,
    tool_calls text,
    model text,
    pinned boolean NOT NULL,
    usage text,
    context bytea,
    rest text
);
CREATE TABLE quietdesk.open_reply (
    conversation bigint NOT NULL,
    place integer NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    started text NOT NULL,
    heartbeat bigint NOT NULL,
    earlier_leaf integer,
    earlier_updated_at bigint NOT NULL
);
CREATE TABLE quietdesk.score (
    conversation bigint NOT NULL,
    place integer NOT NULL,
    metric text NOT NULL,
    value double precision,
    cause boolean NOT NULL,
    at bigint NOT NULL,
    fingerprint text NOT NULL
);
CREATE TABLE quietdesk.search (
    conversation bigint NOT NULL,
    place integer NOT NULL,
    words tsvector NOT NULL
);
CREATE TABLE quietdesk.vault (
    salt text NOT NULL,
    proof text NOT NULL
);
ALTER TABLE ONLY quietdesk.conversation ALTER COLUMN number SET DEFAULT nextval('quietdesk.conversation_number_seq'::regclass);
INSERT INTO quietdesk.alembic_version VALUES ('0004');
INSERT INTO quietdesk.conversation VALUES (1, 'c-0', 'Order 4711', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t0"], "status": "open", "n": 0}', 1770091506000789, 1770091806000789, NULL, 3, 3);
INSERT INTO quietdesk.conversation VALUES (2, 'c-1', 'Order 4712', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t1"], "status": "open", "n": 1}', 1770095106000789, 1770095406000789, NULL, 4, 4);
INSERT INTO quietdesk.conversation VALUES (4, 'c-3', 'Order 4714', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t3"], "status": "open", "n": 3}', 1770102306000789, 1770102606000789, NULL, 4, 4);
INSERT INTO quietdesk.conversation VALUES (3, 'c-2', 'Order 4713', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t2"], "status": "open", "n": 2}', 1770098706000789, 1770099006000789, 1795528451084490, 3, 3);
INSERT INTO quietdesk.facet VALUES (1, 'n', '0');
INSERT INTO quietdesk.facet VALUES (1, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (1, 'tags', 't0');
INSERT INTO quietdesk.facet VALUES (1, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (1, 'author', 'bot');
INSERT INTO quietdesk.facet VALUES (1, 'author', 'customer');
INSERT INTO quietdesk.facet VALUES (2, 'n', '1');
INSERT INTO quietdesk.facet VALUES (2, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (2, 'tags', 't1');
INSERT INTO quietdesk.facet VALUES (2, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (2, 'author', 'bot');
INSERT INTO quietdesk.facet VALUES (2, 'author', 'customer');
INSERT INTO quietdesk.facet VALUES (2, 'author', 'human');
INSERT INTO quietdesk.facet VALUES (3, 'n', '2');
INSERT INTO quietdesk.facet VALUES (3, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (3, 'tags', 't2');
INSERT INTO quietdesk.facet VALUES (3, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (3, 'author', 'bot');
INSERT INTO quietdesk.facet VALUES (3, 'author', 'customer');
INSERT INTO quietdesk.facet VALUES (4, 'n', '3');
INSERT INTO quietdesk.facet VALUES (4, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (4, 'tags', 't3');
INSERT INTO quietdesk.facet VALUES (4, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (4, 'author', 'bot');
INSERT INTO quietdesk.facet VALUES (4, 'author', 'customer');
INSERT INTO quietdesk.facet VALUES (4, 'author', 'human');
INSERT INTO quietdesk.message VALUES (1, 1, NULL, 1, 'q-0', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770091506000789, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL);
INSERT INTO quietdesk.message VALUES (1, 2, 1, 2, 'r-0', 'bot', 'On its way 🚲, it''s 0000 here.', 1770091506000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', '\x789c458edd0ac2300c855f65f4dac11c0aeaab888cd28659d63635ed9c63f8ee2615f1f27ce727d9541c4c79a94bd37787d3ae518930a432149c20e68a191224bf0e0419e8090c8ffb9ea9d1e60ef61f956442efccca42117aefe2d82e2e5a5c147b0542f2bac8800a68c10b744ca57cdd94b3e23cda4ef8c4b51a849cf50882702e0643ad271723d83afabb7eae7fea8c5102ea7d631db1401d176166ca48d56495e71034addfec07df7a4fbf', NULL);
INSERT INTO quietdesk.message VALUES (1, 3, 1, 2, 's-0', 'bot', 'Another version.', 1770091506000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO quietdesk.message VALUES (2, 1, NULL, 1, 'q-1', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770095106000789, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL);
INSERT INTO quietdesk.message VALUES (2, 2, 1, 2, 'r-1', 'bot', 'On its way 🚲, it''s 0000 here.', 1770095106000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', '\x789c458edd0ac2300c855f65f4da811b0aeaab888cd28659d63635ed9c63f8ee2615f1f27ce727d9541c4c79a94bd3ef0fa75da312614865283841cc153324487e1d0832d013181ebb9ea9d1e60ef61f956442efccca42117aefe2d82e2e5a5c147b0542f2bac8800a68c10b744ca57cdd94b3e23cda4ef8c4b51a849cf50882702e0643ad271723d83afabb7eae7fea8c5102ea7d631db1401d176166ca48d56495e71034addfec07dfec4fc0', NULL);
INSERT INTO quietdesk.message VALUES (2, 3, 1, 2, 's-1', 'bot', 'Another version.', 1770095106000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO quietdesk.message VALUES (2, 4, 2, 3, 'h-1', 'human', 'A person here.', 1770095106000789, NULL, NULL, NULL, NULL, true, NULL, NULL, NULL);
INSERT INTO quietdesk.message VALUES (3, 1, NULL, 1, 'q-2', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770098706000789, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL);
INSERT INTO quietdesk.message VALUES (3, 2, 1, 2, 'r-2', 'bot', 'On its way 🚲, it''s 0000 here.', 1770098706000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', '\x789c458edd0ac2300c855f457aada043417d159151da30cbdaa4a69d7388ef6e52112fcf777e9297c1ded5a739afbaedfeb85e99cc9472ed2b8d80a561810c392e3d43017e80c0c3ae13eaacbb81ff4735992906b788304c31061c3673404fb311af42cad1561d30893c448541a8962f2f13bc3af74da77c945a0b4229760045345547a9d5734004df467fd74fed4f5b083560de57d14815dab80a3771216ea6a832a56479f9663fe05e4fc1', NULL);
INSERT INTO quietdesk.message VALUES (3, 3, 1, 2, 's-2', 'bot', 'Another version.', 1770098706000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO quietdesk.message VALUES (4, 1, NULL, 1, 'q-3', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770102306000789, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL);
INSERT INTO quietdesk.message VALUES (4, 2, 1, 2, 'r-3', 'bot', 'On its way 🚲, it''s 0000 here.', 1770102306000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', '\x789c458edd0ac2300c855f65f4da814e05f555444669c32c6b93da76ce317c77938a7879bef393ac0a7b535eead274dbc369d3a89828c4d2171a0173c50c1344bff40932a427303cee3aa6469b3bd87f549291bc330b0b95c87b87433b3bb4342bf60a84e875910115c88217e8984af9ba2a67c579b47be123d76a1072d60308a2a9180ab51e1d22d83afabb7eae7fea4c2801f5beb1462a50c7459829654ad56495a710745abed90fe0d04fc2', NULL);
INSERT INTO quietdesk.message VALUES (4, 3, 1, 2, 's-3', 'bot', 'Another version.', 1770102306000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO quietdesk.message VALUES (4, 4, 2, 3, 'h-3', 'human', 'A person here.', 1770102306000789, NULL, NULL, NULL, NULL, true, NULL, NULL, NULL);
INSERT INTO quietdesk.score VALUES (1, 0, 'turns', 1.5, false, 1770091506000789, 'f');
INSERT INTO quietdesk.score VALUES (1, 2, 'apologies', NULL, true, 1770091506000789, '');
INSERT INTO quietdesk.search VALUES (1, 0, '''4711'' ''order'' ''4'' ''o''');
INSERT INTO quietdesk.search VALUES (1, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货'' ''i'' ''m'' ''p'' ''w''');
INSERT INTO quietdesk.search VALUES (1, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''h'' ''o'' ''s'' ''🚲'' ''🚲''');
INSERT INTO quietdesk.search VALUES (1, 3, '''another'' ''version'' ''a'' ''v''');
INSERT INTO quietdesk.search VALUES (2, 0, '''4712'' ''order'' ''4'' ''o''');
INSERT INTO quietdesk.search VALUES (2, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货'' ''i'' ''m'' ''p'' ''w''');
INSERT INTO quietdesk.search VALUES (2, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''h'' ''o'' ''s'' ''🚲'' ''🚲''');
INSERT INTO quietdesk.search VALUES (2, 3, '''another'' ''version'' ''a'' ''v''');
INSERT INTO quietdesk.search VALUES (2, 4, '''a'' ''person''');
INSERT INTO quietdesk.search VALUES (3, 0, '''4713'' ''order'' ''4'' ''o''');
INSERT INTO quietdesk.search VALUES (3, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货'' ''i'' ''m'' ''p'' ''w''');
INSERT INTO quietdesk.search VALUES (3, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''h'' ''o'' ''s'' ''🚲'' ''🚲''');
INSERT INTO quietdesk.search VALUES (3, 3, '''another'' ''version'' ''a'' ''v''');
INSERT INTO quietdesk.search VALUES (4, 0, '''4714'' ''order'' ''4'' ''o''');
INSERT INTO quietdesk.search VALUES (4, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货'' ''i'' ''m'' ''p'' ''w''');
INSERT INTO quietdesk.search VALUES (4, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''h'' ''o'' ''s'' ''🚲'' ''🚲''');
INSERT INTO quietdesk.search VALUES (4, 3, '''another'' ''version'' ''a'' ''v''');
INSERT INTO quietdesk.search VALUES (4, 4, '''a'' ''person''');
SELECT pg_catalog.setval('quietdesk.conversation_number_seq', 4, true);
ALTER TABLE ONLY quietdesk.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY quietdesk.backup
    ADD CONSTRAINT pk_backup PRIMARY KEY (path);
ALTER TABLE ONLY quietdesk.conversation
    ADD CONSTRAINT pk_conversation PRIMARY KEY (number);
ALTER TABLE ONLY quietdesk.facet
    ADD CONSTRAINT pk_facet PRIMARY KEY (conversation, name, value);
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT pk_message PRIMARY KEY (conversation, place);
ALTER TABLE ONLY quietdesk.open_reply
    ADD CONSTRAINT pk_open_reply PRIMARY KEY (conversation);
ALTER TABLE ONLY quietdesk.score
    ADD CONSTRAINT pk_score PRIMARY KEY (conversation, place, metric);
ALTER TABLE ONLY quietdesk.vault
    ADD CONSTRAINT pk_vault PRIMARY KEY (salt);
ALTER TABLE ONLY quietdesk.search
    ADD CONSTRAINT search_pkey PRIMARY KEY (conversation, place);
ALTER TABLE ONLY quietdesk.conversation
    ADD CONSTRAINT uq_conversation_id UNIQUE (id);
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT uq_message_id UNIQUE (id);
CREATE INDEX ix_conversation_customer_updated_at ON quietdesk.conversation USING btree (customer, updated_at);
CREATE INDEX ix_conversation_updated_at_number ON quietdesk.conversation USING btree (updated_at, number);
CREATE INDEX ix_facet_name_value_conversation ON quietdesk.facet USING btree (name, value, conversation);
CREATE INDEX ix_score_metric_value ON quietdesk.score USING btree (metric, value);
CREATE INDEX ix_search_words ON quietdesk.search USING gin (words);
ALTER TABLE ONLY quietdesk.facet
    ADD CONSTRAINT fk_facet_conversation FOREIGN KEY (conversation) REFERENCES quietdesk.conversation(number) ON DELETE CASCADE;
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT fk_message_conversation FOREIGN KEY (conversation) REFERENCES quietdesk.conversation(number) ON DELETE CASCADE;
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT fk_message_conversation_parent FOREIGN KEY (conversation, parent) REFERENCES quietdesk.message(conversation, place);
ALTER TABLE ONLY quietdesk.open_reply
    ADD CONSTRAINT fk_open_reply_conversation_place FOREIGN KEY (conversation, place) REFERENCES quietdesk.message(conversation, place) ON DELETE CASCADE;
ALTER TABLE ONLY quietdesk.score
    ADD CONSTRAINT fk_score_conversation FOREIGN KEY (conversation) REFERENCES quietdesk.conversation(number) ON DELETE CASCADE;
