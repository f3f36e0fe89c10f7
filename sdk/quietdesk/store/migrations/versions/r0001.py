"""Conversations, their messages, open replies, facets and the search index.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "conversation",
        sa.Column("number", Number, autoincrement=True),
        sa.Column("id", Id, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("customer", sa.Text),
        sa.Column("system", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("leaf", sa.Integer),
        sa.Column("last_place", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_conversation"),
        sa.UniqueConstraint("id", name="uq_conversation_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_conversation_updated_at_number", "conversation", ["updated_at", "number"])
    op.create_index("ix_conversation_customer", "conversation", ["customer"])
    op.create_table(
        "message",
        sa.Column("conversation", Number, nullable=False),
        sa.Column("place", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("parent", sa.Integer),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("id", Id, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("tool_call_id", sa.Text),
        sa.Column("tool_calls", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("usage", sa.Text),
        sa.Column("context", sa.LargeBinary),
        sa.PrimaryKeyConstraint("conversation", "place", name="pk_message"),
        sa.ForeignKeyConstraint(
            ["conversation", "parent"],
            ["message.conversation", "message.place"],
            name="fk_message_conversation_parent",
        ),
        sa.ForeignKeyConstraint(
            ["conversation"],
            ["conversation.number"],
            name="fk_message_conversation",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("id", name="uq_message_id"),
    )
    op.create_index("ix_message_author_conversation", "message", ["author", "conversation"])
    op.create_table(
        "open_reply",
        sa.Column("conversation", Number, nullable=False, autoincrement=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Text, nullable=False),
        sa.Column("heartbeat", sa.BigInteger, nullable=False),
        sa.Column("earlier_leaf", sa.Integer),
        sa.Column("earlier_updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation", name="pk_open_reply"),
        sa.ForeignKeyConstraint(
            ["conversation", "place"],
            ["message.conversation", "message.place"],
            name="fk_open_reply_conversation_place",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "facet",
        sa.Column("conversation", Number, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("conversation", "name", "value", name="pk_facet"),
        sa.ForeignKeyConstraint(
            ["conversation"],
            ["conversation.number"],
            name="fk_facet_conversation",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_facet_name_value", "facet", ["name", "value"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE search USING "
            "fts5(words, tokenize = 'ascii', detail = none, columnsize = 0)"
        )
        op.execute("PRAGMA application_id = 1363436915")
    else:
        op.create_table(
            "search",
            sa.Column("conversation", sa.BigInteger, nullable=False, autoincrement=False),
            sa.Column("place", sa.Integer, nullable=False, autoincrement=False),
            sa.Column("words", TSVECTOR, nullable=False),
            sa.PrimaryKeyConstraint("conversation", "place"),
        )
        op.create_index("ix_search_words", "search", ["words"], postgresql_using="gin")
