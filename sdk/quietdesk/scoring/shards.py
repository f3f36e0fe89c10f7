"""Shards: the scores of any number of conversations, part by part, in whatever processes there are.

What a part gave is kept until it was added, and beyond that where a folder is named: a run that was
killed goes on from there, and nothing is counted twice. Tallies are added in the order of the
parts; the sums do not depend on how the logs were cut.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import pyarrow as pa

from quietdesk.scoring.kept import Kept, keep
from quietdesk.scoring.parts import KEPT_PROBLEMS, Part, Pool, Recipe, Summary, Task
from quietdesk.scoring.scorer import Tally
from quietdesk.scoring.twice import Twice

WINDOW = 4
"""Parts per process that may be done before an earlier one is, so that what waits is bounded."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done_bytes: float
    total_bytes: int | None
    n_conversations: int
    """Scored in this run, about."""
    n_parts: int
    """Scored in this run."""
    n_kept: int
    """Parts whose scores an earlier run had kept."""
    elapsed_s: float
    left_s: float | None
    """About; None while it is not known."""

    @property
    def rate(self) -> float:
        """Conversations per second in this run."""
        return self.n_conversations / self.elapsed_s if self.elapsed_s > 0 else 0.0


class Result(NamedTuple):
    """What a run gave."""

    tally: Tally
    summary: Summary
    n_parts: int
    """Parts in all."""
    n_kept: int
    """Those of them that an earlier run had scored."""


def run(
    parts: Iterable[Part],
    recipe: Recipe,
    pool: Pool,
    *,
    folder: Path | None = None,
    source: str = "",
    total_bytes: int | None = None,
    on_rows: Callable[[pa.RecordBatch], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Score the parts.

    Args:
        parts: In order; made while they are asked for, in another thread.
        recipe: What is measured.
        pool: Where.
        folder: The run's own (see `kept`), for a run that may be killed, or whose scores are to
            stay; None: nothing stays.
        source: What is scored, in words.
        total_bytes: Of all parts, for the time left.
        on_rows: Gets the rows in order, if the recipe wants rows.
        on_progress: Called now and then.

    Raises:
        FolderInUseError: another run is under way in the folder.
        UsageError: the folder holds another run.
        QuietdeskError: a part cannot be read or scored.
    """
    with ExitStack() as stack:
        kept = stack.enter_context(Kept(folder, recipe, source))
        stack.callback(pool.close)
        pool.start(recipe, kept.path)
        following = stack.enter_context(_Ahead(parts))
        merge = _Merge(kept, recipe, on_rows, stack.enter_context(Twice()))
        state = _State(total_bytes, on_progress)
        waiting = True
        while waiting or pool.busy:
            while waiting and pool.room and merge.lag < WINDOW * pool.jobs:
                part = following.next(0.0 if pool.busy else 0.1)
                if part is None:
                    waiting = not following.over
                    break
                key = kept.key(part)
                merge.expect(key, part)
                if kept.has(key):
                    state.n_kept += 1
                    state.kept_bytes += part.size_bytes
                    merge.put(merge.n_expected - 1)
                else:
                    pool.submit(Task(merge.n_expected - 1, key, part))
            merge.advance()
            for done in pool.wait(0.05 if waiting else 0.2):
                if done.output is not None:
                    keep(kept.path, merge.key(done.index), done.output)
                merge.put(done.index)
                state.n_parts += 1
                state.done_bytes += merge.part_bytes(done.index)
                state.n_conversations += done.n_conversations
            merge.advance()
            state.tell(pool)
        kept.finish(merge.manifest)
        return merge.result(state.n_kept)


class _Merge:
    """Adds what parts gave, in their order."""

    def __init__(
        self,
        kept: Kept,
        recipe: Recipe,
        on_rows: Callable[[pa.RecordBatch], None] | None,
        twice: Twice,
    ) -> None:
        self._kept = kept
        self._on_rows = on_rows if recipe.rows else None
        self._twice = twice
        self._tally = Tally(recipe.scorer().fingerprint)
        self._summary = Summary()
        self._expected: list[tuple[str, str, int]] = []
        self._ready: set[int] = set()
        self._next = 0
        self.manifest: list[dict[str, Any]] = []

    @property
    def n_expected(self) -> int:
        return len(self._expected)

    @property
    def lag(self) -> int:
        """Parts that are expected and were not added yet."""
        return len(self._expected) - self._next

    def expect(self, key: str, part: Part) -> None:
        self._expected.append((key, part.where, part.size_bytes))

    def key(self, index: int) -> str:
        return self._expected[index][0]

    def part_bytes(self, index: int) -> int:
        return self._expected[index][2]

    def put(self, index: int) -> None:
        """This part's scores are there."""
        self._ready.add(index)

    def advance(self) -> None:
        """Add what is there, as far as nothing is missing before it."""
        while self._next in self._ready:
            key, where, size = self._expected[self._next]
            tally, ids, found = self._kept.take(key)
            self._ready.remove(self._next)
            self._tally.add(tally)
            self._summary.add(found)
            self._twice.add(ids, self._next)
            if self._on_rows is not None:
                for rows in self._kept.rows(key):
                    self._on_rows(rows)
            told = {"key": key, "where": where, "bytes": size, "conversations": len(ids)}
            self.manifest.append(told)
            self._next += 1

    def result(self, n_kept: int) -> Result:
        where = [where for _, where, _ in self._expected]
        n_twice, places = self._twice.found()
        if n_twice:
            self._summary.n_noted += n_twice
            self._summary.kinds["duplicate"] += n_twice
            for part, row in places:
                told = (
                    f"{where[part]} (record {row + 1} of it): Its id was there before; both count."
                )
                if len(self._summary.problems) < KEPT_PROBLEMS:
                    self._summary.problems.append(told)
        return Result(self._tally, self._summary, len(where), n_kept)


class _Ahead:
    """Gets parts in a thread of its own, a few ahead: what cannot be cut is read there."""

    DEPTH = 2

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = parts
        self._queue: Queue[Part | BaseException | None] = Queue(self.DEPTH)
        self._stop = Event()
        self._thread = Thread(target=self._read, name="quietdesk-parts", daemon=True)
        self.over = False

    def __enter__(self) -> "_Ahead":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        try:
            for part in self._parts:
                if not self._put(part):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Part | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def next(self, timeout_s: float) -> Part | None:
        """The next part; None where there is none yet, or, as `over` tells, any more."""
        try:
            item = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        except Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self.over = item is None
        return item


class _State:
    """Counts for `on_progress`."""

    EVERY_S = 0.1

    def __init__(
        self, total_bytes: int | None, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._told = 0.0
        self.n_kept = 0
        self.kept_bytes = 0
        self.n_parts = 0
        self.done_bytes = 0
        self.n_conversations = 0

    def tell(self, pool: Pool) -> None:
        now = time.monotonic()
        if self._on_progress is None or now - self._told < self.EVERY_S:
            return
        self._told = now
        n_more, more_bytes = pool.under_way()
        elapsed = now - self._began
        done = self.done_bytes + more_bytes
        left = None
        if self._total_bytes and done > 0:
            rest = max(0.0, self._total_bytes - self.kept_bytes - done)
            left = elapsed * rest / done
        self._on_progress(
            Progress(
                self.kept_bytes + done,
                self._total_bytes,
                self.n_conversations + n_more,
                self.n_parts,
                self.n_kept,
                elapsed,
                left,
            )
        )
