"""The presenter, without a screen: turns, conversations, and what goes wrong on the way."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from quietdesk import ConversationInfo, FinishReason, Settings
from quietdesk.engine.backend import Backend
from quietdesk.errors import (
    ContextError,
    ConversationBusyError,
    EmptyMessageError,
    ModelFileError,
    QueueFullError,
    StoreWriteError,
    UnknownNameError,
)
from quietdesk.store.base import Store
from quietdesk.store.memory import MemoryStore
from quietdesk.testing import scripted_assistant
from quietdesk_tui.session import (
    NEW,
    Began,
    Ended,
    Event,
    Phase,
    Refused,
    Said,
    Session,
    Stage,
    Turn,
    last_reply,
)


def make_session(
    store: Store | None = None,
    *,
    engine: Callable[[Callable[[float], bool]], Backend] | None = None,
    **runner: Any,
) -> Session:
    return Session(
        Settings(),
        store_opener=lambda: store or MemoryStore(),
        engine_opener=engine or (lambda tell: scripted_assistant(**runner).engine),
    )


async def ready(store: Store | None = None, **runner: Any) -> Session:
    session = make_session(store, **runner)
    await session.open_database()
    await session.load_model()
    assert session.phase is Phase.READY
    return session


async def all_of(session: Session, turn: Turn) -> list[Event]:
    return [event async for event in session.follow(turn)]


async def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_turn_is_told_from_beginning_to_end() -> None:
    session = await ready(replies=["We ship to Norway."])
    turn = session.say("Do you?")
    assert (session.turn, turn.stage) == (turn, Stage.WAITING)
    events = await all_of(session, turn)
    assert isinstance(events[0], Began) and isinstance(events[-1], Ended)
    assert "".join(e.text for e in events if isinstance(e, Said)) == "We ship to Norway."
    assert events[-1].message.finish_reason is FinishReason.STOP
    assert [message.text for message in session.messages] == ["Do you?", "We ship to Norway."]
    assert session.info is not None and session.info.title == "Do you?"
    assert session.turn is None and session.can_regenerate
    await session.close()


async def test_what_was_typed_while_the_model_loads_is_sent_when_it_is_there() -> None:
    go = threading.Event()

    def slow(tell: Callable[[float], bool]) -> Backend:
        go.wait()
        return scripted_assistant(["Yes."]).engine

    session = make_session(engine=slow)
    await session.open_database()
    loading = asyncio.create_task(session.load_model())
    turn = session.say("Are you there?")
    following = asyncio.create_task(all_of(session, turn))
    await asyncio.sleep(0.02)
    assert (session.phase, turn.stage) == (Phase.LOADING, Stage.WAITING)
    go.set()
    events = await following
    await loading
    assert turn.text == "Yes." and isinstance(events[-1], Ended)
    await session.close()


async def test_a_message_that_waits_for_the_model_can_be_taken_back() -> None:
    go = threading.Event()

    def slow(tell: Callable[[float], bool]) -> Backend:
        go.wait()
        return scripted_assistant().engine

    session = make_session(engine=slow)
    await session.open_database()
    loading = asyncio.create_task(session.load_model())
    turn = session.say("Never mind.")
    following = asyncio.create_task(all_of(session, turn))
    await asyncio.sleep(0.02)
    assert session.cancel()
    (refused,) = await following
    assert isinstance(refused, Refused) and refused.error is None
    assert session.turn is None and await session.conversations() == []
    go.set()
    await loading
    await session.close()


async def test_a_model_that_cannot_be_loaded_gives_the_message_back() -> None:
    problem = ModelFileError("x.gguf", "it is cut short.")

    def broken(tell: Callable[[float], bool]) -> Backend:
        raise problem

    store = MemoryStore()
    session = make_session(store, engine=broken)
    await session.open_database()
    turn = session.say("Hello?")
    following = asyncio.create_task(all_of(session, turn))
    await session.load_model()
    (refused,) = await following
    assert isinstance(refused, Refused) and refused.error is problem
    assert (session.phase, session.problem) == (Phase.FAILED, problem)
    assert session.has_store and await session.conversations() == []
    await session.close()


async def test_a_second_try_can_load_the_model() -> None:
    tries: list[int] = []

    def second(tell: Callable[[float], bool]) -> Backend:
        tries.append(1)
        if len(tries) == 1:
            raise ModelFileError("x.gguf", "it is not there.")
        return scripted_assistant(["Now."]).engine

    session = make_session(engine=second)
    await session.open_database()
    await session.load_model()
    assert session.phase is Phase.FAILED
    await session.load_model()
    assert session.phase is Phase.READY and session.problem is None
    turn = session.say("And now?")
    await all_of(session, turn)
    assert turn.text == "Now."
    await session.close()


async def test_a_database_that_cannot_be_opened_is_a_problem_and_not_an_end() -> None:
    def broken() -> Store:
        raise StoreWriteError("The disk is full.")

    session = Session(Settings(), store_opener=broken, engine_opener=lambda tell: _never())
    await session.open_database()
    await session.load_model()
    assert session.phase is Phase.FAILED and str(session.problem) == "The disk is full."
    assert not session.has_store and await session.conversations() == []
    assert not await session.open("c-1")
    await session.close()


def _never() -> Backend:
    raise AssertionError("no model is loaded without a database")


async def test_cancelling_keeps_what_was_said() -> None:
    session = await ready(replies=["one two three four five six seven eight"], delay_s=0.02)
    turn = session.say("Count.")
    events: list[Event] = []
    async for event in session.follow(turn):
        events.append(event)
        if isinstance(event, Said):
            session.cancel()
    last = events[-1]
    assert isinstance(last, Ended) and last.message.finish_reason is FinishReason.CANCELLED
    assert last.message.text.startswith("one") and "eight" not in last.message.text
    assert session.messages[-1].text == last.message.text
    await session.close()


async def test_cancelling_while_the_prompt_is_read_ends_the_turn() -> None:
    session = await ready(prompt_delay_s=0.5)
    turn = session.say("A few words that take long to read")
    following = asyncio.create_task(all_of(session, turn))
    await until(lambda: turn.has_begun)
    assert turn.stage is Stage.READING
    started = time.monotonic()
    session.cancel()
    events = await following
    assert time.monotonic() - started < 3.0
    last = events[-1]
    assert isinstance(last, Ended) and last.message.finish_reason is FinishReason.CANCELLED
    assert last.message.text == ""
    assert [message.text for message in session.messages][:1] == [turn.question]
    await session.close()


async def test_cancelling_before_the_turn_has_begun_is_not_forgotten() -> None:
    session = await ready(replies=["never said"], delay_s=0.05)
    turn = session.say("Quick!")
    session.cancel()
    events = await all_of(session, turn)
    assert isinstance(events[-1], Refused | Ended)
    assert "said" not in turn.text
    await session.close()


async def test_one_conversation_takes_one_turn_at_a_time() -> None:
    session = await ready(delay_s=0.02, replies=["a b c d e f"])
    turn = session.say("First")
    with pytest.raises(ConversationBusyError):
        session.say("Second")
    await all_of(session, turn)
    session.say("Third")
    await session.close()


async def test_a_reply_goes_on_while_another_conversation_is_open() -> None:
    session = await ready(delay_s=0.01, replies=["one two three four five six", "other"])
    first = session.say("Go on")
    following = asyncio.create_task(all_of(session, first))
    await until(lambda: first.stage is Stage.WRITING)
    await session.open(NEW)
    assert session.turn is None
    second = session.say("Meanwhile")
    await all_of(session, second)
    await following
    assert first.text == "one two three four five six" and second.text == "other"
    assert session.unread == {first.conversation_id}
    assert [message.text for message in session.messages] == ["Meanwhile", "other"]
    assert await session.open(first.conversation_id) and session.unread == set()
    await session.close()


async def test_an_empty_message_leaves_nothing_behind() -> None:
    session = await ready()
    (refused,) = await all_of(session, session.say("   "))
    assert isinstance(refused, Refused) and isinstance(refused.error, EmptyMessageError)
    assert session.info is None and await session.conversations() == []
    assert session._require_store().conversations(deleted=True) == []
    await session.close()


async def test_a_message_that_does_not_fit_leaves_nothing_behind() -> None:
    session = await ready(n_ctx=600)
    (refused,) = await all_of(session, session.say("word " * 2000))
    assert isinstance(refused, Refused) and isinstance(refused.error, ContextError)
    assert refused.turn.question == "word " * 2000
    assert session.info is None and await session.conversations() == []
    await session.close()


async def test_a_refused_message_leaves_a_conversation_as_it_was() -> None:
    session = await ready(n_ctx=600)
    await all_of(session, session.say("Hello"))
    before = (session.info, session.messages)
    (refused,) = await all_of(session, session.say("word " * 2000))
    assert isinstance(refused, Refused)
    assert (session.info, session.messages) == before
    await session.close()


async def test_an_engine_that_fails_keeps_what_was_said_and_goes_on() -> None:
    batches: list[int] = []

    def fails(batch: object) -> bool:
        batches.append(1)
        return len(batches) == 4

    session = await ready(replies=["one two three four five six", "fine"], fails=fails)
    events = await all_of(session, session.say("Count"))
    last = events[-1]
    assert isinstance(last, Ended) and last.error is not None
    assert last.message.finish_reason is FinishReason.FAILED
    assert session.messages[-1].text == last.message.text
    await all_of(session, session.say("Again"))
    assert session.messages[-1].text == "fine"
    await session.close()


async def test_a_full_queue_gives_the_message_back() -> None:
    session = await ready()
    assistant = session._assistant
    assert assistant is not None

    def full(*args: object, **options: object) -> object:
        raise QueueFullError(1)

    assistant.engine.submit = full  # type: ignore[method-assign, assignment]
    (refused,) = await all_of(session, session.say("Hello"))
    assert isinstance(refused, Refused) and isinstance(refused.error, QueueFullError)
    assert await session.conversations() == []
    await session.close()


async def test_writing_again_puts_another_reply_in_the_place_of_the_last() -> None:
    session = await ready(replies=["First.", "Second."])
    await all_of(session, session.say("Well?"))
    assert session.info is not None
    await all_of(session, session.regenerate())
    assert [message.text for message in session.messages] == ["Well?", "Second."]
    tree = session._require_store().tree(session.info.id)
    assert [message.text for message in tree] == ["Well?", "First.", "Second."]
    await session.close()


async def test_a_deleted_conversation_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    session = await ready()
    await all_of(session, session.say("Keep me"))
    assert session.info is not None
    kept_id = session.info.id
    forgotten: list[str] = []
    assert session._assistant is not None
    monkeypatch.setattr(session._assistant.engine, "forget", forgotten.append)
    deleted = await session.delete(kept_id)
    assert forgotten == [kept_id]  # its states in memory and on disk are gone already
    assert deleted.title == "Keep me" and session.info is None and session.can_undo
    assert await session.conversations() == []
    back = await session.undo()
    assert back is not None and back.id == kept_id and not session.can_undo
    assert [info.id for info in await session.conversations()] == [kept_id]
    assert await session.undo() is None
    await session.close()


async def test_a_conversation_is_not_deleted_while_a_reply_is_written() -> None:
    session = await ready(delay_s=0.02, replies=["a b c d e f g h"])
    turn = session.say("Go")
    following = asyncio.create_task(all_of(session, turn))
    await until(lambda: turn.has_begun)
    with pytest.raises(ConversationBusyError):
        await session.delete(turn.conversation_id)
    await following
    await session.close()


async def test_a_title_is_trimmed_and_an_empty_one_changes_nothing() -> None:
    session = await ready()
    await all_of(session, session.say("First words"))
    assert session.info is not None
    assert await session.rename(session.info.id, "  Another \n title ") == "Another title"
    assert session.info.title == "Another title"
    assert await session.rename(session.info.id, "   ") == "Another title"
    await session.close()


async def test_a_search_finds_what_was_said() -> None:
    session = await ready(replies=["The crankset has a warranty.", "Yes."])
    await all_of(session, session.say("About the bike"))
    await session.open(NEW)
    await all_of(session, session.say("Something else"))
    found: list[ConversationInfo] = await session.conversations("crank")
    assert [info.title for info in found] == ["About the bike"]
    await session.close()


async def test_opening_waits_for_no_one_who_has_sent_something() -> None:
    session = await ready()
    await all_of(session, session.say("Old"))
    assert session.info is not None
    old_id = session.info.id
    await session.open(NEW)
    session.say("Typed while the old one was to be opened")
    assert not await session.open(old_id, if_idle=True)
    assert session.info is None
    await session.close()


async def test_a_conversation_that_is_gone_is_not_opened() -> None:
    session = await ready()
    assert not await session.open("c-gone")
    with pytest.raises(UnknownNameError):
        await session.rename("c-gone", "x")
    await session.close()


async def test_the_figures_are_those_of_the_turn_and_then_of_the_last_reply() -> None:
    session = await ready(replies=["one two three four"], delay_s=0.01)
    assert session.figures() is None
    turn = session.say("Count for me please")
    following = asyncio.create_task(all_of(session, turn))
    await until(lambda: turn.has_begun)
    during = session.figures()
    assert during is not None and during.usage.prompt_tokens > 0 and during.n_ctx == 4096
    await following
    after = session.figures()
    assert after is not None and after.usage.completion_tokens >= 4
    assert 0 < after.fill < 1 and after.dropped == 0
    found = await session.context()
    assert found is not None and found[0].prompt_tokens == after.usage.prompt_tokens
    await session.close()


async def test_what_was_dropped_is_counted() -> None:
    session = await ready(n_ctx=700, replies=["word " * 60])
    for number in range(8):
        await all_of(session, session.say(f"Question {number} " + "with words " * 20))
    found = await session.context()
    figures = session.figures()
    assert found is not None and figures is not None
    assert len(found[0].evicted) == figures.dropped > 0
    await session.close()


async def test_closing_keeps_what_was_said_so_far() -> None:
    store = MemoryStore()
    kept: list[str] = []
    store.close = lambda: kept.extend(  # type: ignore[method-assign]
        message.text for message in store.messages(store.conversations()[0].id)
    )
    session = await ready(store, replies=["one two three four five six seven"], delay_s=0.03)
    turn = session.say("Count")
    following = asyncio.create_task(all_of(session, turn))
    await until(lambda: len(turn.parts) >= 2)
    await session.close()
    await following
    assert kept[0] == "Count" and kept[1].startswith("one two") and "seven" not in kept[1]
    assert session.phase is Phase.CLOSED
    await session.close()


async def test_closing_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    asked: list[bool] = []
    done = threading.Event()

    def slow(tell: Callable[[float], bool]) -> Backend:
        while tell(0.5):
            time.sleep(0.005)
        asked.append(False)
        done.set()
        raise ModelFileError("x.gguf", "stopped.")

    session = make_session(engine=slow)
    await session.open_database()
    loading = asyncio.create_task(session.load_model())
    await until(lambda: session.progress == 0.5)
    await session.close()
    assert session.phase is Phase.CLOSED
    await loading
    assert done.wait(5) and asked == [False] and session.phase is Phase.CLOSED


async def test_a_model_that_is_loaded_too_late_is_closed_again() -> None:
    go = threading.Event()
    late = scripted_assistant().engine
    closed = threading.Event()
    close = late.close

    def note() -> None:
        close()
        closed.set()

    late.close = note  # type: ignore[method-assign]

    def slow(tell: Callable[[float], bool]) -> Backend:
        go.wait()
        return late

    session = make_session(engine=slow)
    await session.open_database()
    loading = asyncio.create_task(session.load_model())
    await asyncio.sleep(0.01)
    await session.close()
    go.set()
    await loading
    assert closed.wait(5) and session.wait_for_loading(5)


async def test_the_last_reply_is_the_last_that_says_something() -> None:
    session = await ready(replies=["Said."])
    assert last_reply(session.messages) is None
    await all_of(session, session.say("Hello"))
    reply = last_reply(session.messages)
    assert reply is not None and reply.text == "Said."
    await session.close()
