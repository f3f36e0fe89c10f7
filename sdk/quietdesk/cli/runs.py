"""Runs: scores from logs or from a file of scores, for several verbs; imported when one runs."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    return _begins(path, FORMAT.encode())


def _begins(path: str, mark: bytes) -> bool:
    """Whether the file's first bytes have the mark in them."""
    try:
        with Path(path).open("rb") as file:
            return mark in file.read(200)
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


SQLITE = b"SQLite format 3\0"
"""How every SQLite file begins."""


class Keeper:
    """Gathers the scores of a database's conversations, and writes them beside these.

    They stand in a conversation's metadata under `scores`: when, the values, how bad it was, and
    by message id each one's values and what it was the cause of.

    Args:
        database: A path or an address.

    Raises:
        UsageError: it is no database.
    """

    def __init__(self, database: str) -> None:
        if "://" not in database and not _begins(database, SQLITE):
            raise UsageError(f"--keep is for a database of Quietdesk, and {database!r} is none.")
        self._database = database
        self._kept: dict[str, dict[str, Any]] = {}
        self._at = datetime.now(UTC).isoformat(timespec="seconds")

    def take(self, reading: Reading) -> None:
        """Gather what was found in a batch."""
        names = [metric.name for metric in reading.scorer.metrics]
        ids = reading.conversations.rows["id"].to_pylist()
        begins = reading.conversations.offsets.tolist()
        for begin, row in zip(begins, reading.rows.to_pylist(), strict=False):
            causes: dict[str, list[str]] = {}
            for cause in row["causes"]:
                causes.setdefault(ids[begin + cause["message"]], []).append(cause["metric"])
            values = {name: row[name] for name in names if row[name] is not None}
            self._kept[row["id"]] = {
                "at": self._at,
                "fingerprint": reading.scorer.fingerprint,
                "badness": row["badness"],
                "values": values,
                "messages": {},
                "causes": causes,
            }
        for turn in reading.turns.to_pylist():
            messages = self._kept[turn["conversation"]]["messages"]
            messages.setdefault(turn["message_id"], {})[turn["metric"]] = turn["value"]

    def write(self) -> int:
        """Write it all to the database; how many conversations there were."""
        with closing(logs.open_store(self._database)) as store:
            for name, scores in self._kept.items():
                metadata = store.conversation(name).metadata
                store.annotate(name, {**metadata, "scores": scores})
        return len(self._kept)
