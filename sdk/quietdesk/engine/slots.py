"""Slots: the runner's sequences, filled with what is known already and saved when they must go.

It carries out what the prefix cache decides, on the engine's thread: states are loaded into slots
and parked in memory, and those that memory has no room for go to disk and come back.
"""

import time

import numpy as np

from quietdesk.engine.prefix_cache import (
    WORTH_KEEPING,
    Parked,
    Placement,
    PrefixCache,
    Slot,
    Tokens,
)
from quietdesk.engine.runner import Runner
from quietdesk.engine.states.keeper import KeptState, StateKeeper

WORTH_FETCHING = 32
"""Share of a state's tokens, one in so many, that it must save for it to be fetched from disk.
Reading and checking a state was measured at 0.04 ms a token, evaluating one at 1.4 ms and more."""
UNSAVED = 128
"""Tokens that a crash may cost before a quiet moment is used to write them."""
CLOSING_S = 5.0
"""How long closing may write states."""


class Slots:
    """What the slots of a runner hold, and where it goes."""

    def __init__(self, runner: Runner, cache: PrefixCache, states: StateKeeper | None) -> None:
        """Slots as the cache has them.

        Args:
            runner: Whose slots they are.
            cache: Decides; it is told what was done.
            states: Keeps on disk what memory has no room for.
        """
        self._runner = runner
        self._cache = cache
        self._states = states

    def place(self, placement: Placement, length: int) -> int:
        """Fill a slot as was decided, with length positions; how many it holds then.

        Args:
            placement: The cache's decision.
            length: At most the placement's own.
        """
        slot = self._cache.slots[placement.slot]
        if placement.park:
            self.park(slot.tokens, self._runner.save(slot.id), slot.owner)
        if placement.source is None:
            return self.trim(slot.id, length)
        return self._bring(placement.source, slot.id, length)

    def _bring(self, source: int | Parked, target: int, length: int) -> int:
        """Fill target with the first length positions of a state or another slot."""
        if isinstance(source, Parked):
            if not self._runner.load(target, source.state):
                self._cache.forget(source)
                return self.trim(target, 0)
            return self.trim(target, length)
        tokens, owner = self._cache.slots[source].tokens, self._cache.slots[source].owner
        if not self._runner.load(target, self._runner.save(source)):
            return self.trim(target, 0)
        held = self.trim(target, length)
        if held:
            # What two prompts have in common will be asked for again: keep just that. It may be
            # words of the owner's, and goes with the others.
            self.park(tokens[:held], self._runner.save(target), owner, shared=True)
        return held

    def trim(self, slot_id: int, length: int) -> int:
        """Keep the first length positions of a slot, or none where it cannot drop a part."""
        if self._runner.remove(slot_id, length):
            return length
        self._runner.remove(slot_id, 0)
        return 0

    def park(self, tokens: Tokens, state: bytes, owner: str = "", *, shared: bool = False) -> None:
        """Keep a state in memory, and on disk those that it drives out."""
        for gone in self._cache.park(tokens, state, owner=owner, shared=shared):
            # What is shared is the beginning of an owner's state, which must not take its place.
            if not gone.shared and self._is_worth_writing(gone.owner, gone.tokens, WORTH_KEEPING):
                assert self._states is not None
                self._states.save(gone.owner, gone.tokens, gone.state)

    def find(self, prompt: Tokens, owner: str) -> KeptState | None:
        """A state on disk that saves more than what is in memory, worth its reading."""
        if self._states is None or not self._cache.can_park:
            return None
        kept = self._states.find(prompt, owner, self._cache.reach)
        if kept is None:
            return None
        saved = kept.length - self._cache.longest(prompt)
        return kept if saved >= max(WORTH_KEEPING, len(kept.tokens) // WORTH_FETCHING) else None

    def save_one(self) -> bool:
        """In a quiet moment: a slot that a crash would cost dearly; False where there is none.

        Only when a quarter is new, so that a long conversation is not written anew at every turn.
        """
        for slot in self._cache.slots:
            least = max(UNSAVED, len(slot.tokens) // 4)
            if not slot.busy and self._is_worth_writing(slot.owner, slot.tokens, least):
                assert self._states is not None
                self._states.save(slot.owner, slot.tokens, self._runner.save(slot.id))
                return True
        return False

    def save_all(self) -> None:
        """At the end: what is in memory and not on disk, last used first, for some seconds."""
        until = time.monotonic() + CLOSING_S
        seen: set[str] = set()
        slots = sorted(self._cache.slots, key=lambda slot: -slot.used_at)
        own = [parked for parked in reversed(self._cache.parked) if not parked.shared]
        latest: list[Slot | Parked] = [*slots, *own]
        for held in latest:
            known = held.owner in seen or not self._is_worth_writing(
                held.owner, held.tokens, WORTH_KEEPING
            )
            seen.add(held.owner)
            if not known and time.monotonic() < until:
                assert self._states is not None
                state = held.state if isinstance(held, Parked) else self._runner.save(held.id)
                self._states.save(held.owner, held.tokens, state, wait=True)

    def _is_worth_writing(self, owner: str, tokens: Tokens, least: int) -> bool:
        """Whether so many tokens would have to be read again if it were lost."""
        if self._states is None or not owner or len(tokens) < least:
            return False
        held = self._states.held(owner)
        return held is None or len(tokens) - self._cache.reach(held, tokens) > least

    def forget(self, owner: str) -> None:
        """Drop an owner's words from memory; a slot in use keeps them until it is left."""
        for parked in self._cache.parked:
            if parked.owner == owner:
                self._cache.forget(parked)
        for slot in self._cache.slots:
            if slot.owner == owner and not slot.busy:
                self._runner.remove(slot.id, 0)
                self._cache.release(slot.id, np.empty(0, np.int32))
