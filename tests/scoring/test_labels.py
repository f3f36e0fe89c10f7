import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer

from quietdesk.columns import to_batch
from quietdesk.scoring import base, labels, score
from quietdesk.scoring.base import Unit
from quietdesk.scoring.labels import Labels, confusion_of, names_in
from quietdesk.scoring.report import left_out
from quietdesk.types import Transcript, TranscriptMessage

CLASSES = ["refund", "order", "other", "a b", "ü"]


def conversations_of(pairs, size=3, name="intent"):
    """Messages with these true and predicted labels, some to a conversation."""
    messages = [
        TranscriptMessage(
            author="customer",
            text="?",
            labels={} if true is None else {name: true},
            predictions={} if guess is None else {name: guess},
        )
        for true, guess in pairs
    ]
    return [
        Transcript(id=f"c{start}", messages=tuple(messages[start : start + size]))
        for start in range(0, len(messages), size)
    ]


def values_of(pairs, **more):
    found = score(conversations_of(pairs, **more), [Labels()])
    return {estimate.name.removeprefix("labels.intent."): estimate.value for estimate in found}


single = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=60)
@given(single)
def test_measures_of_single_labels_are_scikit_learns(pairs):
    true, guess = zip(*pairs, strict=True)
    found = values_of([((t,), (g,)) for t, g in pairs])
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, guess))
    labels = sorted({*true, *guess})
    with warnings.catch_warnings():
        # Scikit-learn warns where there is one class, and gives NaN, as it is given here.
        warnings.simplefilter("ignore")
        kappa = sk.cohen_kappa_score(true, guess)
        assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(true, guess))
    assert found["kappa"] == pytest.approx(kappa, nan_ok=True)
    check_averages(found, true, guess)
    each = sk.precision_recall_fscore_support(true, guess, labels=labels, zero_division=0)
    for place, label in enumerate(labels):
        for row, measure in enumerate(("precision", "recall", "f1")):
            assert found[f"{measure}.{label}"] == pytest.approx(each[row][place])


def check_averages(found, true, guess):
    for average in ("micro", "macro", "weighted"):
        theirs = sk.precision_recall_fscore_support(true, guess, average=average, zero_division=0)
        for measure, value in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
            assert found[f"{measure}_{average}"] == pytest.approx(value)


label_sets = st.lists(st.sampled_from(CLASSES), max_size=3, unique=True).map(tuple)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(label_sets, label_sets), min_size=1, max_size=30))
def test_measures_of_several_labels_are_scikit_learns(pairs):
    known = sorted({label for pair in pairs for side in pair for label in side})
    if not known:
        return
    found = values_of(pairs)
    encoder = MultiLabelBinarizer(classes=known)
    true = encoder.fit_transform([pair[0] for pair in pairs])
    guess = encoder.transform([pair[1] for pair in pairs])
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, guess))
    if len(known) > 1:
        # A table of one column is a binary problem for scikit-learn, with "no" as a class too.
        check_averages(found, true, guess)
    assert found["hamming_score"] == pytest.approx(1 - sk.hamming_loss(true, guess))
    several = any(len(side) != 1 for pair in pairs for side in pair)
    assert math.isnan(found["mcc"]) == several


@settings(deadline=None, max_examples=30)
@given(single)
def test_the_confusion_matrix_is_scikit_learns(pairs):
    found = score(conversations_of([((t,), (g,)) for t, g in pairs]), [Labels()])
    totals = found.tally.whole["labels"].totals
    assert names_in(totals) == ["intent"]
    confusion = confusion_of(totals, "intent")
    true, guess = zip(*pairs, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        theirs = sk.confusion_matrix(true, guess, labels=confusion.classes)
    assert confusion.counts.tolist() == theirs.tolist()


def test_messages_without_both_labels_are_not_measured():
    pairs = [(("a",), ("a",)), (("a",), None), (None, ("b",)), (None, None), (("b",), ())]
    found = score(conversations_of(pairs), [Labels()])["labels"]
    # No label is an answer too: the last one was predicted to have none, and is wrong.
    assert (found.value, found.n, found.n_missing) == (0.5, 2, 2)


def test_labels_twice_in_a_list_count_once():
    assert values_of([(("a", "a"), ("a",))])["accuracy"] == 1.0


def test_labels_of_conversations_are_measured_apart_from_those_of_messages():
    talks = [
        Transcript(
            id=str(i), messages=(), labels={"resolved": ("yes",)}, predictions={"resolved": (p,)}
        )
        for i, p in enumerate(["yes", "no", "yes", "yes"])
    ]
    found = score(talks, [Labels(Unit.CONVERSATION), Labels()])
    assert found["conversation-labels.resolved.accuracy"].value == 0.75
    assert found["labels"].n == 0


def test_several_names_are_measured_side_by_side():
    message = TranscriptMessage(
        author="customer",
        text="?",
        labels={"intent": ("a",), "mood": ("bad",)},
        predictions={"intent": ("a",), "mood": ("good",)},
    )
    found = score([Transcript(id="1", messages=(message,))], [Labels()])
    assert found["labels.intent.accuracy"].value == 1.0
    assert found["labels.mood.accuracy"].value == 0.0
    assert found["labels"].value == 0.0


def test_labels_never_true_are_counted_and_located():
    pairs = [(("a",), ("a",)), (("a",), ("odd",)), (("b",), ("b",)), (("a",), ("odd",))]
    remarks = score(conversations_of(pairs), [Labels()]).remarks
    (text,) = remarks
    assert text == "intent 'odd' is predicted, and is never the true label"
    assert remarks[text].count == 2
    first = remarks[text].examples[0]
    assert (first.conversation_id, first.message) == ("c0", 1)


def test_a_label_that_is_true_in_a_later_batch_is_not_remarked_on():
    first = conversations_of([(("a",), ("late",))])
    second = conversations_of([(("late",), ("late",))])
    assert score([to_batch(first), to_batch(second)], [Labels()]).remarks == {}


def test_intervals_of_accuracy_are_wilsons():
    rng = np.random.default_rng(1)
    pairs = [
        ((t,), (t if rng.random() < 0.8 else "other",)) for t in rng.choice(CLASSES, 300).tolist()
    ]
    found = score(conversations_of(pairs, size=1), [Labels()])
    accuracy = found["labels.intent.accuracy"]
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.method == "Wilson, clustered"
    macro = found["labels.intent.f1_macro"]
    assert macro.low < macro.value < macro.high


def test_a_wrong_label_points_at_its_message():
    found = score(conversations_of([(("a",), ("a",)), (("a",), ("b",))]), [Labels()])
    assert found.rows["causes"].to_pylist() == [[{"metric": "labels", "message": 1}]]


@pytest.mark.parametrize("size", [7, 40, 300])
def test_labels_that_are_free_text_are_left_out_however_they_are_read(monkeypatch, size):
    for module in (base, labels):
        monkeypatch.setattr(module, "FAMILY_LIMIT", 100)
    pairs = [((f"note {i}",), (f"note {i}",)) for i in range(60)]
    talks = conversations_of(pairs, size=1, name="note")
    named = conversations_of([(("a",), ("b",))], name="intent")
    batches = [to_batch(talks[start : start + size]) for start in range(0, 60, size)]
    found = score([*batches, to_batch(named)], [Labels()])
    state = found.tally.whole["labels"]
    assert state.left_out == ["note"]
    assert not any("note" in name for name in state.cells if not name.startswith("total left out"))
    assert found["labels.intent.accuracy"].value == 0.0
    assert found["labels"].value == 60 / 61
    assert "'note' has too many different labels; it is left out." in left_out(found)
    whole = score([to_batch([*talks, *named])], [Labels()])
    assert whole.tally.digest == found.tally.digest
