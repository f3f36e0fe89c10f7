"""A word is indexed once per conversation; who speaks is a facet; new fields need no column.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("message", sa.Column("rest", sa.Text))
    op.drop_index("ix_message_author_conversation", "message")
    op.drop_index("ix_conversation_customer", "conversation")
    op.create_index(
        "ix_conversation_customer_updated_at", "conversation", ["customer", "updated_at"]
    )
    op.drop_index("ix_facet_name_value", "facet")
    op.create_index("ix_facet_name_value_conversation", "facet", ["name", "value", "conversation"])
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    message = sa.table("message", sa.column("conversation", number), sa.column("author", sa.Text))
    facet = sa.table(
        "facet",
        sa.column("conversation", number),
        sa.column("name", sa.Text),
        sa.column("value", sa.Text),
    )
    speakers = sa.select(
        message.c.conversation, sa.literal("\x1fauthor", sa.Text), message.c.author
    ).distinct()
    op.execute(facet.insert().from_select(["conversation", "name", "value"], speakers))
