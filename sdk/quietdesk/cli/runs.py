"""Runs: scores from logs or from a file of scores, for several verbs; imported when one runs."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from quietdesk.cli.scoring_options import DEFAULT
from quietdesk.errors import QuietdeskError, UsageError
from quietdesk.logs.reading import read
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.scorer import Scorer, Tally
from quietdesk.scoring.scores import FORMAT, Scores, load

SHOWN_PROBLEMS = 10


def split_names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_scores(path: str) -> bool:
    """Whether the file begins as scores in JSON do."""
    try:
        with Path(path).open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def open_run(
    path: str, *, metrics: str, slices: Sequence[str], format: str | None, jobs: int, strict: bool
) -> Scores:
    """The scores in a file, or those of the logs in it.

    Raises:
        UsageError: metrics or slices were asked of scores that are there already.
    """
    if is_scores(path):
        if metrics != DEFAULT or slices:
            raise UsageError(
                f"{path!r} holds scores already: --metrics and --slice are for logs. Give the logs "
                "instead, or leave them out."
            )
        return load(path)
    return score_logs(
        [path], metrics=metrics, slices=slices, format=format, jobs=jobs, strict=strict
    )


def score_logs(
    paths: Sequence[str],
    *,
    metrics: str,
    slices: Sequence[str],
    format: str | None,
    jobs: int,
    strict: bool,
    on_rows: Callable[[pa.RecordBatch], None] | None = None,
) -> Scores:
    """Score logs with a progress bar on a terminal's standard error; problems are told there too.

    Args:
        paths: As `quietdesk.logs.reading.read` takes them.
        metrics: Names with commas between.
        slices: Fields; `week` is always among them.
        format: The logs' format, or None.
        jobs: Processes; 0 for one per core.
        strict: Whether a bad record ends it.
        on_rows: Gets each batch's rows.
    """
    del jobs
    scorer = Scorer(find_metrics(split_names(metrics)), [*slices, "week"])
    tally = Tally(scorer.fingerprint)
    reading = read(paths, format=format, strict=strict)
    with ExitStack() as stack:
        advance = _progress(stack)
        for batch in reading.batches():
            found = scorer.read(batch)
            tally.add(found.tally)
            if on_rows is not None:
                on_rows(found.rows)
            advance(reading.done_bytes, reading.total_bytes)
    tell_problems(reading.n_rejected, [str(problem) for problem in reading.problems])
    if not tally.n_conversations:
        raise QuietdeskError(
            f"There is no conversation to score in {', '.join(paths)}. "
            "`--format` names the logs' format where their content does not tell it."
        )
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Scores(scorer.metrics, tally, source=name)


def _progress(stack: ExitStack) -> Callable[[int, int | None], None]:
    """A bar on standard error where that is a terminal; a function to move it."""
    if not sys.stderr.isatty():
        return lambda done, total: None
    bar = stack.enter_context(
        Progress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
    )
    task = bar.add_task("scoring", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def tell_problems(n_rejected: int, problems: Sequence[str]) -> None:
    """Say on standard error what was wrong with the logs."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print("... and more of that kind.", file=sys.stderr)
    if n_rejected:
        print(f"{n_rejected:,} records were left out.", file=sys.stderr)
