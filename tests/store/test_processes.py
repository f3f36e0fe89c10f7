"""Several processes on one database: who may write, and what becomes of a dead one's reply."""

import gc
import multiprocessing
import multiprocessing.queues
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from quietdesk.errors import ConversationBusyError, StoreError, StoreWriteError
from quietdesk.store.base import Store
from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

AtOnce = Callable[[str, str, int], list[tuple[str, str]]]

WRITER = Path(__file__).parent / "writer.py"
NOW = datetime.now(UTC)

Opening = Callable[[str], Store]


class Process:
    """A writer in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def checkpoint(self, words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        assert self.says() == "kept"

    def kill(self, *, reap: bool = True) -> None:
        self.process.kill()
        if reap:
            self.process.wait(30)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(30) == 0


@contextmanager
def writing(database: str, conversation_id: str, name: str) -> Iterator[Process]:
    with subprocess.Popen(
        [sys.executable, WRITER, database, conversation_id, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


def started(database: str) -> AbstractContextManager[Process]:
    """A conversation `c1` in which another process has a reply open."""
    store = open_sql_store(database)
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    store.close()
    return writing(database, "c1", "one")


def ask(store: Store, name: str) -> None:
    store.begin_turn(
        "c1",
        (Message(id=f"q-{name}", author=Author.CUSTOMER, text="?"),),
        Message(id=f"r-{name}", author=Author.BOT, text=""),
    )


def test_while_one_process_writes_a_reply_the_other_is_refused(
    database: str, open_again: Opening
) -> None:
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        with pytest.raises(ConversationBusyError):
            ask(store, "two")
        writer.checkpoint("Half a")
        reply = store.messages("c1")[-1]
        assert (reply.text, reply.finish_reason) == ("Half a", None)
        writer.end()
        assert store.messages("c1")[-1].finish_reason is FinishReason.STOP
        ask(store, "two")
        assert [m.id for m in store.tree("c1")] == ["q-one", "r-one", "q-two", "r-two"]
        with writing(database, "c1", "three") as refused:
            assert refused.says() == "ConversationBusyError"


def test_a_killed_writers_reply_reads_as_interrupted_and_frees_the_conversation(
    database: str, open_again: Opening
) -> None:
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)  # it was open before the writer died
        writer.checkpoint("What was said until then")
        writer.kill()
        reply = store.messages("c1")[-1]
        assert reply.text == "What was said until then"
        assert reply.finish_reason is FinishReason.INTERRUPTED
        assert store.tree("c1")[-1] == reply
        ask(store, "two")
        assert [m.finish_reason for m in store.messages("c1")] == [
            None, FinishReason.INTERRUPTED, None, None,
        ]  # fmt: skip
        assert len(store.conversations("until then")) == 1


def test_opening_the_store_repairs_what_a_dead_writer_left(
    database: str, open_again: Opening
) -> None:
    with started(database) as writer:
        assert writer.says() == "open"
        writer.checkpoint("Half")
        writer.kill()
    store = open_again(database)
    assert isinstance(store, SqlStore)
    assert store.status()["open_replies"] == 0
    with store.database.read() as connection:
        kept = connection.execute(
            text("SELECT finish_reason FROM message WHERE id = 'r-one'")
            if store.database.path
            else text("SELECT finish_reason FROM quietdesk.message WHERE id = 'r-one'")
        ).scalar()
    assert kept == "interrupted"
    assert len(store.conversations("half")) == 1


def test_a_zombie_is_dead(tmp_path: Path, open_again: Opening) -> None:
    database = str(tmp_path / "q.db")
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        writer.kill(reap=False)
        deadline = time.monotonic() + 30
        while store.messages("c1")[-1].finish_reason is None:
            assert time.monotonic() < deadline, "killed, not reaped, and taken for alive"
            time.sleep(0.01)
        assert store.messages("c1")[-1].finish_reason is FinishReason.INTERRUPTED


def test_a_stopped_process_is_alive(tmp_path: Path, open_again: Opening) -> None:
    database = str(tmp_path / "q.db")
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        os.kill(writer.process.pid, signal.SIGSTOP)
        with pytest.raises(ConversationBusyError):
            ask(store, "two")
        os.kill(writer.process.pid, signal.SIGCONT)
        writer.end()


def pretend(store: Store, **columns: object) -> None:
    """Let the open reply's row say that somebody else writes it."""
    assert isinstance(store, SqlStore)
    table = "open_reply" if store.database.path else "quietdesk.open_reply"
    changes = ", ".join(f"{name} = :{name}" for name in columns)
    store.database.write(
        lambda connection, again: connection.execute(text(f"UPDATE {table} SET {changes}"), columns)
    )


def test_another_process_with_the_same_number_is_not_the_writer(
    tmp_path: Path, open_again: Opening
) -> None:
    database = str(tmp_path / "q.db")
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        pretend(store, started="12345")
        assert store.messages("c1")[-1].finish_reason is FinishReason.INTERRUPTED


def test_a_writer_on_another_machine_is_alive_while_its_heart_beats(
    database: str, open_again: Opening
) -> None:
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        pretend(store, host="elsewhere")
        with pytest.raises(ConversationBusyError):
            ask(store, "two")
        moment = int((time.time() - 16) * 1e6)
        pretend(store, heartbeat=moment)
        assert store.messages("c1")[-1].finish_reason is FinishReason.INTERRUPTED
        ask(store, "two")
        # It was alive after all, and what it says is kept where it belongs.
        writer.checkpoint("Late, but here")
        assert store.messages("c1", "r-one")[-1].finish_reason is FinishReason.INTERRUPTED
        writer.end()
        late = store.messages("c1", "r-one")[-1]
        assert (late.text, late.finish_reason) == ("Late, but here", FinishReason.STOP)
        assert [m.id for m in store.messages("c1")] == ["q-one", "r-one", "q-two", "r-two"]
        assert len(store.conversations("late but here")) == 1


def test_an_open_reply_says_that_it_is_alive_without_checkpoints(
    database: str, open_again: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quietdesk.store.sql.BEAT_S", 0.05)
    store = open_again(database)
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    ask(store, "one")
    pretend(store, heartbeat=0)
    assert isinstance(store, SqlStore)
    table = "open_reply" if store.database.path else "quietdesk.open_reply"
    deadline = time.monotonic() + 30
    while True:
        with store.database.read() as connection:
            if connection.execute(text(f"SELECT heartbeat FROM {table}")).scalar():
                break
        assert time.monotonic() < deadline, "no heartbeat came"
        time.sleep(0.02)


def test_closing_ends_own_replies_and_nobody_elses(database: str, open_again: Opening) -> None:
    with started(database) as writer:
        assert writer.says() == "open"
        store = open_again(database)
        store.create(ConversationInfo(id="c2", title="", created_at=NOW, updated_at=NOW))
        store.begin_turn("c2", (), Message(id="mine", author=Author.BOT, text=""))
        store.checkpoint("mine", "Half of mine")
        store.close()
        later = open_again(database)
        mine = later.messages("c2")[-1]
        assert (mine.text, mine.finish_reason) == ("Half of mine", FinishReason.INTERRUPTED)
        assert later.messages("c1")[-1].finish_reason is None
        writer.end()


def test_a_store_that_was_dropped_without_closing_writes_no_more(
    tmp_path: Path, open_again: Opening
) -> None:
    database = str(tmp_path / "q.db")
    store = open_sql_store(database)
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    ask(store, "one")
    later = open_again(database)
    assert later.messages("c1")[-1].finish_reason is None
    store.database.close()
    del store
    gc.collect()
    assert later.messages("c1")[-1].finish_reason is FinishReason.INTERRUPTED


def test_a_fork_does_not_use_its_parents_connections(tmp_path: Path, open_again: Opening) -> None:
    store = open_again(str(tmp_path / "q.db"))
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))

    def child(answers: "multiprocessing.queues.SimpleQueue[str]") -> None:
        try:
            store.conversations()
        except StoreError as error:
            answers.put(str(error))

    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        process = fork.Process(target=child, args=(answers,))
        process.start()
    assert "before this process was forked" in answers.get()
    process.join()
    assert [c.id for c in store.conversations()] == ["c1"]


def test_many_processes_open_a_new_database_at_the_same_time(
    database: str, at_once: AtOnce
) -> None:
    program = "s = open_store(sys.argv[1]); print(len(s.conversations())); s.close()"
    assert at_once(program, database, 4) == [("0\n", "")] * 4


def test_a_lock_that_is_held_too_long_is_an_error_that_says_so(
    database: str, open_again: Opening
) -> None:
    other = open_again(database)
    store = open_sql_store(database, busy_s=0.2)
    store.create(ConversationInfo(id="c1", title="", created_at=NOW, updated_at=NOW))
    assert isinstance(other, SqlStore)
    table = "conversation" if other.database.path else "quietdesk.conversation"
    with other.database.engine.execution_options(begin="durable").begin() as connection:
        connection.execute(text(f"UPDATE {table} SET title = 'held'"))
        with pytest.raises(StoreWriteError, match=r"locked .*for more than 0\.2 s") as caught:
            store.rename("c1", "x")
        assert other.database.name in str(caught.value)
        assert store.conversation("c1").title == ""  # reading goes on
    store.rename("c1", "x")
    store.close()
