import pytest

from quietdesk.scoring import commitments
from quietdesk.scoring.commitments import KINDS, FalseTransfers, UnsupportedPromises, promises

C, B, H, T = "customer", "bot", "human", "tool"


def said(text):
    return [(C, "my lamp came broken"), (B, text)]


def kinds(batch):
    found = promises(batch)
    return [KINDS[kind] for kind in found.kind]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I will refund the full price.", ["refund"]),
        ("You'll receive your money back.", ["refund"]),
        ("We'll give you a 20% discount.", ["discount"]),
        ("I have waived the fee, it is free of charge.", ["discount"]),
        ("Your parcel will be there by tomorrow.", ["date"]),
        ("I'll call you back within 2 hours.", ["follow_up"]),
        ("We will send you a new one.", ["replacement"]),
        ("I'll transfer you to an agent.", ["transfer"]),
        ("I'm transferring you now.", ["transfer"]),
        ("I will refund it and call you back.", ["refund", "follow_up"]),
        ("I'll refund it. I'll call you back.", ["refund", "follow_up"]),
        ("Would you like a refund?", []),
        ("Shall I refund it?", []),
        ("If it is faulty, we will refund it.", []),
        ("I cannot refund this.", []),
        ("We won't refund opened goods.", []),
        ("Refunds are shown in your account.", []),
        ("I will look at it.", []),
        ("You can return it in the shop.", []),
    ],
)
def test_which_sentences_are_promises(talk, text, expected):
    assert kinds(talk(said(text))) == expected


def test_only_the_bot_promises(talk):
    batch = talk([(C, "I will refund you"), (H, "I will refund you"), (B, "I see.")])
    assert kinds(batch) == []


def checked(batch):
    found = promises(batch)
    return list(zip(found.checkable.tolist(), found.supported.tolist(), strict=True))


def with_passage(text, passage):
    return [
        (C, "my lamp came broken"),
        {"author": B, "text": text, "passages": [{"id": "1", "text": passage}]},
    ]


@pytest.mark.parametrize(
    ("conversation", "state"),
    [
        (said("I will refund $30."), (False, False)),
        (with_passage("I will refund $30.", "Refunds of $30 are given for lamps."), (True, True)),
        (with_passage("I will refund $90.", "Refunds of $30 are given for lamps."), (True, False)),
        (with_passage("I will refund it.", "Lamps are shipped on Mondays."), (True, False)),
        ([(C, "hi"), (T, "refund approved"), (B, "I will refund it.")], (True, True)),
        ([(C, "hi"), (B, "I will refund it."), (T, "refund approved")], (False, False)),
    ],
)
def test_what_stands_behind_a_promise(talk, conversation, state):
    assert checked(talk(conversation)) == [state]


def test_a_tool_call_about_the_thing_supports_the_promise(talk):
    call = {"id": "1", "name": "issue_refund", "arguments": '{"amount": 30}'}
    reply = {"author": B, "text": "I have refunded $30. I will refund 30.", "tool_calls": [call]}
    assert checked(talk([(C, "my lamp came broken"), reply]))[-1] == (True, True)


def test_evidence_of_another_conversation_supports_nothing(talk):
    good = with_passage("I will refund $30.", "Refunds of $30 are given for lamps.")
    bad = with_passage("I will refund $30.", "Refunds of $90 are given for lamps.")
    assert checked(talk(good, bad, good)) == [(True, True), (True, False), (True, True)]


@pytest.mark.parametrize(
    ("after", "false"),
    [
        ([], True),
        ([(B, "Anything else?")], True),
        ([(H, "Hello, this is Ann.")], False),
        ([{"author": B, "tool_calls": [], "text": "Well."}], True),
    ],
)
def test_a_transfer_that_nobody_answers_is_false(talk, after, false):
    batch = talk([*said("I'll transfer you to an agent."), *after])
    found = FalseTransfers().measure(batch)
    assert found.sums["hits"].tolist() == [int(false)]
    assert found.causes.tolist() == ([1] if false else [])


def test_a_transfer_by_tool_is_true(talk):
    call = {"id": "1", "name": "transfer_to_human", "arguments": "{}"}
    reply = {"author": B, "text": "I'll transfer you to an agent.", "tool_calls": [call]}
    assert FalseTransfers().measure(talk([(C, "help me"), reply])).sums["hits"].tolist() == [0]


def test_promises_that_cannot_be_checked_are_not_measured(talk):
    found = UnsupportedPromises().measure(talk(said("I will refund the full price.")))
    assert found.measured.tolist() == [False]


def test_unsupported_promises_name_the_message(talk):
    found = UnsupportedPromises().measure(
        talk(with_passage("I will refund it.", "Lamps are shipped on Mondays."))
    )
    assert (found.sums["over"][0], found.sums["under"][0]) == (1, 1)
    assert found.causes.tolist() == [1]


def test_conversations_without_a_promise_are_left_out_of_the_share(talk):
    assert UnsupportedPromises().measure(talk(said("I see."))).index.tolist() == []


def test_another_language_has_no_promises_to_show(talk):
    batch = talk(
        [(C, "mi lámpara está rota"), (B, "le devolveré el dinero mañana, no se preocupe")]
    )
    found = commitments.PromisesMade().measure(batch)
    assert found.measured.tolist() == [False]


def test_an_empty_batch_promises_nothing(talk):
    for batch in (talk(), talk([])):
        for metric in commitments.metrics():
            assert metric.measure(batch).index.tolist() == []
