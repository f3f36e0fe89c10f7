"""Runs: scores that were saved, read for the scores screen. It knows no widget.

A run is what `quietdesk score LOGS --save NAME` kept, or a file that `--json` wrote beside such
ones. The scorer is an extra and takes a second to import, so that it is imported when the first run
is read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from quietdesk.errors import QuietdeskError
from quietdesk.scored import need_extra

MOST_WORST = 50
"""Conversations of a run that are shown, the worst first."""
PLOT_CELLS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a run, in words."""

    title: str
    value: str
    interval: str
    plot: str
    """The interval on a line, or how the values are distributed."""
    main: bool


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation."""

    author: str
    text: str
    causes: tuple[str, ...]
    """The metrics that it was a cause for."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A conversation that went badly."""

    id: str
    badness: float
    causes: dict[str, list[int]]
    """Metric to the messages that were its cause, from 1."""
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One saved run, as far as it could be read."""

    path: Path
    saved_at: datetime
    problem: str = ""
    """Why it could not be read; empty: it could."""
    source: str = ""
    n_conversations: int = 0
    figures: tuple[Figure, ...] = ()
    worst: tuple[Bad, ...] = ()

    @property
    def name(self) -> str:
        """The name that it was saved under."""
        return self.path.name.removesuffix(".json")


def read_runs(folder: Path) -> list[Run]:
    """The runs in a folder, the newest first; one that cannot be read says why.

    Raises:
        UsageError: what scoring needs is not installed.
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    need_extra()
    paths = [path for path in folder.glob("*.json") if path.is_file()]
    paths += [path.parent for path in folder.glob("*/run.json")]
    found = [_read(path, datetime.fromtimestamp(path.stat().st_mtime, UTC)) for path in paths]
    return sorted(found, key=lambda run: (run.saved_at, run.name), reverse=True)


def _read(path: Path, saved_at: datetime) -> Run:
    # The optional extra, and a second of importing.
    from quietdesk.scoring import report
    from quietdesk.scoring.kept import SCORES
    from quietdesk.scoring.scores import load

    def plot(line: report.Line) -> str:
        if line.is_heading:
            return ""
        if line.histogram is not None:
            bins = report.binned(line.histogram, line.scale, PLOT_CELLS)[1]
            return report.sparkline(bins)
        return report.interval_plot(line.estimate, line.top, PLOT_CELLS)

    if path.is_dir() and not (path / SCORES).exists():
        return Run(path, saved_at, "It is not finished: give the command that saves it once more.")
    try:
        scores = load(path / SCORES if path.is_dir() else path)
        figures = tuple(
            Figure(line.title, line.value, line.interval, plot(line), line.main)
            for line in report.lines_of(scores)
        )
        worst = tuple(
            _bad(found.id, found.badness, found.messages, found.causes)
            for found in report.worst_of(scores, MOST_WORST)
        )
    except QuietdeskError as error:
        return Run(path, saved_at, str(error))
    except Exception as error:
        # A file that was cut or changed by hand can break in any place.
        _log.warning("The run %s could not be read.", path, exc_info=error)
        return Run(path, saved_at, f"It is damaged ({type(error).__name__}: {error}).")
    tally = scores.tally
    return Run(path, saved_at, "", scores.source, tally.n_conversations, figures, worst)


def _bad(
    name: str,
    badness: float,
    messages: Sequence[Mapping[str, object]],
    metrics_by_place: Mapping[int, Sequence[str]],
) -> Bad:
    causes: dict[str, list[int]] = {}
    for place, metrics in sorted(metrics_by_place.items()):
        for metric in metrics:
            causes.setdefault(metric, []).append(place + 1)
    said = tuple(
        Said(
            str(message["author"]),
            str(message["text"] or ""),
            tuple(metrics_by_place.get(place, ())),
        )
        for place, message in enumerate(messages)
    )
    return Bad(name, badness, causes, said)
