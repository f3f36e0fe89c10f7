PRAGMA application_id = 1363436915;
BEGIN;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE conversation (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id TEXT NOT NULL, 
	title TEXT NOT NULL, 
	customer TEXT, 
	system TEXT NOT NULL, 
	metadata TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	deleted_at BIGINT, 
	leaf INTEGER, 
	last_place INTEGER NOT NULL, 
	CONSTRAINT uq_conversation_id UNIQUE (id)
);
CREATE INDEX ix_conversation_updated_at_number ON conversation (updated_at, number);
CREATE INDEX ix_conversation_customer_updated_at ON conversation (customer, updated_at);
CREATE TABLE vault (
	salt TEXT NOT NULL, 
	proof TEXT NOT NULL, 
	CONSTRAINT pk_vault PRIMARY KEY (salt)
);
CREATE TABLE backup (
	path TEXT NOT NULL, 
	made_at BIGINT NOT NULL, 
	CONSTRAINT pk_backup PRIMARY KEY (path)
);
CREATE TABLE message (
	conversation INTEGER NOT NULL, 
	place INTEGER NOT NULL, 
	parent INTEGER, 
	depth INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	author TEXT NOT NULL, 
	text TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	finish_reason TEXT, 
	tool_call_id TEXT, 
	tool_calls TEXT, 
	model TEXT, 
	pinned BOOLEAN NOT NULL, 
	usage TEXT, 
	context BLOB, 
	rest TEXT, 
	CONSTRAINT pk_message PRIMARY KEY (conversation, place), 
	CONSTRAINT fk_message_conversation_parent FOREIGN KEY(conversation, parent) REFERENCES message (conversation, place), 
	CONSTRAINT fk_message_conversation FOREIGN KEY(conversation) REFERENCES conversation (number) ON DELETE CASCADE, 
	CONSTRAINT uq_message_id UNIQUE (id)
);
CREATE TABLE facet (
	conversation INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_facet PRIMARY KEY (conversation, name, value), 
	CONSTRAINT fk_facet_conversation FOREIGN KEY(conversation) REFERENCES conversation (number) ON DELETE CASCADE
);
CREATE INDEX ix_facet_name_value_conversation ON facet (name, value, conversation);
CREATE TABLE score (
	conversation INTEGER NOT NULL, 
	place INTEGER NOT NULL, 
	metric TEXT NOT NULL, 
	value FLOAT, 
	cause BOOLEAN NOT NULL, 
	at BIGINT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	CONSTRAINT pk_score PRIMARY KEY (conversation, place, metric), 
	CONSTRAINT fk_score_conversation FOREIGN KEY(conversation) REFERENCES conversation (number) ON DELETE CASCADE
);
CREATE INDEX ix_score_metric_value ON score (metric, value);
CREATE TABLE open_reply (
	conversation INTEGER NOT NULL, 
	place INTEGER NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	started TEXT NOT NULL, 
	heartbeat BIGINT NOT NULL, 
	earlier_leaf INTEGER, 
	earlier_updated_at BIGINT NOT NULL, 
	CONSTRAINT pk_open_reply PRIMARY KEY (conversation), 
	CONSTRAINT fk_open_reply_conversation_place FOREIGN KEY(conversation, place) REFERENCES message (conversation, place) ON DELETE CASCADE
);
CREATE VIRTUAL TABLE search USING fts5(words, tokenize = 'ascii', detail = none, columnsize = 0);
INSERT INTO "alembic_version" ("version_num") VALUES ('0004');
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (1, 'c-0', 'Order 4711', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t0"], "status": "open", "n": 0}', 1770091506000789, 1770091806000789, NULL, 3, 3);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (2, 'c-1', 'Order 4712', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t1"], "status": "open", "n": 1}', 1770095106000789, 1770095406000789, NULL, 4, 4);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (3, 'c-2', 'Order 4713', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t2"], "status": "open", "n": 2}', 1770098706000789, 1770099006000789, 1795528264519382, 3, 3);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (4, 'c-3', 'Order 4714', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t3"], "status": "open", "n": 3}', 1770102306000789, 1770102606000789, NULL, 4, 4);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (1, 1, NULL, 1, 'q-0', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770091506000789, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (1, 2, 1, 2, 'r-0', 'bot', 'On its way 🚲, it''s 0000 here.', 1770091506000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', X'789C458EDD0AC2300C855F65F4DAC11C0AEAAB888CD28659D63635ED9C63F8EE2615F1F27CE727D9541C4C79A94BD37787D3AE518930A432149C20E68A191224BF0E0419E8090C8FFB9EA9D1E60EF61F956442EFCCCA42117AEFE2D82E2E5A5C147B0542F2BAC8800A68C10B744CA57CDD94B3E23CDA4EF8C4B51A849CF50882702E0643AD271723D83AFABB7EAE7FEA8C5102EA7D631DB1401D176166CA48D56495E71034ADDFEC07DF7A4FBF', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (1, 3, 1, 2, 's-0', 'bot', 'Another version.', 1770091506000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (2, 1, NULL, 1, 'q-1', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770095106000789, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (2, 2, 1, 2, 'r-1', 'bot', 'On its way 🚲, it''s 0000 here.', 1770095106000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', X'789C458EDD0AC2300C855F65F4DA811B0AEAAB888CD28659D63635ED9C63F8EE2615F1F27CE727D9541C4C79A94BD3EF0FA75DA312614865283841CC153324487E1D0832D013181EBB9EA9D1E60EF61F956442EFCCCA42117AEFE2D82E2E5A5C147B0542F2BAC8800A68C10B744CA57CDD94B3E23CDA4EF8C4B51A849CF50882702E0643AD271723D83AFABB7EAE7FEA8C5102EA7D631DB1401D176166CA48D56495E71034ADDFEC07DFEC4FC0', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (2, 3, 1, 2, 's-1', 'bot', 'Another version.', 1770095106000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (2, 4, 2, 3, 'h-1', 'human', 'A person here.', 1770095106000789, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (3, 1, NULL, 1, 'q-2', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770098706000789, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (3, 2, 1, 2, 'r-2', 'bot', 'On its way 🚲, it''s 0000 here.', 1770098706000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', X'789C458EDD0AC2300C855F457AADA043417D159151DA30CBDAA4A69D7388EF6E52112FCF777E9297C1DED5A739AFBAEDFEB85E99CC9472ED2B8D80A561810C392E3D43017E80C0C3AE13EAACBB81FF4735992906B788304C31061C3673404FB311AF42CAD1561D30893C448541A8962F2F13BC3AF74DA77C945A0B4229760045345547A9D5734004DF467FD74FED4F5B083560DE57D14815DAB80A3771216EA6A832A56479F9663FE05E4FC1', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (3, 3, 1, 2, 's-2', 'bot', 'Another version.', 1770098706000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (4, 1, NULL, 1, 'q-3', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770102306000789, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (4, 2, 1, 2, 'r-3', 'bot', 'On its way 🚲, it''s 0000 here.', 1770102306000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', X'789C458EDD0AC2300C855F65F4DA814E05F555444669C32C6B93DA76CE317C77938A7879BEF393AC0A7B535EEAD274DBC369D3A89828C4D2171A0173C50C1344BFF40932A427303CEE3AA6469B3BD87F549291BC330B0B95C87B87433B3BB4342BF60A84E875910115C88217E8984AF9BA2A67C579B47BE123D76A1072D60308A2A9180AB51E1D22D83AFABB7EAE7FEA4C2801F5BEB1462A50C7459829654AD56495A710745ABED90FE0D04FC2', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (4, 3, 1, 2, 's-3', 'bot', 'Another version.', 1770102306000789, 'stop', NULL, '[{"id": "t", "name": "find", "arguments": "{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 7, "queue_s": 0.0, "first_token_s": 0.0, "decode_s": 0.5}', NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context", "rest") VALUES (4, 4, 2, 3, 'h-3', 'human', 'A person here.', 1770102306000789, NULL, NULL, NULL, NULL, 1, NULL, NULL, NULL);
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'n', '0');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'tags', 't0');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'author', 'bot');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'author', 'customer');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'n', '1');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'tags', 't1');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'author', 'bot');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'author', 'customer');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'author', 'human');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'n', '2');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'tags', 't2');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'author', 'bot');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'author', 'customer');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'n', '3');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'tags', 't3');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'author', 'bot');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'author', 'customer');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'author', 'human');
INSERT INTO "score" ("conversation", "place", "metric", "value", "cause", "at", "fingerprint") VALUES (1, 0, 'turns', 1.5, 0, 1770091506000789, 'f');
INSERT INTO "score" ("conversation", "place", "metric", "value", "cause", "at", "fingerprint") VALUES (1, 2, 'apologies', NULL, 1, 1770091506000789, '');
INSERT INTO "search" ("rowid", "words") VALUES (1048576, 'order o 4711 4');
INSERT INTO "search" ("rowid", "words") VALUES (1048577, 'wo w ist i mein m packchen p 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (1048578, 'on o its way 🚲 🚲 it s s here h');
INSERT INTO "search" ("rowid", "words") VALUES (1048579, 'another a version v');
INSERT INTO "search" ("rowid", "words") VALUES (2097152, 'order o 4712 4');
INSERT INTO "search" ("rowid", "words") VALUES (2097153, 'wo w ist i mein m packchen p 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (2097154, 'on o its way 🚲 🚲 it s s here h');
INSERT INTO "search" ("rowid", "words") VALUES (2097155, 'another a version v');
INSERT INTO "search" ("rowid", "words") VALUES (2097156, 'a person');
INSERT INTO "search" ("rowid", "words") VALUES (3145728, 'order o 4713 4');
INSERT INTO "search" ("rowid", "words") VALUES (3145729, 'wo w ist i mein m packchen p 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (3145730, 'on o its way 🚲 🚲 it s s here h');
INSERT INTO "search" ("rowid", "words") VALUES (3145731, 'another a version v');
INSERT INTO "search" ("rowid", "words") VALUES (4194304, 'order o 4714 4');
INSERT INTO "search" ("rowid", "words") VALUES (4194305, 'wo w ist i mein m packchen p 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (4194306, 'on o its way 🚲 🚲 it s s here h');
INSERT INTO "search" ("rowid", "words") VALUES (4194307, 'another a version v');
INSERT INTO "search" ("rowid", "words") VALUES (4194308, 'a person');
COMMIT;
