"""Database: one SQLite file or PostgreSQL database, opened at our schema, its errors in words."""

import logging
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from quietdesk.errors import (
    StoreError,
    StoreUnreachableError,
    StoreVersionError,
    StoreWriteError,
    UsageError,
)
from quietdesk.store import schema
from quietdesk.store.index import SearchIndex

T = TypeVar("T")

REFUSALS = (DBAPIError, PoolTimeoutError)
"""What a database or its driver raises; anything else that SQLAlchemy raises is our own bug."""
BUSY_S = 10.0
"""How long a transaction waits for another process's lock before it gives up."""
RECONNECT_S = 5.0
"""How long a lost PostgreSQL server is looked for before giving up."""


class Database:
    """Transactions on one database, from any thread.

    Attributes:
        name: The path or the URL, without its password.
        path: The SQLite file; None for PostgreSQL.
        readonly: Nothing can be written, only read.
    """

    def __init__(self, engine: Engine, name: str, path: Path | None, readonly: bool) -> None:
        self.name = name
        self.path = path
        self.readonly = readonly
        self.engine = engine
        self._writing: AbstractContextManager[Any] = (
            threading.Lock() if path is not None else nullcontext()
        )
        self._durable = engine.execution_options(begin="durable")
        self._quick = engine.execution_options(begin="quick")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and writes nothing.

        Raises:
            StoreUnreachableError: the connection was lost; nothing tries again here.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except REFUSALS as error:
            raise in_words(error, self.name, self.path) from error

    def write(self, work: Callable[[Connection, bool], T], *, durable: bool = True) -> T:
        """Run one transaction, and again if the server was lost meanwhile.

        Args:
            work: Does the writing; its second argument says that an earlier run may already have
                been committed.
            durable: Whether it must survive a power cut, and not only the end of this process.

        Raises:
            StoreWriteError: the database refuses to be written.
            StoreUnreachableError: the server did not come back.
        """
        if self.readonly:
            raise StoreWriteError(
                f"The database {self.name} is read-only here: {_why_readonly(self.path)} "
                "Conversations can be read; to write, make it writable or name another database."
            )
        engine = self._durable if durable else self._quick

        def once(again: bool) -> T:
            try:
                with engine.begin() as connection:
                    return work(connection, again)
            except REFUSALS as error:
                raise in_words(error, self.name, self.path) from error

        with self._writing:
            return repeated(once)

    def scrub(self) -> None:
        """Leave nothing of what was deleted in the file.

        Raises:
            StoreWriteError: another process reads or writes it; nothing is lost, try again.
        """
        statements = ["VACUUM"]
        if self.path is not None:
            # Written anew, the file has no gaps in which something may stand; then its log.
            statements.append("PRAGMA wal_checkpoint(TRUNCATE)")
        with self._alone() as connection:
            for statement in statements:
                answer = connection.exec_driver_sql(statement)
                if answer.returns_rows and answer.scalar():
                    raise StoreWriteError(
                        f"The database {self.name} is in use by another process, so what was "
                        "erased still stands in its -wal file. Close the others and erase again."
                    )

    def empty_log(self) -> None:
        """Move SQLite's log into the file and empty it, unless somebody is reading."""
        if self.path is not None:
            with self._alone() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout = 200")
                try:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
                finally:
                    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A connection outside any transaction, while no other thread here writes."""
        try:
            with self._writing, self.engine.connect() as connection:
                if self.path is None:
                    yield connection.execution_options(isolation_level="AUTOCOMMIT")
                else:
                    yield connection.execution_options(begin="never")
        except REFUSALS as error:
            raise in_words(error, self.name, self.path) from error

    def backup(self, path: str) -> None:
        """Copy an SQLite database to a new file while it is used."""
        if self.path is None:
            raise UsageError(
                f"A PostgreSQL database is backed up with its own program: "
                f"pg_dump --format=custom --schema={schema.POSTGRES_SCHEMA} "
                f"--file={shlex.quote(path)} {shlex.quote(self.name)}"
            )
        target = Path(path).expanduser()
        if target.exists():
            raise UsageError(f"The backup {str(target)!r} exists already. Name a new file.")
        _create_file(target)
        try:
            with self.engine.connect() as connection:
                source = connection.connection.driver_connection
                assert source is not None
                with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                    source.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        except (*REFUSALS, sqlite3.Error) as error:
            target.unlink(missing_ok=True)
            raise in_words(error, repr(str(target)), target) from error

    def integrity_check(self) -> list[str]:
        """What the database itself finds wrong."""
        if self.path is None:
            return []
        problems = []
        try:
            with self.engine.connect() as connection:
                for check in ("integrity_check", "foreign_key_check"):
                    for row in connection.exec_driver_sql(f"PRAGMA {check}"):
                        if tuple(row) != ("ok",):
                            problems.append(f"SQLite's {check}: {' '.join(map(str, row))}")
                if not self.readonly:
                    connection.exec_driver_sql(
                        "INSERT INTO search(search) VALUES ('integrity-check')"
                    )
        except REFUSALS as error:
            problems.append(str(in_words(error, self.name, self.path)))
        return problems

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def repeated(once: Callable[[bool], T], patience_s: float = RECONNECT_S) -> T:
    """Do something until the server does not get lost in it, for a few seconds.

    Args:
        once: What to do; told whether it was tried before.
        patience_s: How long to go on trying.
    """
    deadline = time.monotonic() + patience_s
    pause_s, again = 0.02, False
    while True:
        try:
            return once(again)
        except StoreUnreachableError:
            if time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s, again = min(2 * pause_s, 1.0), True


def open_database(database: str) -> Database:
    """Open a database at the current schema; make or upgrade it first if need be.

    Args:
        database: A path, or a URL that begins with `sqlite:///` or `postgresql://`.

    Raises:
        UsageError: a URL of another kind.
        StoreVersionError: it was made by a newer version.
        StoreError: it cannot be opened, naming it, the cause and what to do.
    """
    url = _parse(database)
    opened = _open_sqlite(url) if isinstance(url, Path) else _open_postgres(url)
    try:
        _prepare(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def revision(connection: Connection) -> str | None:
    """The schema revision of a database; None for one with nothing of ours in it."""
    if connection.dialect.name == "sqlite":
        there = connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        ).scalar()
    else:
        # Not to_regclass: after waiting for a lock it may still answer from a cache of before.
        there = connection.exec_driver_sql(
            "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
            "ON n.oid = c.relnamespace "
            f"WHERE n.nspname = '{schema.POSTGRES_SCHEMA}' AND c.relname = 'alembic_version'"
        ).scalar()
    return None if there is None else connection.scalar(select(schema.version.c.version_num))


def _prepare(database: Database) -> None:
    """Make the schema the current one, once, whoever else opens the database now."""

    def look(again: bool) -> str | None:
        with database.read() as connection:
            return revision(connection)

    # A connection may be lost at any time, but a server that is not there is not waited for.
    found = repeated(look, patience_s=0.5)
    if found == schema.HEAD:
        return
    if found is not None and found not in schema.OLDER:
        raise StoreVersionError(database.name, found)
    if database.readonly:
        raise StoreError(
            f"The database {database.name} is read-only and "
            + ("empty." if found is None else f"of an older schema ({found}).")
            + " Make it writable once, so that it can be brought up to date."
        )
    database.write(_bring_up_to_date)


def _bring_up_to_date(connection: Connection, again: bool) -> None:
    if connection.dialect.name == "postgresql":
        # Of two processes that open it at once, one waits here; SQLite's write lock is held.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20855, 1)")
    found = revision(connection)
    if found == schema.HEAD:
        return
    if found is None:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {schema.POSTGRES_SCHEMA}")
        schema.create(connection)
        return
    upgrade(connection)


def upgrade(connection: Connection, target: str = "head") -> None:
    """Run the migrations from the schema that is there, inside the caller's transaction."""
    # Alembic takes longer to import than a current database to open, which is all but always.
    from quietdesk.store.migrations.run import upgrade as run  # noqa: PLC0415

    made = run(connection, target)
    if schema.REINDEX.intersection(made):
        SearchIndex(sqlite=connection.dialect.name == "sqlite").rebuild_all(connection)


def _parse(database: str) -> Path | URL:
    scheme, separator, rest = database.partition("://")
    if not separator:
        return Path(database).expanduser()
    if scheme == "sqlite":
        return Path(rest.removeprefix("/")).expanduser()
    if scheme in {"postgresql", "postgres", "postgresql+psycopg"}:
        try:
            return make_url(f"postgresql+psycopg://{rest}")
        except (ArgumentError, ValueError):  # their words may quote the password
            raise UsageError(
                "The database URL cannot be read. It should look like "
                "postgresql://user:password@host:5432/name, with %-escapes for signs in the words."
            ) from None
    raise UsageError(
        f"Databases of the kind {scheme!r} are not supported. Give the path of an SQLite file, or "
        "a URL like postgresql://user@host/name."
    )


def _open_sqlite(path: Path) -> Database:
    if path.is_dir():
        raise StoreError(f"The database {str(path)!r} is a folder. Name a file in it.")
    mode = "rw"
    if not path.exists():
        _create_file(path)
    elif not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        mode = "ro"
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    if mode == "ro" and not _log_of(path).exists():
        # Without its log a database in WAL mode is read only on a promise that nobody writes.
        uri += "&immutable=1"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=56,
        pool_timeout=60,
    )
    event.listen(engine, "begin", _begin_sqlite)
    database = Database(engine, repr(str(path)), path, readonly=mode == "ro")
    try:
        _check_file(database)
    except BaseException:
        database.close()
        raise
    return database


_PRAGMAS = (
    "foreign_keys = ON",
    "secure_delete = ON",  # what was erased must not be left in the file
    "fullfsync = ON",  # macOS: an fsync that means it
    "cache_size = -16384",
    "journal_size_limit = 67108864",
)


def _begin_sqlite(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin")
    if kind is None:
        connection.exec_driver_sql("BEGIN")
    if kind in {None, "never"}:
        return
    # In WAL mode NORMAL leaves out the fsync at commit: the commit outlives the process, but the
    # newest may be lost with the power. Only checkpoints of a reply may be written so.
    level = "FULL" if kind == "durable" else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_file(database: Database) -> None:
    """Make sure that a file is ours or empty before anything in it is changed."""
    try:
        with database.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            mark = driver.execute("PRAGMA application_id").fetchone()[0]
            tables = driver.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and mark != schema.APPLICATION_ID:
                raise StoreError(
                    f"The database {database.name} was made by another program. Name another file."
                )
            if not database.readonly:
                driver.execute("PRAGMA journal_mode = WAL")
    except (*REFUSALS, sqlite3.Error) as error:
        raise in_words(error, database.name, database.path) from error


def _create_file(path: Path) -> None:
    """An empty file that only its owner may read, in folders of the same kind."""
    try:
        for folder in reversed([path.parent, *path.parent.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(
            f"The database {str(path)!r} cannot be created: {error.strerror}. "
            "Name another place, with --database or the setting `database`."
        ) from error


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _open_postgres(url: URL) -> Database:
    name = url.set(drivername="postgresql").render_as_string(hide_password=True)
    try:
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=56,
            pool_timeout=60,
            connect_args={"connect_timeout": 10, "application_name": "quietdesk"},
            execution_options={"schema_translate_map": {None: schema.POSTGRES_SCHEMA}},
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            f"The database {name} needs psycopg. Install it: pip install 'quietdesk[postgres]'."
        ) from error
    event.listen(engine, "connect", _greet_postgres)
    for talker in ("psycopg", "sqlalchemy.pool"):
        # They log lost connections, which are met here, and Python prints what nobody handles.
        logging.getLogger(talker).addHandler(logging.NullHandler())
    return Database(engine, name, None, readonly=False)


def _greet_postgres(connection: Any, record: object) -> None:
    connection.execute(f"SET lock_timeout = {int(BUSY_S * 1000)}")
    connection.commit()


def in_words(error: Exception, name: str, path: Path | None) -> StoreError:
    """What a database's error means to whoever reads it."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if path is not None:
        return _sqlite_in_words(cause, name, path)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return _postgres_in_words(cause, name, lost)


def _sqlite_in_words(cause: BaseException | None, name: str, path: Path) -> StoreError:
    code = getattr(cause, "sqlite_errorname", None) or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreWriteError(
            f"The database {name} was locked by another process for more than {BUSY_S:g} s. "
            "Try again; if it stays so, look for a program that holds it open."
        )
    if code.startswith("SQLITE_READONLY") or code == "SQLITE_PERM":
        return StoreWriteError(
            f"The database {name} cannot be written: {_why_readonly(path)} "
            "Make it writable, or name another database."
        )
    if code == "SQLITE_FULL":
        return StoreWriteError(
            f"The database {name} cannot grow: the disk is full or a limit is reached. Make room; "
            "what was stored before is safe."
        )
    if code.startswith("SQLITE_IOERR"):
        return StoreWriteError(
            f"The disk refused to read or write the database {name} ({code}). Look at the disk's "
            "free space and the system's log; what was stored before is safe."
        )
    if code == "SQLITE_NOTADB":
        return StoreError(f"The file {name} is no SQLite database. Name another file.")
    if code.startswith("SQLITE_CORRUPT"):
        return StoreError(
            f"The database {name} is damaged ({cause}). Restore a backup, or save what can be "
            f"read: sqlite3 {name} .recover"
        )
    if code.startswith("SQLITE_CANTOPEN"):
        return StoreError(
            f"The database {name} cannot be opened. Look at the permissions of the file, of its "
            f"-wal and -shm files, and of its folder."
        )
    return StoreError(f"The database {name} reported: {cause}.")


def _why_readonly(path: Path | None) -> str:
    if path is None:
        return "the server allows no writes."
    if not os.access(path, os.W_OK):
        return "the file may only be read."
    if not os.access(path.parent, os.W_OK):
        return f"the folder {str(path.parent)!r} may only be read."
    return "SQLite says it is read-only."


def _postgres_in_words(cause: BaseException | None, name: str, lost: bool) -> StoreError:
    state = getattr(cause, "sqlstate", None) or ""
    said = str(cause).strip().split("\n")[0].rstrip(".")
    if state == "55P03":
        return StoreWriteError(
            f"The database {name} kept a conversation locked for more than {BUSY_S:g} s. Try again."
        )
    if state == "25006":
        return StoreWriteError(
            f"The database {name} is read-only ({said}). Name the primary server."
        )
    if state[:2] == "53" and state != "53300":
        return StoreWriteError(f"The database {name} has no room left ({said}).")
    if state == "42501":
        return StoreError(
            f"The database {name} refuses permission ({said}). Its owner can allow it: "
            f"CREATE SCHEMA {schema.POSTGRES_SCHEMA} AUTHORIZATION your_user;"
        )
    if lost or state in _PASSING or state[:3] in {"", "57P"} or state[:2] in {"08", "28", "3D"}:
        return StoreUnreachableError(
            f"The database {name} cannot be reached ({said}). Look at the server, the address, the "
            "name and the password."
        )
    return StoreError(f"The database {name} reported: {said}.")


_PASSING = frozenset({"40001", "40P01", "53300"})
"""Conflicts with other transactions, deadlocks, and too many connections: it helps to try again."""


def describe(database: Database) -> dict[str, str | int]:
    """What `db status` shows: where it is, what it runs on, its schema and its size."""
    with database.read() as connection:
        found = revision(connection) or ""
        if database.path is not None:
            size = database.path.stat().st_size
            engine = f"SQLite {sqlite3.sqlite_version}"
        else:
            size = connection.exec_driver_sql(
                "SELECT pg_database_size(current_database())"
            ).scalar_one()
            engine = "PostgreSQL " + str(
                connection.exec_driver_sql("SHOW server_version").scalar_one()
            )
    return {"database": database.name, "engine": engine, "schema": found, "size_bytes": size}
