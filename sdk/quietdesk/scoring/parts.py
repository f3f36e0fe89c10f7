"""Parts: the contract between what cuts logs, what scores a part of them, and what runs that.

A part can be sent to any process and is read and scored there by itself: batches of conversations
in, rows and an integer tally out.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quietdesk.scoring.base import Metric
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.scorer import Scorer, Tally

Ids = npt.NDArray[np.uint64]

KEPT_PROBLEMS = 100


class Found(Protocol):
    """What was read of a part, and what was wrong."""

    n_read: int
    n_rejected: int
    n_noted: int
    kinds: Counter[str]
    problems: list[str]


class Opened(Protocol):
    """A part that is being read."""

    @property
    def share(self) -> float:
        """How much of it was read, 0 to 1."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its conversations, in the columns of `quietdesk.columns.schema()`."""
        ...

    def report(self) -> Found:
        """What was read so far."""
        ...


class Part(Protocol):
    """A part of the logs, that can be sent to another process and read there."""

    @property
    def where(self) -> str:
        """In words."""
        ...

    @property
    def identity(self) -> str:
        """Changes when what is read could."""
        ...

    @property
    def size_bytes(self) -> int:
        """As it is stored."""
        ...

    def open(self) -> Opened:
        """Begin to read it."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is measured, in a form that can be sent: metrics by name where they have one."""

    metrics: tuple[str | Metric, ...] = ("default",)
    slices: tuple[str, ...] = ()
    rows: bool = False
    """Whether rows are wanted, one per conversation."""

    def scorer(self) -> Scorer:
        """The scorer.

        Raises:
            UnknownNameError: no metric of that name.
        """
        return Scorer(find_metrics(self.metrics), self.slices)


@dataclass(slots=True)
class Summary:
    """What was read of all parts, and what was wrong."""

    n_read: int = 0
    n_rejected: int = 0
    n_noted: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    """The first of them, in words."""

    def add(self, found: Found) -> None:
        """Take in what was found in a later part."""
        self.n_read += found.n_read
        self.n_rejected += found.n_rejected
        self.n_noted += found.n_noted
        self.kinds.update(found.kinds)
        self.problems += found.problems[: KEPT_PROBLEMS - len(self.problems)]


class Output(NamedTuple):
    """What scoring one part gave."""

    tally: bytes
    ids: Ids
    """A digest of each conversation's id, in order."""
    found: Summary
    rows: pa.Table | None


def work(
    scorer: Scorer, recipe: Recipe, part: Part, tell: Callable[[int, float], None] | None = None
) -> Output:
    """Score one part; in any process.

    Args:
        scorer: Of the recipe.
        recipe: What is measured.
        part: The part.
        tell: Gets the number of conversations so far, and the share of the part that was read.
    """
    tally, ids, rows = Tally(scorer.fingerprint), [np.zeros(0, np.uint64)], []
    opened = part.open()
    for batch in opened.batches():
        reading = scorer.read(batch)
        tally.add(reading.tally)
        ids.append(_digests(batch["id"]))
        if recipe.rows:
            rows.append(reading.rows)
        if tell is not None:
            tell(tally.n_conversations, opened.share)
    found = Summary()
    found.add(opened.report())
    table = pa.Table.from_batches(rows) if rows else None
    return Output(tally.to_bytes(), np.concatenate(ids), found, table)


def _digests(ids: pa.Array) -> Ids:
    digest = hashlib.blake2b
    raw = b"".join(digest(name.encode(), digest_size=8).digest() for name in ids.to_pylist())
    return np.frombuffer(raw, "<u8").astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Task:
    """One part that has to be scored."""

    index: int
    key: str
    part: Part


@dataclass(frozen=True, slots=True)
class Done:
    """One part that was scored.

    Attributes:
        index: Of the task.
        n_conversations: In the part.
        output: What it gave; None where the process that did it kept it in the folder itself.
    """

    index: int
    n_conversations: int
    output: Output | None = None


class Pool(Protocol):
    """Processes that score parts."""

    @property
    def room(self) -> int:
        """How many more tasks it takes now."""
        ...

    @property
    def busy(self) -> int:
        """Tasks that it has and that are not done."""
        ...

    @property
    def jobs(self) -> int:
        """How many parts it works on at once."""
        ...

    def start(self, recipe: Recipe, folder: Path) -> None:
        """Begin; once, before the first task."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def wait(self, timeout_s: float) -> list[Done]:
        """The tasks that were done since; after that time, perhaps none.

        Raises:
            QuietdeskError: one cannot be done.
        """
        ...

    def under_way(self) -> tuple[int, float]:
        """Conversations, and bytes, of the tasks that are not done yet, about."""
        ...

    def close(self) -> None:
        """End the processes, whatever they do."""
        ...
