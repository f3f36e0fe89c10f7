"""Migrations: the way from every schema that ever was to the current one, with Alembic."""
