"""Threads are given up when steps wait, and come back when the machine is quiet."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.threads import LONGEST_QUIET_S, ThreadGovernor


def run(governor: ThreadGovernor, share: float, seconds: float) -> list[int]:
    return [governor.add(0.05, 0.05 * share) for _ in range(round(seconds / 0.05))]


def test_all_threads_are_used_on_a_quiet_machine() -> None:
    assert set(run(ThreadGovernor(8), 0.98, 60)) == {8}


def test_threads_are_halved_until_steps_flow() -> None:
    governor = ThreadGovernor(8)
    seen = run(governor, 0.3, 2)
    assert seen[-1] == 1
    assert sorted(set(seen), reverse=True) == [8, 4, 2, 1]


def test_threads_come_back_and_trying_too_early_costs_ever_less() -> None:
    governor = ThreadGovernor(2)
    tries = []
    for second in range(200):
        share = 0.3 if governor.n_threads == 2 else 0.95
        before = governor.n_threads
        for n in run(governor, share, 1):
            if n > before:
                tries.append(second)
            before = n
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= LONGEST_QUIET_S - 1
    assert run(governor, 0.97, 60)[-1] == 2


@given(st.integers(1, 64), st.lists(st.tuples(st.floats(0.001, 3), st.floats(0, 1)), max_size=200))
def test_the_number_is_always_one_that_there_is(n: int, steps: list[tuple[float, float]]) -> None:
    governor = ThreadGovernor(n)
    for wall, share in steps:
        assert 1 <= governor.add(wall, wall * share) <= n
