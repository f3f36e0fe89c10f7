"""`quietdesk compare`: what changed between two runs, and whether it is more than chance."""

from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import log_options, options, scoring_options

New = Annotated[str, typer.Argument(metavar="A", help="Logs, or scores from score --json.")]
Old = Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")]


def compare(
    new: New,
    old: Old,
    format: scoring_options.Format = None,
    metrics: scoring_options.Metrics = scoring_options.DEFAULT,
    slices: scoring_options.Slices = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page for a browser.")] = None,
    as_json: options.Json = False,
    authors: log_options.Authors = None,
    columns: log_options.Columns = None,
    jobs: scoring_options.Jobs = 0,
    strict: scoring_options.Strict = False,
) -> None:
    """Compare run A with run B: in pairs where both answer the same inputs.

    Example: quietdesk compare this-week.jsonl last-week.jsonl --slice intent
    """
    scoring_options.need_extra()
    from quietdesk.cli import runs
    from quietdesk.scoring.compare import compare as compare_scores

    request = runs.Request(metrics, slices or [], format, authors, columns, jobs, strict)
    scores = [runs.open_run(path, request) for path in (new, old)]
    comparison = compare_scores(scores[0], scores[1])
    if html is not None:
        from quietdesk.scoring.page import page

        html.write_text(page(scores[0], comparison), encoding="utf-8")
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(comparison.to_json())
    else:
        from rich.console import Console

        from quietdesk.scoring.report import comparison_table

        console = Console()
        console.print(comparison_table(comparison, console.width))
