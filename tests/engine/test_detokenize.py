"""Whole characters only, stop strings held back, nothing lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.detokenize import Detokenizer


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(), st.lists(st.integers(0, 10_000)))
def test_any_cutting_of_the_bytes_gives_the_same_text(text: str, places: list[int]) -> None:
    data = text.encode()
    detokenizer = Detokenizer()
    said = "".join(detokenizer.push(piece) for piece in cut(data, places))
    assert said + detokenizer.flush() == text


@given(st.text(alphabet="你好🙂é a"), st.lists(st.integers(0, 10_000)))
def test_no_piece_ever_shows_a_broken_character(text: str, places: list[int]) -> None:
    detokenizer = Detokenizer()
    for piece in cut(text.encode(), places):
        shown = detokenizer.push(piece)
        assert "\ufffd" not in shown
        shown.encode()


def test_half_a_character_at_the_end_is_dropped() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push("ab🙂".encode()[:-1]) == "ab"
    assert detokenizer.flush() == ""


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push(b"a\xffb") == "a\ufffdb"


@given(
    st.text(alphabet="abAB", max_size=40),
    st.lists(st.text(alphabet="abAB", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 100)),
)
def test_stop_strings_cut_where_a_search_of_the_whole_text_would(
    text: str, stops: list[str], places: list[int]
) -> None:
    detokenizer = Detokenizer(stops)
    shown = ""
    seen = ""
    for piece in cut(text.encode(), places):
        if detokenizer.stopped:
            break
        seen += piece.decode()
        shown += detokenizer.push(piece)
        # What is shown can never have to be taken back.
        assert seen.startswith(shown)
    shown += detokenizer.flush()
    found = [at for at in (seen.find(stop) for stop in stops) if at >= 0]
    assert detokenizer.stopped == bool(found)
    assert shown == (seen[: min(found)] if found else seen)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Detokenizer([""])
