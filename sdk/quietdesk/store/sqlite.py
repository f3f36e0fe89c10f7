"""SqliteDatabase: an SQLite file in WAL mode, and what SQLite's errors mean."""

import os
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from quietdesk.errors import StoreError, StoreWriteError, UsageError
from quietdesk.store import schema
from quietdesk.store.database import REFUSALS, Database

_PRAGMAS = (
    "foreign_keys = ON",
    "secure_delete = ON",  # what was deleted must not be left in the file
    "fullfsync = ON",  # macOS: an fsync that means it
    "cache_size = -16384",
    "journal_size_limit = 67108864",
)


class SqliteDatabase(Database):
    """An SQLite file."""

    path: Path

    def in_words(self, error: Exception) -> StoreError:
        """What a refusal means to whoever reads it."""
        return _in_words(error, self.path, self.busy_s)

    def outside(self, connection: Connection) -> Connection:
        """The connection, so that its statements run outside any transaction."""
        return connection.execution_options(begin="never")

    def lock(self, connection: Connection, *, everything: bool = False) -> None:
        """Let nobody else change the schema: a transaction that writes holds the only lock."""

    def make_room(self, connection: Connection) -> None:
        """Make what the tables stand in: the file is there."""

    def scrub(self, *, entirely: bool = False) -> None:
        """Leave nothing of what was deleted in the file: write it anew, and empty its log."""
        with self.alone() as connection:
            connection.exec_driver_sql("VACUUM")
            if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
                raise StoreWriteError(
                    f"The database {self.name} is in use by another process, so what was erased "
                    "still stands in its -wal file. Close the others and erase again."
                )

    def tidy(self) -> None:
        """Move the log into the file and empty it, unless somebody is reading."""
        with self.alone() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 200")
            try:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(self.busy_s * 1000)}")

    def backup(self, path: Path) -> None:
        """Copy the database to a new file while it is used."""
        if path.exists():
            raise UsageError(f"The backup {str(path)!r} exists already. Name a new file.")
        create_file(path)
        try:
            with self.engine.connect() as connection:
                source = connection.connection.driver_connection
                assert source is not None
                with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                    source.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        except (*REFUSALS, sqlite3.Error) as error:
            path.unlink(missing_ok=True)
            raise _in_words(error, path, self.busy_s) from error

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, and FTS5 with the index."""
        found = []
        try:
            with self.alone() as connection:
                for check in ("integrity_check", "foreign_key_check"):
                    for row in connection.exec_driver_sql(f"PRAGMA {check}"):
                        if tuple(row) != ("ok",):
                            found.append(f"SQLite's {check}: {' '.join(map(str, row))}")
                if not self.read_only:
                    connection.exec_driver_sql(
                        "INSERT INTO search(search) VALUES ('integrity-check')"
                    )
        except StoreError as error:
            found.append(str(error))
        return found

    def version_and_size(self, connection: Connection) -> tuple[str, int]:
        """What it runs on, in words, and how many bytes it takes, its log included."""
        log = _log_of(self.path)
        size = self.path.stat().st_size + (log.stat().st_size if log.exists() else 0)
        return f"SQLite {sqlite3.sqlite_version}", size


def open_sqlite(path: Path, busy_s: float) -> SqliteDatabase:
    """Open a file, which is made for its owner only if it is not there.

    Raises:
        StoreError: it cannot be opened, or is no database of ours.
    """
    if path.is_dir():
        raise StoreError(f"The database {str(path)!r} is a folder. Name a file in it.")
    read_only = ""
    if path.exists():
        read_only = _why_read_only(path)
    else:
        create_file(path)
    uri = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rw'}"
    if read_only and not _log_of(path).exists():
        # Without its log a database in WAL mode is read only on a promise that nobody writes.
        uri += "&immutable=1"
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=partial(_connect, uri, busy_s),
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=56,
        pool_timeout=60,
    )
    event.listen(engine, "begin", _begin)
    database = SqliteDatabase(engine, repr(str(path)), busy_s, path=path, read_only=read_only)
    try:
        _make_sure_it_is_ours(database)
    except BaseException:
        database.close()
        raise
    return database


def create_file(path: Path) -> None:
    """An empty file that only its owner may read, in folders of the same kind.

    Raises:
        StoreError: it cannot be made.
    """
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


def _connect(uri: str, busy_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("begin", "read")
    if kind == "never":
        return
    if kind == "read":
        connection.exec_driver_sql("BEGIN")
        return
    # In WAL mode NORMAL leaves out the fsync at commit: the commit outlives the process, but the
    # newest may be lost with the power. Only checkpoints of a reply may be written so.
    level = "FULL" if kind == "durable" else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_sure_it_is_ours(database: SqliteDatabase) -> None:
    """Refuse a file that is neither ours nor empty, before anything in it is changed."""
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
            if not database.read_only:
                driver.execute("PRAGMA journal_mode = WAL")
    except (*REFUSALS, sqlite3.Error) as error:
        raise database.in_words(error) from error


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _why_read_only(path: Path) -> str:
    """Why a file cannot be written; empty if it can."""
    if not os.access(path, os.W_OK):
        return "the file may only be read."
    if not os.access(path.parent, os.W_OK):
        return f"the folder {str(path.parent)!r} may only be read."
    return ""


def _in_words(error: Exception, path: Path, busy_s: float) -> StoreError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorname", None) or ""
    name = repr(str(path))
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreWriteError(
            f"The database {name} was locked by another process for more than {busy_s:g} s. "
            "Try again; if it stays so, look for a program that holds it open."
        )
    if code.startswith("SQLITE_READONLY") or code == "SQLITE_PERM":
        reason = _why_read_only(path) or "SQLite says that it is read-only."
        return StoreWriteError(
            f"The database {name} cannot be written: {reason} "
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
            "-wal and -shm files, and of its folder."
        )
    return StoreError(f"The database {name} reported: {cause}.")
