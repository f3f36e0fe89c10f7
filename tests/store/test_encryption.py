"""An encrypted database tells nothing without its key, and everything else as any other."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.assistant import open_store as open_named
from quietdesk.cli import main
from quietdesk.config import Settings
from quietdesk.errors import StoreError, StoreKeyError
from quietdesk.store import schema
from quietdesk.store.keys import find_key, keep_key
from quietdesk.store.rekey import change_key, is_encrypted
from quietdesk.store.sql import SqlStore, open_sql_store, open_store
from quietdesk.store.vault import SALT_BYTES, Vault
from quietdesk.types import (
    Author,
    ContextItem,
    ContextOutcome,
    ContextReport,
    ConversationInfo,
    FinishReason,
    Message,
    ToolCall,
)

pytest.importorskip("cryptography", reason="cryptography is not installed: quietdesk[encryption]")
keyring = pytest.importorskip("keyring", reason="keyring is not installed: quietdesk[encryption]")

AtOnce = Callable[[str, str, int], list[tuple[str, str]]]

NOW = datetime.now(UTC)
WORDS = "title customer system tag value key text tool report"
SECRETS = tuple(f"secret{word}" for word in WORDS.split())
TITLE, CUSTOMER, SYSTEM, TAG, VALUE, KEY, TEXT, TOOL, REPORT = SECRETS


def fill(store: SqlStore) -> None:
    for number in range(5):
        store.create(
            ConversationInfo(
                id=f"c{number}",
                title=f"{TITLE} {number}",
                customer=CUSTOMER if number % 2 else "other",
                system=SYSTEM,
                created_at=NOW,
                updated_at=NOW,
                metadata={"tags": [TAG], KEY: VALUE},
            )
        )
        question = Message(id=f"q{number}", author=Author.CUSTOMER, text=f"{TEXT} \x00 {number}")
        kept = ContextOutcome.KEPT
        item = ContextItem(id="x", kind="message", outcome=kept, tokens=1, reason=REPORT)
        report = ContextReport(
            n_ctx=9, prompt_tokens=1, reply_reserve=1, policy="p", template="t", items=(item,)
        )
        reply = Message(id=f"r{number}", author=Author.BOT, text="", context=report)
        store.begin_turn(f"c{number}", (question,), reply)
        store.checkpoint(reply.id, f"{TEXT} half")
        call = ToolCall(id="t", name=TOOL, arguments="{}")
        whole = {
            "text": f"{TEXT} whole {number}",
            "tool_calls": (call,),
            "finish_reason": FinishReason.STOP,
        }
        store.finish(reply.model_copy(update=whole))


@pytest.fixture
def sealed(database: str) -> Iterator[SqlStore]:
    store = open_sql_store(database, key="correct horse")
    fill(store)
    yield store
    store.close()


def everything(database: str) -> bytes:
    """The database as whoever stole its disk has it: files, logs, indexes and what is left over."""
    if "://" not in database:
        return b"".join(path.read_bytes() for path in sorted(Path(database).parent.iterdir()))
    import psycopg  # noqa: PLC0415 -- only where a server is

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        rows = connection.execute(
            "SELECT setting || '/' || pg_relation_filepath(c.oid) FROM pg_class c "
            "JOIN pg_settings ON pg_settings.name = 'data_directory' "
            "WHERE relkind IN ('r', 'i', 't') AND pg_relation_filepath(c.oid) IS NOT NULL "
            "AND relnamespace IN ('quietdesk'::regnamespace, 'pg_toast'::regnamespace)"
        ).fetchall()
    return b"".join(Path(row[0]).read_bytes() for row in rows)


def secrets_in(raw: bytes) -> list[str]:
    return [word for word in SECRETS if word.encode() in raw]


# Reports are compressed, which hides their words in a plain database too.
IN_PLAIN = [word for word in SECRETS if word != REPORT]


def test_the_raw_database_tells_nothing(database: str, sealed: SqlStore) -> None:
    if "://" not in database:
        sealed.backup(Path(database).with_name("copy.db"))
        assert Path(database + "-wal").stat().st_size > 0
    raw = everything(database)
    assert b"c3" in raw
    assert secrets_in(raw) == []


def test_a_plain_database_becomes_an_encrypted_one_and_leaves_nothing_behind(
    database: str,
) -> None:
    store = open_sql_store(database)
    fill(store)
    store.close()
    assert secrets_in(everything(database)) == IN_PLAIN
    assert not is_encrypted(database)
    assert change_key(database, None, "correct horse") > 10
    assert is_encrypted(database)
    assert secrets_in(everything(database)) == []
    check_whole(database, "correct horse")


def test_a_key_is_changed_and_the_old_one_opens_no_more(database: str, sealed: SqlStore) -> None:
    sealed.close()
    with pytest.raises(StoreKeyError, match="does not open"):
        change_key(database, "wrong horse", "battery")
    change_key(database, "correct horse", "battery")
    with pytest.raises(StoreKeyError, match="does not open"):
        open_store(database, "correct horse")
    assert secrets_in(everything(database)) == []
    check_whole(database, "battery")
    change_key(database, "battery", None)
    assert secrets_in(everything(database)) == IN_PLAIN
    check_whole(database, None)


def check_whole(database: str, key: str | None) -> None:
    store = open_sql_store(database, key=key)
    assert store.integrity_check() == []
    assert [m.text for m in store.messages("c3")] == [f"{TEXT} \x00 3", f"{TEXT} whole 3"]
    assert {c.id for c in store.conversations(customer=CUSTOMER)} == {"c1", "c3"}
    assert [c.id for c in store.conversations("whole 3", tag=TAG, metadata={KEY: VALUE})] == ["c3"]
    report = store.messages("c3")[1].context
    assert report is not None and report.items[0].reason == REPORT
    store.close()


def test_whoever_has_the_database_open_writes_nothing_under_the_old_key(database: str) -> None:
    store = open_sql_store(database)
    fill(store)
    change_key(database, None, "correct horse")
    said = Message(id="late", author=Author.CUSTOMER, text="x")
    for act in (
        lambda: store.add("c3", said),
        lambda: store.messages("c3"),
        lambda: store.conversations(TEXT),
    ):
        with pytest.raises(StoreKeyError, match="was changed by another process"):
            act()
    store.close()
    check_whole(database, "correct horse")


def test_while_a_reply_is_written_the_key_stays(database: str, sealed: SqlStore) -> None:
    sealed.begin_turn("c3", (), Message(id="open", author=Author.BOT, text=""))
    with pytest.raises(StoreError, match="A reply is being written"):
        change_key(database, "correct horse", "battery")
    sealed.finish(
        Message(id="open", author=Author.BOT, text="ends", finish_reason=FinishReason.STOP)
    )
    assert sealed.messages("c3")[-1].text == "ends"


def test_a_change_that_fails_in_the_middle_leaves_the_old_key(
    database: str, sealed: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed.close()

    def fail(*_: object) -> None:
        raise StoreError("the power went out")

    with monkeypatch.context() as patched:
        patched.setattr("quietdesk.store.index.SearchIndex.rebuild_all", fail)
        with pytest.raises(StoreError, match="the power went out"):
            change_key(database, "correct horse", "battery")
    check_whole(database, "correct horse")


def test_a_backup_is_named_as_long_as_it_is_there(tmp_path: Path) -> None:
    store = open_sql_store(str(tmp_path / "q.db"), key="correct horse")
    copies = [tmp_path / name for name in ("a.db", "b.db")]
    for copy in copies:
        store.backup(copy)
    assert [path for path, _ in store.backups()] == copies
    copies[0].unlink()
    assert [path for path, _ in store.backups()] == copies[1:]
    store.close()
    again = open_sql_store(str(copies[1]), key="correct horse")
    assert again.backups() == []
    again.close()


class Ring(keyring.backend.KeyringBackend):
    """A keyring that forgets."""

    priority = 1.0  # type: ignore[assignment]

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    keyring.set_keyring(made := Ring())
    yield made
    keyring.set_keyring(before)


def test_the_key_can_stand_in_the_keyring(ring: Ring, tmp_path: Path) -> None:
    place = str(tmp_path / "q.db")
    settings = Settings(database=place, keyring=True)
    with pytest.raises(StoreKeyError, match="has no key for the database"):
        open_named(None, settings)
    assert not Path(place).exists()
    keep_key(place, "correct horse")
    open_named(None, settings).close()
    assert is_encrypted(place)
    assert list(ring.kept) == [("quietdesk", place)]
    keep_key("postgresql://me:secret@host/desk", "x")
    assert ("quietdesk", "postgresql://me@host/desk") in ring.kept


def test_no_keyring_is_said(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())
    try:
        with pytest.raises(StoreKeyError, match="keyring cannot be used"):
            find_key(str(tmp_path / "q.db"))
    finally:
        keyring.set_keyring(before)


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str, typed: str = ""
) -> tuple[int, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    code = main.run(list(args))
    return code, "".join(capsys.readouterr())


def test_the_verbs_encrypt_rotate_tell_and_decrypt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ring: Ring
) -> None:
    place = str(tmp_path / "q.db")
    monkeypatch.setenv("QUIETDESK_DATABASE", place)
    store = open_sql_store(place)
    fill(store)
    store.backup(tmp_path / "copy.db")
    store.close()
    assert run(capsys, monkeypatch, "db", "encrypt")[0] == 2  # no key, and nothing typed
    code, said = run(capsys, monkeypatch, "db", "encrypt", typed="first\n")
    assert code == 0 and "Encrypted" in said and "copy.db" in said
    code, said = run(capsys, monkeypatch, "db", "status")
    assert code == 1 and "QUIETDESK_DATABASE_KEY" in said
    monkeypatch.setenv("QUIETDESK_DATABASE_KEY", "first")
    code, said = run(capsys, monkeypatch, "db", "status", "--json")
    assert json.loads(said)["encrypted"] == "yes"
    code, said = run(capsys, monkeypatch, "db", "encrypt", "--keyring", typed="second\n")
    assert code == 0
    assert run(capsys, monkeypatch, "sessions", "show", "c3")[0] == 1
    monkeypatch.delenv("QUIETDESK_DATABASE_KEY")
    monkeypatch.setenv("QUIETDESK_KEYRING", "1")
    code, said = run(capsys, monkeypatch, "sessions", "show", "c3")
    assert code == 0 and f"{TEXT} whole 3" in said
    assert run(capsys, monkeypatch, "db", "decrypt", "--yes")[0] == 0
    monkeypatch.delenv("QUIETDESK_KEYRING")
    code, said = run(capsys, monkeypatch, "db", "status", "--json")
    assert json.loads(said)["encrypted"] == "no"


def test_with_the_key_everything_is_as_in_any_other(database: str, sealed: SqlStore) -> None:
    sealed.close()
    store = open_sql_store(database, key="correct horse")
    info = store.conversation("c3")
    assert (info.title, info.customer, info.system) == (f"{TITLE} 3", CUSTOMER, SYSTEM)
    assert info.metadata == {"tags": [TAG], KEY: VALUE}
    assert (info.message_count, info.last_text) == (2, f"{TEXT} whole 3")
    question, reply = store.messages("c3")
    assert question.text == f"{TEXT} \x00 3"
    assert reply.tool_calls[0].name == TOOL
    assert reply.context is not None and reply.context.items[0].reason == REPORT
    assert {c.id for c in store.conversations(customer=CUSTOMER)} == {"c1", "c3"}
    assert len(store.conversations(tag=TAG, metadata={KEY: VALUE}, author=Author.BOT)) == 5
    store.rename("c3", "another")
    store.annotate("c3", {"tags": ["new"]})
    assert [c.title for c in store.conversations(tag="new")] == ["another"]
    assert store.status()["encrypted"] == "yes"
    assert store.integrity_check() == []
    assert len(store.export_customer(CUSTOMER)["conversations"]) == 2
    assert store.erase_customer(CUSTOMER) == 2
    store.close()


SEARCHES = (
    TEXT,
    f"{TEXT} whole 3",
    "whole SECRETTIT",
    "3",
    "secrett 4 2",
    "w",
    " ",
    "absent",
    f"{TITLE} {TEXT} 1 absent",
)


def test_searches_find_what_they_find_in_a_plain_database(database: str, tmp_path: Path) -> None:
    sealed = open_sql_store(database, key="correct horse")
    plain = open_sql_store(str(tmp_path / "plain.db"))
    for store in (sealed, plain):
        fill(store)
    for query in SEARCHES:
        for page in ({}, {"limit": 2}, {"limit": 2, "offset": 1}, {"customer": CUSTOMER}):
            found = [
                [c.id for c in store.conversations(query, **page)]  # type: ignore[arg-type]
                for store in (sealed, plain)
            ]
            assert found[0] == found[1], (query, page)
    assert len(sealed.conversations(TEXT)) == 5
    sealed.close()
    plain.close()


def test_another_key_or_none_is_refused(database: str, sealed: SqlStore) -> None:
    sealed.close()
    with pytest.raises(StoreKeyError, match="is encrypted and no key was given"):
        open_store(database)
    for key in ("wrong horse", "correct horse "):
        with pytest.raises(StoreKeyError, match="The key does not open"):
            open_store(database, key)
    with pytest.raises(StoreError, match="is empty"):
        open_store(database, "")


def test_a_database_with_open_texts_is_not_half_encrypted(database: str) -> None:
    store = open_sql_store(database)
    fill(store)
    store.close()
    with pytest.raises(StoreKeyError, match="is not encrypted"):
        open_store(database, "correct horse")
    again = open_sql_store(database)
    assert len(again.conversations(TEXT)) == 5
    assert again.status()["encrypted"] == "no"
    again.close()


def test_two_who_encrypt_a_new_database_at_once_agree(database: str, at_once: AtOnce) -> None:
    program = (
        "s = open_store(sys.argv[1], 'correct horse'); print(len(s.conversations())); s.close()"
    )
    assert at_once(program, database, 2) == [("0\n", "")] * 2
    store = open_sql_store(database, key="correct horse")
    fill(store)
    store.close()


@pytest.mark.parametrize("change", ["'A' || substr(text, 2)", "text || 'AAAA'", "'plain'", "''"])
def test_a_text_that_was_changed_from_outside_is_an_error(tmp_path: Path, change: str) -> None:
    database = str(tmp_path / "q.db")
    store = open_sql_store(database, key="correct horse")
    fill(store)
    with store.database.engine.execution_options(begin="durable").begin() as connection:
        connection.exec_driver_sql(f"UPDATE message SET text = {change} WHERE id = 'r1'")
    with pytest.raises(StoreError, match="does not open"):
        store.messages("c1")
    assert len(store.messages("c2")) == 2
    store.close()


def test_every_column_that_holds_words_is_sealed() -> None:
    told = {
        (table.name, column.name)
        for table in schema.metadata.tables.values()
        for column in table.columns
        if not isinstance(column.type, schema.Sealed | schema.SealedEqual | schema.SealedBytes)
    }
    # What an encrypted database tells: numbers, times, ids, and words of our own.
    assert {column for _, column in told} == {
        "version_num", "salt", "proof", "number", "id", "created_at", "updated_at", "deleted_at",
        "leaf", "last_place", "conversation", "place", "parent", "depth", "author",
        "finish_reason", "tool_call_id", "model", "pinned", "usage", "host", "pid", "started",
        "heartbeat", "earlier_leaf", "earlier_updated_at", "made_at",
        "metric", "value", "cause", "at", "fingerprint",
    }  # fmt: skip


VAULT = Vault("a passphrase", bytes(SALT_BYTES))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(text: str) -> None:
    assert VAULT.open(VAULT.seal(text)) == text
    assert VAULT.seal(text) != VAULT.seal(text)
    assert VAULT.open_equal(VAULT.seal_equal(text)) == text
    assert VAULT.seal_equal(text) == VAULT.seal_equal(text)


def test_another_salt_is_another_key() -> None:
    other = Vault("a passphrase", bytes([1] * SALT_BYTES))
    assert not other.proves(VAULT.proof())
    with pytest.raises(StoreError):
        other.open(VAULT.seal("x"))
