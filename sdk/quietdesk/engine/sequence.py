"""Sequence: one request on its way through the engine, what is cached, scheduled and said."""

from dataclasses import dataclass, field
from enum import StrEnum

from quietdesk.engine.detokenize import Detokenizer
from quietdesk.engine.draft import Drafter
from quietdesk.engine.reading import Reading
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.stream import Stream
from quietdesk.types import Usage


class State(StrEnum):
    """Where a sequence is."""

    WAITING = "waiting"
    """It has no slot."""
    RUNNING = "running"
    """It has a slot: its prompt is being read, or it is generating."""
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's tokens and how far they have come."""

    id: int
    """In the order of submission."""
    tokens: list[int]
    """The prompt, then what was generated."""
    n_prompt: int
    sampling: Sampling
    limits: Limits
    stream: Stream
    detokenizer: Detokenizer
    submitted_at: float
    """Seconds on the engine's clock, as all times here."""
    priority: int = 0
    """Higher goes first."""
    deadline_at: float | None = None
    deadline_s: float = 0.0
    owner: str = ""
    """Whose words they are: what is kept of them on disk can be erased by it."""
    fetching: bool = False
    """Whether it waits for a state from the disk, and must not start yet."""
    state: State = State.WAITING
    slot: int = -1
    """The runner's sequence that holds it while it runs."""
    sampler: int = -1
    """The runner's sampler, from the first time it runs until it is finished."""
    n_computed: int = 0
    """Positions that the slot holds."""
    n_cached: int = 0
    """Prompt tokens found in a cache when it first ran."""
    checkpoint_at: int = 0
    """Where reading the prompt pauses to keep what it shares with others; 0: nowhere."""
    cancelled: bool = False
    started_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    draft: tuple[int, ...] = ()
    """Guesses at the next tokens, to be verified in the next step."""
    drafted_by_model: bool = False
    """Whether a draft model made them, and not look-up."""
    reading: Reading | None = None
    """What is asked of it, where it is only read."""
    marks: dict[int, bytes] = field(default_factory=dict)
    """Control tokens that stand around calls, and their texts."""
    drafter: Drafter | None = None
    """Makes the guesses, from the first time that the sequence is alone."""

    @property
    def n_generated(self) -> int:
        """Tokens said so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def wanted(self) -> list[int]:
        """The tokens of which a cache may hold a beginning, all but the last one of them."""
        return self.tokens if self.reading is None else self.tokens[: self.reading.n_done + 1]

    @property
    def n_todo(self) -> int:
        """Tokens known but not yet in the slot: 1 while it generates, more while it prefills."""
        return len(self.tokens) - self.n_computed

    @property
    def is_decoding(self) -> bool:
        """Whether it only waits for its next token: all but the last token are in the slot."""
        return self.n_todo == 1 and self.n_generated > 0

    def room(self, n_ctx: int) -> int:
        """Guesses that can be used: one token more is said than come true."""
        left = min(self.limits.max_tokens - self.n_generated, n_ctx - len(self.tokens))
        return max(0, left - 1)

    def usage(self) -> Usage:
        """What it cost so far."""
        submitted = self.submitted_at
        first, last, started = self.first_token_at, self.last_token_at, self.started_at
        return Usage(
            prompt_tokens=self.n_prompt,
            cached_tokens=self.n_cached,
            completion_tokens=self.n_generated,
            queue_s=0.0 if started is None else started - submitted,
            first_token_s=0.0 if first is None else first - submitted,
            decode_s=0.0 if first is None or last is None else last - first,
        )
