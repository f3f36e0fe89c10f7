"""Guesses come from what followed the same run before, and stop where they are wrong."""

from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.draft import FIRST_GUESSES, PAUSE, RUN, Drafter


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(1, 5), max_size=20))
def test_guesses_are_what_followed_the_latest_such_run(tokens: list[int], steps: list[int]) -> None:
    drafter = Drafter(4)
    n = 0
    for step in [*steps, 60]:
        n = min(n + step, len(tokens))
        known = tokens[:n]
        tail = known[-RUN:]
        found = [at for at in range(RUN, n) if known[at - RUN : at] == tail]
        expected = tuple(known[found[-1] : found[-1] + FIRST_GUESSES]) if n >= RUN and found else ()
        assert drafter.guess(known) == expected


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert Drafter(8).guess(list(range(50))) == ()


def test_guesses_grow_with_luck_and_pause_without_longer_each_time() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 40
    drafter = Drafter(8)
    n = 36
    for n_guessed in (FIRST_GUESSES, 2, 4, 8, 8):
        assert len(drafter.guess(tokens[:n])) == n_guessed
        drafter.learn(n_guessed, n_guessed, n)
    for pause in (PAUSE, 2 * PAUSE):
        while guesses := drafter.guess(tokens[:n]):
            drafter.learn(len(guesses), 0, n)
        assert drafter.guess(tokens[: n + pause - 1]) == ()
        n += pause
        assert drafter.guess(tokens[:n]) != ()
