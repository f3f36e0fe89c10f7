"""Facts outlive any number of compactions; a summary takes no more room than it may."""

import random
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.prompt.facts import facts_of, sentences_of
from quietdesk.prompt.summary import extract, rolling_summary
from quietdesk.types import Author, ContextOutcome, Message

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
CUSTOMER, BOT, HUMAN = Author.CUSTOMER, Author.BOT, Author.HUMAN


def message(name, author, text, **fields):
    return Message(id=name, author=author, text=text, created_at=NOON, **fields)


def told(author, text):
    return [str(fact) for fact in facts_of(message("m", author, text))]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("Hi, my order number is AC-48213, where is it?", "order number: AC-48213"),
        ("Order no. 48213 has not come", "order number: 48213"),
        ("order #48213-B", "order number: 48213-B"),
        ("Regarding ticket: 00123", "ticket number: 00123"),
        ("The tracking code is 1Z999AA10123456784.", "tracking number: 1Z999AA10123456784"),
        ("my booking reference XK7 42QP", None),
        ("I mean #99887 of course", "reference number: 99887"),
        ("It says RMA-2044 on the box", "reference number: RMA-2044"),
        ("我的订单号是20260314001，谢谢", "订单: 20260314001"),
        ("Bestellnummer: 778899", "bestellnummer: 778899"),
        ("I ordered 5 bikes in 2024", None),
        ("My order is late", None),
    ],
)
def test_numbers_to_look_things_up_by_are_found(text, fact):
    found = [str(f) for f in facts_of(message("m", CUSTOMER, text)) if f.kind == "number"]
    assert found == ([fact] if fact else [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("My name is Maria Lopez and I wait.", "Maria Lopez"),
        ("hi my name is maria, i ordered", "maria"),
        ("This is Jonas Weber speaking.", "Jonas Weber"),
        ("Mein Name ist Jürgen Groß.", "Jürgen Groß"),
        ("Je m'appelle Zoé d'Arc", "Zoé d'Arc"),
        ("我叫李小龙，你好", "李小龙"),
        ("This is urgent here", None),
        ("My name is on the bill", None),
    ],
)
def test_names_are_found(text, name):
    found = [line for line in told(CUSTOMER, text) if "name" in line]
    assert found == ([f"customer's name: {name}"] if name else [])


def test_names_are_taken_from_the_customer_only():
    assert told(HUMAN, "My name is Anna, I am happy to help.") == []


@pytest.mark.parametrize(
    "promise",
    [
        "We will refund 49.90 euros by Friday.",
        "I'll send you a new bell tomorrow!",
        "You will receive a label within two days.",
        "Your money will be refunded.",
        "I have arranged a pickup on Monday.",
        "我们会在三天内退款。",
    ],
)
def test_promises_are_found_as_they_were_said(promise):
    for author in (BOT, HUMAN):
        assert f"promised: {promise}" in told(author, f"Thanks for waiting. {promise} Bye.")
    assert not [line for line in told(CUSTOMER, promise) if line.startswith("promised")]


@pytest.mark.parametrize("text", ["I will see.", "We are sorry.", "How can I help you?", ""])
def test_small_talk_is_no_promise(text):
    assert told(BOT, text) == []


def test_ways_to_reach_the_customer_are_found():
    found = told(CUSTOMER, "Write to maria.lopez@example.org or call +34 600 123 456.")
    assert found == ["e-mail: maria.lopez@example.org", "phone: +34 600 123 456"]


def test_sentences_are_cut_at_ends_and_not_in_numbers():
    assert sentences_of("It costs 49.90 euros. Is it ok?\nYes! 好的。再见") == [
        "It costs 49.90 euros.",
        "Is it ok?",
        "Yes!",
        "好的。",
        "再见",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "order " * 20_000,
        "order number " * 10_000,
        "a." * 60_000,
        "a@" * 60_000,
        "my name is " * 10_000,
        "(" * 100_000,
        "#" * 100_000,
        "1-" * 60_000,
        "I will " * 20_000,
    ],
)
def test_hostile_text_holds_no_facts_and_does_not_hang(text):
    assert told(BOT, text) == []
    assert told(CUSTOMER, text) == []


def words(text):
    return len(text.split())


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["Hi.", "Where is order 12345?", "x " * 300, "", "\n\n"])),
    room=st.integers(0, 120),
    previous=st.sampled_from(["", "Customer: It is broken."]),
)
def test_summary_never_takes_more_than_its_room(texts, room, previous):
    gone = [message(str(i), (CUSTOMER, BOT)[i % 2], text) for i, text in enumerate(texts)]
    text, lost = rolling_summary(previous, gone, gone, room=room, count=words, summarise=extract)
    assert words(text) <= room
    assert lost >= 0


def test_summariser_that_says_too_much_is_cut():
    gone = [message("1", CUSTOMER, "My order number is 12345.")]

    def chatter(previous, messages, max_tokens):
        return "word " * 10_000

    text, _ = rolling_summary("", gone, gone, room=60, count=words, summarise=chatter)
    assert words(text) <= 60
    assert "order number: 12345" in text


def test_summariser_goes_on_from_its_own_story_and_sees_only_what_is_new():
    seen = []

    def note(previous, messages, max_tokens):
        seen.append((previous, [m.id for m in messages]))
        return f"story {len(seen)}"

    gone = [message(str(i), CUSTOMER, f"My order number is {1000 + i}.") for i in range(4)]
    first, _ = rolling_summary("", gone[:2], gone[:2], room=80, count=words, summarise=note)
    second, _ = rolling_summary(first, gone, gone[2:], room=80, count=words, summarise=note)
    assert seen == [("", ["0", "1"]), ("story 1", ["2", "3"])]
    assert "story 2" in second and "story 1" not in second
    assert all(f"order number: {1000 + i}" in second for i in range(4))


def test_extract_keeps_the_wish_and_the_newest_lines():
    said = [message("0", CUSTOMER, "Hello there. My bike's bell is broken, what can I do?")]
    said += [message(str(i), BOT, f"Sentence number {i} of many.") for i in range(1, 50)]
    story = extract("", said, 40)
    assert story.splitlines()[0] == "Customer: My bike's bell is broken, what can I do?"
    assert story.splitlines()[-1] == "Support: Sentence number 49 of many."
    assert len(story) <= 160


PLANTED = (
    "Hello, my name is Maria Lopez and my order number is AC-48213.",
    "I am sorry, Maria. We will refund 49.90 euros by Friday the 20th.",
)
FACTS = ("Maria Lopez", "AC-48213", "We will refund 49.90 euros by Friday the 20th.")


def converse(window, *, reports, n_compactions, max_turns=600):
    """Talk until so many compactions are done; the planted facts stand at the very beginning."""
    chance = random.Random(3)
    small = ["Is it there yet?", "What does it cost?", "Do you have it in red?", "And in blue?"]
    said = [message("q0", CUSTOMER, PLANTED[0])]
    compactions, cursor, fitted, previous = 0, "", None, None
    for i in range(max_turns):
        fitted = window.fit(said, "You answer for Acme Bikes.", 128, previous=previous)
        compactions += fitted.report.cursor != cursor
        cursor = fitted.report.cursor
        if compactions >= n_compactions:
            return fitted, said
        text = PLANTED[1] if i == 0 else f"Let me see about that. Answer {i}. " * 3
        said.append(message(f"r{i}", BOT, text))
        said.append(message(f"q{i + 1}", CUSTOMER, chance.choice(small)))
        previous = fitted.report if reports else None
    raise AssertionError(f"only {compactions} compactions")


@pytest.mark.parametrize("reports", [True, False])
def test_planted_facts_survive_ten_compactions(starter, reports):
    window = starter.window(n_ctx=1024, policy="summary")
    fitted, _ = converse(window, reports=reports, n_compactions=10)
    outcome = {item.id: item.outcome for item in fitted.report.items}
    assert outcome["q0"] is outcome["r0"] is ContextOutcome.SUMMARISED
    for fact in FACTS:
        assert fact in fitted.text
        assert fact in fitted.report.summary
    assert len(fitted.tokens) <= 1024 - 128


def test_other_policies_lose_them_and_say_so(starter):
    window = starter.window(n_ctx=1024, policy="rolling-window")
    fitted, _ = converse(window, reports=True, n_compactions=10)
    assert not any(fact in fitted.text for fact in FACTS)
    assert {"q0", "r0"} <= {item.id for item in fitted.report.evicted}


def test_planted_facts_survive_with_every_template(model):
    window = model.window(n_ctx=2500, policy="summary")
    fitted, _ = converse(window, reports=True, n_compactions=10)
    for fact in FACTS:
        assert fact in fitted.text
    assert fitted.tokens == model.whole(fitted.text)


def test_summary_stands_on_the_users_side_before_the_kept_turns(starter):
    fitted, _ = converse(
        starter.window(n_ctx=1024, policy="summary"), reports=True, n_compactions=3
    )
    system, first = re.findall(r"<\|im_start\|>(.*?)<\|im_end\|>", fitted.text, re.S)[:2]
    assert system == "system\nYou answer for Acme Bikes."
    assert first.startswith("user\nSummary of the conversation until here:")
    assert "(The conversation goes on.)\n\n" in first
    item = next(item for item in fitted.report.items if item.kind == "summary")
    takes = len(starter.tokenize(fitted.report.summary, special=False, begin=False))
    assert item.tokens == pytest.approx(takes, abs=2)


@pytest.mark.parametrize("reports", [True, False])
def test_summariser_is_asked_once_for_each_compaction(starter, reports):
    asked = []

    def note(previous, messages, max_tokens):
        asked.append(len(messages))
        return f"So far: {len(asked)}."

    window = starter.window(n_ctx=1024, policy="summary", summarise=note)
    fitted, said = converse(window, reports=reports, n_compactions=5)
    assert len(asked) == 5
    assert "So far: 5." in fitted.text
    gone = sum(item.outcome is ContextOutcome.SUMMARISED for item in fitted.report.items)
    assert (sum(asked) == gone) if reports else (asked[-1] == gone)
    assert len(said) > gone


def test_facts_without_room_are_counted(starter):
    window = starter.window(n_ctx=500, policy="summary")
    said = []
    for i in range(60):
        said.append(message(f"q{i}", CUSTOMER, f"And order number {70000 + i}, is it sent?"))
        said.append(message(f"r{i}", BOT, "Yes, it is on its way to you now."))
    said.append(message("last", CUSTOMER, "Fine."))
    first = window.fit(said, "", 100)
    said += [message("more", BOT, "Bye."), message("end", CUSTOMER, "Bye.")]
    second = window.fit(said, "", 100, previous=first.report)
    note = next(note for note in first.report.notes if "had no room in the summary" in note)
    assert first.report.cursor == second.report.cursor
    assert note in second.report.notes
    gone = [item.id for item in first.report.items if item.outcome is ContextOutcome.SUMMARISED]
    kept = first.report.summary.count("- order number")
    assert note.startswith(f"{sum(name.startswith('q') for name in gone) - kept} facts")
