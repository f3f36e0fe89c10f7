"""`keep_days`: what was not used for so long goes, when the database is opened and daily."""

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quietdesk.assistant import open_store
from quietdesk.config import Settings
from quietdesk.store import sql
from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, Message

NOW = datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with conversations last used 1, 9 and 400 days ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = str(tmp_path / "desk.db")
    store = open_sql_store(place)
    for days in (1, 9, 400):
        then = NOW - timedelta(days=days)
        info = ConversationInfo(id=f"c-{days}", title="", created_at=then, updated_at=then)
        said = Message(id=f"m-{days}", author=Author.CUSTOMER, text="Hello", created_at=then)
        store.import_conversations([(info, [said])])
    store.close()
    return place


def ids(store: SqlStore) -> list[str]:
    return [info.id for info in store.conversations()]


def opened(path: str, **settings: int) -> SqlStore:
    store = open_store(path, Settings(**settings))
    assert isinstance(store, SqlStore)
    return store


def test_nothing_goes_unless_it_is_set(path: str, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    assert ids(store) == ["c-1", "c-9", "c-400"]
    assert store.status()["keep_days"] == "off"
    assert caplog.records == []
    store.close()


def test_what_is_too_old_goes_at_opening_and_is_told(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(path, keep_days=10)
    assert ids(store) == ["c-1", "c-9"]
    assert store.status()["keep_days"] == 10
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("quietdesk", logging.WARNING)
    assert record.getMessage() == "keep_days: removed 1 conversation(s) not used for 10 days."
    store.close()


def test_a_conversation_in_which_a_reply_is_written_stays(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_sql_store(path)
    reply = Message(id="m-open", author=Author.BOT, text="")
    monkeypatch.setattr(sql, "now", lambda: 0)
    writer.begin_turn("c-400", (), reply)
    monkeypatch.undo()
    store = opened(path, keep_days=10)
    assert "c-400" in ids(store)
    writer.close()
    store.close()


def test_it_is_done_again_while_the_database_stays_open(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "DAY_S", 0.01)
    store = open_sql_store(path)
    went = threading.Event()
    counts: list[int] = []

    def told(count: int) -> None:
        counts.append(count)
        if len(counts) == 2:
            went.set()

    store.keep_for(10, told)
    then = NOW - timedelta(days=30)
    info = ConversationInfo(id="c-30", title="", created_at=then, updated_at=then)
    store.import_conversations([(info, [])])
    assert went.wait(30)
    assert counts == [1, 1]
    assert ids(store) == ["c-1", "c-9"]
    store.close()


def test_a_database_that_cannot_be_written_is_opened_all_the_same(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: SqlStore, moment: datetime) -> int:
        raise sql.StoreError("It is read-only.")

    monkeypatch.setattr(SqlStore, "purge_older_than", refuse)
    store = opened(path, keep_days=10)
    assert ids(store) == ["c-1", "c-9", "c-400"]
    assert "nothing could be removed: It is read-only." in caplog.text
    store.close()
