"""Opening: which database a name means, and its schema made the current one."""

import os
from base64 import b64decode, b64encode
from pathlib import Path

from sqlalchemy import URL, Connection, make_url, select
from sqlalchemy.exc import ArgumentError

from quietdesk.errors import StoreError, StoreKeyError, StoreVersionError, UsageError
from quietdesk.store import schema
from quietdesk.store.database import Database, repeated
from quietdesk.store.index import SearchIndex
from quietdesk.store.postgres import open_postgres
from quietdesk.store.sqlite import open_sqlite
from quietdesk.store.vault import SALT_BYTES, Vault


def open_database(database: str, busy_s: float, key: str | None = None) -> Database:
    """Open a database at the current schema; make or upgrade it first if need be.

    Args:
        database: A path, or a URL that begins with `sqlite:///` or `postgresql://`.
        key: The passphrase of an encrypted database; a new database is encrypted with it.
        busy_s: How long a transaction waits for somebody else's lock.

    Raises:
        UsageError: a URL of another kind.
        StoreVersionError: it was made by a newer version.
        StoreKeyError: it is encrypted and the key is another or none, or the other way round.
        StoreError: it cannot be opened, naming it, the cause and what to do.
    """
    opened = _open(file_or_url(database), busy_s)
    try:
        _prepare(opened)
        _unlock(opened, key)
    except BaseException:
        opened.close()
        raise
    return opened


def _open(place: Path | URL, busy_s: float) -> Database:
    if isinstance(place, Path):
        return open_sqlite(place, busy_s)
    return open_postgres(place, busy_s)


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

    def bring_up_to_date(connection: Connection, again: bool) -> None:
        database.lock(connection)
        there = revision(connection)
        if there is None:
            database.make_room(connection)
            schema.create(connection)
        elif there != schema.HEAD:
            _upgrade(connection)

    # A connection may be lost at any time, but a server that is not there is not waited for.
    found = repeated(look, patience_s=0.5)
    if found == schema.HEAD:
        return
    if found is not None and found not in schema.OLDER:
        raise StoreVersionError(database.name, found)
    if database.read_only:
        raise StoreError(
            f"The database {database.name} is read-only and "
            + ("empty." if found is None else f"of an older schema ({found}).")
            + " Make it writable once, so that it can be brought up to date."
        )
    database.write(bring_up_to_date)


def _unlock(database: Database, key: str | None) -> None:
    """Give an encrypted database its vault; encrypt one that is new and given a key.

    Raises:
        StoreKeyError: it is encrypted and the key is another or none, or the other way round.
    """

    def look(again: bool) -> tuple[str, str] | None:
        with database.read() as connection:
            row = connection.execute(select(schema.vault)).first()
            return None if row is None else (row.salt, row.proof)

    def encrypt(connection: Connection, again: bool) -> None:
        database.lock(connection)
        if connection.execute(select(schema.vault)).first() is not None:
            return
        if connection.execute(select(schema.conversation.c.number).limit(1)).first() is not None:
            raise StoreKeyError(
                f"A key was given and the database {database.name} is not encrypted. "
                "`quietdesk db encrypt` encrypts it; or open it without a key."
            )
        salt = os.urandom(SALT_BYTES)
        row = {"salt": b64encode(salt).decode(), "proof": Vault(key or "", salt).proof()}
        connection.execute(schema.vault.insert(), row)

    found = repeated(look)
    if found is None and key is None:
        database.keep_key("")
        return
    if key is None:
        raise StoreKeyError(
            f"The database {database.name} is encrypted and no key was given. Set "
            "QUIETDESK_DATABASE_KEY, or put it into the system's keyring and set `keyring`."
        )
    if found is None:
        database.write(encrypt)
        found = repeated(look)
        assert found is not None
    vault = Vault(key, b64decode(found[0]))
    if not vault.proves(found[1]):
        raise StoreKeyError(
            f"The key does not open the database {database.name}, which is encrypted with another."
        )
    schema.lock_up(database.engine.dialect, vault)
    database.keep_key(found[1])


def _upgrade(connection: Connection) -> None:
    # Alembic takes longer to import than a current database to open, which is all but always.
    from quietdesk.store.migrations.run import upgrade

    made = upgrade(connection)
    encrypted = connection.execute(select(schema.vault)).first() is not None
    if schema.REINDEX.intersection(made) and not encrypted:
        SearchIndex(sqlite=connection.dialect.name == "sqlite").rebuild_all(connection)


def file_or_url(database: str) -> Path | URL:
    """An SQLite database's file, or a server's URL.

    Raises:
        UsageError: it is neither.
    """
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
