"""Words: folding and cutting, the same for what is kept and what is looked for."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from quietdesk.store.words import LONGEST_WORD, MARK, MOST_BYTES, query, words


def plain(text: str) -> list[str]:
    return [word for word in words(text) if not word.startswith(MARK)]


def test_words_are_folded_and_each_is_kept_once() -> None:
    assert plain("The the THE thé, Thè!") == ["the"]
    assert plain("Straße STRASSE") == ["strasse"]
    assert plain("ﬁne ＦＵＬＬ ①") == ["fine", "full", "1"]
    assert plain("a_b@c.de don't 4711-B") == ["a", "b", "c", "de", "don", "t", "4711"]


def test_scripts_without_spaces_are_cut_into_characters_and_pairs() -> None:
    assert set(plain("我要退货")) == {"我", "要", "退", "货", "我要", "要退", "退货"}
    assert set(plain("退货now")) == {"退", "货", "退货", "now"}
    assert query("退货").words == ("退货",)
    assert query("退").words == ("退",)


def test_the_last_word_of_a_query_may_be_cut_short() -> None:
    assert query("order norw") == query("order, norw!")
    assert (query("order norw").words, query("order norw").beginning) == (("order",), "norw")
    assert query("order 退货").beginning == ""
    assert query("o").words == (f"{MARK}o",)
    assert not query("?! --")


def test_a_very_long_word_counts_by_its_beginning() -> None:
    blob = "x1" * 5000
    assert plain(blob) == [blob[:LONGEST_WORD]]
    assert query(blob).beginning == blob[:LONGEST_WORD]


def test_a_very_long_text_is_searched_as_far_as_a_database_can_hold() -> None:
    found = words(" ".join(f"word{number}" for number in range(200_000)))
    assert "word0" in found and "word199999" not in found
    assert MOST_BYTES - 100 < sum(len(word.encode()) for word in found) <= MOST_BYTES


@given(st.text())
def test_every_text_is_found_by_itself_and_by_its_beginnings(text: str) -> None:
    kept = set(words(text))
    for asked in (query(text), query(text.upper()), query(unicodedata.normalize("NFD", text))):
        if text.upper().casefold() == text.casefold():
            assert set(asked.words) <= kept
            assert any(word.startswith(asked.beginning) for word in kept) or not asked
    assert set(query(text).words) <= kept


@given(st.text())
def test_a_word_holds_nothing_that_a_database_could_take_for_a_sign(text: str) -> None:
    for word in words(text):
        assert word == word.strip()
        assert not set(word) & set(" \t\n\r\x00'\"\\*:&|!()<>")
        assert 0 < len(word) <= LONGEST_WORD + 1
        assert not any(0xD800 <= ord(character) <= 0xDFFF for character in word)
