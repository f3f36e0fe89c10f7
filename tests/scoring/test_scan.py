import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.scoring import lexicon
from quietdesk.scoring.lexicon import Lexicon, Mark, english, hash_word
from quietdesk.scoring.scan import Texts, scan, similarity

LETTERS = "abcXYZ019'.,:!?; -\n$%"
texts = st.lists(st.text(alphabet=LETTERS, max_size=40), max_size=12)
WORD = re.compile(r"(?:[a-z0-9']|(?<=[0-9])[.,:](?=[0-9]))+")


def words_of(text):
    return WORD.findall(text.lower())


@settings(deadline=None)
@given(texts)
def test_words_are_those_of_a_regular_expression(said):
    found = scan(Texts.of(said))
    expected = [words_of(text) for text in said]
    assert found.n_words.tolist() == [len(words) for words in expected]
    flat = [word for words in expected for word in words]
    assert found.words.tolist() == [int(hash_word(word)) for word in flat]


@settings(deadline=None)
@given(texts)
def test_a_text_is_read_the_same_alone_and_among_others(said):
    together = scan(Texts.of(said))
    for i, text in enumerate(said):
        alone = scan(Texts.of([text]))
        span = slice(together.word_offsets[i], together.word_offsets[i + 1])
        for column in ("words", "stems", "marks", "negated", "asked"):
            assert getattr(together, column)[span].tolist() == getattr(alone, column).tolist()
        assert together.questions[i] == alone.questions[0] == text.count("?")
        assert together.exclamations[i] == alone.exclamations[0] == text.count("!")
        assert together.wording[i] == alone.wording[0]


def test_pieces_of_a_large_batch_join_into_what_one_piece_gives(monkeypatch):
    said = [f"order {i} has not arrived. Can you help?" * (i % 5) for i in range(300)]
    whole = scan(Texts.of(said))
    monkeypatch.setattr("quietdesk.scoring.scan._CHUNK_BYTES", 700)
    cut = scan(Texts.of(said))
    for column in ("words", "stems", "marks", "word_offsets", "negated", "asked", "questions"):
        assert getattr(whole, column).tolist() == getattr(cut, column).tolist()
    same = np.diff(whole.sentence_of) > 0
    assert (same == (np.diff(cut.sentence_of) > 0)).all()


def test_a_slice_of_a_column_is_read_as_itself():
    column = pa.array(["one two", "three", "four five six", ""])
    assert scan(Texts.of(column.slice(1, 2))).n_words.tolist() == [1, 3]
    assert scan(Texts.of(column.cast(pa.large_string()))).n_words.tolist() == [2, 1, 3, 0]
    assert scan(Texts.of(column.slice(0, 0))).n_words.tolist() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t", ["don't"]),
        ("“hello”—world…", ["hello", "world"]),
        ("great😊thanks", ["great", "thanks"]),
        ("ÉTÉ", ["été"]),
        ("¿Qué?", ["qué"]),
        ("at 10:30, $1,299.00.", ["at", "10:30", "1,299.00"]),
        ("你好。谢谢", ["你好", "谢谢"]),
    ],
)
def test_signs_beyond_ascii_part_words_and_letters_do_not(text, words):
    assert scan(Texts.of([text])).words.tolist() == [int(hash_word(word)) for word in words]


def test_forms_of_a_word_share_a_stem():
    for forms in (
        "book books booking booked",
        "refund refunds refunded",
        "arrive arrived arriving",
    ):
        assert len(set(scan(Texts.of([forms])).stems.tolist())) == 1, forms
    assert len(set(scan(Texts.of(["bus but boss bos"])).stems.tolist())) == 4


PHRASES = ["a b c", "a b", "b", "b c d", "d # d", "c"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "7", "x"]), max_size=15))
def test_every_phrase_is_found_where_it_begins_and_nowhere_else(words):
    table = Lexicon((phrase, np.uint64(1 << i)) for i, phrase in enumerate(PHRASES))
    hashes = np.array([hash_word("#" if w == "7" else w) for w in words], np.uint64)
    found = table.find(hashes, np.zeros(len(words), np.int64), table.entries(hashes))
    for place in range(len(words)):
        expected = 0
        for i, phrase in enumerate(PHRASES):
            wanted = phrase.split()
            here = words[place : place + len(wanted)]
            if [w if w != "7" else "#" for w in here] == wanted:
                expected |= 1 << i
        assert int(found[place]) == expected


def test_no_phrase_runs_across_the_end_of_a_sentence():
    one, two = scan(Texts.of(["that is all", "that. is all"])).has(Mark.DONE).tolist()
    assert one
    assert not two


def test_the_lexicon_has_a_phrase_for_every_mark_and_every_mark_has_its_own_bit():
    english()
    marked = scan(Texts.of(["sorry thanks bye hello yes not good bad very ridiculous"]))
    found = int(marked.any_marks[0])
    for mark in (Mark.APOLOGY, Mark.THANKS, Mark.GOODBYE, Mark.GREETING, Mark.AFFIRM):
        assert found & int(mark.bit)
    assert len({mark.value for mark in Mark}) == len(Mark)
    raw = lexicon.files("quietdesk.scoring").joinpath("data/lexicon-en.toml").read_text("utf-8")
    names = re.findall(r"^([a-z_]+) = \"\"\"", raw.split("[languages]")[0], flags=re.M)
    assert [name.upper() for name in names] == [m.name for m in Mark if m < Mark.ENGLISH]


@pytest.mark.parametrize(
    ("text", "polarity"),
    [("good", 1), ("not good", -1), ("bad", -1), ("not bad at all", 1), ("no. good", 1), ("", 0)],
)
def test_a_negation_turns_the_word_after_it_inside_the_sentence(text, polarity):
    assert scan(Texts.of([text])).polarity.tolist() == [polarity]


def test_asked_words_are_those_of_a_sentence_that_ends_in_a_question_mark():
    found = scan(Texts.of(["I see. Is it late? Yes.", "why"]))
    assert found.asked.tolist() == [False, False, True, True, True, False, False]


def trigrams(text):
    flat = re.sub(r"[^a-z0-9']", " ", text.lower())
    return {flat[i : i + 3] for i in range(len(flat) - 2)}


def dice(x, y):
    return 2 * len(x & y) / (len(x) + len(y)) if x or y else 0.0


def bucket(gram):
    code = (ord(gram[0]) << 16) | (ord(gram[1]) << 8) | ord(gram[2])
    return (code * 0x9E3779B1 % 2**32) >> 21


@settings(deadline=None)
@given(st.lists(st.text(alphabet="abcde XY?", max_size=60), min_size=2, max_size=8))
def test_similarity_is_the_dice_coefficient_of_hashed_trigrams(said):
    pairs = [(i, j) for i in range(len(said)) for j in range(len(said))]
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    hashed = [{bucket(gram) for gram in trigrams(text)} for text in said]
    expected = [dice(hashed[i], hashed[j]) for i, j in pairs]
    assert similarity(Texts.of(said), left, right).tolist() == pytest.approx(expected)


def test_hashing_hardly_moves_the_similarity_of_sentences():
    said = [
        "I want to book a table for two people on Friday evening",
        "Please book me a table for two on Friday",
        "My parcel has not arrived although the tracking says so",
        "Where is my parcel? The tracking page says that it has arrived.",
        "Can I pay by card or do you only take cash at the door?",
    ]
    for i, one in enumerate(said):
        for j, other in enumerate(said):
            found = similarity(Texts.of(said), np.array([i]), np.array([j]))[0]
            assert found == pytest.approx(dice(trigrams(one), trigrams(other)), abs=0.03)


def test_similarity_of_many_pairs_equals_that_of_each():
    said = [f"message number {i * 7919} about order {i % 13}" for i in range(1500)]
    left = np.arange(1, 1500)
    together = similarity(Texts.of(said), left, left - 1)
    for i in (0, 511, 512, 777, 1498):
        alone = similarity(Texts.of(said), left[i : i + 1], left[i : i + 1] - 1)
        assert together[i] == alone[0]
