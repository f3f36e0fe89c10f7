"""Guesses come from what followed the same run before, and stop where they are wrong."""

from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.draft import PAUSE, RUN, Drafter


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(1, 5), max_size=20))
def test_guesses_are_what_followed_the_latest_such_run(tokens: list[int], steps: list[int]) -> None:
    drafter = Drafter(4)
    n = 0
    for step in [*steps, 60]:
        n = min(n + step, len(tokens))
        known = tokens[:n]
        tail = known[-RUN:]
        found = [at for at in range(RUN, n) if known[at - RUN : at] == tail]
        expected = tuple(known[found[-1] : found[-1] + 4]) if n >= RUN and found else ()
        assert drafter.guess(known) == expected


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert Drafter(8).guess(list(range(50))) == ()


def test_guesses_grow_with_luck_and_pause_without() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 4
    drafter = Drafter(8)
    assert len(drafter.guess(tokens)) == 4
    drafter.learn(4, 4, len(tokens))
    assert len(drafter.guess(tokens)) == 8
    for _ in range(8):
        drafter.learn(8, 0, len(tokens))
    assert drafter.guess(tokens) == ()
    assert drafter.guess(tokens + tokens[:PAUSE]) != ()
