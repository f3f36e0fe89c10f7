"""Logs for the verbs: how to read them, a bar, and what was wrong; imported when a verb runs."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from quietdesk.assistant import open_store as open_database
from quietdesk.cli.options import read_settings
from quietdesk.logs.format import Options
from quietdesk.logs.reading import Reading
from quietdesk.scoring.parts import Summary
from quietdesk.store.base import Store
from quietdesk.types import Author

SHOWN = 10


def options_of(authors: Sequence[str] | None, columns: Sequence[str] | None) -> Options:
    """How to read, from `--author` and `--column`.

    Raises:
        typer.BadParameter: one is not of the form, or there is no such author.
    """
    found = {}
    for name, who in _pairs(authors, "--author"):
        if who not in set(Author):
            raise typer.BadParameter(
                f"--author {name}={who}: {who!r} is none of {', '.join(Author)}."
            )
        found[name.lower()] = Author(who)
    return Options(authors=found, columns=dict(_pairs(columns, "--column")))


def _pairs(given: Sequence[str] | None, option: str) -> list[tuple[str, str]]:
    pairs = []
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise typer.BadParameter(f"{option} {text!r} is not of the form NAME=VALUE.")
        pairs.append((name.strip(), value.strip()))
    return pairs


def open_store(database: str) -> Store:
    """The store of a database that a log's path names."""
    return open_database(database, read_settings())


def bar(stack: ExitStack, what: str) -> Callable[[Reading], None]:
    """A bar on standard error where that is a terminal; a function that moves it."""
    if not sys.stderr.isatty():
        return lambda reading: None
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = stack.enter_context(shown).add_task(what, total=None)
    return lambda reading: shown.update(
        task, completed=reading.done_bytes, total=reading.total_bytes
    )


def tell(found: Reading | Summary) -> None:
    """Say on standard error what was wrong with what was read."""
    for problem in found.problems[:SHOWN]:
        print(problem, file=sys.stderr)
    n_problems = found.n_rejected + found.n_noted
    if n_problems > SHOWN:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.most_common())
        print(f"... {n_problems:,} remarks in all: {kinds}.", file=sys.stderr)
    if found.n_rejected:
        print(f"{found.n_rejected:,} records were left out.", file=sys.stderr)
