"""`quietdesk score`: how good logged conversations were, with intervals."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import log_options, options, scoring_options
from quietdesk.scored import SAMPLE

Rows = Annotated[Path | None, typer.Option(help="Write one row per conversation.")]


def score(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Logs: files, folders, addresses, databases; - for stdin."
        ),
    ],
    format: scoring_options.Format = None,
    metrics: scoring_options.Metrics = scoring_options.DEFAULT,
    slices: scoring_options.Slices = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page for a browser.")] = None,
    as_json: options.Json = False,
    csv: Rows = None,
    parquet: Rows = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Write the scores beside a database's conversations.")
    ] = False,
    authors: log_options.Authors = None,
    columns: log_options.Columns = None,
    jobs: scoring_options.Jobs = 0,
    on: Annotated[
        str, typer.Option("--on", help="Where: local, ray, or a Ray cluster's address.")
    ] = "local",
    save: Annotated[
        str, typer.Option("--save", metavar="NAME", help="Keep the run: a name, or a folder.")
    ] = "",
    strict: scoring_options.Strict = False,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model that reads a sample for surprisal and relevance: a name or a GGUF file.",
        ),
    ] = "",
    sample: Annotated[
        int, typer.Option("--sample", min=1, help="Conversations that it reads at most.")
    ] = SAMPLE,
    sample_seed: Annotated[
        int, typer.Option("--sample-seed", min=0, help="Another one takes another sample.")
    ] = 1,
    replies: Annotated[
        str, typer.Option("--replies", help="Whose replies it reads: bot, human or bot,human.")
    ] = "bot",
) -> None:
    """Score logged conversations.

    A run that was stopped goes on where it was when the same command is given again.

    Examples:
        quietdesk score logs.jsonl --slice channel --html report.html

        quietdesk score logs.jsonl --model smollm2-135m --sample 100
    """
    scoring_options.need_extra()
    if keep and (len(paths) != 1 or save):
        raise typer.BadParameter("--keep takes one path, of a database, and no --save.")
    if keep and (on != "local" or jobs > 1):
        raise typer.BadParameter("--keep writes from this process: leave --on and --jobs out.")
    if not model and (sample, sample_seed, replies) != (SAMPLE, 1, "bot"):
        raise typer.BadParameter(
            "--sample, --sample-seed and --replies say what a model reads: add --model NAME."
        )
    from pyarrow import RecordBatch

    from quietdesk.cli import keeping, runs
    from quietdesk.scoring.report import RowWriter

    request = runs.Request(metrics, slices or [], format, authors, columns, jobs, strict, on, save)
    if model:
        whose = [one.strip() for one in replies.split(",")]
        reads = runs.SampleReading(model, sample, sample_seed, whose)
        request = dataclasses.replace(request, reads=reads)
    keeper = keeping.Keeper(paths[0]) if keep else None
    with ExitStack() as stack:
        if keeper is not None:
            stack.callback(keeper.close)
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
            request,
            write if writers else None,
            None if keeper is None else keeper.take,
        )
    if keeper is not None and keeper.n_gone:
        typer.echo(f"{keeper.n_gone} conversations were removed while they were scored.", err=True)
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
