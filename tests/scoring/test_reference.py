import math
import socket
import subprocess
import sys

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from quietdesk.columns import to_batch
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring import corpus_score, reference, score, sentence_score
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.reference import TOKENIZERS, Bleu, Chrf, Ter
from quietdesk.types import Transcript, TranscriptMessage

OPTIONS = [
    ("bleu", BLEU, {}),
    ("bleu", BLEU, {"lowercase": True, "smooth_method": "add-k", "smooth_value": 2}),
    ("bleu", BLEU, {"smooth_method": "floor", "effective_order": True}),
    ("bleu", BLEU, {"max_ngram_order": 2, "smooth_method": "none"}),
    *(("bleu", BLEU, {"tokenize": tokenizer}) for tokenizer in TOKENIZERS),
    ("chrf", CHRF, {}),
    ("chrf", CHRF, {"whitespace": True, "beta": 3, "char_order": 4}),
    ("chrf", CHRF, {"eps_smoothing": True, "lowercase": True}),
    ("chrf++", CHRF, {}),
]


@pytest.fixture(scope="module")
def corpus(odd_pairs):
    """Hypotheses, and three lists of references in which some are missing."""
    pairs = odd_pairs(200, 31, 3)
    references = [
        [found[place] if place < len(found) else None for _, found in pairs] for place in range(3)
    ]
    return [said for said, _ in pairs], references


@pytest.mark.parametrize(("name", "kind", "options"), OPTIONS)
def test_a_corpus_score_is_sacrebleus_to_the_last_bit(corpus, name, kind, options):
    said, references = corpus
    metric = kind(**({"word_order": 2} if name == "chrf++" else {}), **options)
    for lists in (references[:1], references):
        theirs = metric.corpus_score(said, lists, n_bootstrap=20)
        mine = corpus_score(name, said, lists, n_bootstrap=20, **options)
        assert mine.score == theirs.score
        assert (mine.mean, mine.half_width) == (theirs._mean, theirs._ci)
        assert mine.signature == str(metric.get_signature())
        assert str(mine).startswith(f"{name}|{mine.signature} = {mine.score:.2f} (")


@pytest.mark.parametrize("options", [{}, {"normalized": True, "case_sensitive": True}])
def test_ter_is_sacrebleus(odd_pairs, options):
    pairs = odd_pairs(40, 33)
    said, references = [said for said, _ in pairs], [[found[0] for _, found in pairs]]
    mine, metric = corpus_score("ter", said, references, **options), TER(**options)
    assert mine.score == metric.corpus_score(said, references).score
    assert mine.signature == str(metric.get_signature())


def test_a_sentence_score_is_sacrebleus_with_effective_order(corpus):
    said, references = corpus
    metric, other = BLEU(effective_order=True), CHRF()
    for text, first, second in zip(said[:60], references[0], references[1], strict=False):
        known = [text for text in (first, second) if text is not None]
        assert sentence_score("bleu", text, known).score == metric.sentence_score(text, known).score
        assert sentence_score("chrf", text, known).score == other.sentence_score(text, known).score
    assert "eff:yes" in sentence_score("bleu", "a b", ["a c"]).signature


def test_scores_are_those_of_the_sacrebleu_program(tmp_path, corpus):
    # The program is line based, so it gets texts without line breaks.
    said = [" ".join(text.split()) for text in corpus[0]]
    meant = [" ".join(text.split()) for text in corpus[1][0]]
    (tmp_path / "said").write_text("\n".join(said) + "\n", encoding="utf-8")
    (tmp_path / "meant").write_text("\n".join(meant) + "\n", encoding="utf-8")
    for name in ("bleu", "chrf"):
        command = [
            sys.executable,
            "-m",
            "sacrebleu",
            str(tmp_path / "meant"),
            "-i",
            str(tmp_path / "said"),
        ]
        run = subprocess.run(
            [*command, "-m", name, "-f", "text", "-w", "6"],
            capture_output=True,
            text=True,
            check=True,
        )
        mine = corpus_score(name, said, [meant])
        assert f"|{mine.signature} = {mine.score:.6f}" in run.stdout


def test_half_a_surrogate_pair_is_scored_as_sacrebleu_does():
    said, meant = ["a \ud83d b c d", "x"], [["a \ud83d b c e", "x"]]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        assert corpus_score(name, said, meant).score == metric.corpus_score(said, meant).score


@pytest.mark.parametrize("tokenizer", ["flores200", "flores101", "spm", "spBLEU-1K"])
def test_tokenizers_that_would_be_downloaded_are_refused(monkeypatch, tokenizer):
    def connect(*_):
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(UsageError, match=f"{tokenizer!r} would be downloaded"):
        corpus_score("bleu", ["a"], [["a"]], tokenize=tokenizer)


@pytest.mark.parametrize(
    ("said", "references", "sentence"),
    [
        (["a", "b"], [["a"]], "2 hypotheses and 1 texts in reference list 0"),
        (["a", "b"], [["a", "b"], ["a"]], "1 texts in reference list 1"),
        (["a", "b"], [["a", None]], "Segment 1 has no reference"),
        (["a", 5], [["a", "b"]], "Hypothesis 1 is 5"),
        (["a"], ["a"], "stands where a list of texts belongs"),
        ("a", [["a"]], "stands where a list of texts belongs"),
        ([], [[]], "nothing to score"),
        (["a"], [], "nothing to score"),
    ],
)
def test_input_that_does_not_fit_is_refused(said, references, sentence):
    with pytest.raises(UsageError, match=sentence):
        corpus_score("bleu", said, references)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'chrf"):
        corpus_score("chfr", ["a"], [["a"]])
    with pytest.raises(UnknownNameError, match="tokenizer '13b'"):
        corpus_score("bleu", ["a"], [["a"]], tokenize="13b")
    with pytest.raises(UsageError, match="does not know these options"):
        corpus_score("chrf", ["a"], [["a"]], tokenise="13a")
    with pytest.raises(UsageError, match="must be a list of texts"):
        sentence_score("bleu", "a", "a")


@pytest.fixture(scope="module")
def logged(odd_pairs):
    """Conversations whose bot replies have no, one or several references."""
    pairs = odd_pairs(120, 41, 3)
    conversations = []
    for start in range(0, 120, 3):
        messages = []
        for place, (said, references) in enumerate(pairs[start : start + 3]):
            known = () if place == 2 else tuple(references)
            messages.append(
                TranscriptMessage(author="customer", text="and?", references=("no reply",))
            )
            messages.append(TranscriptMessage(author="bot", text=said, references=known))
        conversations.append(Transcript(id=f"c{start}", messages=tuple(messages)))
    kept = [pair for place, pair in enumerate(pairs) if place % 3 != 2]
    return conversations, kept


@pytest.mark.parametrize(
    ("metric", "name", "options"),
    [
        (Bleu(), "bleu", {}),
        (Bleu("intl", lowercase=True), "bleu", {"tokenize": "intl", "lowercase": True}),
        (Bleu("char"), "bleu", {"tokenize": "char"}),
        (Chrf(), "chrf", {}),
        (Chrf(2, lowercase=True), "chrf++", {"lowercase": True}),
        (Ter(), "ter", {}),
    ],
)
def test_the_bots_messages_of_a_log_score_as_the_same_pairs_in_a_corpus(
    logged, metric, name, options
):
    conversations, kept = logged
    references = [[r[i] if i < len(r) else None for _, r in kept] for i in range(3)]
    pairs = [said for said, _ in kept], references
    whole = corpus_score(name, *pairs, n_bootstrap=1000, **options)
    found = score(conversations, [metric])[metric.name]
    assert found.value == pytest.approx(whole.score, rel=1e-12 if name == "ter" else 0)
    assert (found.n, found.n_missing) == (80, 40)
    assert found.signature == corpus_score(name, *pairs, **options).signature
    assert found.segment_mean == pytest.approx(whole.mean, rel=1e-6 if name == "ter" else 0)
    assert found.segment_half_width == pytest.approx(
        whole.half_width, rel=1e-5 if name == "ter" else 0
    )


def test_without_a_customer_and_with_one_reply_each_the_interval_is_sacrebleus():
    rng = np.random.default_rng(2)
    words = ["please", "the", "refund", "order", "my", "is", "on", "way", "its", "today", "card"]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(120)]
    meant = [" ".join([*text.split()[:6], *rng.choice(words, 2)]) for text in texts]
    conversations = [
        Transcript(id=str(i), messages=(TranscriptMessage(author="bot", text=t, references=(m,)),))
        for i, (t, m) in enumerate(zip(texts, meant, strict=True))
    ]
    theirs = BLEU().corpus_score(texts, [meant], n_bootstrap=1000)
    found = score(conversations, ["bleu"])["bleu"]
    assert (found.low, found.high) == (theirs._mean - theirs._ci, theirs._mean + theirs._ci)
    assert found.method == "bootstrap of segments"
    named = [c.model_copy(update={"customer": f"u{int(c.id) // 4}"}) for c in conversations]
    clustered = score(named, ["bleu"])["bleu"]
    assert clustered.method == "bootstrap, clustered"
    assert (clustered.segment_mean, clustered.segment_half_width) == (theirs._mean, theirs._ci)


def test_each_reply_has_its_own_score_beside_it(logged):
    conversations, _ = logged
    found = score(conversations[:1], ["chrf"])
    first, second = (conversations[0].messages[i] for i in (1, 3))
    expected = np.mean(
        [sentence_score("chrf", m.text, m.references).score for m in (first, second)]
    )
    assert found.rows["chrf"].to_pylist() == [pytest.approx(expected)]


def test_a_log_without_references_says_that_nothing_was_measured():
    talk = Transcript(id="1", messages=(TranscriptMessage(author="bot", text="hello"),))
    found = score([talk], ["bleu"])["bleu"]
    assert math.isnan(found.value)
    assert (found.n, found.n_missing, found.method) == (0, 1, "nothing measured")


def test_segments_of_conversations_are_read_once_for_all_metrics(logged, monkeypatch):
    calls = []
    original = reference._segments
    monkeypatch.setattr(reference, "_segments", lambda c: calls.append(1) or original(c))
    conversations = Conversations(to_batch(logged[0]))
    for metric in (Bleu(), Chrf()):
        metric.measure(conversations)
    assert len(calls) == 1
