"""The kernels' integers are sacrebleu's; FUZZ_PAIRS=1000000 in the environment tries more."""

import os
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from quietdesk.errors import UsageError
from quietdesk.scoring.kernels import (
    Ragged,
    Segments,
    bleu_score,
    bleu_statistics,
    chrf_score,
    chrf_statistics,
    count_matches,
)
from quietdesk.scoring.reference import TOKENIZERS, words_of

N_PAIRS = int(os.environ.get("FUZZ_PAIRS", "20000"))
PIECE = 20_000


def segments_of(pairs):
    flat = [text for _, references in pairs for text in references]
    counts = [len(references) for _, references in pairs]
    return Segments.of([said for said, _ in pairs], flat, np.concatenate([[0], np.cumsum(counts)]))


def expected(metric, pairs):
    """Sacrebleu's integers, one segment at a time, so that reference numbers may differ."""
    rows = []
    for said, references in pairs:
        known = metric._extract_reference_info([metric._preprocess_segment(r) for r in references])
        rows.append(metric._compute_segment_statistics(metric._preprocess_segment(said), known))
    return np.array(rows)


def differing(mine, theirs, pairs):
    return [pairs[i] for i in np.flatnonzero((mine != theirs).any(axis=1))[:3]]


def pieces(share):
    """Sizes and seeds that together make `share` of all pairs."""
    wanted = max(int(N_PAIRS * share), 500)
    return [(min(PIECE, wanted - start), start) for start in range(0, wanted, PIECE)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("most_references", [1, 4])
def test_bleu_integers_are_sacrebleus_on_odd_texts(odd_pairs, tokenizer, most_references):
    metric, words = BLEU(tokenize=tokenizer, force=True), words_of(tokenizer)
    share = 0.4 if tokenizer == "13a" and most_references == 1 else 0.08
    for n, seed in pieces(share):
        pairs = odd_pairs(n, seed + most_references, most_references)
        mine = bleu_statistics(segments_of(pairs), words)
        assert differing(mine, expected(metric, pairs), pairs) == []


@pytest.mark.parametrize(("word_order", "most_references"), [(0, 1), (0, 3), (2, 1), (2, 3)])
def test_chrf_integers_are_sacrebleus_on_odd_texts(odd_pairs, word_order, most_references):
    metric = CHRF(word_order=word_order)
    for n, seed in pieces(0.1):
        pairs = odd_pairs(n, seed + 7 * most_references, most_references)
        mine = chrf_statistics(segments_of(pairs), word_order=word_order)
        assert differing(mine, expected(metric, pairs), pairs) == []


symbol_lists = st.lists(st.integers(0, 4), max_size=12)


@given(
    rows=st.lists(st.lists(symbol_lists, min_size=3, max_size=3), max_size=8),
    order=st.integers(1, 7),
)
def test_matches_of_any_rows_are_those_of_counting_one_by_one(rows, order):
    texts = [text for row in rows for text in row]
    members = np.arange(len(texts)).reshape(-1, 3)
    found = count_matches(ragged(texts), members, order)
    assert found.tolist() == [counted(*row, order=order) for row in rows]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([3, 900, 3_000, 50_000]))
def test_matches_are_right_with_more_symbols_than_a_packed_ngram_tells_apart(seed, spread):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(6):
        said = rng.integers(0, spread, rng.integers(0, 2500)).tolist()
        rows.append([said, [*said[: len(said) // 2], *rng.integers(0, spread, 40).tolist()]])
    texts = [text for row in rows for text in row]
    found = count_matches(ragged(texts), np.arange(12).reshape(-1, 2), 6)
    assert found.tolist() == [counted(*row, order=6) for row in rows]


def ragged(texts):
    flat = np.array([symbol for text in texts for symbol in text], np.int64)
    return Ragged(
        flat, np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    )


def counted(said, *others, order):
    def ngrams(text, n):
        return Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1))

    found = []
    for n in range(1, order + 1):
        best = Counter()
        for other in others:
            best |= ngrams(other, n)
        found.append((ngrams(said, n) & best).total())
    return found


def test_a_segments_integers_do_not_depend_on_its_neighbours(odd_pairs):
    pairs = odd_pairs(300, 5, 3)
    words = words_of("intl")
    whole = bleu_statistics(segments_of(pairs), words)
    alone = [bleu_statistics(segments_of([pair]), words)[0] for pair in pairs]
    assert (whole == np.array(alone)).all()


def test_one_giant_text_among_small_ones_is_counted_right():
    pairs = [
        ("thank you " * 40_000, ["thank you so much " * 20_000]),
        ("", [""]),
        ("a", ["a", "b"]),
    ]
    mine = chrf_statistics(segments_of(pairs))
    assert (mine == expected(CHRF(), pairs)).all()
    assert (bleu_statistics(segments_of(pairs), words_of("13a")) == expected(BLEU(), pairs)).all()


def test_chinese_text_of_thousands_of_different_characters_is_counted_right():
    rng = random.Random(3)
    pairs = []
    for _ in range(400):
        said = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(rng.randint(5, 40)))
        pairs.append((said, [said[:9] + said[12:], "退款"]))
    assert (chrf_statistics(segments_of(pairs)) == expected(CHRF(), pairs)).all()
    words = words_of("zh")
    assert (
        bleu_statistics(segments_of(pairs), words) == expected(BLEU(tokenize="zh"), pairs)
    ).all()


@pytest.mark.parametrize("whitespace", [True, False])
@pytest.mark.parametrize("beta", [1, 3])
def test_chrf_options_change_the_integers_as_in_sacrebleu(odd_pairs, whitespace, beta):
    pairs = odd_pairs(300, 11, 3)
    metric = CHRF(char_order=4, word_order=1, beta=beta, whitespace=whitespace)
    mine = chrf_statistics(
        segments_of(pairs), char_order=4, word_order=1, beta=beta, whitespace=whitespace
    )
    assert differing(mine, expected(metric, pairs), pairs) == []


def test_vectorised_scores_are_those_of_sacrebleu(odd_pairs):
    pairs = odd_pairs(3000, 13)
    bleu = bleu_statistics(segments_of(pairs), words_of("13a"))
    plain, effective = BLEU(), BLEU(effective_order=True)
    for row, whole, sentence in zip(
        bleu.tolist(), bleu_score(bleu), bleu_score(bleu, effective=True), strict=True
    ):
        assert whole == pytest.approx(plain._compute_score_from_stats(row).score, rel=1e-12)
        assert sentence == pytest.approx(effective._compute_score_from_stats(row).score, rel=1e-12)
    chrf = chrf_statistics(segments_of(pairs))
    for row, score in zip(chrf.tolist(), chrf_score(chrf), strict=True):
        assert score == CHRF()._compute_f_score(row)


def test_lengths_that_differ_are_refused():
    with pytest.raises(UsageError, match=r"3 hypotheses and 2 references"):
        Segments.of(["a", "b", "c"], ["a", "b"])
    with pytest.raises(UsageError, match=r"Segment 1 has no reference"):
        Segments.of(["a", "b"], ["a", "b"], [0, 2, 2])
    with pytest.raises(UsageError, match=r"offsets speak of 1 hypotheses"):
        Segments.of(["a", "b"], ["a", "b"], [0, 2])


def test_words_are_forgotten_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr("quietdesk.scoring.kernels.MEMO_LIMIT", 10)
    words, metric = words_of("13a"), BLEU()
    for start in range(0, 60, 20):
        pairs = [
            (f"order {i} is late.", [f"order {i + 1} is late."]) for i in range(start, start + 20)
        ]
        mine = bleu_statistics(segments_of(pairs), words)
        assert (mine == expected(metric, pairs)).all()
    assert sum(map(len, words._memory)) < 60
