"""`quietdesk convert`: logged conversations from any format into any other."""

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from quietdesk.cli import log_options, options, scoring_options
from quietdesk.errors import LogError


def convert(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IN... OUT",
            help="Logs: files, folders, databases, - for stdin; then the result.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The result's format; told by its name if absent.")
    ] = None,
    format: scoring_options.Format = None,
    authors: log_options.Authors = None,
    columns: log_options.Columns = None,
    strict: scoring_options.Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the native form.")
    ] = False,
    formats: Annotated[bool, typer.Option("--formats", help="List the formats.")] = False,
    as_json: options.Json = False,
) -> None:
    """Convert logged conversations.

    Example: quietdesk convert zendesk.json logs.parquet
    """
    scoring_options.need_extra()
    if schema:
        from quietdesk.cli.output import print_json
        from quietdesk.logs.native import schema as native_schema

        print_json(native_schema())
        return
    if formats:
        _list_formats()
        return
    if paths is None or len(paths) < 2:
        raise typer.BadParameter("Name at least one log and, last, the file to write.")
    from quietdesk.cli import logs
    from quietdesk.logs.reading import read
    from quietdesk.logs.writing import Writing, format_for

    *inputs, output = paths
    reading = read(
        inputs,
        format=format,
        options=logs.options_of(authors, columns),
        strict=strict,
        open_store=logs.open_store,
    )
    with (
        ExitStack() as stack,
        Writing(output, to or format_for(output), force=force) as writing,
    ):
        advance = logs.bar(stack, "converting")
        for record in reading.records():
            writing.write(record)
            advance(reading)
        if not writing.n_written:
            logs.tell(reading)
            raise LogError(f"There is no conversation in {', '.join(inputs)}.")
    logs.tell(reading)
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(
            {
                "output": output,
                "format": writing.format,
                "conversations": writing.n_written,
                "rejected": reading.n_rejected,
                "noted": reading.n_noted,
                "kinds": dict(reading.kinds),
                "lost": dict(writing.lost),
                "inputs": reading.formats,
                "problems": [str(problem) for problem in reading.problems],
            }
        )
        return
    for field, count in sorted(writing.lost.items()):
        print(
            f"{writing.format} cannot say {field}: left out of {count:,} conversations.",
            file=sys.stderr,
        )
    found = ", ".join(sorted(set(reading.formats.values())))
    print(
        f"{writing.n_written:,} conversations from {found}, written to {output}.", file=sys.stderr
    )


def _list_formats() -> None:
    from rich.console import Console
    from rich.table import Table

    from quietdesk.logs.detect import TITLES
    from quietdesk.logs.writing import WRITTEN

    table = Table(box=None, pad_edge=False)
    for heading in ("format", "read", "written", "what it is"):
        table.add_column(heading)
    for name, title in TITLES.items():
        table.add_row(name, "yes", "yes" if name in WRITTEN else "no", title)
    Console(markup=False, highlight=False).print(table)
