"""Database: transactions on one SQLite file or PostgreSQL database, and what its errors mean."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from quietdesk.errors import StoreError, StoreKeyError, StoreUnreachableError, StoreWriteError
from quietdesk.store.schema import POSTGRES_SCHEMA

T = TypeVar("T")

REFUSALS = (DBAPIError, PoolTimeoutError)
"""What a database or its driver raises; anything else that SQLAlchemy raises is our own bug."""
RECONNECT_S = 5.0
"""How long a lost server is looked for before giving up."""


class Database(ABC):
    """Transactions on one database, from any thread.

    Attributes:
        engine: SQLAlchemy's.
        name: The path or the URL, without its password.
        busy_s: How long a transaction waits for somebody else's lock before it gives up.
        path: The SQLite file; None on a server.
        read_only: Why nothing can be written; empty if it can.
        proof: Of the key that it is encrypted with; empty if it is not encrypted.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        busy_s: float,
        *,
        path: Path | None = None,
        read_only: str = "",
    ) -> None:
        self.engine = engine
        self.name = name
        self.busy_s = busy_s
        self.path = path
        self.read_only = read_only
        self.proof = ""
        self._ask_key = ""
        # SQLite has one writer at a time: its own threads queue here and need not poll its lock.
        self._writing: AbstractContextManager[Any] = threading.Lock() if path else nullcontext()
        self._pid = os.getpid()
        self._durable = engine.execution_options(begin="durable")
        self._quick = engine.execution_options(begin="quick")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and writes nothing.

        Raises:
            StoreUnreachableError: the connection was lost; `repeated` tries again.
        """
        self._check_process()
        try:
            with self.engine.begin() as connection:
                self._check_key(connection)
                yield connection
        except REFUSALS as error:
            raise self.in_words(error) from error

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
        if self.read_only:
            raise StoreWriteError(
                f"The database {self.name} is read-only here: {self.read_only} "
                "Conversations can be read; to write, make it writable or name another database."
            )
        self._check_process()
        engine = self._durable if durable else self._quick

        def once(again: bool) -> T:
            try:
                with engine.begin() as connection:
                    self._check_key(connection)
                    return work(connection, again)
            except REFUSALS as error:
                raise self.in_words(error) from error

        with self._writing:
            return repeated(once)

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A connection outside any transaction, while no other thread here writes."""
        try:
            with self._writing, self.engine.connect() as connection:
                yield self.outside(connection)
        except REFUSALS as error:
            raise self.in_words(error) from error

    def close(self) -> None:
        """Close every connection."""
        # After a fork they are the parent's, and closing them here would end them there.
        self.engine.dispose(close=os.getpid() == self._pid)

    @property
    def sealed(self) -> bool:
        """Whether it is encrypted."""
        return bool(self.proof)

    def keep_key(self, proof: str) -> None:
        """Refuse every transaction from now on once somebody has changed the key.

        Args:
            proof: Of the key that is in use here; empty for none.
        """
        self.proof = proof
        self._ask_key = f"SELECT proof FROM {'' if self.path else POSTGRES_SCHEMA + '.'}vault"

    def _check_key(self, connection: Connection) -> None:
        """Write nothing under an old key, nor in plain words into what was encrypted meanwhile.

        On a server this also holds off whoever changes the key until the transaction ends.
        """
        if not self._ask_key:
            return
        if (connection.exec_driver_sql(self._ask_key).scalar() or "") != self.proof:
            raise StoreKeyError(
                f"The key of the database {self.name} was changed by another process. Open it "
                "again with the new key."
            )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                f"The database {self.name} was opened before this process was forked. Connections "
                "must not be shared: open the assistant after the fork."
            )

    @abstractmethod
    def in_words(self, error: Exception) -> StoreError:
        """What a refusal means to whoever reads it."""

    @abstractmethod
    def outside(self, connection: Connection) -> Connection:
        """The connection, so that its statements run outside any transaction."""

    @abstractmethod
    def lock(self, connection: Connection, *, everything: bool = False) -> None:
        """Let nobody else change the schema until this transaction ends, or do anything at all.

        On SQLite reading goes on all the same, in the state of before.
        """

    @abstractmethod
    def make_room(self, connection: Connection) -> None:
        """Make what the tables stand in."""

    @abstractmethod
    def scrub(self, *, entirely: bool = False) -> None:
        """Leave nothing of what was deleted.

        Args:
            entirely: Also where it keeps everybody out for as long as all that is there takes to
                be written anew.

        Raises:
            StoreWriteError: somebody else reads or writes it; nothing is lost, try again.
        """

    @abstractmethod
    def tidy(self) -> None:
        """Leave less of what was deleted, as far as it does not disturb anybody."""

    @abstractmethod
    def backup(self, path: Path) -> None:
        """Copy the database to a new file while it is used.

        Raises:
            UsageError: the file exists, or this database is copied in another way.
        """

    @abstractmethod
    def problems(self) -> list[str]:
        """What the database itself finds wrong with it."""

    @abstractmethod
    def version_and_size(self, connection: Connection) -> tuple[str, int]:
        """What it runs on, in words, and how many bytes it takes."""


def repeated(once: Callable[[bool], T], patience_s: float = RECONNECT_S) -> T:
    """Do something until the server does not get lost in it.

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
