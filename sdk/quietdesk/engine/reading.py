"""Reading: what is gathered of a text that is only read: log-probabilities, or its hidden states.

A reading takes its turn behind everybody who waits for an answer. It has a slot of the runner like
any request, so that texts with the same beginning share it, but it leaves nothing behind that would
push a customer's memory out.

What a model makes of a row depends, in its last bits, on how many rows are evaluated with it. So a
text is always cut at the same places, is alone in its steps, and builds on nothing but what another
reading has left: the same text has the same log-probabilities whatever else is going on. With the
small matrices of one step that costs nothing on a CPU: several texts in a step were no faster.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quietdesk.engine.batch import Segment
from quietdesk.engine.stream import Stream
from quietdesk.errors import EngineError, QueueFullError
from quietdesk.types import FinishReason

READING_PRIORITY = -10
"""Of a reading, unless it is told otherwise: below every conversation."""


@dataclass(slots=True, eq=False)
class Reading:
    """Which rows of a text are asked for, and what came of them so far."""

    first: int
    """The first row whose outputs are asked for."""
    stop: int
    """The row after the last one; what stands from here on is not evaluated."""
    hidden: bool
    """Whether hidden states are asked for; else log-probabilities of each row's next token."""
    keeps: bool = False
    """Whether the whole text is left for the next readings, not only what stands before `first`."""
    n_done: int = 0
    """The next row whose output is still to come; rows before it are evaluated for it alone."""
    logprobs: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """Natural logarithms, one per row asked for."""
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0, np.float64))
    """Sum of the hidden states so far."""

    @classmethod
    def of_logprobs(cls, n_tokens: int, start: int, *, keeps: bool = False) -> "Reading":
        """Log-probabilities of the tokens from position start on; start is at least 1."""
        n = n_tokens - start
        return cls(start - 1, n_tokens - 1, False, keeps, start - 1, np.full(n, np.nan, np.float32))

    @classmethod
    def of_hidden(cls, n_tokens: int) -> "Reading":
        """The mean of all hidden states."""
        return cls(0, n_tokens, True)

    def resumes_at(self, n_held: int, n_rows: int) -> int:
        """The last place up to n_held positions where a step of n_rows begins."""
        before = min(n_held, self.first) // n_rows * n_rows
        return self.first if n_held >= self.first else before

    def segment(self, seq_id: int, tokens: Seq[int], n_computed: int, n_rows: int) -> Segment:
        """The next step: at most n_rows rows, cut where it always is."""
        end, origin = (self.first, 0) if n_computed < self.first else (self.stop, self.first)
        stop = min(end, n_computed + n_rows - (n_computed - origin) % n_rows)
        asked = max(0, stop - max(n_computed, self.n_done))
        return Segment(
            seq_id,
            n_computed,
            tuple(tokens[n_computed:stop]),
            sample=False,
            targets=() if self.hidden else tuple(tokens[stop - asked + 1 : stop + 1]),
        )

    def add(self, segment: Segment, output: NDArray[np.float32]) -> None:
        """Take what came of a segment."""
        if self.hidden:
            summed = output.sum(axis=0, dtype=np.float64)
            self.total = self.total + summed if segment.start else summed
        else:
            at = segment.stop - len(output) - self.first
            self.logprobs[at : at + len(output)] = output
        self.n_done = max(self.n_done, segment.stop)

    def start_over(self) -> None:
        """The slot is lost: hidden states are summed again from the beginning."""
        if self.hidden:
            self.n_done = 0


@dataclass(frozen=True, slots=True)
class ReadingResult:
    """A reading under way: wait for its stream to end, then take what it gathered."""

    stream: Stream
    reading: Reading

    def _wait(self) -> Reading:
        try:
            self.stream.wait()
        except BaseException:
            self.stream.cancel()
            raise
        if self.stream.error is not None:
            raise self.stream.error
        if self.stream.finish_reason is FinishReason.CANCELLED:
            raise EngineError("The reading was cancelled before it was finished.")
        return self.reading

    def logprobs(self) -> NDArray[np.float32]:
        """Wait for the log-probabilities, in nats.

        Raises:
            EngineError: the engine could not finish it, or it was cancelled.
        """
        return self._wait().logprobs

    def mean(self) -> NDArray[np.float64]:
        """Wait for the mean of the hidden states, shape (n_embd,); raises as `logprobs` does."""
        reading = self._wait()
        return reading.total / reading.stop


@runtime_checkable
class Reader(Protocol):
    """A backend that can read texts without answering; `Engine` is one."""

    def read_logprobs(self, tokens: Seq[int], start: int, *, keeps: bool = False) -> ReadingResult:
        """See `Engine.read_logprobs`."""
        ...

    def read_hidden(self, tokens: Seq[int]) -> ReadingResult:
        """See `Engine.read_hidden`."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token; see `Runner.piece`."""
        ...


T = TypeVar("T")


def in_turn(
    asked: Iterable[T], begin: Callable[[T], ReadingResult], *, at_once: int
) -> Iterator[ReadingResult]:
    """Begin readings one after the other, a few at once, and give each when it has ended, in order.

    A full queue is waited for: whoever has an answer to wait for was there first.

    Args:
        asked: What is read; taken as it is needed.
        begin: Begins one.
        at_once: How many are under way at most.
    """
    under_way: list[ReadingResult] = []
    try:
        for one in asked:
            while len(under_way) >= at_once:
                under_way[0].stream.wait()
                yield under_way.pop(0)
            while True:
                try:
                    under_way.append(begin(one))
                    break
                except QueueFullError:
                    if under_way:
                        under_way[0].stream.wait()
                        yield under_way.pop(0)
                    else:
                        time.sleep(0.05)
        while under_way:
            under_way[0].stream.wait()
            yield under_way.pop(0)
    finally:
        for rest in under_way:
            rest.stream.cancel()
