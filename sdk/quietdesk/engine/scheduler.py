"""Scheduler: which waiting requests run, and what the next batch evaluates.

Pure: it knows sequences, slots and a clock that is passed in; it evaluates nothing.

Waiting requests go by priority, then by order of arrival; waiting lifts a request's priority by one
every `aging_s`, so that nothing waits for ever behind higher priorities: whoever has waited
`(p - q) * aging_s` longer goes before everyone of priority p, where q is its own.

Texts that are only read come after everybody else, one at a time and in steps of their own.

A batch has one row for every generating sequence, then prompt chunks in the room left. Of that room
the oldest prompt gets at least a quarter, so that it always moves; the rest goes to the prompts
with the least left to read, so that a short question does not wait behind a long document.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.prefix_cache import (
    WORTH_KEEPING,
    Placement,
    PrefixCache,
    Tokens,
    common_prefix,
)
from quietdesk.engine.sequence import Sequence, State


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that starts now, or goes on after it was preempted."""

    sequence: Sequence
    placement: Placement


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running request that makes room for a waiting one."""

    victim: Sequence
    successor: Sequence


class Scheduler:
    """Waiting and running sequences."""

    def __init__(
        self,
        cache: PrefixCache,
        *,
        n_batch: int,
        n_prefill: int,
        aging_s: float = 30.0,
    ) -> None:
        """An empty scheduler.

        Args:
            cache: Tells where prompts are placed.
            n_batch: Rows of a batch at most.
            n_prefill: Prompt rows at most in a batch that also has generating rows: what one step
                may add to the time between tokens.
            aging_s: Seconds of waiting that count as one step of priority.
        """
        self._cache = cache
        self._n_batch = n_batch
        self._n_prefill = n_prefill
        self._aging_s = aging_s
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Let a request wait for its turn."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a request, wherever it is; its slot is the caller's to release."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)

    def preempt(self, now: float) -> Preemption | None:
        """Somebody running who has to make room, and the waiting one of higher priority for whom.

        None unless every slot is busy. The victim waits from now on; its slot is the caller's to
        release, and then `admit` gives the other one a slot. Each swap puts a higher priority in
        the place of a lower one, so that there is an end of them.
        """
        if not self.waiting or not self.running or self._cache.free_slots():
            return None
        victim = min(self.running, key=lambda sequence: (sequence.priority, -sequence.id))
        for sequence in sorted(self.waiting, key=lambda sequence: self._rank(sequence, now)):
            higher = sequence.priority > victim.priority and not sequence.fetching
            if higher and not self._being_read(sequence):
                self.running.remove(victim)
                victim.state = State.WAITING
                self.waiting.append(victim)
                return Preemption(victim, sequence)
        return None

    def next_admission(self, now: float) -> Admission | None:
        """The next request to be given a slot; None when nobody can be.

        A request that shares its beginning with one that is reading it right now is held back
        until it has been read, so that it is evaluated once.
        """
        if not self.waiting or not self._cache.free_slots():
            return None
        for sequence in sorted(self.waiting, key=lambda sequence: self._rank(sequence, now)):
            if sequence.reading is not None:
                if self.reading is None:
                    return self.admit(sequence)
            elif not sequence.fetching and not self._being_read(sequence):
                return self.admit(sequence)
        return None

    @property
    def reading(self) -> Sequence | None:
        """The running one that is only read, if there is any."""
        return next((sequence for sequence in self.running if sequence.reading is not None), None)

    @property
    def answering(self) -> list[Sequence]:
        """The running ones that somebody waits for an answer of."""
        return [sequence for sequence in self.running if sequence.reading is None]

    def admit(self, sequence: Sequence) -> Admission | None:
        """Give a waiting request a slot; None while every slot is busy."""
        wanted: Tokens = np.array(sequence.wanted, np.int32)
        if sequence.reading is None:
            placement = self._cache.place(wanted)
        else:
            placement = self._cache.place_reading(wanted)
        if placement is None:
            return None
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.state = State.RUNNING
        sequence.slot = placement.slot
        return Admission(sequence, placement)

    def _rank(self, sequence: Sequence, now: float) -> tuple[float, int]:
        waited = now - sequence.submitted_at
        return (-(sequence.priority + waited / self._aging_s), sequence.id)

    def _being_read(self, sequence: Sequence) -> bool:
        if not self._cache.can_trim:
            return False  # Its memory could not be made to hold just what is shared.
        tokens: Tokens = np.array(sequence.tokens, np.int32)
        available: int | None = None
        for other in self.running:
            if other.n_computed >= other.n_prompt or other.reading is not None:
                continue  # Nobody who has asked waits for what is read on the side.
            shared = common_prefix(np.array(other.tokens[: other.n_prompt], np.int32), tokens)
            if shared <= other.n_computed:
                continue
            if available is None:
                available = self._cache.longest(tokens)
            if shared - max(available, 0) >= WORTH_KEEPING:
                return True
        return False

    def batch(self) -> Batch:
        """What the next step evaluates; empty when nothing runs."""
        answering = self.answering
        decoding = [sequence for sequence in answering if sequence.is_decoding]
        prefilling = [sequence for sequence in answering if not sequence.is_decoding]
        # Drafts give way before anybody's own row does.
        room = self._n_batch - len(decoding)
        decode = []
        for sequence in decoding:
            draft = sequence.draft[: max(room, 0)]
            room -= len(draft)
            decode.append(
                Segment(
                    sequence.slot,
                    sequence.n_computed,
                    (sequence.tokens[-1], *draft),
                    sample=True,
                    n_draft=len(draft),
                    sampler=sequence.sampler,
                )
            )
        if decoding:
            room = min(room, self._n_prefill)
        return Batch(tuple(decode), tuple(self._chunks(prefilling, room)))

    def reading_batch(self, n_rows: int) -> Batch:
        """What the next step for a text that is only read evaluates; empty when there is none."""
        sequence = self.reading
        if sequence is None or sequence.reading is None:
            return Batch()
        done = sequence.n_computed
        chunk = sequence.reading.segment(sequence.slot, sequence.tokens, done, n_rows)
        return Batch(prefill=(chunk,))

    def _chunks(self, prefilling: list[Sequence], room: int) -> Iterable[Segment]:
        if not prefilling or room <= 0:
            return
        oldest = min(prefilling, key=lambda sequence: sequence.id)
        share = {oldest.id: min(oldest.n_todo, max(1, room // 4))}
        room -= share[oldest.id]
        for sequence in sorted(prefilling, key=lambda sequence: (sequence.n_todo, sequence.id)):
            given = share.get(sequence.id, 0)
            more = min(sequence.n_todo - given, room)
            room -= more
            share[sequence.id] = given + more
        for sequence in prefilling:
            length = share[sequence.id]
            if not length:
                continue
            start = sequence.n_computed
            if start < sequence.checkpoint_at:
                length = min(length, sequence.checkpoint_at - start)
            tokens = tuple(sequence.tokens[start : start + length])
            last = start + length == len(sequence.tokens)
            yield Segment(sequence.slot, start, tokens, sample=last, sampler=sequence.sampler)
