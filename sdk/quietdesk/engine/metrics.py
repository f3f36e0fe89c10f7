"""Metrics: what the engine has done, as values.

Counting must cost nothing beside a token: an observation is a search in a dozen bounds.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

SHORT_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Bounds for the time between tokens."""
LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds for waiting: in the queue, and for the first token."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Bounds for the rows of a step."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often values fell between bounds."""

    bounds: tuple[float, ...] = ()
    """Ascending; a value equal to a bound counts below it."""
    counts: tuple[int, ...] = (0,)
    """One for each bound, and one for what is above the last."""
    total: float = 0.0
    """Sum of the values."""

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; 0 before the first."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """A value that this share of the values, 0 to 1, does not exceed.

        The upper bound of where it lies: never too low. Infinite above the last bound, and 0
        before the first value.
        """
        wanted, below = share * self.count, 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            below += count
            if below and below >= wanted:
                return bound
        return math.inf if self.count else 0.0


class Histogram:
    """Counts values; written by one thread, read by any."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """One that has seen nothing."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def snapshot(self) -> Distribution:
        """What was counted until now."""
        return Distribution(self._bounds, tuple(self._counts), self._total)


class Timings:
    """The times of requests and the rows of steps, while they happen."""

    def __init__(self) -> None:
        """Nothing happened yet."""
        self.queue = Histogram(LONG_S)
        self.first_token = Histogram(LONG_S)
        self.inter_token = Histogram(SHORT_S)
        self.rows = Histogram(ROWS)

    def tokens(self, count: int, now: float, submitted_at: float, last_at: float | None) -> None:
        """Tokens of one request came together: the first waited, the others came with it."""
        if not count:
            return
        if last_at is None:
            self.first_token.observe(now - submitted_at)
        else:
            self.inter_token.observe(now - last_at)
        if count > 1:
            self.inter_token.observe(0.0, count - 1)

    def snapshot(self) -> dict[str, Distribution]:
        """By the names of `EngineMetrics`."""
        return {
            "queue_s": self.queue.snapshot(),
            "first_token_s": self.first_token.snapshot(),
            "inter_token_s": self.inter_token.snapshot(),
            "batch_rows": self.rows.snapshot(),
        }


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counts since the engine was opened, and how things stand now. Durations are seconds."""

    n_waiting: int
    n_running: int
    n_slots: int
    parked_states: int
    parked_bytes: int
    states_written: int
    """States of conversations that were written to disk."""
    states_loaded: int
    """Those that were brought back from there."""
    states_refused: int
    """Those that were damaged; the prompt was read again."""
    states_skipped: int
    """Those that were not written: the disk was full or too slow, or their owner is gone."""
    requests_total: int
    """Requests accepted."""
    requests_finished: int
    requests_cancelled: int
    requests_failed: int
    preemptions: int
    prompt_tokens: int
    """Prompt tokens of all requests that started."""
    cached_tokens: int
    """Those of them that were found in a cache."""
    evaluated_tokens: int
    """Rows evaluated, prompt and generated together."""
    generated_tokens: int
    drafted_tokens: int
    """Tokens guessed ahead, by look-up and by a draft model."""
    accepted_tokens: int
    """Drafted tokens that sampling agreed with."""
    steps: int
    decode_s: float
    """Spent in the model's evaluation itself: llama_decode."""
    busy_s: float
    """Spent in steps, decode included."""
    n_batch: int = 0
    """Rows that a step can have; 0 where a server decides."""
    kv_cells: int = 0
    """Tokens that all slots together can hold; 0 where a server decides."""
    kv_cells_used: int = 0
    """Tokens that they hold."""
    drafted_by_model: int = 0
    """Drafted tokens that a draft model guessed; the others come from look-up."""
    accepted_by_model: int = 0
    draft_model_s: float = 0.0
    """Spent in the draft model."""
    draft_model_failures: int = 0
    """1 where the draft model failed and was switched off; the log tells why."""
    queue_s: Distribution = Distribution()
    """From submission until the engine first worked on it, of all requests that started."""
    first_token_s: Distribution = Distribution()
    """From submission until the first token."""
    inter_token_s: Distribution = Distribution()
    """From each token to the next of the same reply; 0 for what came together."""
    batch_rows: Distribution = Distribution()
    """Rows of each step."""

    @property
    def decode_share(self) -> float:
        """Share of the working time that the model's evaluation took, 0 to 1; 1 before any work."""
        return self.decode_s / self.busy_s if self.busy_s else 1.0

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that were found in a cache, 0 to 1; 0 before any."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def kv_occupancy(self) -> float:
        """Share of the slots' tokens that hold something, 0 to 1."""
        return self.kv_cells_used / self.kv_cells if self.kv_cells else 0.0

    @property
    def batch_fill(self) -> float:
        """Rows of a step on average, as a share of what it can have, 0 to 1."""
        return self.batch_rows.mean / self.n_batch if self.n_batch else 0.0
