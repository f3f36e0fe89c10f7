"""Schema: the tables of the current revision, for SQLite and PostgreSQL.

Times are microseconds since 1970, UTC. A message's place is its number in its conversation, from
1, in the order of writing; place 0 of the search index is the title.
"""

import re
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.types import UserDefinedType

from quietdesk.store.vault import Vault

HEAD = "0004"
"""The revision that these tables are; migrations lead here."""
OLDER = ("0001", "0002", "0003")
"""Earlier revisions that the migrations know."""
REINDEX = frozenset({"0002"})
"""Revisions after which the search index has to be made anew."""
APPLICATION_ID = 0x51446573
"""SQLite's mark that a file is ours: `QDes`."""
PLACE_BITS = 20
"""Bits of a search row's number that hold the place; the rest is the conversation's number."""
POSTGRES_SCHEMA = "quietdesk"
"""The tables' namespace in a PostgreSQL database, which others may use too."""

_ESCAPED = re.compile("[\x00\x10\ud800-\udfff]")
_ESCAPE = re.compile("\x10([0-9a-f]{4})")


class Plain(TypeDecorator[str]):
    """Any Python string, whole.

    Databases refuse or cut at U+0000 and cannot hold lone surrogates, and a model may say either;
    they are kept as U+0010 and four hexadecimal digits.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        if value is None or not _ESCAPED.search(value):
            return value
        return _ESCAPED.sub(lambda match: f"\x10{ord(match.group()):04x}", value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """From the database."""
        if value is None or "\x10" not in value:
            return value
        return _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), value)


class Sealed(Plain):
    """Any Python string, sealed where the database has a vault."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        plain = super().process_bind_param(value, dialect)
        vault = vault_of(dialect)
        return plain if vault is None or plain is None else vault.seal(plain)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """From the database."""
        vault = vault_of(dialect)
        if vault is not None and value is not None:
            value = vault.open(value)
        return super().process_result_value(value, dialect)


class SealedEqual(Plain):
    """Any Python string that is looked up as a whole, sealed where the database has a vault."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """To the database."""
        plain = super().process_bind_param(value, dialect)
        vault = vault_of(dialect)
        return plain if vault is None or plain is None else vault.seal_equal(plain)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """From the database."""
        vault = vault_of(dialect)
        if vault is not None and value is not None:
            value = vault.open_equal(value)
        return super().process_result_value(value, dialect)


class SealedBytes(TypeDecorator[bytes]):
    """Bytes, sealed where the database has a vault."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """To the database."""
        vault = vault_of(dialect)
        return value if vault is None or value is None else vault.seal_bytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """From the database."""
        vault = vault_of(dialect)
        return value if vault is None or value is None else vault.open_bytes(bytes(value))


_VAULTS: WeakKeyDictionary[Dialect, Vault] = WeakKeyDictionary()
"""A column's type is told the dialect alone when it binds a value, and each engine has its own."""


def lock_up(dialect: Dialect, vault: Vault | None) -> None:
    """Seal and open with this vault, or nothing, whatever goes through a dialect from now on."""
    if vault is None:
        _VAULTS.pop(dialect, None)
    else:
        _VAULTS[dialect] = vault


def vault_of(dialect: Dialect) -> Vault | None:
    """What a dialect seals with; None if the database is not encrypted."""
    return _VAULTS.get(dialect)


class WordVector(UserDefinedType[str]):
    """PostgreSQL's TSVECTOR, here so that SQLite's users need not load that dialect."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in SQL."""
        return "TSVECTOR"


class WordQuery(UserDefinedType[str]):
    """PostgreSQL's TSQUERY."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in SQL."""
        return "TSQUERY"


Number = BigInteger().with_variant(Integer(), "sqlite")
Id = Plain().with_variant(Plain(collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

version = Table(
    "alembic_version",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),  # as Alembic makes it
)

conversation = Table(
    "conversation",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("id", Id, nullable=False, unique=True),
    Column("title", Sealed, nullable=False),
    Column("customer", SealedEqual),
    Column("system", Sealed, nullable=False),
    Column("metadata", Sealed, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Column("leaf", Integer),
    Column("last_place", Integer, nullable=False),
    Index(None, "updated_at", "number"),
    Index(None, "customer", "updated_at"),
    sqlite_autoincrement=True,  # a purged conversation's number must never come back
)

message = Table(
    "message",
    metadata,
    Column(
        "conversation",
        Number,
        ForeignKey("conversation.number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("parent", Integer),
    Column("depth", Integer, nullable=False),
    Column("id", Id, nullable=False, unique=True),
    Column("author", Text, nullable=False),
    Column("text", Sealed, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finish_reason", Text),
    Column("tool_call_id", Plain),
    Column("tool_calls", Sealed),
    Column("model", Plain),
    Column("pinned", Boolean, nullable=False),
    Column("usage", Text),
    Column("context", SealedBytes),
    Column("rest", Sealed),  # fields of a message that have no column, as JSON
    ForeignKeyConstraint(["conversation", "parent"], ["message.conversation", "message.place"]),
)

open_reply = Table(
    "open_reply",
    metadata,
    Column("conversation", Number, primary_key=True, autoincrement=False),
    Column("place", Integer, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", Text, nullable=False),
    Column("heartbeat", BigInteger, nullable=False),
    Column("earlier_leaf", Integer),
    Column("earlier_updated_at", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["conversation", "place"], ["message.conversation", "message.place"], ondelete="CASCADE"
    ),
)

AUTHOR = "\x1fauthor"
"""The facet that says who speaks in a conversation; a name that no metadata has."""

facet = Table(
    "facet",
    metadata,
    Column(
        "conversation",
        Number,
        ForeignKey("conversation.number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("name", SealedEqual, primary_key=True),
    Column("value", SealedEqual, primary_key=True),
    Index(None, "name", "value", "conversation"),
)

score = Table(
    "score",
    metadata,
    Column(
        "conversation",
        Number,
        ForeignKey("conversation.number", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("place", Integer, primary_key=True, autoincrement=False),  # 0: the whole conversation
    Column("metric", Plain, primary_key=True),
    Column("value", Float(53)),
    Column("cause", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Index(None, "metric", "value"),
)

vault = Table(
    "vault",
    metadata,
    Column("salt", Text, primary_key=True),  # in base64
    Column("proof", Text, nullable=False),
)
"""One row if the database is encrypted, else none."""

backup = Table(
    "backup",
    metadata,
    Column("path", SealedEqual, primary_key=True),
    Column("made_at", BigInteger, nullable=False),
)
"""The copies that were made of the database, in which what is erased here still stands."""

postgres_metadata = MetaData()

search = Table(
    "search",
    postgres_metadata,
    Column("conversation", BigInteger, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("words", WordVector, nullable=False),
)

SQLITE_SEARCH = """
    CREATE VIRTUAL TABLE search USING fts5(words, tokenize = 'ascii', detail = none, columnsize = 0)
"""
"""`words` are folded and cut already, hence the plainest tokenizer."""


POSTGRES_SEARCH = f"CREATE INDEX ix_search_words ON {POSTGRES_SCHEMA}.search USING gin (words)"
"""As SQL, because `Index` would load the whole dialect for it, for SQLite's users too."""


def create(connection: Connection) -> None:
    """Make every table in an empty database, at revision HEAD, inside the caller's transaction."""
    metadata.create_all(connection, checkfirst=False)
    if connection.dialect.name == "sqlite":
        connection.execute(text(SQLITE_SEARCH))
        connection.execute(text(f"PRAGMA application_id = {APPLICATION_ID}"))
    else:
        postgres_metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql(POSTGRES_SEARCH)
    connection.execute(version.insert().values(version_num=HEAD))
