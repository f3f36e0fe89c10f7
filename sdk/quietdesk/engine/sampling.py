"""Sampling: how the next token is chosen from the model's scores."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from quietdesk.config import TRUNCATION, Generation
from quietdesk.engine.calls import Calls
from quietdesk.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of one request's sampler, applied in llama.cpp's order.

    Logit bias, penalties, DRY, top-k, typical, top-p, min-p, temperature, then the draw. A value
    that switches its step off is each field's default; `Generation` has what each means and its
    range.

    Raises:
        UsageError: a value is out of its range, or two do not fit together.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 256
    """Tokens that the penalties look back on; 0: none, -1: all."""
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    """Tokens that DRY looks back on; 0: none, -1: all."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat_tau: float = 0.0
    """Target surprise of mirostat 2; above 0 it takes the place of the truncating steps."""
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and what is added to its logit; each id once."""
    grammar: str = ""
    """GBNF with a rule named `root`; empty: none."""
    calls: Calls | None = None
    """Tools that may be called: from a call's beginning on a grammar of their own binds."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        values = _values(self)
        del values["calls"]
        bias = values["logit_bias"] = dict(self.logit_bias)
        if len(bias) < len(self.logit_bias):
            raise UsageError(f"A token stands twice in logit_bias: {self.logit_bias!r}.")
        Generation.checked(values)

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """As much of these parameters as has an effect.

        Where nothing is drawn the likeliest token is never cut off, and mirostat takes the place of
        what cuts off.
        """
        names = cls.__dataclass_fields__.keys() - {"calls"}
        values = {name: getattr(generation, name) for name in names}
        values["logit_bias"] = tuple(generation.logit_bias.items())
        values["seed"] = generation.seed or 0
        if generation.temperature == 0.0:
            values |= {**TRUNCATION, "seed": 0}
        elif generation.mirostat_tau:
            values |= TRUNCATION
        return cls(**values)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken with nothing else applied."""
        free = not self.grammar and self.calls is None
        return self.temperature == 0.0 and not self.changes_scores and free

    @property
    def changes_scores(self) -> bool:
        """Whether a penalty or a bias changes scores before the choice."""
        return bool(
            self.repeat_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.dry_multiplier
            or self.logit_bias
        )

    def within(self, n_ctx: int) -> Self:
        """The same with look-backs in tokens: one over all is as long as the context."""
        if self.penalty_last_n >= 0 and self.dry_penalty_last_n >= 0:
            return self
        return replace(
            self,
            penalty_last_n=n_ctx if self.penalty_last_n < 0 else self.penalty_last_n,
            dry_penalty_last_n=n_ctx if self.dry_penalty_last_n < 0 else self.dry_penalty_last_n,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """When a reply ends besides the model's own end token.

    Raises:
        UsageError: a value is out of its range.
    """

    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    """Strings that end the reply and are not part of it."""
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    """Go on after the model's end token: for benchmarks."""

    def __post_init__(self) -> None:
        """Check the values."""
        Generation.checked(_values(self))

    @classmethod
    def of(cls, generation: Generation, stop: Sequence[str] = ()) -> Self:
        """Those of these parameters.

        Args:
            generation: The parameters.
            stop: Strings that end it besides.
        """
        return cls(
            generation.max_tokens,
            (*stop, *generation.stop),
            generation.stop_tokens,
            generation.ignore_end,
        )


def check_tokens(sampling: Sampling, limits: Limits, n_vocab: int) -> None:
    """Check that every token that is named is one of the model's.

    Args:
        sampling: Names them in `logit_bias`.
        limits: Names them in `stop_tokens`.
        n_vocab: How many tokens the model has; 0 where that is not known.

    Raises:
        UsageError: one is not.
    """
    named = {
        "logit_bias": [token for token, _ in sampling.logit_bias],
        "stop_tokens": limits.stop_tokens,
    }
    for name, tokens in named.items():
        for token in tokens:
            if token >= n_vocab > 0:
                raise UsageError(
                    f"There is no token {token} for {name!r}: the model's are 0 to {n_vocab - 1}."
                )


def _values(parameters: Sampling | Limits) -> dict[str, Any]:
    return {field.name: getattr(parameters, field.name) for field in fields(parameters)}
