"""Guesses come from what followed the same run before."""

from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.draft import LONGEST, SHORTEST, look_up


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 8))
def test_guesses_are_what_followed_the_latest_longest_run(tokens: list[int], n: int) -> None:
    def by_search() -> tuple[int, ...]:
        for length in range(LONGEST, SHORTEST - 1, -1):
            tail = tokens[-length:]
            for at in range(len(tokens) - length - 1, -1, -1):
                if len(tail) == length and tokens[at : at + length] == tail:
                    return tuple(tokens[at + length : at + length + n])
        return ()

    assert look_up(tokens, n) == by_search()


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    assert look_up(list(range(50)), 8) == ()
