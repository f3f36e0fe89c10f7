"""Every schema that was ever committed still opens, with everything in it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import StaticPool

from quietdesk.errors import StoreError, StoreVersionError
from quietdesk.store import schema
from quietdesk.store.base import Store
from quietdesk.store.migrations.run import upgrade
from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, KeptScore, Message

AtOnce = Callable[[str, str, int], list[tuple[str, str]]]

DATA = Path(__file__).parent.parent / "data" / "store"
REVISIONS = (*schema.OLDER, schema.HEAD)
Opening = Callable[[str], Store]


def restore_sqlite(path: Path, revision: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / f"sqlite_{revision}.sql").read_text())
    return str(path)


def restore_postgres(url: str, revision: str) -> str:
    import psycopg  # noqa: PLC0415 -- only where a server is

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((DATA / f"postgresql_{revision}.sql").read_text().encode())
    return url


@pytest.fixture(params=REVISIONS)
def old(request: pytest.FixtureRequest, database: str) -> str:
    """A database of each schema that ever was, on each kind of server."""
    if "://" in database:
        return restore_postgres(database, request.param)
    return restore_sqlite(Path(database), request.param)


def test_there_is_a_dump_of_every_revision() -> None:
    scripts = Path(schema.__file__).parent / "migrations" / "versions"
    revisions = {path.stem.removeprefix("r") for path in scripts.glob("r*.py")}
    assert revisions == set(REVISIONS)
    for kind in ("sqlite", "postgresql"):
        assert {p.stem.partition("_")[2] for p in DATA.glob(f"{kind}_*.sql")} == revisions


def values(exported: list[dict[str, Any]]) -> list[object]:
    """An export as values, in which fields that came later have their defaults."""
    found: list[object] = []
    for customer in exported:
        for conversation in customer["conversations"]:
            messages = [Message.model_validate(m) for m in conversation.pop("messages")]
            conversation.pop("scores", None)
            found.append((conversation.pop("deleted"), conversation.pop("leaf_id"), messages))
            found.append(ConversationInfo.model_validate(conversation))
    return found


def test_an_old_database_opens_with_everything_in_it(old: str, open_again: Opening) -> None:
    store = open_again(old)
    assert isinstance(store, SqlStore)
    assert store.status()["schema"] == schema.HEAD
    exported = [store.export_customer(customer) for customer in ("k-0", "k-1")]
    assert values(exported) == values(json.loads((DATA / "content.json").read_text()))
    assert store.integrity_check() == []
    found = [c.id for c in store.conversations("packchen 退货")]
    assert found == ["c-3", "c-1", "c-0"]
    assert [c.id for c in store.conversations("order 4712 person")] == ["c-1"]
    assert [c.id for c in store.conversations(author=Author.HUMAN)] == ["c-3", "c-1"]
    assert [c.id for c in store.conversations(metadata={"n": 3}, tag="web")] == ["c-3"]
    store.begin_turn("c-0", (), Message(id="new", author=Author.BOT, text=""))
    store.finish(
        Message(id="new", author=Author.BOT, text="Found", finish_reason=FinishReason.STOP)
    )
    assert [c.id for c in store.conversations("found version")] == ["c-0"]


@pytest.mark.parametrize("old", [r for r in REVISIONS if r >= "0003"], indirect=True)
def test_scores_of_an_old_database_are_read(old: str, open_again: Opening) -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    assert open_again(old).scores("c-0") == [
        KeptScore(metric="turns", value=1.5, at=moment, fingerprint="f"),
        KeptScore(metric="apologies", message_id="r-0", cause=True, at=moment),
    ]


def test_a_migrated_sqlite_schema_is_the_one_that_is_made_anew() -> None:
    def tables(make: Callable[[Any], object]) -> list[str]:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.begin() as connection:
            make(connection)
            rows = connection.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
                " UNION ALL SELECT 'mark ' || application_id FROM pragma_application_id"
            )
            found = sorted(" ".join(row[0].replace(",", " , ").split()) for row in rows)
        engine.dispose()
        return found

    # ALTER TABLE writes a new column behind the constraints, and the order is nothing to us.
    def loose(statements: list[str]) -> list[list[str]]:
        return sorted(sorted(s.replace("(", " ( ").replace(")", " ) ").split()) for s in statements)

    assert loose(tables(upgrade)) == loose(tables(schema.create))


def test_a_migrated_postgresql_schema_is_the_one_that_is_made_anew(
    postgres_url: str, open_again: Opening
) -> None:
    def tables(store: Store) -> dict[str, object]:
        assert isinstance(store, SqlStore)
        with store.database.read() as connection:
            inspector = inspect(connection)
            return {
                name: (
                    {
                        c["name"]: (str(c["type"]), c["nullable"], c["default"])
                        for c in inspector.get_columns(name, "quietdesk")
                    },
                    inspector.get_pk_constraint(name, "quietdesk"),
                    sorted(map(str, inspector.get_foreign_keys(name, "quietdesk"))),
                    sorted(map(str, inspector.get_indexes(name, "quietdesk"))),
                    sorted(map(str, inspector.get_unique_constraints(name, "quietdesk"))),
                )
                for name in inspector.get_table_names("quietdesk")
            }

    made = open_again(postgres_url)
    anew = tables(made)
    assert isinstance(made, SqlStore)
    made.close()
    engine = create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"),
        execution_options={"schema_translate_map": {None: "quietdesk"}},
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA quietdesk CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA quietdesk")
        assert upgrade(connection) == list(REVISIONS)
    engine.dispose()
    assert tables(open_again(postgres_url)) == anew


def test_an_upgrade_that_fails_leaves_the_old_database(
    database: str, open_again: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = restore_postgres if "://" in database else restore_sqlite
    restore(Path(database) if restore is restore_sqlite else database, "0001")  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise StoreError("the power went out")

    with monkeypatch.context() as patched:
        patched.setattr("quietdesk.store.index.SearchIndex.rebuild_all", fail)
        with pytest.raises(StoreError, match="the power went out"):
            open_sql_store(database)
    if "://" not in database:
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT * FROM alembic_version").fetchall() == [("0001",)]
            columns = [row[1] for row in connection.execute("PRAGMA table_info(message)")]
            assert "rest" not in columns
    store = open_again(database)
    assert isinstance(store, SqlStore)
    assert store.status()["schema"] == schema.HEAD
    assert len(store.tree("c-0")) == 3


def test_many_processes_upgrade_an_old_database_at_the_same_time(
    database: str, at_once: AtOnce
) -> None:
    if "://" in database:
        restore_postgres(database, "0001")
    else:
        restore_sqlite(Path(database), "0001")
    program = "s = open_store(sys.argv[1]); print(len(s.conversations('order'))); s.close()"
    assert at_once(program, database, 3) == [("3\n", "")] * 3


def test_a_postgresql_database_from_the_future_is_refused(
    postgres_url: str, open_again: Opening
) -> None:
    import psycopg  # noqa: PLC0415 -- only where a server is

    open_again(postgres_url).close()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE quietdesk.alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersionError, match="'9999'"):
        open_sql_store(postgres_url)


def test_an_old_database_that_is_read_only_says_that_it_must_be_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = restore_sqlite(tmp_path / "q.db", "0001")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(StoreError, match=r"read-only and of an older schema \(0001\)"):
        open_sql_store(path)


def test_fields_of_messages_that_have_no_column_are_kept(
    database: str, open_again: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if `model` were a new field, for which no column was made.
    monkeypatch.setattr("quietdesk.store.rows._REST", frozenset({"model"}))
    store = open_again(database)
    now = json.loads((DATA / "content.json").read_text())[0]["conversations"][0]["created_at"]
    store.create(ConversationInfo(id="c", title="", created_at=now, updated_at=now))
    kept = Message(id="m", author=Author.BOT, text="x", model="a \ud800 model")
    store.add("c", kept)
    assert isinstance(store, SqlStore)
    with store.database.read() as connection:
        found = connection.execute(schema.message.select()).one()
    assert json.loads(found.rest) == {"model": "a \ud800 model"}
