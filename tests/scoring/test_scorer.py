import gc
import json
import weakref
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.columns import to_batch
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring import load, score, scorer
from quietdesk.scoring.base import SEGMENT_LIMIT, Mean, Unit, Units
from quietdesk.scoring.catalogue import all_metrics, find_metrics
from quietdesk.scoring.scorer import N_WORST, Scorer, Tally
from quietdesk.scoring.scores import Scores

METRICS = ("bleu", "chrf", "labels", "resolved", "turns", "latency", "outcome")


def tally_of(talks, cuts=(), slices=("channel", "week")):
    """The tally of conversations that are read in batches, cut at these places."""
    it = Scorer(find_metrics(METRICS), slices)
    tally = Tally(it.fingerprint)
    for low, high in pairwise([0, *sorted(cuts), len(talks)]):
        tally.add(it.read(to_batch(talks[low:high])).tally)
    return tally


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 60), max_size=6))
def test_any_partition_gives_the_same_integers(make_talks, cuts):
    talks = make_talks(60, customers=20)
    whole, parts = tally_of(talks), tally_of(talks, cuts)
    assert parts.digest == whole.digest
    assert parts.worst["id"].to_pylist() == whole.worst["id"].to_pylist()
    metrics = find_metrics(METRICS)
    assert Scores(metrics, parts).remarks == Scores(metrics, whole).remarks


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(6)))
def test_the_order_of_shards_changes_no_sum(make_talks, order):
    talks = make_talks(60, customers=20)
    shards = [tally_of(talks[10 * i : 10 * i + 10]) for i in range(6)]
    total = Tally(shards[0].fingerprint)
    for place in order:
        total.add(Tally.from_bytes(shards[place].to_bytes()))
    whole = tally_of(talks)
    for name, state in whole.whole.items():
        assert total.whole[name].sums == state.sums
    assert (total.population == whole.population).all()
    assert (total.inputs == whole.inputs).all()


def test_a_changed_word_changes_the_digest(make_talks):
    talks = make_talks(20)
    reply = talks[3].messages[1].model_copy(update={"text": "no"})
    changed = talks[3].model_copy(update={"messages": (talks[3].messages[0], reply)})
    assert tally_of(talks).digest != tally_of([*talks[:3], changed, *talks[4:]]).digest


def test_a_tally_comes_back_from_its_bytes(make_talks):
    tally = tally_of(make_talks(40, customers=9), [7])
    again = Tally.from_bytes(tally.to_bytes())
    assert again.digest == tally.digest
    assert again.worst.equals(tally.worst)
    assert again.remarks == tally.remarks
    again.add(tally)
    assert again.n_conversations == 80


@pytest.mark.parametrize("data", [b"", b"7\nnothing", b"[1]", b"2\n{}x"])
def test_bytes_that_are_no_tally_are_refused(data):
    with pytest.raises(UsageError, match="no scores, or were cut short"):
        Tally.from_bytes(data)


def test_a_tally_that_was_cut_short_is_refused(make_talks):
    data = tally_of(make_talks(5)).to_bytes()
    for end in (len(data) // 3, len(data) - 5):
        with pytest.raises(UsageError, match="cut short"):
            Tally.from_bytes(data[:end])


def test_tallies_of_different_scorers_do_not_add(make_talks):
    tally = tally_of(make_talks(3))
    with pytest.raises(UsageError, match="other metrics or slices"):
        tally.add(tally_of(make_talks(3), slices=()))


def test_the_fingerprint_follows_metrics_options_and_slices():
    names = [["bleu"], ["chrf"], ["bleu:intl"], ["bleu", "chrf"]]
    prints = {Scorer(find_metrics(metrics)).fingerprint for metrics in names}
    prints.add(Scorer(find_metrics(["bleu"]), ["week"]).fingerprint)
    assert len(prints) == 5
    assert Scorer(find_metrics(["bleu"])).fingerprint == Scorer(find_metrics(["bleu"])).fingerprint


def test_slices_add_up_to_the_whole(make_talks):
    found = score(make_talks(50), METRICS, slices=["channel", "deep.team", "week"])
    for name in ("channel", "deep.team", "week"):
        parts = found.slices(name)
        for metric in ("bleu", "labels", "latency"):
            whole = found[metric]
            each = [e for estimates in parts.values() for e in estimates if e.name == metric]
            assert sum(e.n for e in each) == whole.n
            assert sum(e.n_missing for e in each) == whole.n_missing
    assert set(found.slices("channel")) == {"web", "app"}
    with pytest.raises(UnknownNameError, match="slice 'chanel'"):
        found.slices("chanel")


def test_a_slice_scores_as_its_conversations_alone(make_talks):
    talks = make_talks(60)
    sliced = score(talks, METRICS, slices=["channel"]).slices("channel")["web"]
    alone = score([t for t in talks if t.metadata["channel"] == "web"], METRICS)
    for estimate in sliced:
        if estimate.n:
            assert estimate.value == alone[estimate.name].value, estimate.name


def test_conversations_without_the_field_are_a_slice_of_their_own(make_talks):
    talks = [
        t.model_copy(update={"metadata": {}}) if i % 2 else t for i, t in enumerate(make_talks(10))
    ]
    assert set(score(talks, METRICS, slices=["channel"]).slices("channel")) >= {"", "web"}


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_field_with_too_many_values_is_left_out_however_it_is_read(make_talks, monkeypatch, size):
    monkeypatch.setattr(scorer, "SLICE_LIMIT", 30)
    talks = make_talks(60)
    tally = tally_of(talks, range(size, 60, size), ["id", "channel"])
    assert tally.dropped == {"id"}
    assert {name for name, _ in tally.parts} == {"channel"}


def test_rows_have_one_line_per_conversation(make_talks):
    talks = make_talks(8, customers=3)
    rows = score(talks, METRICS, slices=["channel"]).rows
    assert rows["id"].to_pylist() == [t.id for t in talks]
    assert rows["customer"].to_pylist() == [t.customer for t in talks]
    assert rows["messages"].to_pylist() == [len(t.messages) for t in talks]
    assert rows["channel"].to_pylist() == [t.metadata["channel"] for t in talks]
    assert rows["started"].to_pylist() == [t.messages[0].created_at for t in talks]
    assert {"badness", "bleu", "latency", "causes"} < set(rows.column_names)


def test_turns_have_one_line_per_message_and_metric(make_talks):
    talks = make_talks(6)
    reading = Scorer(find_metrics(["chrf", "latency"])).read(to_batch(talks))
    turns = reading.turns.to_pylist()
    scored = [t for t in turns if t["metric"] == "chrf"]
    expected = [
        (talk.id, place) for talk in talks for place, m in enumerate(talk.messages) if m.references
    ]
    assert [(t["conversation"], t["message"]) for t in scored] == expected
    assert all(0 <= t["value"] <= 100 for t in scored)


def test_no_metric_of_messages_leaves_no_turns(make_talks):
    reading = Scorer(find_metrics(["resolved"])).read(to_batch(make_talks(2)))
    assert reading.turns.num_rows == 0
    assert reading.turns.schema.names == [
        "conversation",
        "message",
        "message_id",
        "metric",
        "value",
    ]


class Given(Mean):
    name = "given"
    unit = Unit.CONVERSATION

    def look(self, conversations):
        return Units(
            np.arange(conversations.n), np.array([float(i) for i in conversations.ids.to_pylist()])
        )

    def badness(self, values):
        return values


def test_the_worst_conversations_are_kept_whole_worst_first(make_talks):
    talks = [t.model_copy(update={"id": str(i)}) for i, t in enumerate(make_talks(130))]
    order = np.random.default_rng(1).permutation(130)
    mixed = [talks[i] for i in order]
    batches = [to_batch(mixed[start : start + 40]) for start in range(0, 130, 40)]
    worst = score(batches, [Given()]).tally.worst
    assert worst["id"].to_pylist() == [str(i) for i in range(129, 129 - N_WORST, -1)]
    assert worst["messages"][0].as_py()[0]["text"] == talks[129].messages[0].text
    assert worst["score given"][0].as_py() == 129.0


def test_segments_are_kept_in_reading_order_up_to_their_limit(make_talks):
    batch = to_batch(make_talks(40))
    it = Scorer(find_metrics(["chrf"]))
    one = it.read(batch).tally.whole["chrf"]
    two = Tally(it.fingerprint)
    two.add(it.read(batch.slice(0, 13)).tally)
    two.add(it.read(batch.slice(13)).tally)
    assert (two.whole["chrf"].segments == one.segments).all()
    assert len(one.segments) == one.sums["n"]
    many = Tally(it.fingerprint)
    shard = it.read(batch).tally.to_bytes()
    for _ in range(SEGMENT_LIMIT // len(one.segments) + 2):
        many.add(Tally.from_bytes(shard))
    assert many.whole["chrf"].segments is None
    many.add(it.read(batch).tally)
    assert many.whole["chrf"].segments is None
    assert Scores(it.metrics, many)["chrf"].method == "bootstrap, clustered"


def test_columns_that_are_no_conversations_are_refused():
    with pytest.raises(UsageError, match=r"\['customer', 'messages'"):
        Scorer(find_metrics(["bleu"])).read(pa.record_batch({"id": ["a"]}))


def test_transcripts_and_batches_score_alike(make_talks):
    talks = make_talks(12)
    assert score(talks, METRICS).tally.digest == score([to_batch(talks)], METRICS).tally.digest


def test_nothing_to_score_gives_scores_without_values():
    found = score([], METRICS, slices=["channel"])
    assert found.tally.n_conversations == 0
    assert found.rows.num_rows == 0
    assert all(np.isnan(estimate.value) and estimate.n == 0 for estimate in found)


def test_every_value_has_an_interval_around_it(make_talks):
    for estimate in score(make_talks(80, customers=30), ["default"]):
        if estimate.n and not np.isnan(estimate.low):
            assert estimate.low <= estimate.value <= estimate.high, estimate
            assert estimate.n_clusters > 10


def test_few_customers_are_told(make_talks):
    found = score(make_talks(4), ["labels"])["labels"]
    assert found.method == "Wilson, clustered; too few customers to trust"


def test_scores_come_back_from_json(make_talks, tmp_path):
    found = score(make_talks(30), METRICS, slices=["channel"])
    path = tmp_path / "run.json"
    path.write_text(json.dumps(found.to_json()), encoding="utf-8")
    again = load(path)
    assert again.estimates == found.estimates
    assert again.slices("channel") == found.slices("channel")
    assert again.tally.digest == found.tally.digest
    data = json.loads(path.read_text())
    assert data["conversations"] == 30
    assert {"value", "low", "high", "n", "n_missing", "method"} < set(data["estimates"][0])


def test_own_metrics_are_asked_for_when_scores_are_loaded(make_talks, tmp_path):
    talks = [t.model_copy(update={"id": str(i)}) for i, t in enumerate(make_talks(12))]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(score(talks, [Given()]).to_json()), encoding="utf-8")
    with pytest.raises(UnknownNameError, match="metric 'given'"):
        load(path)
    assert load(path, [Given()])["given"].value == 5.5


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": "other"}'])
def test_a_file_that_holds_no_scores_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="no scores"):
        load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "absent.json")


def test_every_metric_says_what_it_is_and_when_it_misleads():
    for name, metric in all_metrics().items():
        assert name == metric.name
        assert metric.title, name
        assert len(metric.definition) > 20, name
        assert len(metric.misleads) > 10, name
        assert str(metric.signature({})), name


def test_metrics_are_found_by_name():
    assert [m.name for m in find_metrics(["chrf", "bleu:zh", "chrf"])] == ["chrf", "bleu:zh"]
    assert len(find_metrics(["default", "ter"])) == len(find_metrics(["default"])) + 1
    with pytest.raises(UnknownNameError, match="Did you mean 'chrf"):
        find_metrics(["chfr"])
    with pytest.raises(UnknownNameError, match="tokenizer 'flores200'"):
        find_metrics(["bleu:flores200"])


def test_a_batch_is_let_go_of_without_the_garbage_collector(make_talks):
    batch = to_batch(make_talks(5))
    it = Scorer(find_metrics(["default"]), ["channel"])
    gc.disable()
    try:
        reading = it.read(batch)
        assert reading.tally.n_conversations == 5
        assert reading.rows.num_rows == 5
        held = weakref.ref(reading.conversations)
        del reading
        assert held() is None
    finally:
        gc.enable()
