PRAGMA application_id = 1363436915;
BEGIN;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_alembic_version PRIMARY KEY (version_num)
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
CREATE INDEX ix_conversation_customer ON conversation (customer);
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
	CONSTRAINT pk_message PRIMARY KEY (conversation, place), 
	CONSTRAINT fk_message_conversation_parent FOREIGN KEY(conversation, parent) REFERENCES message (conversation, place), 
	CONSTRAINT fk_message_conversation FOREIGN KEY(conversation) REFERENCES conversation (number) ON DELETE CASCADE, 
	CONSTRAINT uq_message_id UNIQUE (id)
);
CREATE INDEX ix_message_author_conversation ON message (author, conversation);
CREATE TABLE facet (
	conversation INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_facet PRIMARY KEY (conversation, name, value), 
	CONSTRAINT fk_facet_conversation FOREIGN KEY(conversation) REFERENCES conversation (number) ON DELETE CASCADE
);
CREATE INDEX ix_facet_name_value ON facet (name, value);
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
INSERT INTO "alembic_version" ("version_num") VALUES ('0001');
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (1, 'c-0', 'Order 4711', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t0"], "status": "open", "n": 0}', 1770091506000789, 1770091806000789, NULL, 3, 3);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (2, 'c-1', 'Order 4712', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t1"], "status": "open", "n": 1}', 1770095106000789, 1770095406000789, NULL, 4, 4);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (3, 'c-2', 'Order 4713', 'k-0', 'You answer for Acme Bikes.', '{"tags": ["web", "t2"], "status": "open", "n": 2}', 1770098706000789, 1770099006000789, 1795517342791161, 3, 3);
INSERT INTO "conversation" ("number", "id", "title", "customer", "system", "metadata", "created_at", "updated_at", "deleted_at", "leaf", "last_place") VALUES (4, 'c-3', 'Order 4714', 'k-1', 'You answer for Acme Bikes.', '{"tags": ["web", "t3"], "status": "open", "n": 3}', 1770102306000789, 1770102606000789, NULL, 4, 4);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (1, 1, NULL, 1, 'q-0', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770091506000789, NULL, NULL, NULL, NULL, 0, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (1, 2, 1, 2, 'r-0', 'bot', 'On its way 🚲, it''s 0000 here.', 1770091506000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', X'789C3D8ED10AC2300C45FF25CF1DCCA1A0FD1519A3B46196B5496DAB738CFDBB2988AFE7DE73931D68B2F5037AE8CF570529734C75AABC20950615644C619B3216CC6F047D390D0AACB10F74FF9AB412076F37D09039044F73B77A72BC82828A3105534585C80E83202F4CB4FB0EDE097E76BDC04584D6C152CC8C02F8552DC7E6254F84AE6DFD0EDEDA5BA6304908C7A880B8625B1C8F2F803A44B7');
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (1, 3, 1, 2, 's-0', 'bot', 'Another version.', 1770091506000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (2, 1, NULL, 1, 'q-1', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770095106000789, NULL, NULL, NULL, NULL, 0, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (2, 2, 1, 2, 'r-1', 'bot', 'On its way 🚲, it''s 0000 here.', 1770095106000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', X'789C3D8ED10AC2300C45FF25CF1DB8A1A0FD1519A3B46196B5496DAB738CFDBB2988AFE7DE73931D68B2F5037A389DAF0A52E698EA5479412A0D2AC898C236652C98DF08FAD20F0AACB10F74FF9AB412076F37D09039044F73B77A72BC82828A3105534585C80E83202F4CB4FB0EDE097E76BDC04584D6C152CC8C02F8552DC7E6254F84AE6DFD0EDEDA5BA6304908C7A880B8625B1C8F2F808544B8');
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (2, 3, 1, 2, 's-1', 'bot', 'Another version.', 1770095106000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (2, 4, 2, 3, 'h-1', 'human', 'A person here.', 1770095106000789, NULL, NULL, NULL, NULL, 1, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (3, 1, NULL, 1, 'q-2', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770098706000789, NULL, NULL, NULL, NULL, 0, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (3, 2, 1, 2, 'r-2', 'bot', 'On its way 🚲, it''s 0000 here.', 1770098706000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', X'789C3D8ED10AC2300C45FF25CF1DE850D0FD8A8C51DA30CBDAA4B6D12963FF6E0AE2EBB9F7DC64039A9CBC61E80FA78B815C3865998417A4DAA08182397EA68215CB0B61381F7B03CEBA3BFA7F4D5B9963701F18A0708C81E66E0DE47905038229472BAA42628F515150A6DA6D83E0153FBA5EE1A242EB60AD764605FC14C7A9793910A16F5BBF83D7F696AD4C1AC23E1A20166C8BE3FE0580D044B9');
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (3, 3, 1, 2, 's-2', 'bot', 'Another version.', 1770098706000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (4, 1, NULL, 1, 'q-3', 'customer', 'Wo ist mein Päckchen? 我要退货', 1770102306000789, NULL, NULL, NULL, NULL, 0, NULL, NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (4, 2, 1, 2, 'r-3', 'bot', 'On its way 🚲, it''s 0000 here.', 1770102306000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', X'789C3D8ED10AC2300C45FF25CF1DE854D0FE8A8C51DA30CBDAA4B6D539C6FEDD14C4D773EFB9C90634DAFA01DD1FCE570529734C75AC3C23950615644C611D3316CC6F047D39F60AACB10F74FF9AB412076F57D09039044F53B77872BC80828A3105534585C80E83202F4CB4FB06DE097E762781B308AD83A5980905F0AB5A8ECD4B9E085DDBFA1DBCB5B74C619210F6410171C5B638EC5F811B44BA');
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (4, 3, 1, 2, 's-3', 'bot', 'Another version.', 1770102306000789, 'stop', NULL, '[{"id":"t","name":"find","arguments":"{\"order\": 4711}"}]', 'smollm2-135m', 0, '{"prompt_tokens":20,"cached_tokens":5,"completion_tokens":7,"queue_s":0.0,"first_token_s":0.0,"decode_s":0.5}', NULL);
INSERT INTO "message" ("conversation", "place", "parent", "depth", "id", "author", "text", "created_at", "finish_reason", "tool_call_id", "tool_calls", "model", "pinned", "usage", "context") VALUES (4, 4, 2, 3, 'h-3', 'human', 'A person here.', 1770102306000789, NULL, NULL, NULL, NULL, 1, NULL, NULL);
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'n', '0');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'tags', 't0');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (1, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'n', '1');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'tags', 't1');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (2, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'n', '2');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'tags', 't2');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (3, 'tags', 'web');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'n', '3');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'status', 'open');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'tags', 't3');
INSERT INTO "facet" ("conversation", "name", "value") VALUES (4, 'tags', 'web');
INSERT INTO "search" ("rowid", "words") VALUES (1048576, 'order 4711');
INSERT INTO "search" ("rowid", "words") VALUES (1048577, 'wo ist mein packchen 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (1048578, 'on its way 🚲 it s here');
INSERT INTO "search" ("rowid", "words") VALUES (1048579, 'another version');
INSERT INTO "search" ("rowid", "words") VALUES (2097152, 'order 4712');
INSERT INTO "search" ("rowid", "words") VALUES (2097153, 'wo ist mein packchen 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (2097154, 'on its way 🚲 it s here');
INSERT INTO "search" ("rowid", "words") VALUES (2097155, 'another version');
INSERT INTO "search" ("rowid", "words") VALUES (2097156, 'a person here');
INSERT INTO "search" ("rowid", "words") VALUES (3145728, 'order 4713');
INSERT INTO "search" ("rowid", "words") VALUES (3145729, 'wo ist mein packchen 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (3145730, 'on its way 🚲 it s here');
INSERT INTO "search" ("rowid", "words") VALUES (3145731, 'another version');
INSERT INTO "search" ("rowid", "words") VALUES (4194304, 'order 4714');
INSERT INTO "search" ("rowid", "words") VALUES (4194305, 'wo ist mein packchen 我 要 退 货 我要 要退 退货');
INSERT INTO "search" ("rowid", "words") VALUES (4194306, 'on its way 🚲 it s here');
INSERT INTO "search" ("rowid", "words") VALUES (4194307, 'another version');
INSERT INTO "search" ("rowid", "words") VALUES (4194308, 'a person here');
COMMIT;
