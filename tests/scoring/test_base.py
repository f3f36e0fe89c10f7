import math
import re

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.columns import to_batch
from quietdesk.errors import UsageError
from quietdesk.scoring import base, score
from quietdesk.scoring.base import (
    MILLION,
    N_BUCKETS,
    NO_TIME,
    Better,
    Category,
    Conversations,
    Mean,
    Measurement,
    Rate,
    Ratio,
    Scale,
    State,
    Unit,
    Units,
    bin_middle,
    bin_of,
    bucket_of,
    histogram,
)
from quietdesk.types import Transcript, TranscriptMessage


def talk(name, *texts, **fields):
    """A conversation of the customer and the bot in turns."""
    messages = tuple(
        TranscriptMessage(author=("customer", "bot")[place % 2], text=text)
        for place, text in enumerate(texts)
    )
    return Transcript(id=name, messages=messages, **fields)


def conversations_of(*talks):
    return Conversations(to_batch(talks))


def test_the_example_of_an_own_metric_works_as_it_stands():
    code = re.search(r"    import pyarrow.*?    quietdesk", base.__doc__, re.DOTALL).group()
    lines = [line[4:] for line in code.splitlines()[:-1]]
    names = {}
    exec("\n".join(lines), names)
    talks = [talk("1", "hi", "Thanks!", "ok", "Bye."), talk("2", "hi", "thank you")]
    found = score(talks, metrics=[names["Thanks"](), "chrf"])
    assert found["thanks"].value == pytest.approx(2 / 3)
    assert found["thanks"].n == 3


def test_buckets_are_the_same_in_every_process_and_version():
    # Written down once: runs of different dates are compared by bucket.
    assert [bucket_of("ann", "1"), bucket_of("bob", "1"), bucket_of(None, "1")] == [
        414,
        403,
        3288,
    ]
    assert bucket_of(None, "ann") != bucket_of("ann", "x")


def test_a_customers_conversations_share_a_bucket():
    found = conversations_of(
        talk("a", customer="x"), talk("b", customer="x"), talk("c", customer="y"), talk("d")
    ).buckets
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 3
    assert found.min() >= 0
    assert found.max() < N_BUCKETS


def test_messages_know_their_conversation_place_author_and_time(make_talks):
    talks = make_talks(5)
    seen = Conversations(to_batch(talks).slice(1, 3))
    flat = [(i, j, m) for i, t in enumerate(talks[1:4]) for j, m in enumerate(t.messages)]
    assert seen.n_messages == len(flat)
    assert seen.conversation_of.tolist() == [i for i, _, _ in flat]
    assert seen.position_of.tolist() == [j for _, j, _ in flat]
    assert seen.texts.to_pylist() == [m.text for _, _, m in flat]
    assert [base.AUTHORS[code] for code in seen.authors] == [m.author for _, _, m in flat]
    micros = [round(m.created_at.timestamp() * MILLION) for _, _, m in flat]
    assert seen.times.tolist() == micros
    replies = seen.said_by("bot")
    assert replies.tolist() == [k for k, (_, _, m) in enumerate(flat) if m.author == "bot"]
    assert seen.references.lengths.tolist() == [len(m.references) for _, _, m in flat]


def test_an_unknown_time_is_none():
    assert conversations_of(talk("a", "hi")).times.tolist() == [NO_TIME]
    assert conversations_of(talk("a", "hi")).field("week").to_pylist() == [None]


def test_fields_are_found_in_metadata_labels_predictions_and_the_calendar(make_talks):
    talks = [
        *make_talks(1),
        talk("x", labels={"team": ("b", "a")}, predictions={"mood": ("bad",)}, metadata={"n": 3}),
        talk("y", metadata={"team": "c", "n": None}, labels={"team": ("z",)}, customer="me"),
    ]
    seen = conversations_of(*talks)
    assert seen.field("team").to_pylist() == [None, "a, b", "c"]
    assert seen.field("mood").to_pylist() == [None, "bad", None]
    assert seen.field("n").to_pylist() == [None, "3", None]
    assert seen.field("deep.team").to_pylist() == ["0", None, None]
    assert seen.field("deep.team.more").to_pylist() == [None, None, None]
    assert seen.field("week").to_pylist() == ["2025-W02", None, None]
    assert seen.field("month").to_pylist() == ["2025-01", None, None]
    assert seen.field("day").to_pylist() == ["2025-01-06", None, None]
    assert seen.field("customer").to_pylist() == [None, None, "me"]
    assert seen.field("id").to_pylist()[1:] == ["x", "y"]


def test_an_empty_batch_is_read_like_any_other():
    seen = conversations_of()
    assert (seen.n, seen.n_messages) == (0, 0)
    for part in (seen.authors, seen.times, seen.buckets, seen.conversation_of, seen.said_by("bot")):
        assert len(part) == 0
    assert len(seen.field("week")) == 0


def test_labels_of_one_name_are_found_for_each_message():
    message = TranscriptMessage(author="bot", text="", labels={"a": ("x", "y"), "b": ("z",)})
    other = TranscriptMessage(author="bot", text="", labels={"b": ()})
    seen = conversations_of(Transcript(id="1", messages=(message, other, message)))
    found = seen.labels("a", unit=Unit.MESSAGE)
    assert found.lengths.tolist() == [2, 0, 2]
    assert found.values.to_pylist() == ["x", "y", "x", "y"]
    assert seen.labels("a", unit=Unit.MESSAGE, predicted=True).lengths.tolist() == [0, 0, 0]


class Given(Mean):
    """A mean of figures that the test chooses."""

    name = "given"
    unit = Unit.CONVERSATION
    quantiles = (0.5, 0.9)

    def __init__(self, figures, measured=None):
        self.figures, self.known = np.array(figures), measured

    def look(self, conversations):
        known = None if self.known is None else np.array(self.known)
        return Units(np.arange(conversations.n), self.figures[: conversations.n], known)


def test_a_mean_is_kept_in_millionths():
    talks = [talk(str(i)) for i in range(3)]
    found = score(talks, [Given([0.1, 0.2, 0.00000149])])
    assert found.tally.whole["given"].sums["sum"] == 300_001
    assert found["given"].value == pytest.approx(0.300001 / 3, abs=1e-12)


@pytest.mark.parametrize("odd", [-1.0, math.inf, math.nan, 2e9])
def test_a_real_that_cannot_be_summed_is_not_measured(odd):
    found = score([talk("a"), talk("b")], [Given([odd, 4.0])])["given"]
    assert (found.value, found.n, found.n_missing) == (4.0, 1, 1)


def test_what_is_not_measured_is_neither_failed_nor_averaged_in():
    talks = [talk(str(i)) for i in range(4)]
    found = score(talks, [Given([1.0, 2.0, 50.0, 3.0], [True, True, False, True])])
    assert (found["given"].value, found["given"].n, found["given"].n_missing) == (2.0, 3, 1)
    assert found.rows["given"].to_pylist() == [1.0, 2.0, None, 3.0]


@given(st.lists(st.floats(0.002, 1e6), min_size=1, max_size=60))
@settings(deadline=None, max_examples=50)
def test_a_quantile_is_right_to_half_a_bin(figures):
    talks = [talk(str(i)) for i in range(len(figures))]
    found = score(talks, [Given(figures)])
    for name, q in (("given.p50", 0.5), ("given.p90", 0.9)):
        exact = np.quantile(figures, q, method="inverted_cdf")
        assert found[name].value == pytest.approx(exact, rel=0.0222)


def test_a_bins_middle_lies_in_the_bin():
    reals = np.geomspace(1e-3, 1e9, 5000)
    codes = bin_of(reals)
    middles = np.array([bin_middle(int(code)) for code in codes])
    assert (bin_of(middles) == codes).all()
    assert (np.abs(middles / reals - 1) < 0.0222).all()
    assert bin_of(np.array([0.0, 0.0009])).tolist() == [0, 0]


class Asks(Ratio):
    name = "asks"
    unit = Unit.CONVERSATION
    better = Better.LOWER

    def look(self, conversations):
        asked = pc.match_substring(conversations.texts, "?").to_numpy(zero_copy_only=False)
        n = conversations.n
        over = np.bincount(conversations.conversation_of, weights=asked, minlength=n)
        return Units(np.arange(n), np.stack([over, np.diff(conversations.offsets)], axis=1))


def test_a_ratio_divides_the_sums_and_not_the_conversations():
    found = score([talk("1", "a?", "b?"), talk("2", *"abcdef"), talk("3")], [Asks()])
    assert found["asks"].value == 2 / 8
    assert (found["asks"].n, found["asks"].n_missing) == (2, 1)


class Mood(Category):
    name = "mood"
    unit = Unit.CONVERSATION
    categories = ("bad", "fair", "good")
    levels = (1.0, 2.0, 4.0)
    better = Better.HIGHER

    def look(self, conversations):
        codes = [int(name) - 1 for name in conversations.ids.to_pylist()]
        return Units(np.arange(conversations.n), np.array(codes, np.int64))


def test_categories_give_a_mean_level_and_shares():
    found = score([talk("1"), talk("3"), talk("3"), talk("0")], [Mood()])
    assert found["mood"].value == 3.0
    assert [found[f"mood.{name}"].value for name in Mood.categories] == [1 / 3, 0.0, 2 / 3]
    assert (found["mood"].n, found["mood"].n_missing) == (3, 1)
    assert found.tally.whole["mood"].totals["histogram"].tolist() == [1, 0, 2]
    assert Mood().scale_of("mood") is Scale.NUMBER
    assert Mood().badness(np.array([1.0, 4.0])).tolist() == [1.0, 0.0]


class Long(Rate):
    name = "long"
    better = Better.LOWER

    def look(self, conversations):
        return Units(np.arange(conversations.n), np.diff(conversations.offsets) > 2)


def test_badness_follows_the_good_direction():
    values = np.array([0.0, 0.25, np.nan])
    assert Long().badness(values)[:2].tolist() == [0.0, 0.25]

    class Good(Long):
        better = Better.HIGHER

    class Neutral(Long):
        better = Better.NEITHER

    assert Good().badness(values)[:2].tolist() == [1.0, 0.75]
    assert Neutral().badness(values) is None


def test_two_metrics_of_one_name_are_refused():
    class Again(Long):
        pass

    with pytest.raises(UsageError, match="'long'"):
        base.check_names([Long(), Again()])


def test_a_sum_that_leaves_64_bits_is_an_error_and_not_a_negative_number():
    states = [State({"sum": np.array([2**62], np.int64), "n": np.array([1])}) for _ in range(2)]
    states[0].add(states[0].__class__({"sum": np.array([2**61], np.int64), "n": np.array([1])}))
    with pytest.raises(OverflowError, match="64-bit"):
        states[0].add(states[1])


def test_cells_of_different_lengths_add_up():
    state = State({"total histogram": np.array([1, 2])})
    state.add(State({"total histogram": np.array([1, 1, 5]), "n": np.array([3])}))
    state.add(State({"total histogram": np.array([4])}))
    assert state.totals["histogram"].tolist() == [6, 3, 5]
    assert state.sums == {"n": 3}


def test_histograms_hold_every_value():
    shares = histogram(np.array([0.0, 0.049, 0.05, 1.0]), Scale.SHARE)
    assert (shares[0], shares[1], shares[-1], shares.sum()) == (2, 1, 1, 4)
    assert histogram(np.array([-3.0, 1e12]), Scale.NUMBER).sum() == 2


def test_a_measurement_without_units_adds_nothing():
    found = Measurement(
        np.zeros(0, np.int64), np.zeros(0, np.bool_), {"hits": np.zeros(0, np.int64)}, np.zeros(0)
    )
    nothing = np.zeros(0, np.int64)
    assert State.of(Long(), found, nothing, nothing, N_BUCKETS).sums == {"hits": 0, "n": 0}
