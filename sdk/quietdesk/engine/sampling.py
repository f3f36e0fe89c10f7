"""Sampling: how the next token is chosen from the model's scores."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of one request's sampler, applied in llama.cpp's order.

    Logit bias, penalties, DRY, top-k, typical, top-p, min-p, temperature, then the draw. A value
    that switches its step off is each field's default.
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
    """Tokens that the penalties look back on."""
    dry_multiplier: float = 0.0
    mirostat_tau: float = 0.0
    """Target surprise of mirostat 2; above 0 it takes the place of the truncating steps."""
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and what is added to its logit."""
    grammar: str = ""
    """GBNF with a rule named `root`; empty: none."""
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken with nothing else applied."""
        return self.temperature == 0.0 and not self.changes_scores and not self.grammar

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


@dataclass(frozen=True, slots=True)
class Limits:
    """When a reply ends besides the model's own end token."""

    max_tokens: int = 512
    stop: tuple[str, ...] = field(default=())
    """Strings that end the reply and are not part of it."""
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    """Go on after the model's end token: for benchmarks."""
