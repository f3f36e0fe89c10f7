from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.scoring import outcome
from quietdesk.scoring.base import NO_TIME

C, B, H = "customer", "bot", "human"
CALL = {"author": B, "text": "", "tool_calls": [{"id": "1", "name": "x", "arguments": "{}"}]}


def handing_over(name):
    call = {"id": "1", "name": name, "arguments": "{}"}
    return {"author": B, "text": "One moment.", "tool_calls": [call]}


ASK, ANSWER = (C, "Where is my order?"), (B, "It arrives on Tuesday.")
TABLE = [
    ("resolved", [ASK, ANSWER, (C, "Great, thank you!")]),
    ("resolved", [ASK, ANSWER, (C, "That's all, bye"), (B, "Goodbye!")]),
    ("resolved", [ASK, ANSWER, (C, "thanks"), (B, "Anything else?"), (C, "no")]),
    ("resolved", [ASK, ANSWER, (C, "perfect")]),
    ("assisted", [ASK, (B, "Let me ask."), (H, "It is in Kiel."), (C, "Thanks a lot!")]),
    ("handed_off", [ASK, (B, "I'll transfer you to an agent.")]),
    ("handed_off", [ASK, (H, "It is in Kiel.")]),
    ("handed_off", [ASK, handing_over("transfer_to_human")]),
    ("handed_off", [ASK, ANSWER, (H, "Hello?"), (C, "This is ridiculous")]),
    ("abandoned", [ASK, (B, "Which order do you mean?")]),
    ("abandoned", [ASK, (B, "I'm sorry, I don't understand.")]),
    ("abandoned", [ASK, (B, "Unfortunately there is no such order.")]),
    ("abandoned", [ASK]),
    ("abandoned", [ASK, ANSWER, (C, "But where is it now?")]),
    ("abandoned", [ASK, ANSWER, (C, "This is useless, forget it")]),
    ("abandoned", [ASK, (B, "Could you rephrase that?"), (C, "bye")]),
    ("open", [ASK, ANSWER]),
    ("open", [ASK, ANSWER, (C, "and the other one"), (B, "On Friday.")]),
]


@pytest.mark.parametrize(("ending", "said"), TABLE)
def test_how_a_conversation_ends(talk, ending, said):
    found = outcome.endings(talk(said))
    assert outcome.OUTCOMES[found.outcome[0]] == ending
    assert found.measured[0]


def test_the_table_is_the_same_in_one_batch(talk):
    found = outcome.endings(talk(*(said for _, said in TABLE)))
    assert [outcome.OUTCOMES[code] for code in found.outcome] == [ending for ending, _ in TABLE]


def test_shares_of_all_outcomes_add_up_to_the_conversations_measured(talk):
    batch = talk(*(said for _, said in TABLE), [(C, "Hola, no puedo entrar en mi cuenta")])
    found = outcome.Outcome().measure(batch)
    assert sum(int(column.sum()) for column in found.sums.values()) == len(TABLE)
    assert found.measured.tolist() == [True] * len(TABLE) + [False]


def test_a_conversation_without_a_customer_is_left_out(talk):
    assert outcome.Outcome().measure(talk([(B, "Hello"), (B, "Anyone?")])).index.tolist() == []


def test_open_ends_are_neither_resolved_nor_failed(talk):
    batch = talk([ASK, ANSWER], [ASK, ANSWER, (C, "thank you")], [ASK])
    found = outcome.Resolved().measure(batch)
    assert found.measured.tolist() == [False, True, True]
    assert found.sums["hits"].tolist() == [0, 1, 0]


def timed(said, hours):
    start = datetime(2026, 3, 2, 8, tzinfo=UTC)
    return [
        {
            "author": author,
            "text": text,
            "created_at": None if h is None else start + timedelta(hours=h),
        }
        for (author, text), h in zip(said, hours, strict=True)
    ]


BACK = [ASK, ANSWER, (C, "thanks"), (C, "It still has not arrived")]


@pytest.mark.parametrize(
    ("hours", "measured", "reopened"),
    [
        ((0, 0, 0.1, 30), True, True),
        ((0, 0, 0.1, 0.2), True, False),
        ((0, 0, None, 30), False, False),
    ],
)
def test_a_conversation_is_reopened_by_a_return_after_an_hour(talk, hours, measured, reopened):
    found = outcome.Reopened().measure(talk(timed(BACK, hours)))
    assert found.measured.tolist() == [measured]
    assert found.sums["hits"].tolist() == [int(reopened)]
    assert found.causes.tolist() == ([3] if reopened else [])


def test_thanks_on_the_next_day_do_not_reopen(talk):
    said = timed([ASK, ANSWER, (C, "thanks"), (C, "thank you again")], (0, 0, 1, 30))
    assert outcome.Reopened().measure(talk(said)).sums["hits"].tolist() == [0]


def test_a_reopened_conversation_is_not_settled_at_first_contact(talk):
    again = timed([*BACK, ANSWER, (C, "ok, thank you")], (0, 0, 0.1, 30, 30, 30))
    once = timed([*BACK[:3]], (0, 0, 0.1))
    assert outcome.FirstContact().measure(talk(again, once)).sums["hits"].tolist() == [0, 1]


cases = st.lists(
    st.tuples(st.integers(-1, 3), st.integers(0, 40), st.integers(0, 3), st.booleans()), max_size=12
)


@settings(deadline=None)
@given(cases)
def test_contacts_are_what_comparing_every_pair_finds(rows):
    day = 86_400_000_000
    customers = np.array([row[0] for row in rows], np.int64)
    starts = np.array([row[1] * day for row in rows], np.int64)
    ends = np.array([(row[1] + row[2]) * day for row in rows], np.int64)
    settled = np.array([row[3] for row in rows], np.bool_)
    order = np.lexsort((np.arange(len(rows)), starts, customers))
    first, measured = outcome.contacts(customers, starts, ends, settled, window_s=7 * 86400)
    for place in range(len(rows)):
        row = order[place]
        near = [order[p] for p in (place - 1, place + 1) if 0 <= p < len(rows)]
        repeats = False
        for other in near:
            a, b = (other, row) if starts[other] < starts[row] else (row, other)
            if starts[a] == starts[b]:
                a, b = (other, row) if list(order).index(other) < place else (row, other)
            together = customers[row] == customers[other] and customers[row] >= 0
            repeats |= together and starts[b] - ends[a] <= 7 * day
        assert first[row] == (settled[row] and customers[row] >= 0 and not repeats)
        assert measured[row] == (customers[row] >= 0)


def test_a_contact_without_a_time_is_not_measured():
    unknown = np.array([NO_TIME])
    one = np.zeros(1, np.int64)
    assert not outcome.contacts(one, unknown, unknown, np.ones(1, np.bool_))[1][0]


def test_an_empty_batch_ends_nowhere(talk):
    for batch in (talk(), talk([])):
        for metric in outcome.metrics():
            assert metric.measure(batch).index.tolist() == []
