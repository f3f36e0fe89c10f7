"""What every store does: one suite over memory, SQLite and PostgreSQL."""

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietdesk.errors import (
    ConversationBusyError,
    ConversationMovedError,
    ImportRefusedError,
    StoreError,
    UnknownNameError,
    UsageError,
)
from quietdesk.store.base import ROOT, Store
from quietdesk.store.memory import MemoryStore
from quietdesk.types import (
    Author,
    ContextItem,
    ContextOutcome,
    ContextReport,
    ConversationInfo,
    FinishReason,
    KeptScore,
    Message,
    ToolCall,
    Usage,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ODD = "nul \x00, escape \x10 \x10004a, lone \ud800, \U0001f6b2 雪 e\u0301 '\"\\%_ \r\n\t"


def conversation(id_: str, minutes: int = 0, **fields: Any) -> ConversationInfo:
    moment = START + timedelta(minutes=minutes)
    given_fields = {"title": "", "created_at": moment, "updated_at": moment, **fields}
    return ConversationInfo(id=id_, **given_fields)


def question(id_: str, text: str = "Where is it?", **fields: Any) -> Message:
    return Message(id=id_, author=Author.CUSTOMER, text=text, **fields)


def answer(id_: str, text: str = "", **fields: Any) -> Message:
    return Message(id=id_, author=Author.BOT, text=text, **fields)


def turn(store: Store, conversation_id: str, number: int, text: str = "On its way.") -> None:
    store.begin_turn(conversation_id, (question(f"q{number}"),), answer(f"r{number}"))
    store.finish(answer(f"r{number}", text, finish_reason=FinishReason.STOP))


def ids(found: Sequence[Message | ConversationInfo]) -> list[str]:
    return [one.id for one in found]


# Conversations


def test_what_was_created_is_read_back(store: Store) -> None:
    info = conversation(
        "c1",
        title=ODD,
        customer=ODD,
        system=ODD,
        metadata={"tags": ["a", ODD], "deep": {"x": [1, 2.5, None, True]}, "nul": "\x00"},
        created_at=datetime(2026, 3, 1, 12, 0, 0, 123456, timezone(timedelta(hours=5))),
    )
    store.create(info)
    assert store.conversation("c1") == info
    assert store.conversations() == [info]


def test_a_taken_id_is_refused_and_the_first_one_stays(store: Store) -> None:
    store.create(conversation("c1", title="first"))
    with pytest.raises(UsageError, match="'c1'"):
        store.create(conversation("c1", title="second"))
    assert store.conversation("c1").title == "first"


def test_a_beginning_of_an_id_is_enough_when_it_fits_only_one(store: Store) -> None:
    for id_ in ("alpha-1", "alpha-2", "beta-1", "Beta-2", "alpha"):
        store.create(conversation(id_))
    assert store.conversation("b").id == "beta-1"
    assert store.conversation("alpha").id == "alpha"
    with pytest.raises(UnknownNameError, match="Several begin with 'alpha-'") as caught:
        store.conversation("alpha-")
    assert set(caught.value.nearest) == {"alpha-1", "alpha-2", "alpha"} - {"alpha"}
    for wrong in ("", "%", "_lpha-1", "zeta"):
        with pytest.raises(UnknownNameError):
            store.conversation(wrong)


def test_an_unknown_id_is_answered_with_the_nearest_ones(store: Store) -> None:
    store.create(conversation("order-4711"))
    for ask in (
        lambda: store.conversation("order-4712"),
        lambda: store.messages("order-4712"),
        lambda: store.tree("order-4712"),
        lambda: store.rename("order-4712", "x"),
        lambda: store.annotate("order-4712", {}),
        lambda: store.delete("order-4712"),
        lambda: store.restore("order-4712"),
        lambda: store.add("order-4712", question("q")),
        lambda: store.begin_turn("order-4712", (question("q"),), answer("r")),
        lambda: store.select("order-4712", "q"),
    ):
        with pytest.raises(UnknownNameError, match="Did you mean 'order-4711'"):
            ask()
    store.delete("order-4711")
    with pytest.raises(UnknownNameError, match="Did you mean 'order-4711'"):
        store.restore("order-4712")


def test_a_new_title_and_new_metadata_replace_the_old_ones(store: Store) -> None:
    store.create(conversation("c1", title="old words", metadata={"tags": ["old"], "n": 1}))
    before = store.conversation("c1").updated_at
    store.rename("c1", "new phrase")
    store.annotate("c1", {"tags": ["new"], "m": 2})
    found = store.conversation("c1")
    assert (found.title, found.metadata) == ("new phrase", {"tags": ["new"], "m": 2})
    assert found.updated_at == before
    assert ids(store.conversations("phrase")) == ["c1"]
    assert store.conversations("old") == []
    assert ids(store.conversations(tag="new", metadata={"m": 2})) == ["c1"]
    assert store.conversations(tag="old") == []
    assert store.conversations(metadata={"n": 1}) == []


def test_metadata_that_is_no_json_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="no JSON"):
        store.create(conversation("c1", metadata={"when": START}))
    store.create(conversation("c2"))
    with pytest.raises(UsageError, match="no JSON"):
        store.annotate("c2", {"x": {1, 2}})
    assert ids(store.conversations()) == ["c2"]
    assert store.conversation("c2").metadata == {}


def test_changing_what_was_read_changes_nothing_kept(store: Store) -> None:
    given_metadata = {"tags": ["a"]}
    store.create(conversation("c1", metadata=given_metadata))
    given_metadata["tags"].append("b")
    store.conversation("c1").metadata["tags"].append("c")
    assert store.conversation("c1").metadata == {"tags": ["a"]}


def test_the_last_used_comes_first_page_by_page(store: Store) -> None:
    for number in (3, 1, 2, 5, 4):
        store.create(conversation(f"c{number}", number))
    assert ids(store.conversations()) == ["c5", "c4", "c3", "c2", "c1"]
    assert ids(store.conversations(limit=2)) == ["c5", "c4"]
    assert ids(store.conversations(limit=2, offset=3)) == ["c2", "c1"]
    assert store.conversations(limit=0) == store.conversations(offset=9) == []
    turn(store, "c2", 1)
    assert ids(store.conversations())[0] == "c2"
    with pytest.raises(UsageError, match="-1"):
        store.conversations(limit=-1)


def test_a_list_shows_length_and_newest_words_of_the_active_branch(store: Store) -> None:
    store.create(conversation("c1"))
    assert (store.conversation("c1").message_count, store.conversation("c1").last_text) == (0, "")
    store.add("c1", question("q1", "x" * 300))
    assert store.conversation("c1").last_text == "x" * 200
    store.begin_turn("c1", (), answer("r1"))
    assert store.conversation("c1").last_text == "x" * 200
    store.checkpoint("r1", "Half a")
    found = store.conversations()[0]
    assert (found.message_count, found.last_text) == (2, "Half a")
    store.finish(answer("r1", "\x10" * 250, finish_reason=FinishReason.STOP))
    assert store.conversation("c1").last_text == "\x10" * 200
    store.select("c1", "q1")
    assert store.conversation("c1").message_count == 1


def test_deleted_conversations_hide_until_restored_or_purged(store: Store) -> None:
    for number in range(4):
        store.create(conversation(f"c{number}", number, title="same words"))
        store.add(f"c{number}", question(f"q{number}"))
    store.delete("c1")
    store.delete("c2")
    store.delete("c2")
    assert ids(store.conversations("same")) == ids(store.conversations()) == ["c3", "c0"]
    assert ids(store.conversations(deleted=True)) == ["c2", "c1"]
    with pytest.raises(UnknownNameError, match="It was deleted; restore brings it back"):
        store.conversation("c1")
    with pytest.raises(UnknownNameError):
        store.add("c1", question("later"))
    store.restore("c1")
    store.restore("c1")
    assert ids(store.messages("c1")) == ["q1"]
    assert store.purge(["c0", "c2", "nothing"]) == 1
    assert store.purge() == 0
    assert ids(store.conversations()) == ["c3", "c1", "c0"]
    with pytest.raises(UnknownNameError):
        store.restore("c2")
    store.create(conversation("c2"))
    assert store.tree("c2") == []


# Search and filters

TEXTS = {
    "plain": "Do you ship to Norway? My order number is 4711-B.",
    "accents": "Crème brûlée für Łódź, Ångström, ÇA, naïve façade",
    "case": "STRASSE Straße ΣΊΣΥΦΟΣ Привет",
    "chinese": "你好，我要退货，订单号是12345。谢谢！",
    "japanese": "返品したいです。ﾃﾚﾋﾞ と テレビ",
    "korean": "환불해 주세요",
    "thai": "ขอคืนเงินค่าสินค้า",
    "hindi": "हिन्दी में मदद",
    "arabic": "أريد استرداد المال",
    "emoji": "thanks 🚲🎉 a lot",
    "signs": "C++ e-mail: a_b@example.com (50% off!) don't",
    "wide": "ＦＵＬＬ ｗｉｄｔｈ ① ﬁne",
}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("norway", {"plain"}),
        ("NORW", {"plain"}),
        ("orway", set()),
        ("norwayx", set()),
        ("norway order", {"plain"}),
        ("order norw", {"plain"}),
        ("orde norway", set()),  # only the last word may be cut short
        ("4711", {"plain"}),
        ("4711-b", {"plain"}),
        ('"ship to"', {"plain"}),
        ("creme brulee", {"accents"}),
        ("CRÈME", {"accents"}),
        ("angstrom", {"accents"}),
        ("ca", {"accents"}),
        ("strasse", {"case"}),
        ("STRAßE", {"case"}),
        ("σίσυφος", {"case"}),
        ("привет", {"case"}),
        ("退货", {"chinese"}),
        ("我要退货", {"chinese"}),
        ("退", {"chinese"}),
        ("货退", set()),
        ("订单号 12345", {"chinese"}),
        ("订单号是1234", {"chinese"}),
        ("返品", {"japanese"}),
        ("テレビ", {"japanese"}),
        ("환불", {"korean"}),
        ("คืนเงิน", {"thai"}),
        ("हिन्दी", {"hindi"}),
        ("استرداد", {"arabic"}),
        ("🚲", {"emoji"}),
        ("thanks 🎉", {"emoji"}),
        ("🚗", set()),
        ("a_b@example.com", {"signs"}),
        ("don't", {"signs"}),
        ("full width", {"wide"}),
        ("fine", {"wide"}),
        ("t", {"plain", "emoji", "signs"}),  # from the first letter on
        ("zz", set()),
    ],
)
def test_words_are_found_whatever_their_case_accents_and_script(
    query: str, expected: set[str]
) -> None:
    store = MemoryStore()
    for number, (id_, text) in enumerate(TEXTS.items()):
        store.create(conversation(id_, number))
        store.add(id_, question(f"q-{id_}", text))
    assert set(ids(store.conversations(query))) == expected


@pytest.fixture
def searched(store: Store) -> Store:
    for number, (id_, text) in enumerate(TEXTS.items()):
        store.create(conversation(id_, number))
        store.add(id_, question(f"q-{id_}", text))
    return store


QUERIES = (
    "norway", "NORW", "orway", "norway order", "orde norway", "4711-b", "creme brulee", "CA",
    "STRAßE", "σίσυφος", "退货", "退", "货退", "订单号是1234", "返品", "テレビ", "환불", "คืนเงิน",
    "हिन्दी", "استرداد", "🚲", "thanks 🎉", "a_b@example.com", "don't", "full wid", "t", "a", "th",
    "", "   ", "?", "AND", "NOT norway", "NEAR(norway)", "norway OR x", "order*", "^order",
    "-norway", '"', "'", "a'b", "order:", "*", "\\", ":*", "&", "|", "!", "<->", "{}", "[", "\x00",
    "\ud800", "norway\x00", "x" * 5000, "ship " * 50,
    " ".join(f"n{number}" for number in range(2000)),
)  # fmt: skip


def test_every_database_finds_the_same(searched: Store) -> None:
    reference = MemoryStore()
    for number, (id_, text) in enumerate(TEXTS.items()):
        reference.create(conversation(id_, number))
        reference.add(id_, question(f"q-{id_}", text))
    for query in QUERIES:
        found = set(ids(searched.conversations(query)))
        assert found == set(ids(reference.conversations(query))), query


def test_a_query_without_words_finds_everything(searched: Store) -> None:
    assert len(searched.conversations("?! --")) == len(TEXTS)


def test_words_may_stand_in_different_messages_and_in_the_title(store: Store) -> None:
    store.create(conversation("c1", title="About bicycles"))
    turn(store, "c1", 1, "The wheel is round.")
    turn(store, "c1", 2, "The chain is long.")
    assert ids(store.conversations("bicycles wheel chain round")) == ["c1"]
    assert store.conversations("bicycles wheel chain square") == []


def test_a_reply_is_found_once_it_is_finished(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (question("q1", "common first"),), answer("r1"))
    assert ids(store.conversations("first")) == ["c1"]
    store.finish(answer("r1", "common second", finish_reason=FinishReason.CANCELLED))
    assert ids(store.conversations("second common")) == ["c1"]


def test_words_of_a_turn_that_was_taken_back_are_found_no_more(store: Store) -> None:
    store.create(conversation("c1"))
    turn(store, "c1", 1, "alpha beta")
    store.begin_turn("c1", (question("q2", "beta gamma"),), answer("r2"))
    store.undo_turn("r2", ("q2",))
    assert store.conversations("gamma") == []
    assert ids(store.conversations("alpha beta")) == ["c1"]


def test_filters_narrow_together(store: Store) -> None:
    for number in range(6):
        store.create(
            conversation(
                f"c{number}",
                number,
                customer=f"k{number % 2}",
                title="even" if number % 2 == 0 else "odd",
                metadata={
                    "tags": ["all", f"t{number % 3}"],
                    "status": "open" if number < 3 else "closed",
                    "n": number,
                    "b": number == 1,
                },
            )
        )
    store.add("c4", Message(id="h", author=Author.HUMAN, text="I take over"))

    def found(**filters: Any) -> list[str]:
        return sorted(ids(store.conversations(**filters)))

    assert found(customer="k1") == ["c1", "c3", "c5"]
    assert found(tag="t0") == ["c0", "c3"]
    assert found(customer="k1", tag="t0") == ["c3"]
    assert found(metadata={"status": "open"}) == ["c0", "c1", "c2"]
    assert found(metadata={"n": 1}) == found(metadata={"b": True}) == ["c1"]
    assert found(metadata={"n": True}) == found(metadata={"n": "1"}) == []
    assert found(metadata={"status": "open", "tags": "all"}, query="ev") == ["c0", "c2"]
    assert found(author=Author.HUMAN) == ["c4"]
    assert found(author=Author.BOT) == []
    assert found(since=START + timedelta(minutes=2), until=START + timedelta(minutes=4)) == [
        "c2",
        "c3",
    ]
    assert found(since=START.replace(tzinfo=None) + timedelta(minutes=5)) == ["c4", "c5"]
    assert found(customer="nobody") == found(tag="nothing") == []
    store.delete("c3")
    assert found(customer="k1") == ["c1", "c5"]
    assert found(customer="k1", deleted=True) == ["c3"]


def test_who_speaks_is_found_as_long_as_it_is_there(store: Store) -> None:
    store.create(conversation("c1"))
    person = Message(id="h1", author=Author.HUMAN, text="A person asks.")
    store.begin_turn("c1", (person,), answer("r1"))
    store.annotate("c1", {"tags": ["x"]})
    assert ids(store.conversations(author=Author.HUMAN)) == ["c1"]
    store.undo_turn("r1", ("h1",))
    assert store.conversations(author=Author.HUMAN) == []
    store.add("c1", question("q1"))
    assert ids(store.conversations(author=Author.CUSTOMER, tag="x")) == ["c1"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(query=st.text(max_size=30) | st.sampled_from(QUERIES))
def test_nothing_that_is_typed_is_a_syntax_error(searched: Store, query: str) -> None:
    assert isinstance(searched.conversations(query, limit=1), list)


# Messages and turns


def full_message() -> Message:
    return Message(
        id="r1",
        author=Author.BOT,
        text=ODD,
        created_at=START + timedelta(microseconds=1),
        parent_id="q1",
        finish_reason=FinishReason.LENGTH,
        tool_calls=(ToolCall(id="t1", name="look_up", arguments=json.dumps({"a": ODD})),),
        tool_call_id="t0",
        usage=Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=5, decode_s=0.25),
        context=ContextReport(
            n_ctx=2048,
            prompt_tokens=9,
            reply_reserve=100,
            policy="rolling-window",
            template="model",
            items=(
                ContextItem(
                    id="q1", kind="message", outcome=ContextOutcome.EVICTED, tokens=3, reason=ODD
                ),
            ),
            notes=("a note", ODD),
        ),
        model="smol",
        pinned=True,
    )


def test_a_message_is_read_back_whole(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (question("q1"),), answer("r1"))
    full = full_message()
    store.finish(full)
    kept = store.messages("c1")[1]
    assert kept.model_copy(update={"created_at": full.created_at}) == full
    full_again = full.model_copy(update={"id": "r2", "parent_id": "r1"})
    store.add("c1", full_again)
    assert store.messages("c1")[2] == full_again
    bare = store.messages("c1", reports=False)
    # The next prompt begins where the newest one did.
    assert [m.context for m in bare] == [None, None, full.context]
    assert store.tree("c1", reports=False) == bare and store.tree("c1")[1:] == [kept, full_again]
    assert bare[2].usage == full.usage


def test_a_turn_is_kept_from_its_question_to_its_end(store: Store) -> None:
    store.create(conversation("c1"))
    said = (question("q1", "First."), question("q2", "And second."))
    store.begin_turn("c1", said, answer("r1"))
    kept = store.messages("c1")
    assert ids(kept) == ["q1", "q2", "r1"]
    assert [m.parent_id for m in kept] == [None, "q1", "q2"]
    assert (kept[2].text, kept[2].finish_reason) == ("", None)
    store.checkpoint("r1", "Half")
    assert store.messages("c1")[2].text == "Half"
    store.finish(answer("r1", "Half a reply", finish_reason=FinishReason.CANCELLED))
    assert store.messages("c1")[2].text == "Half a reply"
    assert store.messages("c1")[2].finish_reason is FinishReason.CANCELLED
    assert ids(store.tree("c1")) == ["q1", "q2", "r1"]


def test_a_conversation_is_busy_until_its_reply_is_finished(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (question("q1"),), answer("r1"))
    with pytest.raises(ConversationBusyError) as caught:
        store.begin_turn("c1", (question("q2"),), answer("r2"))
    assert caught.value.conversation_id == "c1"
    assert ids(store.tree("c1")) == ["q1", "r1"]
    store.finish(answer("r1", "Yes", finish_reason=FinishReason.STOP))
    store.begin_turn("c1", (question("q2"),), answer("r2"))


def test_a_turn_that_was_prepared_for_another_leaf_is_refused(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (question("q1"),), answer("r1"), after=ROOT)
    store.finish(answer("r1", "Yes", finish_reason=FinishReason.STOP))
    with pytest.raises(ConversationMovedError):
        store.begin_turn("c1", (question("q2"),), answer("r2"), after=ROOT)
    with pytest.raises(ConversationMovedError):
        store.begin_turn("c1", (question("q2"),), answer("r2"), after="q1")
    assert ids(store.tree("c1")) == ["q1", "r1"]
    store.begin_turn("c1", (question("q2"),), answer("r2"), after="r1")


def test_a_finished_reply_can_be_finished_again_only_the_same(store: Store) -> None:
    store.create(conversation("c1"))
    turn(store, "c1", 1, "Yes")
    store.finish(answer("r1", "Yes", finish_reason=FinishReason.STOP))
    with pytest.raises(UsageError, match="'r1'"):
        store.finish(answer("r1", "No", finish_reason=FinishReason.STOP))
    with pytest.raises(UsageError, match="'r1'"):
        store.checkpoint("r1", "No")
    assert store.messages("c1")[1].text == "Yes"


def test_replies_that_cannot_be_meant_are_refused(store: Store) -> None:
    store.create(conversation("c1"))
    with pytest.raises(UsageError, match="finished already"):
        store.begin_turn("c1", (), answer("r1", finish_reason=FinishReason.STOP))
    store.begin_turn("c1", (question("q1"),), answer("r1"))
    with pytest.raises(UsageError, match="no finish reason"):
        store.finish(answer("r1", "x"))
    for ask in (
        lambda: store.finish(answer("r9", finish_reason=FinishReason.STOP)),
        lambda: store.checkpoint("r9", "x"),
        lambda: store.undo_turn("r9", ()),
    ):
        with pytest.raises(UnknownNameError, match="'r9'"):
            ask()


def test_a_turn_hangs_where_it_says(store: Store) -> None:
    store.create(conversation("c1"))
    turn(store, "c1", 1)
    turn(store, "c1", 2)
    store.begin_turn("c1", (question("edit2", parent_id="r1"),), answer("r2b"))
    store.finish(answer("r2b", "b", finish_reason=FinishReason.STOP))
    assert ids(store.messages("c1")) == ["q1", "r1", "edit2", "r2b"]
    store.begin_turn("c1", (), answer("r1b", parent_id="q1"))
    store.finish(answer("r1b", "b", finish_reason=FinishReason.STOP))
    assert ids(store.messages("c1")) == ["q1", "r1b"]
    store.begin_turn("c1", (question("edit1", parent_id=ROOT),), answer("r3"))
    store.finish(answer("r3", "c", finish_reason=FinishReason.STOP))
    assert ids(store.messages("c1")) == ["edit1", "r3"]
    assert store.messages("c1")[0].parent_id is None
    assert ids(store.messages("c1", "r2")) == ["q1", "r1", "q2", "r2"]
    assert ids(store.messages("c1", "q2")) == ["q1", "r1", "q2"]
    assert ids(store.tree("c1")) == [
        "q1", "r1", "q2", "r2", "edit2", "r2b", "r1b", "edit1", "r3",
    ]  # fmt: skip
    store.select("c1", "r2")
    assert ids(store.messages("c1")) == ["q1", "r1", "q2", "r2"]
    turn(store, "c1", 4)
    assert ids(store.messages("c1"))[-3:] == ["r2", "q4", "r4"]


def test_a_turn_without_questions_follows_the_leaf(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (), answer("hello"))
    store.finish(answer("hello", "How can I help?", finish_reason=FinishReason.STOP))
    turn(store, "c1", 1)
    store.begin_turn("c1", (), answer("more"))
    assert ids(store.messages("c1")) == ["hello", "q1", "r1", "more"]


def test_messages_that_cannot_be_hung_are_refused_and_nothing_is_kept(store: Store) -> None:
    store.create(conversation("c1"))
    store.create(conversation("c2"))
    turn(store, "c1", 1)
    store.add("c2", question("other"))
    with pytest.raises(UnknownNameError, match="Did you mean 'q1'"):
        store.begin_turn("c1", (question("n", parent_id="q7"),), answer("m"))
    with pytest.raises(UnknownNameError):
        store.add("c1", question("n", parent_id="other"))
    with pytest.raises(UsageError, match="hangs on 'q1'"):
        store.begin_turn("c1", (question("n"), question("k", parent_id="q1")), answer("m"))
    for taken in ("q1", "other"):
        with pytest.raises(UsageError, match=f"'{taken}'"):
            store.begin_turn("c1", (question(taken),), answer("m"))
    with pytest.raises(UsageError, match="'same'"):
        store.begin_turn("c1", (question("same"),), answer("same"))
    for wrong in ("q7", "other"):
        with pytest.raises(UnknownNameError):
            store.select("c1", wrong)
        with pytest.raises(UnknownNameError):
            store.messages("c1", wrong)
    assert ids(store.tree("c1")) == ["q1", "r1"]
    turn(store, "c1", 2)


def test_a_turn_taken_back_leaves_no_trace(store: Store) -> None:
    store.create(conversation("c1"))
    turn(store, "c1", 1)
    turn(store, "c1", 2)
    store.select("c1", "r1")
    before = (store.conversation("c1"), store.tree("c1"), store.messages("c1"))
    store.begin_turn("c1", (question("q3"), question("q4")), answer("r3"))
    store.undo_turn("r3", ("q3", "q4"))
    assert (store.conversation("c1"), store.tree("c1"), store.messages("c1")) == before
    store.begin_turn("c1", (), answer("r1b", parent_id="q1"))
    store.undo_turn("r1b", ())
    assert (store.conversation("c1"), store.tree("c1"), store.messages("c1")) == before
    store.begin_turn("c1", (question("q3"),), answer("r3"))
    store.finish(answer("r3", "x", finish_reason=FinishReason.STOP))


def test_a_turn_that_something_follows_is_not_taken_back(store: Store) -> None:
    store.create(conversation("c1"))
    turn(store, "c1", 1)
    turn(store, "c1", 2)
    with pytest.raises(UsageError, match="'q2' follows"):
        store.undo_turn("r1", ("q1",))
    with pytest.raises(UnknownNameError):
        store.undo_turn("r2", ("nothing",))
    assert ids(store.messages("c1")) == ["q1", "r1", "q2", "r2"]


def test_a_person_may_speak_while_the_bot_does(store: Store) -> None:
    store.create(conversation("c1"))
    store.begin_turn("c1", (question("q1"),), answer("r1"))
    store.add("c1", Message(id="h1", author=Author.HUMAN, text="I take over."))
    store.finish(answer("r1", "I", finish_reason=FinishReason.CANCELLED))
    assert ids(store.messages("c1")) == ["q1", "r1", "h1"]


def test_a_closed_store_takes_nothing_more(store: Store) -> None:
    store.create(conversation("c1"))
    store.close()
    store.close()
    for write in (store.purge, lambda: store.create(conversation("c2"))):
        with pytest.raises(StoreError, match="closed"):
            write()


def test_what_was_said_stays_readable_when_a_database_is_closed(store: Store) -> None:
    store.create(conversation("c1"))
    store.add("c1", question("q1", "Still there?"))
    store.close()
    if isinstance(store, MemoryStore):
        with pytest.raises(StoreError, match="closed"):
            store.messages("c1")
    else:
        assert ids(store.messages("c1")) == ["q1"]


def test_a_very_long_message_is_kept_whole_and_found_by_its_first_words(store: Store) -> None:
    text = " ".join(f"word{number} 退货{chr(0x4E00 + number % 20_000)}" for number in range(50_000))
    store.create(conversation("c1"))
    store.add("c1", question("q1", text))
    assert store.messages("c1")[0].text == text
    assert ids(store.conversations("word77 退货")) == ["c1"]


# Many at a time


def test_of_many_threads_in_one_conversation_one_speaks_at_a_time(store: Store) -> None:
    store.create(conversation("c1"))
    done: list[str] = []
    unexpected: list[BaseException] = []

    def talk(thread: int) -> None:
        try:
            for number in range(6):
                name = f"{thread}-{number}"
                try:
                    store.begin_turn("c1", (question(f"q{name}"),), answer(f"r{name}"))
                except ConversationBusyError:
                    continue
                store.checkpoint(f"r{name}", "H")
                store.finish(answer(f"r{name}", "Hm.", finish_reason=FinishReason.STOP))
                done.append(name)
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    kept = store.messages("c1")
    assert len(kept) == len(store.tree("c1")) == 2 * len(done) > 0
    assert {m.id for m in kept} == {f"{kind}{name}" for name in done for kind in "qr"}
    assert [m.parent_id for m in kept] == [None, *ids(kept)[:-1]]


# Import, export, erasure


def branched(prefix: str = "") -> list[Message]:
    return [
        question(f"{prefix}a", "Root one", created_at=START),
        answer(f"{prefix}b", "Reply", created_at=START, parent_id=f"{prefix}a"),
        question(f"{prefix}c", "Root two", created_at=START),
        answer(f"{prefix}d", "Other", created_at=START, parent_id=f"{prefix}a"),
        question(f"{prefix}e", "More", created_at=START, parent_id=f"{prefix}d"),
    ]


def test_an_imported_conversation_is_the_one_that_was_given(store: Store) -> None:
    info = conversation("c1", customer="k", title="Imported", metadata={"tags": ["old"]})
    assert store.import_conversations([(info, branched()), (conversation("c2"), [])]) == 2
    assert store.tree("c1") == branched()
    assert ids(store.messages("c1")) == ["a", "d", "e"]
    kept = store.conversation("c1")
    assert kept == info.model_copy(update={"message_count": 3, "last_text": "More"})
    assert ids(store.conversations("root two imp", tag="old", author=Author.BOT)) == ["c1"]
    turn(store, "c1", 9)
    assert ids(store.messages("c1")) == ["a", "d", "e", "q9", "r9"]


@pytest.mark.parametrize(
    ("pairs", "place"),
    [
        (lambda: [(conversation("there"), [])], "conversation 1 of 1 .id 'there'.: the store has"),
        (lambda: [(conversation(""), [])], "conversation 1 of 1 .id ''.: it has no id"),
        (
            lambda: [(conversation("x"), []), (conversation("x"), [])],
            "conversation 2 of 2 .id 'x'.: conversation 1 has the same id",
        ),
        (
            lambda: [(conversation("x"), [question("p"), question("p")])],
            "message 2 of 2 .id 'p'.: message 1 of 2 .id 'p'. of conversation 1 has the same",
        ),
        (
            lambda: [(conversation("x"), [question("p")]), (conversation("y"), [question("p")])],
            "conversation 2 of 2 .id 'y'., message 1 of 1 .id 'p'.: message 1",
        ),
        (lambda: [(conversation("x"), [question("q")])], "message 1 of 1 .id 'q'.: the store has"),
        (lambda: [(conversation("x"), [question("")])], "message 1 of 1 .id ''.: it has no id"),
        (
            lambda: [(conversation("x"), [question("p", parent_id="nowhere")])],
            "message 1 of 1 .id 'p'.: its parent 'nowhere' is not among",
        ),
        (
            lambda: [(conversation("x"), [question("p", parent_id="r"), question("r")])],
            "message 1 of 2 .id 'p'.: its parent 'r' does not come before",
        ),
        (
            lambda: [(conversation("x"), [question("p", parent_id="p")])],
            "message 1 of 1 .id 'p'.: its parent 'p' does not come before",
        ),
        (
            lambda: [(conversation("x"), [question("p"), question("r", parent_id="q")])],
            "message 2 of 2 .id 'r'.: its parent 'q' is not among",
        ),
        (
            lambda: [(conversation("x"), [question("p", created_at=START.replace(year=2999))])],
            "message 1 of 1 .id 'p'.: created_at '2999-.* is in the future",
        ),
        (
            lambda: [(conversation("x", updated_at=START.replace(year=2999)), [])],
            "conversation 1 of 1 .id 'x'.: updated_at '2999-.* is in the future",
        ),
        (
            lambda: [(conversation("x"), [question("p", created_at=datetime(2020, 1, 1))])],
            "message 1 of 1 .id 'p'.: created_at '2020-01-01T00:00:00' has no time zone",
        ),
    ],
)
def test_a_bad_import_is_refused_with_its_place_and_keeps_nothing(
    store: Store, pairs: Any, place: str
) -> None:
    store.create(conversation("there"))
    store.add("there", question("q"))
    good = (conversation("good"), branched())
    with pytest.raises(UsageError, match=place):
        store.import_conversations(pairs())
    for dry_run in (False, True):
        with pytest.raises(ImportRefusedError, match="Nothing was imported") as refused:
            store.import_conversations([good, *pairs()], dry_run=dry_run)
        assert refused.value.number == 1 + len(pairs())
    assert store.import_conversations([good], dry_run=True) == 1
    assert ids(store.conversations()) == ["there"]
    assert store.import_conversations([good]) == 1


def test_everything_about_a_customer_is_exported_as_json(store: Store) -> None:
    store.import_conversations([(conversation("c1", customer="k"), branched())])
    store.create(conversation("c2", customer="k", title=ODD))
    store.create(conversation("c3", customer="other"))
    store.delete("c2")
    exported = json.loads(json.dumps(store.export_customer("k")))
    assert exported["customer"] == "k"
    first, second = exported["conversations"]
    assert (first["id"], first["deleted"], first["leaf_id"]) == ("c1", False, "e")
    assert (second["id"], second["deleted"], second["title"]) == ("c2", True, ODD)
    assert [Message.model_validate(m) for m in first["messages"]] == branched()
    assert store.export_customer("nobody") == {"customer": "nobody", "conversations": []}


def score(metric: str, value: float | None = 1.0, **fields: Any) -> KeptScore:
    return KeptScore(metric=metric, value=value, at=START, fingerprint="f1", **fields)


def test_scores_stand_beside_a_conversation_and_its_messages(store: Store) -> None:
    store.create(conversation("c1", customer="k"))
    store.create(conversation("c2"))
    turn(store, "c1", 1)
    before = store.conversation("c1")
    whole = [score("turns", 3.0), score(f"{ODD} metric", -1e300)]
    of_turns = [
        score("latency", 0.1, message_id="r1", cause=True),
        score("apologies", None, message_id="r1", cause=True),
        score("latency", 0.0, message_id="q1"),
    ]
    store.keep_scores({"c1": [*of_turns, *whole], "c2": [score("turns")]})
    first, second = sorted(whole, key=lambda s: s.metric)
    assert store.scores("c1") == [first, second, of_turns[2], of_turns[1], of_turns[0]]
    assert store.scores("c2") == [score("turns")]
    assert store.conversation("c1") == before, "being scored is no use"
    (exported,) = store.export_customer("k")["conversations"]
    told = [KeptScore.model_validate(s) for s in json.loads(json.dumps(exported["scores"]))]
    assert told == store.scores("c1")


def test_new_scores_replace_all_that_were_there(store: Store) -> None:
    store.create(conversation("c1"))
    store.create(conversation("c2"))
    store.keep_scores({"c1": [score("turns"), score("ter")], "c2": [score("turns")]})
    store.keep_scores({"c1": [score("turns", 2.0)]})
    assert store.scores("c1") == [score("turns", 2.0)]
    assert store.scores("c2") == [score("turns")]
    store.keep_scores({"c1": []})
    assert store.scores("c1") == []


def test_scores_that_cannot_be_kept_are_refused_all_together(store: Store) -> None:
    store.create(conversation("c1"))
    store.create(conversation("c2"))
    turn(store, "c2", 1)
    for bad in (
        {"c1": [score("turns")], "nobody": [score("turns")]},
        {"c1": [score("turns"), score("latency", message_id="r1")]},
    ):
        with pytest.raises(UnknownNameError):
            store.keep_scores(bad)
    with pytest.raises(UsageError, match="two scores 'turns' for the whole"):
        store.keep_scores({"c1": [score("turns"), score("turns", 2.0)]})
    assert store.scores("c1") == []
    with pytest.raises(UnknownNameError):
        store.scores("nobody")


def test_scores_go_with_what_they_are_about(store: Store) -> None:
    store.create(conversation("c1", customer="k"))
    turn(store, "c1", 1)
    store.begin_turn("c1", (question("q2"),), answer("r2"))
    of_turn = score("latency", message_id="q2")
    store.keep_scores({"c1": [score("turns"), of_turn]})
    store.undo_turn("r2", ("q2",))
    assert store.scores("c1") == [score("turns")]
    assert store.erase_customer("k") == 1
    store.create(conversation("c1"))
    assert store.scores("c1") == []


def test_an_erased_customer_is_gone_and_nobody_else_is(store: Store) -> None:
    store.import_conversations(
        [
            (conversation("c1", customer="k"), branched("1")),
            (conversation("c2", customer="k"), branched("2")),
            (conversation("c3", customer="other"), branched("3")),
        ]
    )
    store.delete("c2")
    assert store.erase_customer("k") == 2
    assert ids(store.conversations()) == ids(store.conversations("root")) == ["c3"]
    assert store.conversations(deleted=True) == []
    assert store.export_customer("k")["conversations"] == []
    assert store.tree("c3") == branched("3")
    assert store.erase_customer("k") == 0
    assert store.import_conversations([(conversation("c1", customer="k"), branched("1"))]) == 1


def test_a_customer_to_whom_a_reply_is_written_is_not_erased(store: Store) -> None:
    store.create(conversation("c1", customer="k"))
    store.create(conversation("c2", customer="k"))
    store.begin_turn("c1", (question("q1"),), answer("r1"))
    with pytest.raises(ConversationBusyError):
        store.erase_customer("k")
    store.delete("c1")
    assert store.purge() == 0
    assert store.purge_older_than(datetime.now(UTC) + timedelta(days=1)) == 1
    store.finish(answer("r1", "x", finish_reason=FinishReason.STOP))
    assert store.erase_customer("k") == 1


def test_what_is_older_than_its_time_to_live_is_removed(store: Store) -> None:
    for number in range(4):
        store.create(conversation(f"c{number}", number))
    store.delete("c1")
    assert store.purge_older_than(START + timedelta(minutes=2)) == 2
    assert ids(store.conversations()) == ["c3", "c2"]
    assert store.purge_older_than(START.replace(tzinfo=None) + timedelta(minutes=2)) == 0


def test_a_message_is_found_by_its_id_alone(store: Store) -> None:
    for name in ("c1", "c2"):
        store.create(conversation(name))
        store.add(name, question(f"m-{name}-first"))
        store.add(name, question(f"m-{name}-second"))
    assert store.find_message("m-c2-first") == ("c2", store.messages("c2")[0])
    assert store.find_message("m-c1-s")[1].id == "m-c1-second"
    with pytest.raises(UnknownNameError, match="Several begin with 'm-c1'") as several:
        store.find_message("m-c1")
    assert set(several.value.nearest) == {"m-c1-first", "m-c1-second"}
    for name in ("m-c1-fist", ""):
        with pytest.raises(UnknownNameError) as unknown:
            store.find_message(name)
        assert ("m-c1-first" in unknown.value.nearest) == bool(name)
    store.delete("c1")
    with pytest.raises(UnknownNameError):
        store.find_message("m-c1-first")


def test_conversations_are_found_by_their_scores(store: Store) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for name, value in (("c1", 0.2), ("c2", 0.5), ("c3", None)):
        store.create(conversation(name))
        store.add(name, question(f"m-{name}"))
        store.keep_scores(
            {
                name: [
                    KeptScore(metric="badness", value=value, at=at),
                    KeptScore(metric="badness", message_id=f"m-{name}", value=0.9, at=at),
                    KeptScore(metric="turns", value=1.0, at=at),
                ]
            }
        )

    def found(**scores: tuple[float, float]) -> set[str]:
        return {info.id for info in store.conversations(scores=scores)}

    assert found(badness=(0.2, 0.4)) == {"c1"}
    assert found(badness=(0.0, 1.0)) == {"c1", "c2"}
    assert found(turns=(1.0, 1.0)) == {"c1", "c2", "c3"}
    assert found(badness=(0.3, 1.0), turns=(0.0, 2.0)) == {"c2"}
    assert found(absent=(0.0, 1.0)) == found(badness=(0.6, 1.0)) == set()
