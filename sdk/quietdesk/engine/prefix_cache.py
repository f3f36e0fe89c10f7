"""Prefix cache: which tokens each slot holds, what is parked, and where a prompt best starts.

Pure bookkeeping: it decides, the engine carries out. A slot is one of the runner's sequences. Its
content outlives the request, so that the next turn of the same conversation evaluates only what is
new. Content that has to leave its slot is parked as a state in memory and can be brought back into
any slot, any number of times, so that a system prompt is evaluated once for all customers.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

WORTH_KEEPING = 32
"""Tokens from which copying a state is cheaper than evaluating again, with room to spare: a state
of n tokens is copied at memory speed, some hundred times as fast as they are evaluated."""


def common_prefix(left: Tokens, right: Tokens) -> int:
    """How many leading tokens two sequences share."""
    n = min(len(left), len(right))
    different = np.flatnonzero(left[:n] != right[:n])
    return int(different[0]) if len(different) else n


@dataclass(slots=True)
class Slot:
    """What one of the runner's sequences holds."""

    id: int
    tokens: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """Evaluated content, as far as it is known; of a busy slot, the part of the prompt."""
    busy: bool = False
    owner: str = ""
    """Whose words they are; empty: nobody's that could ask for them to be erased."""
    used_at: int = 0
    """The cache's clock when it was last taken or released."""
    passing: bool = False
    """Whether its content is only read, so that nobody comes back to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Parked:
    """A state in memory."""

    tokens: Tokens
    state: bytes
    shared: bool
    """Made to be shared: the beginning of several prompts, not one conversation's end."""
    owner: str = ""
    """As a slot's."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt goes and what it starts from; to be carried out in the order of the fields."""

    slot: int
    park: bool
    """Save the slot's present content first."""
    source: int | Parked | None
    """Another slot or a state to bring in; None: what the slot holds already."""
    length: int
    """Positions to keep of it; the rest is removed."""


class PrefixCache:
    """The slots' contents and the parked states."""

    def __init__(self, n_slots: int, *, can_trim: bool, parked_bytes: int) -> None:
        """An empty cache.

        Args:
            n_slots: Sequences of the runner.
            can_trim: Whether a part of a sequence can be dropped; where not, only whole contents
                can be built on.
            parked_bytes: Memory for parked states.
        """
        self.slots = [Slot(i) for i in range(n_slots)]
        self.can_trim = can_trim
        self._limit = parked_bytes
        self._parked: OrderedDict[int, Parked] = OrderedDict()
        self.parked_bytes = 0
        """Bytes of all parked states."""
        self._clock = 0

    @property
    def parked(self) -> list[Parked]:
        """The states in memory, the one unused for longest first."""
        return list(self._parked.values())

    @property
    def parked_count(self) -> int:
        """How many states are parked."""
        return len(self._parked)

    @property
    def can_park(self) -> bool:
        """Whether there is any memory for states."""
        return self._limit > 0

    def free_slots(self) -> int:
        """Slots that no request is using."""
        return sum(not slot.busy for slot in self.slots)

    def longest(self, prompt: Tokens) -> int:
        """Tokens of the prompt that would not have to be evaluated if it were placed now."""
        contents: list[Slot | Parked] = [*self.slots, *self._parked.values()]
        return max(self.reach(content.tokens, prompt) for content in contents)

    def shared(self, prompt: Tokens) -> int:
        """Leading tokens of the prompt that stand in some content, usable as it is or not."""
        contents: list[Slot | Parked] = [*self.slots, *self._parked.values()]
        longest = max(common_prefix(content.tokens, prompt) for content in contents)
        return min(longest, len(prompt) - 1)

    def place_reading(self, text: Tokens) -> Placement | None:
        """The place for a text that is only read; None while every slot is busy.

        It builds on nothing but what was only read too.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        if not idle:
            return None
        target = max(idle, key=lambda slot: slot.passing and self.reach(slot.tokens, text) + 1)
        if target.passing:
            return Placement(target.id, False, None, self.reach(target.tokens, text))
        target = self._victim(idle)
        return Placement(target.id, self._worth_parking(target), None, 0)

    def place(self, prompt: Tokens) -> Placement | None:
        """The best place for a prompt; None while every slot is busy.

        The last token is never taken from a cache: it has to be evaluated to say what comes next.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        if not idle:
            return None
        own = max(idle, key=lambda slot: (self.reach(slot.tokens, prompt), -slot.id))
        reach = self.reach(own.tokens, prompt)
        if reach and (own.passing or len(own.tokens) - reach <= WORTH_KEEPING):
            return Placement(own.id, park=False, source=None, length=reach)

        best_slot = max(self.slots, key=lambda slot: self.reach(slot.tokens, prompt))
        length = self.reach(best_slot.tokens, prompt)
        source: int | Parked | None = best_slot.id
        for key, parked in list(self._parked.items()):
            # A state is preferred to a slot of the same reach: it need not be saved first. Of two
            # states the shorter one is: not every memory can be cut back to what is shared.
            found = self.reach(parked.tokens, prompt)
            worse = isinstance(source, Parked) and len(parked.tokens) > len(source.tokens)
            if found > length or (found and found == length and not worse):
                source, length = parked, found
                self._parked.move_to_end(key)
        target = self._victim(idle)
        if length < WORTH_KEEPING:
            source, length = None, 0
        if source == target.id:
            source = None
        return Placement(target.id, park=self._worth_parking(target), source=source, length=length)

    def _victim(self, idle: list[Slot]) -> Slot:
        """An empty slot, the first one, or one that was only read; else the one unused for longest.

        Low numbers first keeps the busy slots side by side: llama.cpp evaluates a run of
        neighbouring sequences at once, and each gap costs another pass over the weights.
        """
        return min(
            idle,
            key=lambda slot: (
                len(slot.tokens) > 0 and not slot.passing,
                len(slot.tokens) > 0,
                slot.used_at,
                slot.id,
            ),
        )

    def _worth_parking(self, slot: Slot) -> bool:
        if slot.passing or len(slot.tokens) < WORTH_KEEPING or not self._limit:
            return False
        covered = max(
            (common_prefix(parked.tokens, slot.tokens) for parked in self._parked.values()),
            default=0,
        )
        return len(slot.tokens) - covered >= WORTH_KEEPING

    def reach(self, content: Tokens, prompt: Tokens) -> int:
        """Tokens of a prompt that need not be evaluated where this content is at hand."""
        shared = min(common_prefix(content, prompt), len(prompt) - 1)
        if not self.can_trim and shared < len(content):
            return 0
        return shared

    def take(self, slot_id: int) -> None:
        """Mark a slot as busy."""
        self._clock += 1
        slot = self.slots[slot_id]
        slot.busy, slot.passing = True, False
        slot.used_at = self._clock

    def hold(self, slot_id: int, tokens: Tokens) -> None:
        """Record what a slot holds now."""
        self.slots[slot_id].tokens = tokens

    def release(
        self, slot_id: int, tokens: Tokens, owner: str = "", *, passing: bool = False
    ) -> None:
        """Mark a slot as idle, holding these tokens, which were only read if passing."""
        self._clock += 1
        slot = self.slots[slot_id]
        slot.busy = False
        slot.passing = passing
        slot.owner = owner
        slot.tokens = tokens
        slot.used_at = self._clock

    def park(
        self, tokens: Tokens, state: bytes, *, shared: bool = False, owner: str = ""
    ) -> list[Parked]:
        """Keep a state, in the place of those that it continues; the oldest make room.

        Returns:
            The states that had to go, among them this one where it is larger than all the room.
        """
        new = Parked(tokens, state, shared, owner)
        if len(state) > self._limit:
            return [new]
        for key, parked in list(self._parked.items()):
            whole = common_prefix(parked.tokens, tokens) == len(parked.tokens)
            if whole and (not parked.shared or len(parked.tokens) == len(tokens)):
                self._drop(key)
        self._clock += 1
        self._parked[self._clock] = new
        self.parked_bytes += len(state)
        gone = []
        while self.parked_bytes > self._limit:
            gone.append(self._drop(next(iter(self._parked))))
        return gone

    def _drop(self, key: int) -> Parked:
        parked = self._parked.pop(key)
        self.parked_bytes -= len(parked.state)
        return parked

    def forget(self, parked: Parked) -> None:
        """Drop a state that turned out to be unusable."""
        for key, value in list(self._parked.items()):
            if value is parked:
                self._drop(key)
