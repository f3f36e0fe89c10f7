"""`quietdesk score`: how good logged conversations were, with intervals."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import options, scoring_options

Html = Annotated[Path | None, typer.Option("--html", help="Write a page for a browser.")]


def score(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Logs: files, folders, addresses; - for stdin."),
    ],
    format: scoring_options.Format = None,
    metrics: scoring_options.Metrics = scoring_options.DEFAULT,
    slices: scoring_options.Slices = None,
    html: Html = None,
    as_json: options.Json = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write one row per conversation.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="Write one row per conversation.")
    ] = None,
    jobs: scoring_options.Jobs = 0,
    strict: scoring_options.Strict = False,
) -> None:
    """Score logged conversations.

    Example: quietdesk score logs.jsonl --slice channel --html report.html
    """
    scoring_options.need_extra()
    from pyarrow import RecordBatch

    from quietdesk.cli import runs
    from quietdesk.scoring.report import RowWriter

    with ExitStack() as stack:
        writers = [
            stack.enter_context(RowWriter(path, kind))
            for path, kind in ((csv, "csv"), (parquet, "parquet"))
            if path is not None
        ]

        def write(rows: RecordBatch) -> None:
            for writer in writers:
                writer.write(rows)

        scores = runs.score_logs(
            paths,
            metrics=metrics,
            slices=slices or [],
            format=format,
            jobs=jobs,
            strict=strict,
            on_rows=write if writers else None,
        )
    if html is not None:
        from quietdesk.scoring.page import page

        html.write_text(page(scores), encoding="utf-8")
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(scores.to_json())
    else:
        from rich.console import Console

        from quietdesk.scoring.report import terminal

        console = Console()
        console.print(terminal(scores, console.width))
