"""Whatever was said, the prompt fits, loses nothing in silence, and keeps what must stay."""

import functools
import itertools
import json
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.errors import ContextError, UnknownNameError, UsageError
from quietdesk.prompt.policies import POLICIES
from quietdesk.prompt.template import ChatTemplate
from quietdesk.prompt.turns import turns_of
from quietdesk.prompt.window import Window
from quietdesk.types import Author, ContextOutcome, Message, Passage, ToolCall

FOLDER = Path(__file__).parents[1] / "data" / "templates"
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
SHOWN = {ContextOutcome.KEPT, ContextOutcome.PINNED, ContextOutcome.TRUNCATED}


class Letters:
    """A tokeniser whose tokens are letters and control tokens: exact, and read back at a glance."""

    def __init__(self, marks, bos=""):
        self.marks = [mark for mark in marks if mark]
        self.bos = bos
        self.pattern = re.compile("|".join(map(re.escape, self.marks)) or "(?!)")
        self.letters = 0

    def __call__(self, text, *, special, begin):
        self.letters += len(text)
        tokens = [-1 - self.marks.index(self.bos)] if begin and self.bos else []
        place = 0
        for match in self.pattern.finditer(text) if special else ():
            tokens += map(ord, text[place : match.start()])
            tokens.append(-1 - self.marks.index(match[0]))
            place = match.end()
        return tokens + list(map(ord, text[place:]))


@functools.cache
def template_of(family):
    entry = INDEX[family]
    path = FOLDER / f"{family}.jinja"
    return ChatTemplate(
        path.read_text(encoding="utf-8") if path.exists() else None,
        bos_token=entry["bos"],
        eos_token=entry["eos"],
        special_tokens=entry["marks"],
    )


def tokenizer_of(family):
    entry = INDEX[family]
    return Letters(entry["marks"], entry["bos"] if entry["adds_bos"] else "")


def window_of(family="smollm2", **options):
    options.setdefault("n_ctx", 4096)
    return Window(
        template_of(family),
        tokenizer_of(family),
        special_tokens=INDEX[family]["marks"],
        max_piece_bytes=16,
        **options,
    )


def message(name, author, text, **fields):
    return Message(id=name, author=author, text=text, created_at=NOON, **fields)


def talk(turns, size=60, **fields):
    """So many turns of a question and a reply, then a question."""
    said = []
    for i in range(turns):
        said.append(message(f"q{i}", Author.CUSTOMER, f"(q{i}) " + "a" * size))
        said.append(message(f"r{i}", Author.BOT, f"(r{i}) " + "b" * size))
    return [*said, message("last", Author.CUSTOMER, "(last) And now?", **fields)]


def outcomes(fitted):
    return {item.id: item.outcome for item in fitted.report.items if item.kind == "message"}


@st.composite
def conversations(draw):
    """Customers who write several times, tools, humans, notes, pins, empty replies."""
    said = []
    sizes = st.integers(0, 200)

    def say(author, text=None, **fields):
        name = f"m{len(said)}"
        words = f"<{name}>" + "x" * draw(sizes) if text is None else text
        said.append(message(name, author, words, pinned=draw(st.integers(0, 19)) == 0, **fields))

    for _ in range(draw(st.integers(0, 2))):
        say(draw(st.sampled_from([Author.SYSTEM, Author.BOT])))
    for _ in range(draw(st.integers(0, 12))):
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            say(Author.CUSTOMER)
        calls = draw(st.sampled_from([0, 0, 0, 1, 2]))
        if calls:
            ids = [f"call{len(said)}-{i}" for i in range(calls)]
            say(
                Author.BOT,
                "",
                tool_calls=tuple(ToolCall(id=i, name=f"do_{i}", arguments="{}") for i in ids),
            )
            for i in ids:
                if draw(st.integers(0, 5)) == 0:
                    say(Author.CUSTOMER)
                if draw(st.integers(0, 9)):
                    say(Author.TOOL, tool_call_id=i)
        kind = draw(st.sampled_from(["bot", "bot", "bot", "human", "empty", "note", "none"]))
        if kind == "bot":
            say(Author.BOT)
        elif kind == "human":
            say(Author.HUMAN)
            say(Author.HUMAN)
        elif kind == "empty":
            say(Author.BOT, "")
        elif kind == "note":
            say(Author.SYSTEM)
            say(Author.BOT)
    say(Author.CUSTOMER)
    return said


@settings(max_examples=400, deadline=None)
@given(
    said=conversations(),
    family=st.sampled_from(sorted(INDEX)),
    policy=st.sampled_from(sorted(POLICIES)),
    n_ctx=st.integers(200, 3000),
    system=st.sampled_from(["", "Be kind.", "Be kind. " * 20]),
    passages=st.lists(st.integers(1, 400), max_size=3),
)
def test_prompt_fits_and_the_report_tells_all(said, family, policy, n_ctx, system, passages):
    window = window_of(family, n_ctx=n_ctx, policy=policy)
    given_passages = [
        Passage(id=f"p{i}", text=f"<p{i}>" + "y" * size) for i, size in enumerate(passages)
    ]
    try:
        fitted = window.fit(said, system, 100, given_passages)
    except ContextError as error:
        assert error.needed_tokens > error.available_tokens
        if policy != "stop":
            must_stay_alone(window, said, system, error)
        return

    report, text = fitted.report, fitted.text
    # The budget holds, and what is counted is what is evaluated.
    assert len(fitted.tokens) == report.prompt_tokens <= n_ctx - 100
    entry = INDEX[family]
    begin = not (entry["bos"] and text.startswith(entry["bos"]))
    assert fitted.tokens == tokenizer_of(family)(text, special=True, begin=begin)

    # Every message and passage is reported once, and the shown items make up the prompt.
    reported = [item.id for item in report.items if item.kind == "message"]
    assert reported == [m.id for m in said]
    kinds = [item.id for item in report.items if item.kind == "passage"]
    assert kinds == [p.id for p in given_passages]
    assert sum(i.tokens for i in report.items if i.outcome in SHOWN) == len(fitted.tokens)
    assert all(item.tokens >= 0 for item in report.items)

    # Shown ones stand in the text once and in order, the others do not.
    result = outcomes(fitted)
    ours = re.findall(r"<m\d+>", text)
    hidden = {item.id for item in report.items if "does not show" in item.reason}
    expected = [m.id for m in said if result[m.id] in SHOWN and m.text and m.id not in hidden]
    if not any(m.author is Author.TOOL for m in said) and "summary" not in policy:
        late = [m.id for m in said if m.author is Author.SYSTEM]
        assert [f"<{name}>" for name in expected if name not in late] == [
            mark for mark in ours if mark[1:-1] not in late
        ]
    if policy != "summary":
        assert sorted(ours) == sorted(f"<{name}>" for name in expected)
    assert hidden == set()

    # What must stay is there.
    assert result[said[-1].id] is ContextOutcome.PINNED
    assert all(result[m.id] is ContextOutcome.PINNED for m in said if m.pinned and m.text)
    if system:
        assert system.strip() in text
    if policy == "stop":
        assert ContextOutcome.EVICTED not in set(result.values())

    # A turn goes as a whole, and so a tool call never without its result.
    first = next(
        (i for i, m in enumerate(said[:-1]) if m.author is not Author.SYSTEM), len(said) - 1
    )
    for turn in turns_of(said[first:]):
        shown = {result[m.id] in SHOWN for m in said[first:][turn.start : turn.end]}
        assert len(shown) == 1
    for m in said:
        for call in m.tool_calls:
            answers = [t for t in said if t.tool_call_id == call.id]
            assert all((result[t.id] in SHOWN) == (result[m.id] in SHOWN) for t in answers)

    # The same again, from another window.
    again = window_of(family, n_ctx=n_ctx, policy=policy).fit(said, system, 100, given_passages)
    assert again.tokens == fitted.tokens
    assert again.report == report


def must_stay_alone(window, said, system, error):
    """What is said to have no room really has none: alone it does not fit either."""
    leading = 0
    while leading < len(said) - 1 and said[leading].author is Author.SYSTEM:
        leading += 1
    rest = said[leading:]
    kept = [
        m
        for turn in turns_of(rest)
        for m in rest[turn.start : turn.end]
        if turn.end == len(rest) or any(n.pinned for n in rest[turn.start : turn.end])
    ]
    if kept[0].author is Author.SYSTEM:
        return  # alone it would count as a part of the system prompt
    with pytest.raises(ContextError) as caught:
        window.fit([*said[:leading], *kept], system, 100)
    assert caught.value.needed_tokens == error.needed_tokens


@settings(max_examples=150, deadline=None)
@given(said=conversations())
def test_turns_hold_every_message_once_and_calls_with_their_results(said):
    turns = turns_of(said)
    assert [place for turn in turns for place in range(turn.start, turn.end)] == list(
        range(len(said))
    )
    home = {
        said[place].id: number
        for number, turn in enumerate(turns)
        for place in range(turn.start, turn.end)
    }
    for m in said:
        for call in m.tool_calls:
            assert all(home[t.id] == home[m.id] for t in said if t.tool_call_id == call.id)
    for earlier, later in itertools.pairwise(said):
        if earlier.author is Author.CUSTOMER:
            assert home[later.id] == home[earlier.id]


def test_nothing_goes_while_everything_fits(model):
    fitted = model.window().fit(talk(3), "Be kind.", 100)
    assert set(outcomes(fitted).values()) == {ContextOutcome.KEPT, ContextOutcome.PINNED}
    assert fitted.report.evicted == ()
    assert fitted.report.cursor == ""


def test_fact_at_the_head_is_reported_when_it_leaves():
    window = window_of(n_ctx=1000)
    fitted = window.fit(talk(12), "Be kind.", 100)
    assert "(q0)" not in fitted.text
    gone = {item.id: item for item in fitted.report.evicted}
    assert gone["q0"].outcome is ContextOutcome.EVICTED
    assert "rolling-window" in gone["q0"].reason
    assert gone["q0"].tokens >= 65
    assert any("did not fit" in note for note in fitted.report.notes)


def test_policies_keep_what_their_pictures_show():
    said = talk(12)
    said[6] = said[6].model_copy(update={"pinned": True})  # the fourth turn, P in the pictures

    def kept(policy):
        result = outcomes(window_of(n_ctx=1300, policy=policy).fit(said, "", 100))
        letters = [
            "P" if i == 3 else "abcdefghijklm"[i] if result[f"q{i}"] in SHOWN else "."
            for i in range(12)
        ]
        assert result["q3"] is ContextOutcome.PINNED
        return "".join(letters)

    assert re.fullmatch(r"\.\.\.P\.*[a-l]+", kept("rolling-window"))
    assert re.fullmatch(r"a[bc.]*P\.+[a-l]+", kept("truncate-middle"))
    assert re.fullmatch(r"\.\.\.P\.*[a-l]+", kept("summary"))
    with pytest.raises(ContextError, match="the policy 'stop' keeps"):
        kept("stop")


def test_stop_is_an_error_with_the_exact_numbers():
    said = talk(12)
    whole = len(window_of(n_ctx=10_000).fit(said, "", 100).tokens)
    assert len(window_of(n_ctx=whole + 100, policy="stop").fit(said, "", 100).tokens) == whole
    with pytest.raises(ContextError) as caught:
        window_of(n_ctx=whole + 99, policy="stop").fit(said, "", 100)
    assert (caught.value.needed_tokens, caught.value.available_tokens) == (whole, whole - 1)


def test_unknown_policy_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match="rolling-window"):
        window_of(policy="roling-window")


def test_no_message_is_an_error():
    with pytest.raises(UsageError):
        window_of().fit([])


def test_reply_that_takes_the_whole_context_is_an_error():
    with pytest.raises(ContextError, match="reply"):
        window_of(n_ctx=200).fit(talk(0), "", 200)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_giant_message_is_refused_before_it_is_tokenised(policy):
    window = window_of(n_ctx=4096, policy=policy)
    letters = window.renderer._tokens._tokenize
    letters.letters = 0
    with pytest.raises(ContextError, match="newest message") as caught:
        window.fit([*talk(2)[:-1], message("x", Author.CUSTOMER, "ab" * 5_000_000)], "", 512)
    assert caught.value.needed_tokens == 10_000_000 / 16
    assert caught.value.available_tokens == 4096 - 512
    assert letters.letters == 0


def test_giant_message_of_old_goes_without_being_tokenised():
    window = window_of(n_ctx=4096)
    letters = window.renderer._tokens._tokenize
    letters.letters = 0
    said = talk(2)
    said[1] = message("r0", Author.HUMAN, "z" * 10_000_000)
    fitted = window.fit(said)
    assert outcomes(fitted)["r0"] is ContextOutcome.EVICTED
    assert letters.letters < 5000


def test_giant_passage_is_cut_without_being_tokenised_whole():
    window = window_of(n_ctx=4096)
    letters = window.renderer._tokens._tokenize
    letters.letters = 0
    fitted = window.fit(talk(1), "", 512, [Passage(id="p", text="word " * 2_000_000)])
    item = next(item for item in fitted.report.items if item.kind == "passage")
    assert item.outcome is ContextOutcome.TRUNCATED
    assert letters.letters < 200_000


def test_giant_blanks_of_old_and_new_do_no_harm():
    assert window_of("llama3", n_ctx=1000).fit(
        [message("x", Author.CUSTOMER, " " * 10**6 + "Hi")], "", 100
    )
    with pytest.raises(ContextError):
        window_of("smollm2", n_ctx=1000).fit(
            [message("x", Author.CUSTOMER, " " * 10**6 + "Hi")], "", 100
        )


def test_passages_stand_with_the_newest_customer_message_and_only_there():
    window = window_of()
    said = talk(2)
    fitted = window.fit(said, "Be kind.", 100, [Passage(id="p", text="Free from 50 euros.")])
    newest = fitted.text.rpartition("<|im_start|>user")[2]
    assert "Free from 50 euros." in newest and "(last)" in newest
    assert newest.index("Free from") < newest.index("(last)")
    call = ToolCall(id="c", name="find", arguments="{}")
    during = [
        *said,
        message("t1", Author.BOT, "", tool_calls=(call,)),
        message("t2", Author.TOOL, "found", tool_call_id="c"),
    ]
    again = window.fit(during, "Be kind.", 100, [Passage(id="p", text="Free from 50 euros.")])
    assert again.text.startswith(fitted.text.removesuffix("<|im_start|>assistant\n"))


def test_passages_are_numbered_with_their_places():
    passages = [
        Passage(id="a", text="One.", source="faq.md", line=7),
        Passage(id="b", text="Two.", source="faq.md"),
        Passage(id="c", text="Three."),
    ]
    text = window_of().fit(talk(0), "", 100, passages).text
    assert "[1] (faq.md:7) One.\n\n[2] (faq.md) Two.\n\n[3] Three." in text


def test_passages_without_room_are_left_out_worst_first():
    window = window_of(n_ctx=1200)
    passages = [Passage(id=f"p{i}", text=f"({i}) " + "word " * 60) for i in range(4)]
    fitted = window.fit(talk(0), "", 100, passages)
    items = [item for item in fitted.report.items if item.kind == "passage"]
    assert [item.outcome for item in items] == [
        ContextOutcome.KEPT,
        ContextOutcome.TRUNCATED,
        ContextOutcome.EVICTED,
        ContextOutcome.EVICTED,
    ]
    assert "(2)" not in fitted.text
    assert all(item.reason for item in items[1:])


def test_passage_that_would_overflow_by_its_headings_is_the_last_one():
    window = window_of(n_ctx=1100, passage_share=1.0)
    empty = window.fit(talk(0), "", 100)
    room = 1000 - len(empty.tokens)
    passages = [Passage(id=f"p{i}", text=f"({i})" + "y" * (room // 2 - 16)) for i in range(2)]
    fitted = window.fit(talk(0), "", 100, passages)
    first, last = (item for item in fitted.report.items if item.kind == "passage")
    assert first.outcome is ContextOutcome.KEPT
    assert last.outcome is ContextOutcome.EVICTED
    assert "there was no room" in last.reason
    assert "(0)" in fitted.text and "(1)" not in fitted.text


def test_two_passages_of_one_id_are_told_apart():
    passages = [Passage(id="same", text="A" * 400), Passage(id="same", text="B" * 400)]
    fitted = window_of(n_ctx=1100).fit(talk(0), "", 100, passages)
    items = [item for item in fitted.report.items if item.kind == "passage"]
    assert [item.outcome for item in items] == [ContextOutcome.KEPT, ContextOutcome.TRUNCATED]


def test_system_prompt_and_leading_notes_never_go():
    said = [message("n", Author.SYSTEM, "Opened by phone."), *talk(20)]
    fitted = window_of(n_ctx=900).fit(said, "Be kind.", 100)
    assert fitted.text.index("Be kind.") < fitted.text.index("Opened by phone.")
    assert outcomes(fitted)["n"] is ContextOutcome.PINNED
    assert outcomes(fitted)["q0"] is ContextOutcome.EVICTED


def test_larger_context_brings_messages_back():
    said = talk(12)
    small = window_of(n_ctx=900).fit(said, "", 100)
    said[-2] = said[-2].model_copy(update={"context": small.report})
    large = window_of(n_ctx=9000).fit(said, "", 100)
    assert small.report.cursor
    assert not large.report.evicted


def test_message_pinned_after_it_went_comes_back():
    said = talk(12)
    before = window_of(n_ctx=900).fit(said, "", 100)
    said[-2] = said[-2].model_copy(update={"context": before.report})
    said[0] = said[0].model_copy(update={"pinned": True})
    after = window_of(n_ctx=900).fit(said, "", 100)
    assert outcomes(before)["q0"] is ContextOutcome.EVICTED
    assert outcomes(after)["q0"] is ContextOutcome.PINNED
    assert "(q0)" in after.text


def test_middle_gives_its_first_turns_only_when_nothing_else_is_left():
    said = [*talk(4, size=150)[:-1], message("last", Author.CUSTOMER, "(last)" + "z" * 500)]
    fitted = window_of(n_ctx=800, policy="truncate-middle").fit(said, "", 100)
    assert outcomes(fitted)["q0"] is ContextOutcome.EVICTED
    assert "(last)" in fitted.text


def test_every_template_keeps_its_frame_when_turns_go(model):
    said = talk(30, size=40)
    window = model.window(n_ctx=900)
    whole = model.window(n_ctx=20_000).fit(said, "Be kind.", 100)
    fitted = window.fit(said, "Be kind.", 100)
    assert len(fitted.tokens) <= 800 < len(whole.tokens)
    assert "Be kind." in fitted.text
    assert whole.text.endswith(fitted.text[-60:])
    assert fitted.tokens == model.whole(fitted.text)


def test_one_window_serves_many_conversations_in_many_threads_at_once(starter):
    window = starter.window(n_ctx=1200, policy="summary")
    talks = [
        [m.model_copy(update={"text": f"{m.text} {n} <|im_end|>"}) for m in talk(20)]
        for n in range(6)
    ]
    expected = [starter.window(n_ctx=1200, policy="summary").fit(said, "", 100) for said in talks]
    wrong = []

    def fit(number):
        for _ in range(5):
            if window.fit(talks[number], "", 100) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=fit, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_reserve_is_what_is_left_for_the_reply():
    fitted = window_of(n_ctx=1000).fit(talk(30), "", 300)
    assert fitted.report.reply_reserve == 300
    assert fitted.report.fill <= 0.7
