"""Batch: the rows of one decode step, grouped by sequence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one sequence in a batch."""

    seq_id: int
    start: int
    """Position of the first token in its sequence, from 0."""
    tokens: tuple[int, ...]
    """At least one."""
    sample: bool
    """Whether a token is sampled after the last one."""
    n_draft: int = 0
    """How many of the last tokens are guesses to be verified; only with `sample`."""
    sampler: int = -1
    """The runner's sampler; only with `sample`."""
    targets: tuple[int, ...] = ()
    """What follows each of the last rows: tokens whose log-probabilities are asked for."""

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `Runner.decode` evaluates: decode rows and prefill chunks, each named as such."""

    decode: tuple[Segment, ...] = ()
    """One segment per sequence that is generating."""
    prefill: tuple[Segment, ...] = ()
    """Pieces of prompts."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Decode rows first, then prefill chunks: the order of `Runner.decode`'s answer."""
        return self.decode + self.prefill

    @property
    def n_rows(self) -> int:
        """Tokens in the batch."""
        return sum(len(segment.tokens) for segment in self.segments)
