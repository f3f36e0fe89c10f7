"""`quietdesk sessions`: conversations that were kept."""

import math
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.cli import options
from quietdesk.cli.output import decode, print_json, write_whole
from quietdesk.errors import ImportRefusedError, UsageError
from quietdesk.store.document import Form, document, read_documents, to_json, to_markdown

app = typer.Typer(help="List, show, export, import and delete conversations.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The conversation's id, or a beginning of it.")]


@app.command("list")
def list_(
    search: Annotated[
        str, typer.Option("--search", help="Words in the title or the messages.")
    ] = "",
    customer: Annotated[str | None, typer.Option("--customer", help="Only this one's.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Only with this tag.")] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only with this `status` in their metadata.")
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            metavar="METRIC=LOW:HIGH",
            help="Only with a kept score between these; either may be left out. Repeat for more.",
        ),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only last used then or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", help="Only last used before then.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """List conversations, the last used first.

    Examples:
        quietdesk sessions list --search "refund" --limit 10

        quietdesk sessions list --score badness=2: --since 2026-11-01
    """
    with options.opened(database) as store:
        found = store.conversations(
            search,
            customer=customer,
            tag=tag,
            metadata=None if status is None else {"status": status},
            scores=_ranges(scores or []),
            since=None if since is None else since.astimezone(),
            until=None if until is None else until.astimezone(),
            limit=limit,
        )
    if as_json:
        print_json({"sessions": [info.model_dump(mode="json") for info in found]})
        return
    if not found:
        Console(stderr=True).print("No conversations.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "last used", "messages", "customer", "title"):
        table.add_column(heading, justify="right" if heading == "messages" else "left")
    for info in found:
        when = info.updated_at.astimezone().strftime("%Y-%m-%d %H:%M")
        count = str(info.message_count)
        table.add_row(info.id, when, count, info.customer or "", info.title or "(untitled)")
    Console(markup=False, highlight=False).print(table)


def _ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for text in texts:
        metric, equals, numbers = text.partition("=")
        low, colon, high = numbers.partition(":")
        try:
            least, most = float(low or "-inf"), float(high or "inf")
        except ValueError:
            least = most = math.nan
        # A number that is none is not at most anything.
        if not (metric and equals and colon and least <= most):
            raise typer.BadParameter(
                f"{text!r} is no range of a score. Write METRIC=LOW:HIGH with LOW at most HIGH, "
                "as badness=2: for 2 and more.",
                param_hint="--score",
            )
        found[metric] = least, most
    return found


@app.command()
def show(
    conversation_id: Id, database: options.Database = None, as_json: options.Json = False
) -> None:
    """Print a conversation, the active branch.

    Example: quietdesk sessions show c-1a2b
    """
    with options.opened(database) as store:
        info = store.conversation(conversation_id)
        messages = store.messages(info.id)
    if as_json:
        print_json(to_json(info, messages))
    else:
        sys.stdout.write(to_markdown(info, messages))


@app.command()
def export(
    conversation_id: Id,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; standard output if left out.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", "-f", help="How it is written.")] = "json",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    database: options.Database = None,
) -> None:
    """Write a conversation to a file: JSON with every branch, or Markdown of the active one.

    Example: quietdesk sessions export c-1f2e -f markdown -o chat.md
    """
    with options.opened(database) as store:
        whole = document(store, conversation_id, form)
    if to is not None:
        write_whole(to, whole, force=force)
    elif isinstance(whole, str):
        sys.stdout.write(whole)
    else:
        print_json(whole)


@app.command("import")
def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="JSON or JSON Lines; - for stdin.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look whether it could be done.")
    ] = False,
    database: options.Database = None,
) -> None:
    """Import conversations that `sessions export` wrote, all of them or none.

    A file holds one as JSON, or one in every line. Ids that are there already, trees with a
    missing parent and dates in the future are refused, with their place.

    Example: quietdesk sessions import c-1f2e.json others.jsonl --dry-run
    """
    found = [pair for path in paths for pair in read_documents(_text_of(path), str(path))]
    # A dry run makes no database: what would be a new one is looked at as the empty one it is.
    place = ":memory:" if dry_run and options.is_missing(database) else database
    with options.opened(place, makes=True) as store:
        try:
            store.import_conversations(
                [(one.conversation, one.messages) for _, one in found], dry_run=dry_run
            )
        except ImportRefusedError as error:
            place, one = found[error.number - 1]
            raise UsageError(
                f"Cannot import {place} (conversation {one.conversation.id!r}): {error.reason}. "
                "Nothing was imported."
            ) from None
        for _, one in () if dry_run else found:
            if one.leaf_id is not None and one.leaf_id != one.messages[-1].id:
                store.select(one.conversation.id, one.leaf_id)
    done = "could be imported; nothing was." if dry_run else "imported."
    n_messages = sum(len(one.messages) for _, one in found)
    typer.echo(f"{len(found):,} conversations with {n_messages:,} messages {done}", err=True)


def _text_of(path: Path) -> str:
    if str(path) == "-":
        return decode(sys.stdin.buffer.read(), "Standard input")
    try:
        return decode(path.read_bytes(), f"The file {str(path)!r}")
    except OSError as error:
        raise UsageError(f"The file {str(path)!r} cannot be read: {error.strerror}.") from None


@app.command()
def delete(
    conversation_ids: Annotated[list[str], typer.Argument(help="Ids, or beginnings of them.")],
    for_good: Annotated[
        bool, typer.Option("--for-good", help="Remove it; `restore` cannot bring it back.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database: options.Database = None,
) -> None:
    """Delete conversations; `quietdesk sessions restore` brings them back.

    Example: quietdesk sessions delete c-1f2e c-77aa
    """
    with options.opened(database, removes=True) as store:
        found = [store.conversation(name) for name in conversation_ids]
        if for_good and not yes:
            typer.confirm(f"Remove {len(found)} conversations for good?", abort=True, err=True)
        for info in found:
            store.delete(info.id)
        if for_good:
            store.purge([info.id for info in found])
    for info in found:
        Console(stderr=True, markup=False).print(f"Deleted {info.id}  {info.title}")


@app.command()
def restore(
    conversation_id: Annotated[str, typer.Argument(help="The conversation's whole id.")],
    database: options.Database = None,
) -> None:
    """Bring a deleted conversation back, by its whole id.

    Example: quietdesk sessions restore c-0123456789abcdef
    """
    with options.opened(database) as store:
        store.restore(conversation_id)
