"""Runs: scores from logs or from a file of scores, for several verbs; imported when one runs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from quietdesk.cli import logs
from quietdesk.cli.scoring_options import DEFAULT
from quietdesk.errors import LogError, UsageError
from quietdesk.logs.reading import read
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.scorer import Reading, Scorer, Tally
from quietdesk.scoring.scores import FORMAT, Scores, load


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a run over logs."""

    metrics: str = DEFAULT
    """Names with commas between."""
    slices: Sequence[str] = ()
    """Fields; `week` is always among them."""
    format: str | None = None
    authors: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    jobs: int = 0
    """Processes; 0 for one per core."""
    strict: bool = False
    """Whether a bad record ends it."""

    @property
    def names(self) -> list[str]:
        """The metrics' names."""
        return [name.strip() for name in self.metrics.split(",") if name.strip()]


def is_scores(path: str) -> bool:
    """Whether the file begins as scores in JSON do."""
    try:
        with Path(path).open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def open_run(path: str, request: Request) -> Scores:
    """The scores in a file, or those of the logs in it.

    Raises:
        UsageError: metrics or slices were asked of scores that are there already.
    """
    if not is_scores(path):
        return score_logs([path], request)
    if request.metrics != DEFAULT or request.slices:
        raise UsageError(
            f"{path!r} holds scores already: --metrics and --slice are for logs. Give the logs "
            "instead, or leave them out."
        )
    return load(path)


def score_logs(
    paths: Sequence[str],
    request: Request,
    on_reading: Callable[[Reading], None] | None = None,
) -> Scores:
    """Score logs, with a bar on a terminal's standard error; problems are told there too.

    Args:
        paths: Files, folders, addresses, databases, `-`.
        request: What is asked.
        on_reading: Gets what was found in each batch.

    Raises:
        LogError: there is no conversation in them.
    """
    scorer = Scorer(find_metrics(request.names), [*request.slices, "week"])
    tally = Tally(scorer.fingerprint)
    reading = read(
        paths,
        format=request.format,
        options=logs.options_of(request.authors, request.columns),
        strict=request.strict,
        open_store=logs.open_store,
    )
    with ExitStack() as stack:
        advance = logs.bar(stack, "scoring")
        for batch in reading.batches():
            found = scorer.read(batch)
            tally.add(found.tally)
            if on_reading is not None:
                on_reading(found)
            advance(reading)
    logs.tell(reading)
    if not tally.n_conversations:
        raise LogError(f"There is no conversation in {', '.join(paths)}.")
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Scores(scorer.metrics, tally, source=name)
