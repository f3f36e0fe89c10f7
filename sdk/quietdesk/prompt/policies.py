"""Overflow policies: which turns give way when a conversation outgrows the context.

Each policy is a small value with one decision, `advance`: how far the gap in the conversation goes.
Turns are numbered from the oldest one, 0; the newest turn and turns with a pinned message are held
and never go. In the pictures every letter is a turn, `P` is pinned, `N` is the newest, and `.` is
one that went.

    whole conversation    abcPefghijkN
    stop                  abcPefghijkN    or a ContextError
    truncate-middle       ab.P......jkN   the first turns and the last ones stay
    rolling-window        ...P....hijkN   the last ones stay
    summary              [...P....]hijkN  the last ones stay, a summary stands for the others

Why blocks: to drop one turn at a time changes the beginning of the prompt at every turn, and then
the engine reads the whole prompt again at every turn. So nothing goes until the prompt would
overflow (the high watermark); then whole turns go, oldest first, until the turns that could go fill
only `low` of their room (the low watermark). Until the next overflow the beginning stays as it is
and only the new suffix is evaluated. With `low` at one half about half of what could be remembered
is, on average three quarters, and the prompt is read again once in every few turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from quietdesk.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Load:
    """What a prompt would hold, in tokens."""

    turns: Sequence[int]
    """Of each turn, oldest first; the last one is the newest."""
    held: Sequence[bool]
    """Whether the turn stays whatever happens."""
    fixed: int
    """Of everything that is no turn: template, system prompt, tools, passages."""
    limit: int
    """Of the whole prompt at most."""
    stable: int
    """The part of `fixed` that is the same at every turn: all but the passages."""
    summary: int = 0
    """Set aside for a summary, once a turn went."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which turns give way, and how far."""

    name: str
    """What settings call it."""
    keeps: str
    """What it keeps, in a sentence."""
    drops: bool = True
    """Whether turns may go at all; else an overflow is a ContextError."""
    low: float = 0.5
    """Low watermark: the share of their room that turns fill after some of them went."""
    head_share: float = 0.0
    """Share of the context whose first turns stay; the very first turn does if this is above 0."""
    summarises: bool = False
    """Whether a summary stands for the turns that went."""

    def head(self, load: Load) -> int:
        """Turns at the beginning that stay; the same at every turn of a conversation."""
        if not self.head_share:
            return 0
        room = self.head_share * (load.limit - load.stable)
        used = 0
        for index, tokens in enumerate(load.turns[:-1]):
            used += tokens
            if used > room and index > 0:
                return index
        return len(load.turns) - 1

    def advance(self, load: Load, cursor: int, head: int) -> int:
        """Where the kept turns begin again after the gap.

        Args:
            load: What the prompt would hold.
            cursor: Where they began until now; 0 where nothing went yet.
            head: Turns at the beginning that stay.

        Returns:
            At least `cursor`. Turns from `head` on and before it went, held ones excepted.
        """
        last = len(load.turns) - 1
        start = max(cursor, head)
        staying = load.fixed + sum(
            tokens
            for index, (tokens, held) in enumerate(zip(load.turns, load.held, strict=True))
            if held or index < head or index == last
        )
        movable = sum(load.turns[index] for index in range(start, last) if not load.held[index])
        gone = load.summary if cursor > head else 0
        if not self.drops or staying + movable + gone <= load.limit:
            return cursor
        target = self.low * max(0, load.limit - staying - load.summary)
        end = start
        while end < last and movable > target:
            if not load.held[end]:
                movable -= load.turns[end]
            end += 1
        return max(cursor, end)


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Policy("stop", "Everything; a conversation that outgrows it ends.", drops=False),
            Policy("truncate-middle", "The first turns and the last ones.", head_share=0.25),
            Policy("rolling-window", "The last turns."),
            Policy("summary", "The last turns, and a summary of the others.", summarises=True),
        )
    }
)
"""The policies that settings can name."""


def find_policy(name: str) -> Policy:
    """The policy of this name.

    Raises:
        UnknownNameError: there is none, with the nearest names.
    """
    try:
        return POLICIES[name]
    except KeyError:
        raise UnknownNameError(
            "overflow policy", name, POLICIES, f"Known are: {', '.join(POLICIES)}."
        ) from None
