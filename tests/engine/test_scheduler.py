"""Properties of the pure scheduler: budget kept, no token lost or doubled, everyone finishes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.engine.batch import Batch
from quietdesk.engine.detokenize import Detokenizer
from quietdesk.engine.prefix_cache import PrefixCache, common_prefix
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.scheduler import Admission, Scheduler
from quietdesk.engine.sequence import Sequence
from quietdesk.engine.stream import Stream


def sequence(number: int, prompt: list[int], *, priority: int = 0, at: float = 0.0) -> Sequence:
    return Sequence(
        id=number,
        tokens=list(prompt),
        n_prompt=len(prompt),
        sampling=Sampling(),
        limits=Limits(),
        stream=Stream(lambda: None),
        detokenizer=Detokenizer(),
        submitted_at=at,
        priority=priority,
    )


class Desk:
    """A scheduler driven as the engine drives it, with a clock of its own."""

    def __init__(self, n_slots: int, n_batch: int = 64, n_prefill: int = 16) -> None:
        self.cache = PrefixCache(n_slots, can_trim=True, parked_bytes=0)
        self.scheduler = Scheduler(self.cache, n_batch=n_batch, n_prefill=n_prefill, aging_s=10.0)
        self.now = 0.0
        self.started: dict[int, float] = {}
        self.done: dict[int, float] = {}

    def step(self, n_reply: int) -> Batch:
        while (swap := self.scheduler.preempt(self.now)) is not None:
            self.leave(swap.victim)
            self.start(self.scheduler.admit(swap.successor))
        while (admission := self.scheduler.next_admission(self.now)) is not None:
            self.start(admission)
        batch = self.scheduler.batch()
        slots = {s.slot: s for s in self.scheduler.running}
        for segment in batch.segments:
            owner = slots[segment.seq_id]
            assert segment.start == owner.n_computed
            assert list(segment.tokens) == owner.tokens[segment.start : segment.stop]
            owner.n_computed = segment.stop
            known = min(owner.n_computed, owner.n_prompt)
            self.cache.hold(owner.slot, np.array(owner.tokens[:known], np.int32))
            if segment.sample:
                owner.tokens.append(7)
                if owner.n_generated >= n_reply:
                    self.scheduler.remove(owner)
                    self.leave(owner)
                    self.done[owner.id] = self.now
        self.now += 1.0
        return batch

    def start(self, admission: Admission | None) -> None:
        assert admission is not None
        self.cache.take(admission.placement.slot)
        admission.sequence.n_computed = admission.placement.length
        self.started.setdefault(admission.sequence.id, self.now)

    def leave(self, gone: Sequence) -> None:
        self.cache.release(gone.slot, np.array(gone.tokens[: gone.n_computed], np.int32))
        gone.slot = -1
        gone.n_computed = 0


prompts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=90), min_size=1, max_size=12)


@given(prompts, st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_everyone_finishes_and_no_batch_is_too_large(
    asked: list[list[int]], n_slots: int, n_reply: int
) -> None:
    desk = Desk(n_slots, n_batch=32, n_prefill=8)
    for number, prompt in enumerate(asked):
        desk.scheduler.add(sequence(number, prompt))
    steps = 0
    while desk.scheduler.waiting or desk.scheduler.running:
        batch = desk.step(n_reply)
        steps += 1
        assert 0 < batch.n_rows <= 32
        if batch.decode:
            assert sum(len(s.tokens) for s in batch.prefill) <= 8
        assert len({s.seq_id for s in batch.segments}) == len(batch.segments)
        assert steps <= sum(map(len, asked)) + n_reply * len(asked) + 1
    assert set(desk.done) == set(range(len(asked)))


@given(st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_low_priority_waits_no_longer_than_its_bound(n_slots: int, gap: int) -> None:
    """Against an endless stream of requests that are `gap` steps of priority above it."""
    desk = Desk(n_slots)
    low = sequence(0, [1] * 5, priority=0, at=0.0)
    desk.scheduler.add(low)
    number, n_reply = 1, 4
    while 0 not in desk.started:
        for _ in range(n_slots):
            rival = sequence(number, [number % 3] * 5, priority=gap, at=desk.now)
            desk.scheduler.add(rival)
            number += 1
        desk.step(n_reply)
        # gap * aging_s of waiting puts it before all newcomers; then those that came before that
        # moment may still go first, n_slots at a time, each for prompt and reply.
        earlier = 1 + n_slots * (gap * 10 + 1)
        assert desk.now <= gap * 10 + (earlier / n_slots + 1) * (n_reply + 5)


def test_a_higher_priority_takes_the_slot_of_a_lower_one_and_no_work_is_lost() -> None:
    desk = Desk(1)
    low = sequence(0, [1, 2, 3, 4], priority=0)
    desk.scheduler.add(low)
    desk.step(50)
    desk.step(50)
    said = list(low.tokens)
    high = sequence(1, [9, 9], priority=5)
    desk.scheduler.add(high)
    desk.step(2)
    assert high in desk.scheduler.running
    assert low in desk.scheduler.waiting
    assert low.tokens == said
    while desk.scheduler.waiting or desk.scheduler.running:
        desk.step(5)
    assert low.tokens[: len(said)] == said


def test_equal_priorities_do_not_preempt() -> None:
    desk = Desk(1)
    desk.scheduler.add(sequence(0, [1, 2]))
    desk.step(50)
    desk.scheduler.add(sequence(1, [3, 4]))
    assert desk.scheduler.preempt(desk.now) is None


def test_a_shared_beginning_is_read_once() -> None:
    desk = Desk(4, n_batch=512)
    shared = list(range(100, 300))
    for number in range(4):
        desk.scheduler.add(sequence(number, [*shared, number, number]))
    first = desk.step(3)
    assert len(first.prefill) == 1
    second = desk.step(3)
    assert sorted(len(s.tokens) for s in second.prefill) == [2, 2, 2]


def test_a_short_question_does_not_wait_behind_a_long_document() -> None:
    desk = Desk(2, n_batch=32)
    long = sequence(0, [1] * 1000)
    short = sequence(1, [2] * 10)
    desk.scheduler.add(long)
    desk.scheduler.add(short)
    desk.step(2)
    assert short.n_generated == 1
    assert long.n_computed >= 8


@pytest.mark.parametrize("n_slots", [1, 2])
def test_a_draft_never_takes_anybodys_row(n_slots: int) -> None:
    desk = Desk(n_slots, n_batch=n_slots + 1)
    for number in range(n_slots):
        desk.scheduler.add(sequence(number, [number + 1]))
    desk.step(90)
    while not all(s.is_decoding for s in desk.scheduler.running):
        desk.step(90)
    for running in desk.scheduler.running:
        running.draft = (5, 5, 5)
    batch = desk.scheduler.batch()
    assert len(batch.decode) == n_slots
    assert batch.n_rows <= n_slots + 1


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_the_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    n = common_prefix(np.array(left, np.int32), np.array(right, np.int32))
    assert left[:n] == right[:n]
    assert n == min(len(left), len(right)) or left[n] != right[n]
