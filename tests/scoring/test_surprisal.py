"""Samples that do not depend on the order, and figures that do not depend on the logs' cut."""

import hashlib
import io
import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from quietdesk.columns import to_batch
from quietdesk.errors import UsageError
from quietdesk.scoring.base import Scale, histogram
from quietdesk.scoring.catalogue import check_takes_model, find_metrics, with_readings
from quietdesk.scoring.compare import compare
from quietdesk.scoring.page import page
from quietdesk.scoring.report import RowWriter, terminal
from quietdesk.scoring.scorer import Scorer, Tally
from quietdesk.scoring.scores import Scores, load, score
from quietdesk.scoring.surprisal import (
    Likelihood,
    Readings,
    Sample,
    Terms,
    metrics,
    read_sample,
    relevance_of,
    surprisal_of,
)
from quietdesk.types import Transcript, TranscriptMessage

TERMS = Terms("tiny", "a1b2c3", 512, "0011", "bot")


def read(conversation):
    """Figures of no model, which depend on the words: some are missing, some below 0."""
    found = []
    asked = False
    for place, said in enumerate(conversation.messages):
        asked |= said.author == "customer"
        if said.author != "bot":
            continue
        seed = hashlib.blake2b(f"{conversation.id} {said.text} {place}".encode(), digest_size=4)
        number = int.from_bytes(seed.digest(), "little")
        logprob = -(number % 5000) / 100 - 5
        without = logprob + (number % 700) / 100 - 2 if asked else math.nan
        one = Likelihood(place, 3 + number % 9, logprob, without, asked, n_cut=number % 10 == 0)
        if number % 6 == 1:
            one = one._replace(logprob=math.nan, without=math.nan, reason="there was no room")
        found.append(one)
    return found


def readings_of(talks, size=30, seed=1, terms=TERMS):
    sample = Sample(size, seed)
    sample.take(to_batch(talks))
    return read_sample(sample, read, terms)


def measured(talks, cuts, known):
    """The tally of the conversations, cut at these places."""
    scorer = Scorer(find_metrics(known), ["channel"])
    tally = Tally(scorer.fingerprint)
    bounds = [0, *sorted(cuts), len(talks)]
    for begin, end in pairwise(bounds):
        tally.add(scorer.read(to_batch(talks[begin:end])).tally)
    return Scores(scorer.metrics, tally)


@pytest.fixture(scope="module")
def talks(make_talks):
    return make_talks(80, customers=25)


@given(
    st.lists(st.sampled_from([f"talk {i}" for i in range(40)]), max_size=60),
    st.integers(1, 12),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
@settings(max_examples=30, deadline=None)
def test_a_sample_is_the_smallest_hashes_whatever_the_order_and_the_cut(ids, size, seed, rng):
    def order(name):
        key = seed.to_bytes(8, "little")
        return hashlib.blake2b(name.encode(), digest_size=8, key=key, person=b"sample").digest()[
            ::-1
        ]

    expected = sorted(ids, key=order)[:size]
    rng.shuffle(ids)
    sample = Sample(size, seed)
    while ids:
        n = rng.randint(1, len(ids))
        sample.take(to_batch([Transcript(id=name, messages=()) for name in ids[:n]]))
        ids = ids[n:]
    assert [one.id for one in sample.conversations()] == expected


def test_more_conversations_leave_in_a_sample_what_is_still_among_the_first(talks):
    def chosen(some):
        sample = Sample(20, 5)
        sample.take(to_batch(some))
        return {one.id for one in sample.conversations()}

    assert chosen(talks) & {one.id for one in talks[:60]} <= chosen(talks[:60])
    assert chosen(talks) != chosen(talks[:60])


def test_a_sample_of_nothing_or_with_no_seed_is_refused():
    for size, seed in ((0, 1), (-1, 1), (5, -1), (5, 2**63)):
        with pytest.raises(UsageError):
            Sample(size, seed)


@given(st.lists(st.integers(0, 80), max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_integers_are_the_same_for_any_cut(talks, cuts, rng):
    known = metrics(readings_of(talks))
    whole = measured(talks, [], known)
    assert measured(talks, cuts, known).tally.digest == whole.tally.digest
    mixed = talks.copy()
    rng.shuffle(mixed)
    again = measured(mixed, cuts, metrics(readings_of(mixed)))
    assert again.tally.digest == whole.tally.digest


def test_values_are_the_means_of_the_samples_figures(talks):
    readings = readings_of(talks)
    scores = measured(talks, [11, 40], metrics(readings))
    replies = [one for found in readings.found.values() for one in found]
    for name, figure in (("surprisal", surprisal_of), ("relevance", relevance_of)):
        figures = np.array([figure(one) for one in replies])
        found = scores[name]
        assert found.n == (~np.isnan(figures)).sum() > 20
        assert found.n_missing == np.isnan(figures).sum() > 0
        assert found.value == pytest.approx(np.nanmean(figures), abs=1e-6)
        assert found.low < found.value < found.high
    assert scores["relevance"].low < 0, "these figures are mostly below 0"
    total = scores.tally.whole["relevance"].totals
    assert total["sampled"].sum() == 30
    assert total["histogram"].sum() == scores["relevance"].n


def test_bins_of_nats_go_below_zero():
    counts = histogram(np.array([-99.0, -0.05, 0.05, 0.05, 99.0]), Scale.NATS)
    assert counts.sum() == 5
    assert (counts[0], counts[49], counts[50], counts[-1]) == (1, 1, 2, 1)


def test_why_something_is_not_measured_is_counted_and_placed(talks):
    readings = readings_of(talks)
    scores = measured(talks, [30], metrics(readings))
    replies = [one for found in readings.found.values() for one in found]
    gone = scores.remarks["relevance not measured: there was no room"]
    assert gone.count == sum(math.isnan(one.logprob) for one in replies)
    cut = scores.remarks["surprisal: older messages had no room in the model's context"]
    assert cut.count == sum(one.n_cut > 0 and not math.isnan(one.logprob) for one in replies)
    assert all(each.message is not None for each in [*gone.examples, *cut.examples])


def test_replies_that_stand_out_are_named(talks):
    readings = readings_of(talks)
    scorer = Scorer(metrics(readings))
    rows = {row["id"]: row for row in scorer.read(to_batch(talks)).rows.to_pylist()}
    replies = [one for found in readings.found.values() for one in found]
    low, high = np.nanquantile([surprisal_of(one) for one in replies], [0.25, 0.75])
    below, above = np.nanquantile([relevance_of(one) for one in replies], [0.25, 0.75])
    named = {"surprisal": 0, "relevance": 0}
    sample = Sample(30, 1)
    sample.take(to_batch(talks))
    for one in sample.conversations():
        expected = []
        for reply in read(one):
            if surprisal_of(reply) > high + 1.5 * (high - low):
                expected.append({"metric": "surprisal", "message": reply.place})
        for reply in read(one):
            if relevance_of(reply) < below - 1.5 * (above - below):
                expected.append({"metric": "relevance", "message": reply.place})
        assert rows[one.id]["causes"] == expected
        for cause in expected:
            named[cause["metric"]] += 1
    assert named["surprisal"] > 0 and named["relevance"] > 0


def test_an_id_that_comes_twice_is_told_apart_by_the_words():
    def talk(text):
        said = (("customer", "Hello?"), ("bot", text))
        return Transcript(
            id="same", messages=tuple(TranscriptMessage(author=a, text=t) for a, t in said)
        )

    both = [talk("Yes."), talk("No, not at all.")]
    readings = readings_of(both, size=1)
    assert len(readings.found) == 1
    scores = measured(both, [1], metrics(readings))
    assert scores["surprisal"].n + scores["surprisal"].n_missing == 1


def test_reports_say_who_read_how_much_and_hold_the_figures(talks, tmp_path):
    readings = readings_of(talks)
    scores = score(talks, ["turns", *metrics(readings)])
    told = "tiny (weights a1b2c3, 512 tokens of context) read the bot replies of 30 of 80"
    console = Console(width=300, file=io.StringIO())
    console.print(terminal(scores, 120))
    shown = console.file.getvalue()
    html = page(scores)
    for text in (shown, html):
        assert told in text
        assert "Relevance (nats per token)" in text
    assert shown.count("read the bot replies") == 1
    assert any(told in note for note in scores.to_json()["notes"])
    with RowWriter(tmp_path / "rows.parquet", "parquet") as writer:
        for batch in scores.rows.to_batches():
            writer.write(batch)
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["surprisal"].null_count >= 50
    assert min(value for value in table["relevance"].to_pylist() if value is not None) < 0


def test_what_was_kept_says_the_same_and_is_compared_under_the_same_terms_only(talks, tmp_path):
    scores = score(talks, metrics(readings_of(talks)))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(scores.to_json()))
    kept = load(path)
    assert kept.to_json() == scores.to_json()
    assert kept.notes == scores.notes
    assert "weights:a1b2c3" in kept["relevance"].signature
    assert compare(kept, scores).whole[0].difference == 0.0
    for changed in (
        readings_of(talks, seed=2),
        readings_of(talks, size=29),
        readings_of(talks, terms=Terms("tiny", "ffff", 512, "0011", "bot")),
        readings_of(talks, terms=Terms("tiny", "a1b2c3", 512, "0011", "bot,human")),
    ):
        with pytest.raises(UsageError, match="measured in two ways"):
            compare(kept, score(talks, metrics(changed)))


def test_parts_that_were_scored_with_another_sample_are_not_added(talks):
    before, after = (Scorer(metrics(readings_of(some))) for some in (talks[:60], talks))
    assert str(before.metrics[0].signature({})) == str(after.metrics[0].signature({}))
    assert before.fingerprint != after.fingerprint
    tally = Tally(before.fingerprint)
    with pytest.raises(UsageError, match="cannot be added"):
        tally.add(after.read(to_batch(talks)).tally)


def test_another_process_gets_the_table_with_the_metric(talks):
    scorer = Scorer(metrics(readings_of(talks)))
    sent = pickle.loads(pickle.dumps(scorer))
    batch = to_batch(talks)
    assert sent.fingerprint == scorer.fingerprint
    assert sent.read(batch).tally.digest == scorer.read(batch).tally.digest


def test_without_a_model_the_way_to_one_is_told(talks):
    with pytest.raises(UsageError, match="'relevance' needs a model: `quietdesk score LOGS"):
        score(talks, ["relevance"])


def test_metrics_that_take_a_model_get_it_and_a_model_that_none_takes_is_refused(talks):
    readings = readings_of(talks)
    assert [
        str(getattr(m, "name", m)) for m in with_readings(["turns", "relevance"], readings)
    ] == [
        "turns",
        "relevance",
    ]
    both = with_readings(["default"], readings)
    assert both[0] == "default"
    assert [metric.name for metric in find_metrics(both)][-2:] == ["surprisal", "relevance"]
    with pytest.raises(UsageError, match="Add surprisal or relevance"):
        check_takes_model(["turns", "bleu"])
    check_takes_model(["turns", "surprisal"])
    check_takes_model(["default"])


def test_an_empty_log_and_one_without_replies_measure_nothing():
    for some in ([], [Transcript(id="1", messages=())]):
        scores = score(some, metrics(readings_of(some)))
        assert math.isnan(scores["surprisal"].value)
        assert scores["surprisal"].n == 0


def test_readings_of_another_log_leave_the_metric_without_units(talks):
    scores = score(talks[:40], metrics(Readings(TERMS, {}, ["talk-1"])))
    assert scores["surprisal"].n == scores["surprisal"].n_missing == 0
