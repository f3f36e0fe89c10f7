"""Scores stand beside the conversations and messages that they are about.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "score",
        sa.Column(
            "conversation",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey(
                "conversation.number",
                name="fk_score_conversation",
                ondelete="CASCADE",
            ),
            nullable=False,
        ),
        sa.Column("place", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("value", sa.Float(53)),
        sa.Column("cause", sa.Boolean, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("conversation", "place", "metric", name="pk_score"),
    )
    op.create_index("ix_score_metric_value", "score", ["metric", "value"])
