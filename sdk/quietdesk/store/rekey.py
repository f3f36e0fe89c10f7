"""Rekey: a whole database encrypted, decrypted, or written anew under another key, in place.

It is one transaction: a crash in the middle leaves everything under the old key. Other processes
that have the database open are refused from then on, until they open it with the new key.
"""

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Column, Connection, LargeBinary, Table, Text, bindparam, select, update
from sqlalchemy import tuple_ as tuple_of
from sqlalchemy import type_coerce as as_type

from quietdesk.errors import StoreError, StoreKeyError
from quietdesk.store import schema
from quietdesk.store.database import Database
from quietdesk.store.index import SearchIndex
from quietdesk.store.opening import open_database
from quietdesk.store.sql import BUSY_S, open_sql_store
from quietdesk.store.vault import SALT_BYTES, Vault

_CHUNK = 200
_Turn = Callable[[Any], Any]


def change_key(
    database: str, key: str | None, new_key: str | None, *, busy_s: float = BUSY_S
) -> int:
    """Encrypt a database that is not, give an encrypted one another key, or decrypt it.

    Args:
        database: A path or a URL.
        key: The passphrase in force; None for a database that is not encrypted.
        new_key: The passphrase from now on; None for no encryption.
        busy_s: How long to wait for others' transactions.

    Returns:
        How many rows were written anew.

    Raises:
        StoreKeyError: `key` is not the one in force.
        StoreError: a reply is being written by somebody; nothing was changed.
        StoreWriteError: it is under the new key, but another process kept the file from being
            written anew, so what stood in it before can still be read there.
    """
    store = open_sql_store(database, key=key, busy_s=busy_s)
    opened = store.database
    old = schema.vault_of(opened.engine.dialect)
    salt = os.urandom(SALT_BYTES)
    new = None if new_key is None else Vault(new_key, salt)
    try:
        count = opened.write(lambda connection, again: _reseal(opened, connection, old, new, salt))
        opened.keep_key(new.proof() if new else "")
        opened.scrub(entirely=True)
    finally:
        store.close()
    return count


def is_encrypted(database: str) -> bool:
    """Whether a database is opened with a key; raises what opening it raises."""
    try:
        open_database(database, BUSY_S).close()
    except StoreKeyError:
        return True
    return False


def _reseal(
    database: Database, connection: Connection, old: Vault | None, new: Vault | None, salt: bytes
) -> int:
    database.lock(connection, everything=True)
    if connection.execute(select(schema.open_reply.c.place).limit(1)).first() is not None:
        raise StoreError(
            f"A reply is being written in the database {database.name}. Stop the programs that "
            "use it, then change the key."
        )
    count = sum(
        _reseal_table(connection, table, old, new) for table in schema.metadata.sorted_tables
    )
    connection.execute(schema.vault.delete())
    if new is not None:
        row = {"salt": b64encode(salt).decode(), "proof": new.proof()}
        connection.execute(schema.vault.insert(), row)
    index = SearchIndex(sqlite=database.path is not None, sealed=new is not None)
    schema.lock_up(connection.dialect, new)
    try:
        index.rebuild_all(connection)
    finally:
        schema.lock_up(connection.dialect, old)
    return count


def _reseal_table(
    connection: Connection, table: Table, old: Vault | None, new: Vault | None
) -> int:
    turns = {
        column.name: turn
        for column in table.columns
        if (turn := _turn(column, old, new)) is not None
    }
    if not turns:
        return 0
    keys = list(table.primary_key.columns)
    rows = [tuple(row) for row in connection.execute(select(*map(_raw, keys)))]
    matching = [key.expression == bindparam(f"old_{key.name}", type_=_type(key)) for key in keys]
    writing = (
        update(table)
        .where(*matching)
        .values(
            {name: bindparam(f"new_{name}", type_=_type(table.columns[name])) for name in turns}
        )
    )
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        chosen = select(*map(_raw, table.columns)).where(tuple_of(*map(_raw, keys)).in_(part))
        changed = []
        for row in connection.execute(chosen).mappings():
            changed.append(
                {f"old_{key.name}": row[key.name] for key in keys}
                | {f"new_{name}": turn(row[name]) for name, turn in turns.items()}
            )
        connection.execute(writing, changed)
    return len(rows)


def _turn(column: Column[Any], old: Vault | None, new: Vault | None) -> _Turn | None:
    """What makes of a column's raw value under the old key that under the new one."""

    def through(names: Sequence[str]) -> _Turn:
        steps = [getattr(old, names[0])] if old else []
        steps += [getattr(new, names[1])] if new else []

        def turn(value: Any) -> Any:
            if value is not None:
                for step in steps:
                    value = step(value)
            return value

        return turn

    kind = column.type
    if isinstance(kind, schema.Sealed):
        return through(("open", "seal"))
    if isinstance(kind, schema.SealedEqual):
        return through(("open_equal", "seal_equal"))
    if isinstance(kind, schema.SealedBytes):
        return through(("open_bytes", "seal_bytes"))
    return None


def _type(column: Column[Any]) -> Any:
    """A column's type without what seals it."""
    if isinstance(column.type, schema.Sealed | schema.SealedEqual):
        return Text()
    return LargeBinary() if isinstance(column.type, schema.SealedBytes) else column.type


def _raw(column: Column[Any]) -> Any:
    return as_type(column, _type(column)).label(column.name)
