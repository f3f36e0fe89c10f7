"""What only a server can do wrong: go away, refuse, be somewhere else."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from quietdesk.errors import StoreError, StoreUnreachableError, StoreWriteError, UsageError
from quietdesk.store.base import Store
from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: quietdesk[postgres]")

NOW = datetime.now(UTC)
Opening = Callable[[str], Store]


def info(id_: str) -> ConversationInfo:
    return ConversationInfo(id=id_, title="", created_at=NOW, updated_at=NOW)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def cut_connections(url: str) -> None:
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'quietdesk'",
    )


@contextmanager
def role(url: str, name: str, *grants: str) -> Iterator[str]:
    """The URL for a user with few rights."""
    execute(url, f"CREATE ROLE {name} LOGIN", *grants)
    try:
        yield url.replace("quietdesk@", f"{name}@")
    finally:
        cut_connections(url)
        execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_a_cut_connection_is_not_noticed(postgres_url: str, open_again: Opening) -> None:
    store = open_again(postgres_url)
    store.create(info("c1"))
    for ask in (
        lambda: store.conversations(),
        lambda: store.begin_turn("c1", (), Message(id="r", author=Author.BOT, text="")),
        lambda: store.checkpoint("r", "Half"),
        lambda: store.messages("c1"),
        lambda: store.finish(
            Message(id="r", author=Author.BOT, text="Whole", finish_reason=FinishReason.STOP)
        ),
        lambda: store.tree("c1"),
        lambda: store.conversation("c1"),
        lambda: store.export_customer("k"),
        lambda: store.rename("c1", "x"),
    ):
        cut_connections(postgres_url)
        ask()
    assert [m.text for m in store.messages("c1")] == ["Whole"]


class Lost:
    """A connection that is cut after the server has committed, before it could say so."""

    def __init__(self, store: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        engine_class = type(store.database.engine.dialect)
        original = engine_class.do_commit

        def commit(dialect: Any, connection: Any) -> None:
            original(dialect, connection)
            if self.armed:
                self.armed = False
                cut_connections(url)
                connection.execute("SELECT 1")  # which finds the connection gone

        monkeypatch.setattr(engine_class, "do_commit", commit)


def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    postgres_url: str, open_again: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_again(postgres_url)
    assert isinstance(store, SqlStore)
    lost = Lost(store, postgres_url, monkeypatch)
    question = Message(id="q", author=Author.CUSTOMER, text="Where?")
    reply = Message(id="r", author=Author.BOT, text="")
    whole = reply.model_copy(update={"text": "Whole", "finish_reason": FinishReason.STOP})
    imported = question.model_copy(update={"id": "i"})
    other = Message(id="r2", author=Author.BOT, text="")
    for ask in (
        lambda: store.create(info("c1")),
        lambda: store.begin_turn("c1", (question,), reply),
        lambda: store.checkpoint("r", "Half"),
        lambda: store.finish(whole),
        lambda: store.add("c1", Message(id="h", author=Author.HUMAN, text="Hello")),
        lambda: store.begin_turn("c1", (), other),
        lambda: store.undo_turn("r2", ()),
        lambda: store.import_conversations([(info("c2"), [imported])]),
        lambda: store.rename("c2", "Title"),
        lambda: store.annotate("c2", {"tags": ["t"]}),
        lambda: store.delete("c2"),
        lambda: store.restore("c2"),
    ):
        lost.armed = True
        ask()
        assert not lost.armed
    assert [m.id for m in store.tree("c1")] == ["q", "r", "h"]
    assert store.messages("c1")[1].text == "Whole"
    assert [c.id for c in store.conversations("title where", tag="t")] == ["c2"]
    assert store.integrity_check() == []


def test_many_threads_survive_a_storm_of_cut_connections(
    postgres_url: str, open_again: Opening
) -> None:
    store = open_again(postgres_url)
    errors: list[BaseException] = []
    stop = threading.Event()

    def talk(number: int) -> None:
        try:
            store.create(info(f"c{number}"))
            for turn in range(8):
                name = f"{number}-{turn}"
                question = Message(id=f"q{name}", author=Author.CUSTOMER, text=f"Ask {name}")
                store.begin_turn(
                    f"c{number}", (question,), Message(id=f"r{name}", author=Author.BOT, text="")
                )
                store.finish(
                    Message(
                        id=f"r{name}",
                        author=Author.BOT,
                        text=f"Say {name}",
                        finish_reason=FinishReason.STOP,
                    )
                )
        except BaseException as error:
            errors.append(error)

    def storm() -> None:
        while not stop.wait(0.1):
            cut_connections(postgres_url)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    weather = threading.Thread(target=storm)
    for thread in (*threads, weather):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    weather.join()
    assert errors == []
    for number in range(4):
        expected = [f"{kind}{number}-{turn}" for turn in range(8) for kind in "qr"]
        assert [m.id for m in store.messages(f"c{number}")] == expected


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Any) -> None:
    before = time.monotonic()
    with pytest.raises(StoreUnreachableError, match="cannot be reached") as caught:
        open_sql_store(f"postgresql://someone:sesame@/shop?host={tmp_path}")
    assert "someone" in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert time.monotonic() - before < 30


def test_an_unknown_database_is_named(postgres_url: str) -> None:
    with pytest.raises(StoreUnreachableError, match='"shop" does not exist'):
        open_sql_store(postgres_url.replace("/postgres?", "/shop?"))


def test_a_url_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        open_sql_store("postgresql://someone:ses:ame@host:sesame/x")
    assert "sesame" not in str(caught.value)


def test_a_user_who_may_create_nothing_is_told_what_the_owner_can_do(postgres_url: str) -> None:
    with (
        role(postgres_url, "guest") as url,
        pytest.raises(StoreError, match="CREATE SCHEMA quietdesk AUTHORIZATION"),
    ):
        open_sql_store(url)


def test_a_user_who_may_only_read_can_read(postgres_url: str, open_again: Opening) -> None:
    store = open_again(postgres_url)
    store.create(info("c1"))
    store.add("c1", Message(id="q", author=Author.CUSTOMER, text="Where?"))
    grants = (
        "GRANT USAGE ON SCHEMA quietdesk TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA quietdesk TO reader",
        "ALTER ROLE reader SET default_transaction_read_only = on",
    )
    with role(postgres_url, "reader", *grants) as url:
        reading = open_sql_store(url)
        assert [c.id for c in reading.conversations("where")] == ["c1"]
        with pytest.raises(StoreWriteError, match=r"read-only|permission"):
            reading.rename("c1", "x")
        reading.close()


def test_other_tables_of_the_same_names_are_left_alone(
    postgres_url: str, open_again: Opening
) -> None:
    execute(
        postgres_url,
        "DROP TABLE IF EXISTS public.message, public.alembic_version",
        "CREATE TABLE public.message (mine text)",
        "CREATE TABLE public.alembic_version (version_num text)",
        "INSERT INTO public.alembic_version VALUES ('theirs')",
    )
    store = open_again(postgres_url)
    store.create(info("c1"))
    store.add("c1", Message(id="q", author=Author.CUSTOMER, text="Where?"))
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM public.message").fetchone() == (0,)
        assert connection.execute("SELECT * FROM public.alembic_version").fetchall() == [
            ("theirs",)
        ]
    execute(postgres_url, "DROP TABLE public.message, public.alembic_version")


def test_a_backup_is_the_servers_own_business(postgres_url: str, open_again: Opening) -> None:
    store = open_again(postgres_url)
    assert isinstance(store, SqlStore)
    with pytest.raises(UsageError, match=r"pg_dump .*--schema=quietdesk .*'a b\.dump'"):
        store.backup("a b.dump")


def test_what_there_is_on_a_server_is_told(postgres_url: str, open_again: Opening) -> None:
    store = open_again(postgres_url)
    assert isinstance(store, SqlStore)
    status = store.status()
    assert str(status["engine"]).startswith("PostgreSQL ")
    assert int(status["size_bytes"]) > 0
