"""`quietdesk db`: the database itself, and what it keeps about a customer."""

import sys
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.assistant import database_key, database_place
from quietdesk.cli import options
from quietdesk.cli.output import print_json, write_whole
from quietdesk.config import Settings, cache_folder, scores_folder
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scored import need_extra
from quietdesk.store.base import Store

app = typer.Typer(help="Look after the database.", no_args_is_help=True)

_LATEST = 1000
"""Conversations whose customers are looked through for one like a customer that is unknown."""

Customer = Annotated[str, typer.Argument(help="The customer's id, as the conversations have it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class _Database(Protocol):
    """What a database can do beyond a store; `store.sql.SqlStore` is one."""

    def status(self) -> dict[str, str | int]: ...

    def integrity_check(self) -> list[str]: ...

    def backup(self, path: str) -> None: ...


@contextmanager
def _opened(database: str | None) -> Iterator[_Database]:
    from quietdesk.store.sql import SqlStore

    with options.opened(database) as store:
        if not isinstance(store, SqlStore):
            raise UsageError("The settings name a store in memory, which is empty at every start.")
        yield store


@app.command()
def status(database: options.Database = None, as_json: options.Json = False) -> None:
    """Tell which database is used, its schema, its size and what is in it; upgrades an old one.

    Example: quietdesk db status --database postgresql://localhost/desk
    """
    with _opened(database) as store:
        found = store.status()
    if as_json:
        print_json(dict(found))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console(highlight=False, markup=False).print(table)


@app.command()
def upgrade(database: options.Database = None) -> None:
    """Bring an older database to this version's schema; opening it with any verb does the same.

    Example: quietdesk db upgrade --database desk.db
    """
    with options.opened(database):
        typer.echo("The database has this version's schema.", err=True)


@app.command()
def check(database: options.Database = None) -> None:
    """Look for damage: the file's own check, and every rule that the tables have to keep.

    Example: quietdesk db check --database desk.db
    """
    with _opened(database) as store:
        problems = store.integrity_check()
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)
    typer.echo("Nothing is wrong.", err=True)


@app.command()
def encrypt(
    keyring: Annotated[
        bool, typer.Option("--keyring", help="Keep the new key in the system's keyring.")
    ] = False,
    database: options.Database = None,
) -> None:
    """Encrypt the database, or give an encrypted one another key.

    The new key is QUIETDESK_DATABASE_KEY for a database that is not encrypted yet; else it is
    asked for, or read as one line from standard input. Whoever loses it has lost the database.

    Example: quietdesk db encrypt --keyring
    """
    from quietdesk.kept_states import state_folder
    from quietdesk.store.rekey import change_key, is_encrypted
    from quietdesk.store.sql import open_sql_store

    settings = options.read_settings(database=database)
    place = _place(settings)
    key, new_key = None, ""
    if is_encrypted(place):
        key = database_key(place, settings)
    else:
        new_key = settings.database_key.get_secret_value()
    new_key = new_key or _ask_key()
    count = change_key(place, key, new_key)
    if keyring:
        from quietdesk.store.keys import keep_key

        keep_key(place, new_key)
    state_folder(place, settings).sweep(lambda owner: False)
    typer.echo(f"Encrypted, {count:,} rows.", err=True)
    with closing(open_sql_store(place, key=new_key)) as store:
        _name_backups(store, "These backups are in plain words, or under the old key")


@app.command()
def decrypt(yes: Yes = False, database: options.Database = None) -> None:
    """Write an encrypted database in plain words again.

    Example: quietdesk db decrypt
    """
    from quietdesk.store.rekey import change_key

    settings = options.read_settings(database=database)
    place = _place(settings)
    key = database_key(place, settings)
    if key is None:
        raise UsageError("No key was given. Set QUIETDESK_DATABASE_KEY, or `keyring`.")
    if not yes:
        typer.confirm("Write everything in plain words?", abort=True, err=True)
    typer.echo(f"Decrypted, {change_key(place, key, None):,} rows.", err=True)


def _place(settings: Settings) -> str:
    place = database_place(None, settings)
    if place == ":memory:":
        raise UsageError("The settings name a store in memory, which is never written anywhere.")
    return place


def _ask_key() -> str:
    if sys.stdin.isatty():
        key = typer.prompt("New key", hide_input=True, confirmation_prompt=True, err=True)
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    if not key:
        raise UsageError("The new key is empty. Give a passphrase, a long one.")
    return str(key)


def _name_backups(store: object, what: str) -> None:
    from quietdesk.store.sql import SqlStore

    if isinstance(store, SqlStore) and (there := store.backups()):
        typer.echo(f"{what}:", err=True)
        for path, made_at in there:
            typer.echo(f"  {path}  of {made_at.astimezone():%Y-%m-%d %H:%M}", err=True)


def _name_runs(ids: Collection[str]) -> None:
    there = [folder for folder in (scores_folder(), cache_folder() / "scores") if folder.is_dir()]
    try:
        need_extra()
    except UsageError:
        pass  # Nothing here can look into runs, so that their folders are named as they are.
    else:
        from quietdesk.scoring.kept import holding

        there = [path for folder in there for path in holding(folder, ids)]
    if there:
        typer.echo("It stands, or may stand, in these runs of the scorer:", err=True)
        for path in there:
            typer.echo(f"  {path}", err=True)


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(help="The new file.")], database: options.Database = None
) -> None:
    """Copy an SQLite database to a new file while it is used.

    Example: quietdesk db backup desk-$(date +%F).db
    """
    with _opened(database) as store:
        store.backup(str(to))
    typer.echo(f"Copied to {to}.", err=True)


@app.command()
def export(
    customer: Customer,
    to: Annotated[Path | None, typer.Option("--output", "-o", help="The file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    database: options.Database = None,
) -> None:
    """Write everything that is kept about a customer as JSON, deleted conversations too.

    Example: quietdesk db export c-42 -o c-42.json
    """
    with options.opened(database) as store:
        found = store.export_customer(customer)
        if not found["conversations"]:
            raise _unknown_customer(store, customer)
    if to is None:
        print_json(found)
    else:
        write_whole(to, found, force=force)


@app.command()
def erase(customer: Customer, yes: Yes = False, database: options.Database = None) -> None:
    """Remove everything that is kept about a customer, for good.

    It names the backups and the runs of the scorer that still have it; those and exports are yours
    to remove.
    Example: quietdesk db erase c-42
    """
    with options.opened(database, removes=True) as store:
        ids = [found["id"] for found in store.export_customer(customer)["conversations"]]
        if not ids:
            raise _unknown_customer(store, customer)
        if not yes:
            typer.confirm(f"Remove {len(ids)} conversations of {customer!r}?", abort=True, err=True)
        typer.echo(f"Removed {store.erase_customer(customer)} conversations.", err=True)
        _name_backups(store, "What was removed may still stand in these backups")
        _name_runs(ids)


def _unknown_customer(store: Store, customer: str) -> UnknownNameError:
    kept = (*store.conversations(limit=_LATEST), *store.conversations(limit=_LATEST, deleted=True))
    known = {info.customer for info in kept if info.customer is not None}
    return UnknownNameError("customer", customer, sorted(known))


@app.command()
def purge(
    days: Annotated[int, typer.Option("--older-than-days", min=1, help="Not used for so long.")],
    yes: Yes = False,
    database: options.Database = None,
) -> None:
    """Remove conversations that were not used for some time, for good.

    Example: quietdesk db purge --older-than-days 365 --yes
    """
    if not yes:
        typer.confirm(f"Remove what was not used for {days} days?", abort=True, err=True)
    with options.opened(database, removes=True) as store:
        count = store.purge_older_than(datetime.now(UTC) - timedelta(days=days))
    typer.echo(f"Removed {count} conversations.", err=True)
