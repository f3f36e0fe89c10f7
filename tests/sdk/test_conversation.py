"""Conversations, replies and assistants over the scripted runner."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quietdesk
from quietdesk.conversation import new_id
from quietdesk.engine.engine import Engine
from quietdesk.errors import (
    ContextError,
    ConversationBusyError,
    ConversationMovedError,
    EmptyMessageError,
    QueueFullError,
    StoreWriteError,
    UnknownNameError,
    UsageError,
)
from quietdesk.store.memory import MemoryStore
from quietdesk.testing import ScriptedRunner, scripted_assistant
from quietdesk.types import Author, FinishReason

LONG = " ".join(f"word{i}" for i in range(400))


@pytest.fixture
def assistant() -> Iterator[quietdesk.Assistant]:
    with scripted_assistant(["We ship to Norway. 你好 🙂", "To Chile too.", "Yes."]) as assistant:
        yield assistant


@pytest.fixture
def slow() -> Iterator[quietdesk.Assistant]:
    with scripted_assistant([LONG], delay_s=0.002) as assistant:
        yield assistant


def test_a_turn_is_kept_with_what_it_cost(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start(customer="c-42", system="You answer for Acme Bikes.")
    reply = conversation.send("Do you ship to Norway?")
    assert reply.text == "We ship to Norway. 你好 🙂"
    assert reply.finish_reason is FinishReason.STOP
    said, answer = assistant.resume(conversation.id).messages
    assert (said.author, said.text) == (Author.CUSTOMER, "Do you ship to Norway?")
    assert answer == reply.message
    assert answer.usage == reply.usage
    assert answer.context is not None
    assert answer.context.prompt_tokens == reply.usage.prompt_tokens
    assert answer.parent_id == said.id
    assert conversation.info.title == "Do you ship to Norway?"
    assert conversation.info.customer == "c-42"


async def test_sync_async_and_streaming_say_and_keep_the_same() -> None:
    def fresh() -> quietdesk.Assistant:
        return scripted_assistant(["One two three.", "Four."])

    with fresh() as a, fresh() as b, fresh() as c, fresh() as d:
        sent, streamed, awaited, iterated = (each.start() for each in (a, b, c, d))
        texts = [sent.send("x").text, "".join(delta.text for delta in streamed.stream("x"))]
        texts.append((await awaited.asend("x")).text)
        reply = iterated.astream("x")
        texts.append("".join([delta.text async for delta in reply]))
        assert texts == ["One two three."] * 4
        kept = [
            [(m.author, m.text, m.finish_reason) for m in conversation.messages]
            for conversation in (sent, streamed, awaited, iterated)
        ]
        assert kept == [kept[0]] * 4
        assert type(reply) is type(sent.send("y"))


def test_leaving_the_loop_cancels_and_keeps_what_was_said(slow: quietdesk.Assistant) -> None:
    conversation = slow.start()
    reply = conversation.stream("Tell me everything.")
    for number, _ in enumerate(reply):
        if number == 3:
            break
    # The next message does not have to wait for anything.
    next_reply = conversation.stream("Stop that.")
    assert reply.finish_reason is FinishReason.CANCELLED
    kept = conversation.messages[1]
    assert kept.finish_reason is FinishReason.CANCELLED
    assert LONG.startswith(kept.text)
    assert kept.text.startswith("word0 word1 word2 word3")
    next_reply.cancel()
    assert next_reply.wait().finish_reason is FinishReason.CANCELLED


async def test_a_cancelled_task_cancels_its_reply(slow: quietdesk.Assistant) -> None:
    conversation = slow.start()
    task = asyncio.create_task(conversation.asend("Tell me everything."))
    while len(conversation.messages) < 2:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while conversation.messages[1].finish_reason is None:
        await asyncio.sleep(0.005)
    assert conversation.messages[1].finish_reason is FinishReason.CANCELLED


async def test_leaving_an_async_loop_cancels(slow: quietdesk.Assistant) -> None:
    conversation = slow.start()
    reply = conversation.astream("Tell me everything.")
    async for _ in reply:
        break
    while reply.finish_reason is None:
        await asyncio.sleep(0.005)
    assert reply.finish_reason is FinishReason.CANCELLED


def test_a_reply_is_kept_when_nobody_reads_it(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    conversation.stream("Do you?")
    for _ in range(500):
        if conversation.messages[-1].finish_reason is not None:
            break
        time.sleep(0.005)
    assert conversation.messages[-1].text == "We ship to Norway. 你好 🙂"


def test_one_reply_at_a_time(slow: quietdesk.Assistant) -> None:
    conversation = slow.start()
    reply = conversation.stream("First.")
    with pytest.raises(ConversationBusyError):
        conversation.send("Second.")
    with pytest.raises(ConversationBusyError):
        slow.resume(conversation.id).send("Third.")
    reply.cancel()
    reply.wait()
    assert [m.text for m in conversation.messages if m.author is Author.CUSTOMER] == ["First."]


def test_the_question_is_kept_before_the_model_starts() -> None:
    seen: list[list[str]] = []

    with scripted_assistant(["ok"]) as assistant:
        conversation = assistant.start()
        submit = assistant.engine.submit

        def spy(*args, **kwargs):  # type: ignore[no-untyped-def]
            seen.append([message.text for message in conversation.messages])
            return submit(*args, **kwargs)

        assistant.engine.submit = spy  # type: ignore[method-assign]
        conversation.send("Is it safe?")
    assert seen == [["Is it safe?", ""]]


def test_a_full_queue_keeps_nothing_of_the_refused_turn() -> None:
    settings = quietdesk.Settings(queue_limit=1)
    engine = Engine(lambda: ScriptedRunner([LONG], n_seq=1, delay_s=0.003), queue_limit=1)
    with quietdesk.Assistant(engine, MemoryStore(), settings) as assistant:
        running = assistant.start().stream("a")
        while not running.text:
            time.sleep(0.001)
        waiting = assistant.start().stream("b")
        while not assistant.engine.metrics().n_waiting:  # type: ignore[attr-defined]
            time.sleep(0.001)
        refused = assistant.start()
        with pytest.raises(QueueFullError):
            refused.send("c")
        assert refused.messages == []
        running.cancel()
        waiting.cancel()


def test_what_cannot_fit_is_refused_with_the_numbers_and_not_kept() -> None:
    with scripted_assistant(n_ctx=64, settings=quietdesk.Settings(max_tokens=8)) as assistant:
        conversation = assistant.start()
        with pytest.raises(ContextError) as refused:
            conversation.send("word " * 100)
        assert refused.value.needed_tokens > refused.value.available_tokens
        assert conversation.messages == []
        assert conversation.send("short").text == "Yes."


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_message_is_refused(assistant: quietdesk.Assistant, text: str) -> None:
    conversation = assistant.start()
    with pytest.raises(EmptyMessageError):
        conversation.send(text)
    assert conversation.messages == []


def test_half_a_surrogate_pair_is_refused_with_its_place(assistant: quietdesk.Assistant) -> None:
    with pytest.raises(UsageError, match="character 2"):
        assistant.start().send("ab\ud83d")


def test_bad_options_are_refused_by_name(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    with pytest.raises(UnknownNameError, match="temperature"):
        conversation.send("x", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="top_p"):
        conversation.send("x", top_p=3.0)
    with pytest.raises(UsageError, match="stop"):
        conversation.send("x", stop="end")


def test_regenerate_puts_another_version_beside_the_first(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    first = conversation.send("Where?")
    second = conversation.regenerate().wait()
    assert second.text == "To Chile too."
    assert [m.id for m in conversation.messages][1:] == [second.id]
    tree = assistant.store.tree(conversation.id)
    assert {m.id for m in tree if m.author is Author.BOT} == {first.id, second.id}
    assert {m.parent_id for m in tree if m.author is Author.BOT} == {tree[0].id}


def test_edit_starts_a_branch_and_keeps_the_old_one(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    conversation.send("Where?")
    first = conversation.messages[0]
    conversation.edit(first.id, "Whither?").wait()
    assert [m.text for m in conversation.messages] == ["Whither?", "To Chile too."]
    assert len(assistant.store.tree(conversation.id)) == 4
    with pytest.raises(UnknownNameError):
        conversation.edit("m-nothing", "x").wait()


def test_resume_answers_an_unknown_id_with_the_nearest(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    with pytest.raises(UnknownNameError) as refused:
        assistant.resume(conversation.id[:-1] + "x")
    assert conversation.id in refused.value.nearest


def test_many_threads_and_tasks_share_an_assistant(tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        return prompt.rsplit("<|im_start|>user\n", 1)[1].split("<|im_end|>")[0].upper()

    with scripted_assistant(answer, database=tmp_path / "many.db", n_seq=4) as assistant:
        failures: list[BaseException] = []

        def hold(number: int) -> None:
            try:
                conversation = assistant.start(customer=str(number))
                for turn in range(3):
                    text = f"say {number} {turn}"
                    assert conversation.send(text).text.strip() == text.upper()
            except BaseException as error:
                failures.append(error)

        async def hold_in_tasks() -> None:
            conversations = [assistant.start() for _ in range(8)]
            replies = await asyncio.gather(
                *(c.asend(f"task {i}") for i, c in enumerate(conversations))
            )
            assert [r.text.strip() for r in replies] == [f"TASK {i}" for i in range(8)]

        threads = [threading.Thread(target=hold, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        asyncio.run(hold_in_tasks())
        for thread in threads:
            thread.join()
        assert not failures
        assert len(assistant.conversations(limit=100)) == 16


def test_a_store_that_refuses_the_end_is_told_and_the_text_is_there(
    assistant: quietdesk.Assistant,
) -> None:
    conversation = assistant.start()

    def full(reply: quietdesk.Message) -> None:
        raise StoreWriteError("the disk is full")

    finish = assistant.store.finish
    assistant.store.finish = full  # type: ignore[method-assign]
    reply = conversation.stream("Where?")
    with pytest.raises(StoreWriteError, match="full"):
        reply.wait()
    assert reply.text.startswith("We ship")
    assert isinstance(reply.error, StoreWriteError)
    assistant.store.finish = finish  # type: ignore[method-assign]


def test_closing_in_mid_reply_keeps_what_was_said(tmp_path: Path) -> None:
    database = tmp_path / "closed.db"
    with scripted_assistant([LONG], delay_s=0.003, database=database) as assistant:
        conversation = assistant.start()
        reply = conversation.stream("Tell me everything.")
        while len(reply.text) < 40:
            time.sleep(0.002)
    with scripted_assistant(database=database) as assistant:
        kept = assistant.resume(conversation.id).messages[1]
    assert kept.finish_reason is FinishReason.CANCELLED
    assert kept.text == reply.text


def test_a_reply_that_has_not_begun_says_so(assistant: quietdesk.Assistant) -> None:
    reply = assistant.start().astream("x")
    assert (reply.text, reply.finish_reason) == ("", None)
    with pytest.raises(UsageError, match="has not begun"):
        _ = reply.context
    reply.cancel()
    assert reply.wait().finish_reason is FinishReason.CANCELLED


def test_a_cut_reply_goes_on_where_it_stopped() -> None:
    with scripted_assistant(["one two three", " four five."]) as assistant:
        conversation = assistant.start()
        cut = conversation.send("Count.", max_tokens=3)
        assert cut.finish_reason is FinishReason.LENGTH
        reply = conversation.proceed()
        assert "".join(delta.text for delta in reply) == " four five."
        assert reply.text == "one two three four five."
        assert [m.text for m in conversation.messages] == ["Count.", reply.text]
        assert [m.id for m in conversation.versions(reply.id)] == [cut.id, reply.id]
        seen = assistant.engine._runner.memory  # type: ignore[attr-defined]
        words = ["".join(assistant.engine._runner._words[t] for t in slot) for slot in seen]  # type: ignore[attr-defined]
        assert any("assistant\none two three four" in text for text in words)
        with pytest.raises(UsageError, match="had ended it itself"):
            conversation.proceed()


def test_nothing_can_go_on_where_nothing_was_said(assistant: quietdesk.Assistant) -> None:
    with pytest.raises(UsageError, match="no reply"):
        assistant.start().proceed()


def test_a_fork_is_a_copy_up_to_a_message(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start(customer="c-1", system="Be brief.")
    conversation.send("First.")
    conversation.send("Second.")
    first_reply = conversation.messages[1]
    forked = conversation.fork(first_reply.id)
    assert [m.text for m in forked.messages] == [m.text for m in conversation.messages[:2]]
    assert {m.id for m in forked.messages}.isdisjoint({m.id for m in conversation.messages})
    assert (forked.info.customer, forked.info.system) == ("c-1", "Be brief.")
    forked.send("Third.")
    assert len(conversation.messages) == 4
    with pytest.raises(UnknownNameError):
        conversation.fork("m-none")


def test_an_earlier_version_can_be_made_the_active_one(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    first = conversation.send("Where?")
    conversation.send("And then?")
    leaf = conversation.messages[-1]
    conversation.edit(conversation.messages[0].id, "Whither?").wait()
    conversation.select(first.id)
    assert conversation.messages[-1].id == leaf.id
    assert len(conversation.messages) == 4


def interrupted_once(
    assistant: quietdesk.Assistant, conversation: quietdesk.Conversation, times: int = 1
) -> None:
    """Have somebody else say something each time a prompt was made, before it is kept."""
    window = conversation._parts.window
    left = [times]

    class Slow:
        def fit(self, *args: Any, **options: Any) -> Any:
            fitted = window.fit(*args, **options)
            if left[0]:
                left[0] -= 1
                said = f"Meanwhile {left[0]}."
                message = quietdesk.Message(id=new_id("m"), author=Author.HUMAN, text=said)
                assistant.store.add(conversation.id, message)
            return fitted

    conversation._parts.window = Slow()


def test_what_another_process_says_meanwhile_is_part_of_what_the_model_sees(
    assistant: quietdesk.Assistant,
) -> None:
    conversation = assistant.start()
    interrupted_once(assistant, conversation, 2)
    reply = conversation.send("Do you ship?")
    messages = conversation.messages
    assert [m.text for m in messages[:3]] == ["Meanwhile 1.", "Meanwhile 0.", "Do you ship?"]
    seen = [item.id for item in reply.context.items if item.kind == "message"]
    assert seen == [m.id for m in messages[:3]]
    assert len(assistant.store.tree(conversation.id)) == 4


def test_another_version_of_what_is_no_longer_the_last_reply_is_refused(
    assistant: quietdesk.Assistant,
) -> None:
    conversation = assistant.start()
    conversation.send("Do you ship?")
    interrupted_once(assistant, conversation)
    with pytest.raises(ConversationMovedError, match="meanwhile"):
        conversation.regenerate()
    assert [m.author for m in conversation.messages][-1] is Author.HUMAN
    assert len(assistant.store.tree(conversation.id)) == 3


def test_who_is_always_interrupted_is_told(assistant: quietdesk.Assistant) -> None:
    conversation = assistant.start()
    interrupted_once(assistant, conversation, 100)
    with pytest.raises(ConversationMovedError):
        conversation.send("Do you ship?")
    assert Author.CUSTOMER not in {m.author for m in assistant.store.tree(conversation.id)}
