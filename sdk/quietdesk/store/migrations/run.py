"""Run the migrations on an open connection, without Alembic's files and command line."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from alembic.migration import MigrationContext, MigrationStep
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from quietdesk.store.schema import POSTGRES_SCHEMA


def upgrade(connection: Connection, target: str = "head") -> list[str]:
    """Bring a database to a later schema, inside the caller's transaction.

    Args:
        connection: In a transaction that nobody else can write in.
        target: A revision, or `head`.

    Returns:
        The revisions that were made, in order.
    """
    scripts = ScriptDirectory(str(Path(__file__).parent))
    made: list[str] = []

    def steps(revision: tuple[str, ...], context: MigrationContext) -> Iterable[MigrationStep]:
        # The heads that are there; Alembic's own callers pass the tuple too.
        chosen = scripts._upgrade_revs(target, cast(str, revision))
        made.extend(step.revision.revision for step in chosen)
        return chosen

    options: dict[str, Any] = {"fn": steps}
    if connection.dialect.name == "postgresql":
        options["version_table_schema"] = POSTGRES_SCHEMA
    context = MigrationContext.configure(connection, opts=options)
    with Operations.context(context):
        context.run_migrations()
    return made
