"""PostgresDatabase: a schema of our own on a PostgreSQL server, and what its errors mean."""

import logging
import shlex
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from quietdesk.errors import StoreError, StoreUnreachableError, StoreWriteError, UsageError
from quietdesk.store import schema
from quietdesk.store.database import Database

_PASSING = frozenset({"40001", "40P01", "53300"})
"""Conflicts with other transactions, deadlocks, and too many connections: it helps to try again."""
_UNREACHABLE = frozenset({"08", "28", "3D"})
"""Classes of errors of a connection, a password or a database's name."""
_TABLES = frozenset({*schema.metadata.tables, *schema.postgres_metadata.tables})


class PostgresDatabase(Database):
    """A PostgreSQL database."""

    def in_words(self, error: Exception) -> StoreError:
        """What a refusal means to whoever reads it."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause).strip().split("\n")[0].rstrip(".")
        if state == "55P03":
            return StoreWriteError(
                f"The database {self.name} kept a conversation locked for more than "
                f"{self.busy_s:g} s. Try again."
            )
        if state == "25006":
            return StoreWriteError(
                f"The database {self.name} is read-only ({said}). Name the primary server."
            )
        if state == "42501":
            return StoreError(
                f"The database {self.name} refuses permission ({said}). Its owner can allow it: "
                f"CREATE SCHEMA {schema.POSTGRES_SCHEMA} AUTHORIZATION your_user;"
            )
        if lost or state in _PASSING or state[:3] in {"", "57P"} or state[:2] in _UNREACHABLE:
            return StoreUnreachableError(
                f"The database {self.name} cannot be reached ({said}). Look at the server, the "
                "address, the name and the password."
            )
        if state[:2] == "53":
            return StoreWriteError(f"The database {self.name} has no room left ({said}).")
        return StoreError(f"The database {self.name} reported: {said}.")

    def outside(self, connection: Connection) -> Connection:
        """The connection, so that its statements run outside any transaction."""
        return connection.execution_options(isolation_level="AUTOCOMMIT")

    def lock(self, connection: Connection, *, everything: bool = False) -> None:
        """Let nobody else change the schema until this transaction ends, or do anything at all."""
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20855, 1)")
        if everything:
            # The key's table first: every other transaction begins with reading it.
            tables = ("vault", *sorted(_TABLES - {"vault"}))
            names = ", ".join(f"{schema.POSTGRES_SCHEMA}.{table}" for table in tables)
            connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")

    def make_room(self, connection: Connection) -> None:
        """Make the schema that the tables stand in."""
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {schema.POSTGRES_SCHEMA}")

    def scrub(self, *, entirely: bool = False) -> None:
        """Free the room of deleted rows, to be written over; entirely: write new files."""
        verb = "VACUUM FULL" if entirely else "VACUUM"
        with self.alone() as connection:
            for table in sorted(_TABLES):
                connection.exec_driver_sql(f"{verb} {schema.POSTGRES_SCHEMA}.{table}")

    def tidy(self) -> None:
        """Leave it to the server, which frees deleted rows in its own time."""

    def backup(self, path: Path) -> None:
        """Say how the server's own program does it.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "A PostgreSQL database is backed up with its own program: "
            f"pg_dump --format=custom --schema={schema.POSTGRES_SCHEMA} "
            f"--file={shlex.quote(str(path))} {shlex.quote(self.name)}"
        )

    def problems(self) -> list[str]:
        """Nothing: the server watches over its own files."""
        return []

    def version_and_size(self, connection: Connection) -> tuple[str, int]:
        """What it runs on, in words, and how many bytes our tables take."""
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
        size = connection.exec_driver_sql(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE n.nspname = '{schema.POSTGRES_SCHEMA}' AND c.relkind = 'r'"
        ).scalar_one()
        return f"PostgreSQL {version}", int(size)


def open_postgres(url: URL, busy_s: float) -> PostgresDatabase:
    """Make ready to connect to a server; nothing is asked of it yet.

    Raises:
        StoreError: the driver is not installed.
    """
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

    def greet(connection: Any, record: object) -> None:
        connection.execute(f"SET lock_timeout = {int(busy_s * 1000)}")
        connection.commit()

    event.listen(engine, "connect", greet)
    for talker in ("psycopg", "sqlalchemy.pool"):
        # They log lost connections, which are met here, and Python prints what nobody handles.
        logging.getLogger(talker).addHandler(logging.NullHandler())
    return PostgresDatabase(engine, name, busy_s)
