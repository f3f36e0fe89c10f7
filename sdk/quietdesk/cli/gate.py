"""`quietdesk gate`: does a run stay within the margins of its baseline, for a pipeline."""

from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import log_options, options, scoring_options


def gate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Logs, or scores from score --json.")],
    baseline: Annotated[str, typer.Option("--baseline", help="The run to hold it against.")],
    margins: Annotated[
        list[str],
        typer.Option("--margin", help="METRIC=DELTA: how much worse it may get. Repeat for more."),
    ],
    format: scoring_options.Format = None,
    metrics: scoring_options.Metrics = scoring_options.DEFAULT,
    slices: scoring_options.Slices = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a table.")] = None,
    as_json: options.Json = False,
    authors: log_options.Authors = None,
    columns: log_options.Columns = None,
    jobs: scoring_options.Jobs = 0,
    strict: scoring_options.Strict = False,
) -> None:
    """Gate a run: exit code 0 within the margins, 1 beyond, 3 too few conversations to tell.

    With --slice, every slice must keep within the margins too.

    Example: quietdesk gate new.jsonl --baseline old.json --margin chrf=1 --margin resolved=0.02
    """
    scoring_options.need_extra()
    from quietdesk.cli import runs
    from quietdesk.scoring.compare import compare
    from quietdesk.scoring.gate import gate as gate_runs
    from quietdesk.scoring.gate import parse_margins, to_junit, to_markdown

    wanted = parse_margins(margins)
    request = runs.Request(metrics, slices or [], format, authors, columns, jobs, strict)
    scores = [runs.open_run(path, request) for path in (run, baseline)]
    verdict = gate_runs(compare(scores[0], scores[1]), wanted, slices=bool(slices))
    if junit is not None:
        junit.write_text(to_junit(verdict), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(to_markdown(verdict), encoding="utf-8")
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(verdict.to_json())
    else:
        for check in verdict.checks:
            typer.echo(f"{check.outcome}: {check.sentence}")
    raise typer.Exit(verdict.exit_code)
