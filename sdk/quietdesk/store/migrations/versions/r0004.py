"""A place for the salt and the proof of an encrypted database's key, and a list of backups.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "vault",
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("proof", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("salt", name="pk_vault"),
    )
    op.create_table(
        "backup",
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("path", name="pk_backup"),
    )
