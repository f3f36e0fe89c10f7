from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from quietdesk.scoring import friction
from quietdesk.scoring.base import Unit

C, B, H = "customer", "bot", "human"
SPANISH = [(C, "Hola, no puedo entrar en mi cuenta"), (B, "Lo siento, no te he entendido")]


def figures(metric, conversations):
    """Conversation or message row to value; NaN where not measured."""
    found = metric.measure(conversations)
    return dict(zip(found.index.tolist(), found.values.tolist(), strict=True))


def causes(metric, conversations):
    return metric.measure(conversations).causes.tolist()


def only(metric, conversations):
    values = figures(metric, conversations)
    assert list(values) == [0]
    return values[0]


def test_turns_count_runs_of_customer_messages(talk):
    batch = talk(
        [(C, "hi"), (C, "are you there"), (B, "yes"), (C, "good")],
        [(B, "hello"), (B, "anyone?")],
        [(C, "hi"), ("system", "note"), (C, "hello")],
    )
    assert figures(friction.Turns(), batch) == {0: 2.0, 2: 1.0}


def test_the_same_wish_in_nearly_the_same_words_is_a_rephrasing(talk):
    batch = talk(
        [
            (C, "I want to cancel my order from yesterday"),
            (B, "Which product are you interested in?"),
            (C, "I'd like to cancel my order of yesterday"),
            (B, "Sorry?"),
            (C, "The weather is lovely in this town"),
        ]
    )
    assert only(friction.Rephrasing(), batch) == 0.5
    assert causes(friction.Rephrasing(), batch) == [2]


def test_a_rephrasing_may_skip_one_message_but_not_two(talk):
    wish = "please send the invoice for order 4711"
    others = ["my name is Robert Miller by the way", "and I live in Hamburg since last year"]
    assert only(friction.Rephrasing(), talk([(C, wish), (C, others[0]), (C, wish)])) == 0.5
    far = talk([(C, wish), (C, others[0]), (C, others[1]), (C, wish)])
    assert only(friction.Rephrasing(), far) == 0.0


def test_short_messages_are_no_rephrasing(talk):
    assert figures(friction.Rephrasing(), talk([(C, "yes please"), (C, "yes please")])) == {}


def test_a_rephrasing_stays_inside_its_conversation(talk):
    said = [(C, "I want to cancel my order from yesterday")]
    assert figures(friction.Rephrasing(), talk(said, said)) == {}


@pytest.mark.parametrize(
    ("replies", "loops"),
    [
        (["Which size do you need today?", "Fine.", "Which size do you need today?"], True),
        (["Please tell me your order number 1.", "Please tell me your order number 2."], True),
        (["Which size do you need today?", "Which colour shall the frame have?"], False),
        (["Is there anything else I can do?", "Is there anything else I can do?"], False),
        (["Yes.", "Yes."], False),
    ],
)
def test_a_bot_that_says_the_same_again_is_in_a_loop(talk, replies, loops):
    said = [pair for reply in replies for pair in ((C, "hm"), (B, reply))]
    assert only(friction.BotLoops(), talk(said)) == float(loops)


def test_loops_do_not_cross_conversations(talk):
    said = [(B, "Which size do you need today?")]
    assert figures(friction.BotLoops(), talk(said, said)) == {0: 0.0, 1: 0.0}


@pytest.mark.parametrize(
    ("metric", "said", "value", "places"),
    [
        (friction.Apologies(), [(B, "I'm sorry."), (B, "Here it is.")], 0.5, [0]),
        (friction.Misunderstandings(), [(B, "Could you rephrase that?")], 1.0, [0]),
        (friction.Misunderstandings(), [(B, "Your order is on its way.")], 0.0, []),
        (friction.Refusals(), [(B, "There are no rooms."), (B, "It is booked for you.")], 0.5, [0]),
        (friction.Complaints(), [(C, "This is ridiculous, it doesn't work")], 1.0, [0]),
        (friction.Complaints(), [(C, "How do I return my order?")], 0.0, []),
        (friction.AsksForHuman(), [(C, "Let me speak to a human please")], 1.0, [0]),
        (friction.AsksForHuman(), [(C, "I spoke to my sister")], 0.0, []),
        (friction.Corrections(), [(B, "A cat?"), (C, "No, that's not what I said")], 1.0, [1]),
        (friction.Corrections(), [(B, "A cat?"), (C, "Yes, the black one")], 0.0, []),
        (friction.Unanswered(), [(C, "Where is it?"), (B, "In the shop.")], 0.0, []),
        (friction.Unanswered(), [(C, "Where is it?"), (B, "I don't understand.")], 1.0, [0]),
        (friction.Unanswered(), [(B, "The hotel is nice."), (C, "Is it far?")], 1.0, [1]),
        (friction.Unanswered(), [(C, "what about dogs"), (B, "They are welcome here.")], 0.0, []),
    ],
)
def test_truth_table(talk, metric, said, value, places):
    batch = talk(said)
    assert only(metric, batch) == value
    assert causes(metric, batch) == places


ENGLISH_ONLY = [
    friction.Apologies(),
    friction.Misunderstandings(),
    friction.Refusals(),
    friction.Complaints(),
    friction.AsksForHuman(),
    friction.SentimentShift(),
]


@pytest.mark.parametrize("metric", ENGLISH_ONLY, ids=lambda metric: metric.name)
def test_another_language_is_not_measured_rather_than_guessed(talk, metric):
    found = metric.measure(talk([*SPANISH, *SPANISH]))
    assert found.index.tolist() == [0]
    assert found.measured.tolist() == [False]
    assert found.causes is None or found.causes.tolist() == []


def times(*seconds):
    start = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
    return [None if s is None else start + timedelta(seconds=s) for s in seconds]


def timed(authors, stamps, texts=None):
    return [
        {"author": author, "text": text, "created_at": stamp}
        for author, stamp, text in zip(
            authors, stamps, texts or ["some words"] * len(authors), strict=True
        )
    ]


def test_latency_is_from_the_last_question_to_the_first_reply(talk):
    said = timed([C, C, B, B, C, H], times(0, 10, 12.5, 20, 30, 90))
    assert friction.Latency().unit is Unit.MESSAGE
    assert figures(friction.Latency(), talk(said)) == {2: 2.5, 5: 60.0}


def test_latency_without_both_times_or_backwards_is_not_measured(talk):
    values = figures(friction.Latency(), talk(timed([C, B, C, B], times(0, None, 50, 40))))
    assert list(values) == [1, 3]
    assert np.isnan(list(values.values())).all()


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ([(C, "a"), (B, "b")], "bot"),
        ([(C, "a"), (B, "b"), (C, "c")], "customer"),
        ([(C, "a"), (H, "b"), (B, "")], "human"),
    ],
)
def test_the_last_word_is_that_of_the_last_message_with_a_text(talk, said, who):
    sums = friction.LastWord().measure(talk(said)).sums
    assert {name: int(column[0]) for name, column in sums.items()} == {
        "n.customer": int(who == "customer"),
        "n.bot": int(who == "bot"),
        "n.human": int(who == "human"),
    }


@pytest.mark.parametrize(
    ("first", "last", "shift"),
    [
        ("this is great", "this is terrible and useless", -1.0),
        ("this is terrible", "perfect, that is wonderful", 1.0),
        ("where is my order", "the one from Monday", 0.0),
        ("this is not good", "this is good", 1.0),
    ],
)
def test_the_tone_of_the_last_third_is_set_against_the_first(talk, first, last, shift):
    batch = talk([(C, first), (B, "I see."), (C, "it is the blue one"), (B, "Well."), (C, last)])
    assert only(friction.SentimentShift(), batch) == shift


def test_one_message_has_no_shift(talk):
    assert figures(friction.SentimentShift(), talk([(C, "great")])) == {}


def test_an_empty_batch_and_empty_conversations_are_measured_as_nothing(talk):
    for batch in (talk(), talk([]), talk([(C, "")])):
        for metric in friction.metrics():
            assert metric.measure(batch).index.tolist() == []


def test_batches_do_not_matter(talk):
    said = [
        [(C, f"I want to cancel order {i} from yesterday"), (B, "Could you rephrase that?")]
        + [(C, f"I want to cancel order {i} of yesterday"), (B, "I'm sorry.")] * (i % 3)
        for i in range(40)
    ]
    together = talk(*said)
    for metric in friction.metrics():
        whole = metric.measure(together)
        parts = [metric.measure(talk(conversation)) for conversation in said]
        for name, column in whole.sums.items():
            mine = [part.sums[name].sum() for part in parts if name in part.sums]
            assert column.sum() == sum(mine), (metric.name, name)


def test_every_metric_says_what_it_is_and_when_it_misleads():
    for metric in friction.metrics():
        assert metric.name and metric.title and metric.definition and metric.source
        assert metric.misleads
