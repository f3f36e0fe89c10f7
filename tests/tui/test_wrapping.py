"""Lines break where a reader expects it, in any script, and nothing is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len, split_graphemes

from quietdesk_tui.wrapping import break_offsets, shorten

FAMILY = "👨\u200d👩\u200d👧"
WORDS = st.lists(
    st.sampled_from(
        ["the", "customer", "a", "supercalifragilisticexpialidocious", "it’s", "（好）", "我们",
         "送货服务", "「提供」", "，", "。", "😊", FAMILY, "é", "한국어", "https://example.com/a/b?c=d",
         " ", "  "]
    ),
    max_size=30,
)  # fmt: skip
TEXTS = WORDS.map("".join) | st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=80
)


def pieces(text: str, width: int) -> list[str]:
    offsets = break_offsets(text, width)
    return [text[start:end] for start, end in pairwise([0, *offsets, len(text)])]


@given(TEXTS, st.integers(2, 40))
def test_the_pieces_are_the_text(text: str, width: int) -> None:
    assert "".join(pieces(text, width)) == text


@given(TEXTS, st.integers(2, 40))
def test_no_piece_is_wider_than_the_line(text: str, width: int) -> None:
    for piece in pieces(text, width):
        assert cell_len(piece.rstrip()) <= width


@given(TEXTS, st.integers(2, 40))
def test_no_character_is_cut_in_two(text: str, width: int) -> None:
    starts = {start for start, _, _ in split_graphemes(text)[0]}
    assert set(break_offsets(text, width)) <= starts | {len(text)}


def test_words_stay_whole_where_they_fit() -> None:
    assert pieces("the quick brown fox", 10) == ["the quick ", "brown fox"]


def test_an_apostrophe_does_not_break_a_word() -> None:
    assert pieces("we know it’s late", 10) == ["we know ", "it’s late"]


def test_chinese_breaks_between_characters_and_not_before_punctuation() -> None:
    assert pieces("我们送货，很快。", 8) == ["我们送", "货，很", "快。"]


def test_an_opening_bracket_does_not_end_a_line() -> None:
    assert pieces("我们「提供」", 6) == ["我们", "「提", "供」"]


def test_chinese_goes_on_beside_latin_words() -> None:
    assert pieces("型号 SmolLM2 的回答", 14) == ["型号 SmolLM2 ", "的回答"]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 10, "short"),
        ("much too long", 8, "much to…"),
        ("中文标题", 5, "中文…"),
        ("x", 1, "x"),
    ],
)
def test_what_is_too_long_ends_in_an_ellipsis(text: str, width: int, shown: str) -> None:
    assert shorten(text, width) == shown


@given(TEXTS, st.integers(0, 30))
def test_a_shortened_text_fits(text: str, width: int) -> None:
    assert cell_len(shorten(text, width)) <= width
