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
    context bytea
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
CREATE TABLE quietdesk.search (
    conversation bigint NOT NULL,
    place integer NOT NULL,
    words tsvector NOT NULL
);
ALTER TABLE ONLY quietdesk.conversation ALTER COLUMN number SET DEFAULT nextval('quietdesk.conversation_number_seq'::regclass);
INSERT INTO quietdesk.alembic_version VALUES ('0001');
INSERT INTO quietdesk.conversation VALUES (1, 'c-0', 'Order 4711', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t0"], "status": "open", "n": 0}', 1770091506000789, 1770091806000789, NULL, 3, 3);
INSERT INTO quietdesk.conversation VALUES (2, 'c-1', 'Order 4712', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t1"], "status": "open", "n": 1}', 1770095106000789, 1770095406000789, NULL, 4, 4);
INSERT INTO quietdesk.conversation VALUES (4, 'c-3', 'Order 4714', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t3"], "status": "open", "n": 3}', 1770102306000789, 1770102606000789, NULL, 4, 4);
INSERT INTO quietdesk.conversation VALUES (3, 'c-2', 'Order 4713', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t2"], "status": "open", "n": 2}', 1770098706000789, 1770099006000789, 1795517347083550, 3, 3);
INSERT INTO quietdesk.facet VALUES (1, 'n', '0');
INSERT INTO quietdesk.facet VALUES (1, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (1, 'tags', 't0');
INSERT INTO quietdesk.facet VALUES (1, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (2, 'n', '1');
INSERT INTO quietdesk.facet VALUES (2, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (2, 'tags', 't1');
INSERT INTO quietdesk.facet VALUES (2, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (3, 'n', '2');
INSERT INTO quietdesk.facet VALUES (3, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (3, 'tags', 't2');
INSERT INTO quietdesk.facet VALUES (3, 'tags', 'web');
INSERT INTO quietdesk.facet VALUES (4, 'n', '3');
INSERT INTO quietdesk.facet VALUES (4, 'status', 'open');
INSERT INTO quietdesk.facet VALUES (4, 'tags', 't3');
INSERT INTO quietdesk.facet VALUES (4, 'tags', 'web');
INSERT INTO quietdesk.message VALUES (1, 1, NULL, 1, 'q-0', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770091506000789, NULL, NULL, NULL, NULL, false, NULL, NULL);
INSERT INTO quietdesk.message VALUES (1, 2, 1, 2, 'r-0', 'bot', 'On its way 🚲, it''s 0000 here.', 1770091506000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', '\x789c3d8ed10ac2300c45ff25cf1dcca1a0fd1519a3b46196b5496dab738cfdbb2988afe7de73931d68b2f5037ae8cf570529734c75aabc20950615644c619b3216cc6f047d390d0aacb10f74ff9ab412076f37d09039044f73b77a72bc82828a3105534585c80e83202f4cb4fb0ede097e76bdc04584d6c152cc8c02f8552dc7e6254f84ae6dfd0ededa5ba6304908c7a880b8625b1c8f2f803a44b7');
INSERT INTO quietdesk.message VALUES (1, 3, 1, 2, 's-0', 'bot', 'Another version.', 1770091506000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO quietdesk.message VALUES (2, 1, NULL, 1, 'q-1', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770095106000789, NULL, NULL, NULL, NULL, false, NULL, NULL);
INSERT INTO quietdesk.message VALUES (2, 2, 1, 2, 'r-1', 'bot', 'On its way 🚲, it''s 0000 here.', 1770095106000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', '\x789c3d8ed10ac2300c45ff25cf1db8a1a0fd1519a3b46196b5496dab738cfdbb2988afe7de73931d68b2f5037a389daf0a52e698ea5479412a0d2ac898c236652c98df08fad20f0aacb10f74ff9ab412076f37d09039044f73b77a72bc82828a3105534585c80e83202f4cb4fb0ede097e76bdc04584d6c152cc8c02f8552dc7e6254f84ae6dfd0ededa5ba6304908c7a880b8625b1c8f2f808544b8');
INSERT INTO quietdesk.message VALUES (2, 3, 1, 2, 's-1', 'bot', 'Another version.', 1770095106000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO quietdesk.message VALUES (2, 4, 2, 3, 'h-1', 'human', 'A person here.', 1770095106000789, NULL, NULL, NULL, NULL, true, NULL, NULL);
INSERT INTO quietdesk.message VALUES (3, 1, NULL, 1, 'q-2', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770098706000789, NULL, NULL, NULL, NULL, false, NULL, NULL);
INSERT INTO quietdesk.message VALUES (3, 2, 1, 2, 'r-2', 'bot', 'On its way 🚲, it''s 0000 here.', 1770098706000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', '\x789c3d8ed10ac2300c45ff25cf1de850d0fd8a8c51da30cbdaa4b6d12963ff6e0ae2ebb9f7dc64039a9cbc61e80fa78b815c3865998417a4daa08182397ea68215cb0b61381f7b03ceba3bfa7f4d5b9963701f18a0708c81e66e0de47905038229472baa42628f515150a6da6d83e0153fba5ee1a242eb60ad764605fc14c7a9793910a16f5bbf83d7f696ad4c1ac23e1a20166c8be3fe0580d044b9');
INSERT INTO quietdesk.message VALUES (3, 3, 1, 2, 's-2', 'bot', 'Another version.', 1770098706000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO quietdesk.message VALUES (4, 1, NULL, 1, 'q-3', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770102306000789, NULL, NULL, NULL, NULL, false, NULL, NULL);
INSERT INTO quietdesk.message VALUES (4, 2, 1, 2, 'r-3', 'bot', 'On its way 🚲, it''s 0000 here.', 1770102306000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', '\x789c3d8ed10ac2300c45ff25cf1de854d0fe8a8c51da30cbdaa4b6d539c6fedd14c4d773efb9c90634dafa01dd1fce570529734c75ac3c23950615644c611d3316cc6f047d39f60aacb10f74ff9ab412076f57d09039044f53b77872bc80828a3105534585c80e83202f4cb4fb06de097e762781b308ad83a5980905f0ab5a8ecd4b9e085ddbfa1dbcb5b74c619210f6410171c5b638ec5f811b44ba');
INSERT INTO quietdesk.message VALUES (4, 3, 1, 2, 's-3', 'bot', 'Another version.', 1770102306000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', false, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO quietdesk.message VALUES (4, 4, 2, 3, 'h-3', 'human', 'A person here.', 1770102306000789, NULL, NULL, NULL, NULL, true, NULL, NULL);
INSERT INTO quietdesk.search VALUES (1, 0, '''4711'' ''order''');
INSERT INTO quietdesk.search VALUES (1, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货''');
INSERT INTO quietdesk.search VALUES (1, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''🚲''');
INSERT INTO quietdesk.search VALUES (1, 3, '''another'' ''version''');
INSERT INTO quietdesk.search VALUES (2, 0, '''4712'' ''order''');
INSERT INTO quietdesk.search VALUES (2, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货''');
INSERT INTO quietdesk.search VALUES (2, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''🚲''');
INSERT INTO quietdesk.search VALUES (2, 3, '''another'' ''version''');
INSERT INTO quietdesk.search VALUES (2, 4, '''a'' ''here'' ''person''');
INSERT INTO quietdesk.search VALUES (3, 0, '''4713'' ''order''');
INSERT INTO quietdesk.search VALUES (3, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货''');
INSERT INTO quietdesk.search VALUES (3, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''🚲''');
INSERT INTO quietdesk.search VALUES (3, 3, '''another'' ''version''');
INSERT INTO quietdesk.search VALUES (4, 0, '''4714'' ''order''');
INSERT INTO quietdesk.search VALUES (4, 1, '''ist'' ''mein'' ''packchen'' ''wo'' ''我'' ''我要'' ''要'' ''要退'' ''货'' ''退'' ''退货''');
INSERT INTO quietdesk.search VALUES (4, 2, '''here'' ''it'' ''its'' ''on'' ''s'' ''way'' ''🚲''');
INSERT INTO quietdesk.search VALUES (4, 3, '''another'' ''version''');
INSERT INTO quietdesk.search VALUES (4, 4, '''a'' ''here'' ''person''');
SELECT pg_catalog.setval('quietdesk.conversation_number_seq', 4, true);
ALTER TABLE ONLY quietdesk.alembic_version
    ADD CONSTRAINT pk_alembic_version PRIMARY KEY (version_num);
ALTER TABLE ONLY quietdesk.conversation
    ADD CONSTRAINT pk_conversation PRIMARY KEY (number);
ALTER TABLE ONLY quietdesk.facet
    ADD CONSTRAINT pk_facet PRIMARY KEY (conversation, name, value);
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT pk_message PRIMARY KEY (conversation, place);
ALTER TABLE ONLY quietdesk.open_reply
    ADD CONSTRAINT pk_open_reply PRIMARY KEY (conversation);
ALTER TABLE ONLY quietdesk.search
    ADD CONSTRAINT search_pkey PRIMARY KEY (conversation, place);
ALTER TABLE ONLY quietdesk.conversation
    ADD CONSTRAINT uq_conversation_id UNIQUE (id);
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT uq_message_id UNIQUE (id);
CREATE INDEX ix_conversation_customer ON quietdesk.conversation USING btree (customer);
CREATE INDEX ix_conversation_updated_at_number ON quietdesk.conversation USING btree (updated_at, number);
CREATE INDEX ix_facet_name_value ON quietdesk.facet USING btree (name, value);
CREATE INDEX ix_message_author_conversation ON quietdesk.message USING btree (author, conversation);
CREATE INDEX ix_search_words ON quietdesk.search USING gin (words);
ALTER TABLE ONLY quietdesk.facet
    ADD CONSTRAINT fk_facet_conversation FOREIGN KEY (conversation) REFERENCES quietdesk.conversation(number) ON DELETE CASCADE;
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT fk_message_conversation FOREIGN KEY (conversation) REFERENCES quietdesk.conversation(number) ON DELETE CASCADE;
ALTER TABLE ONLY quietdesk.message
    ADD CONSTRAINT fk_message_conversation_parent FOREIGN KEY (conversation, parent) REFERENCES quietdesk.message(conversation, place);
ALTER TABLE ONLY quietdesk.open_reply
    ADD CONSTRAINT fk_open_reply_conversation_place FOREIGN KEY (conversation, place) REFERENCES quietdesk.message(conversation, place) ON DELETE CASCADE;
