"""A customer who writes in pieces gets one reply to all of them, and nothing is said twice."""

import asyncio
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quietdesk
from quietdesk.errors import EmptyMessageError, QueueFullError
from quietdesk.testing import scripted_assistant
from quietdesk.types import Author, FinishReason, Message

QUICK = quietdesk.Settings(debounce_s=0.01, max_tokens=60)


class Customers:
    """Says pieces in threads of their own, and gathers what came back to each."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.replies: list[quietdesk.Reply] = []
        self.failures: list[BaseException] = []
        self.said: list[str] = []

    def say(self, conversation: quietdesk.Conversation, text: str) -> None:
        self.said.append(text)

        def work() -> None:
            try:
                reply = conversation.say(text)
                if reply is not None:
                    self.replies.append(reply)
            except BaseException as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def wait(self) -> None:
        for thread in self.threads:
            thread.join()
        assert self.failures == []


def check(branch: list[Message], tree: list[Message], customers: Customers) -> None:
    """Nothing lost, nothing said twice, and every reply saw what was said before it."""
    pieces = [m.text for m in branch if m.author is Author.CUSTOMER]
    assert sorted(pieces) == sorted(customers.said)
    assert len({m.text for m in tree if m.author is Author.CUSTOMER}) == len(pieces)
    replies = [m for m in branch if m.author is Author.BOT]
    assert sorted(m.id for m in replies) == sorted(r.id for r in customers.replies)
    assert branch[-1].author is Author.BOT
    for before, after in itertools.pairwise(branch):
        assert not before.author is after.author is Author.BOT
    for at, message in enumerate(branch):
        if message.author is Author.BOT:
            assert message.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
            assert message.context is not None
            seen = {item.id for item in message.context.items}
            assert {m.id for m in branch[:at] if m.author is Author.CUSTOMER} <= seen
    by_id = {m.id: m.text for m in branch}
    assert all(by_id[reply.id] == reply.text for reply in customers.replies)


def test_pieces_are_answered_together(monkeypatch: pytest.MonkeyPatch) -> None:
    all_said = threading.Event()
    clock = SimpleNamespace(sleep=lambda s: all_said.wait(), monotonic=time.monotonic)
    monkeypatch.setattr("quietdesk.conversation.time", clock)
    with scripted_assistant(["We do."], settings=QUICK) as assistant:
        conversation = assistant.start()
        customers = Customers()
        for piece in ("Hello", "do you ship", "to Norway?"):
            customers.say(conversation, piece)
            while len(conversation.messages) < len(customers.said):
                time.sleep(0.002)
        all_said.set()
        customers.wait()
        assert [m.text for m in conversation.messages] == [*customers.said, "We do."]
        assert [r.text for r in customers.replies] == ["We do."]
        assert len(assistant.store.tree(conversation.id)) == 4
        assert conversation.info.title == "Hello"


def test_a_piece_that_comes_while_the_reply_is_written_has_it_written_anew() -> None:
    long = " ".join(f"word{i}" for i in range(50))
    with scripted_assistant([long, "To Chile."], settings=QUICK, delay_s=0.05) as assistant:
        conversation = assistant.start()
        customers = Customers()
        customers.say(conversation, "Do you ship?")
        while not assistant.metrics().generated_tokens:
            time.sleep(0.002)
        customers.say(conversation, "To Chile, I mean.")
        customers.wait()
        check(conversation.messages, assistant.store.tree(conversation.id), customers)
        assert [m.text for m in conversation.messages][2:] == ["To Chile."]
        ends = [
            m.finish_reason for m in assistant.store.tree(conversation.id) if m.author is Author.BOT
        ]
        assert ends == [FinishReason.CANCELLED, FinishReason.STOP]


@settings(max_examples=12, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.005, 0.02, 0.08])),
        min_size=2,
        max_size=7,
    ),
    durable=st.booleans(),
)
def test_however_pieces_fall_nothing_is_lost_or_said_twice(
    pieces: list[tuple[int, float]], durable: bool
) -> None:
    """Two assistants stand for two processes: they share nothing but the database."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        database = str(Path(folder) / "q.db") if durable else None
        first = stack.enter_context(
            scripted_assistant(None, database=database, settings=QUICK, delay_s=0.002)
        )
        second = first
        if durable:
            second = stack.enter_context(
                scripted_assistant(None, database=database, settings=QUICK, delay_s=0.002)
            )
        started = first.start()
        conversations = [started, second.resume(started.id)]
        customers = Customers()
        for number, (process, pause_s) in enumerate(pieces):
            customers.say(conversations[process], f"Piece {number}.")
            time.sleep(pause_s)
        customers.wait()
        check(started.messages, first.store.tree(started.id), customers)


async def test_tasks_say_pieces_too() -> None:
    with scripted_assistant(["We do."], settings=QUICK, delay_s=0.01) as assistant:
        conversation = assistant.start()
        customers = Customers()
        customers.said = [f"Piece {n}." for n in range(4)]
        replies = await asyncio.gather(*map(conversation.asay, customers.said))
        customers.replies = [reply for reply in replies if reply is not None]
        check(conversation.messages, assistant.store.tree(conversation.id), customers)


def test_what_cannot_be_answered_is_kept_all_the_same() -> None:
    with scripted_assistant(["Yes."], settings=QUICK) as assistant:
        conversation = assistant.start()
        with pytest.raises(EmptyMessageError):
            conversation.say(" ")

        def full(*args: object, **options: object) -> None:
            raise QueueFullError(1)

        submit = assistant.engine.submit
        assistant.engine.submit = full  # type: ignore[method-assign]
        with pytest.raises(QueueFullError):
            conversation.say("Do you ship?")
        assistant.engine.submit = submit  # type: ignore[method-assign]
        assert [m.text for m in conversation.messages] == ["Do you ship?"]
        assert conversation.say("Hello?") is not None
        assert [m.text for m in conversation.messages] == ["Do you ship?", "Hello?", "Yes."]


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[quietdesk.Assistant]:
    chosen = quietdesk.Settings(
        model=str(starter_path), n_ctx=1024, n_seq=2, debounce_s=0.05, max_tokens=40, temperature=0
    )
    with quietdesk.Assistant.open(database=":memory:", settings=chosen) as assistant:
        yield assistant


def test_the_bundled_model_answers_pieces_once(model: quietdesk.Assistant) -> None:
    conversation = model.start()
    customers = Customers()
    customers.say(conversation, "Tell me about bicycles.")
    while not conversation.messages[-1:] or conversation.messages[-1].author is not Author.BOT:
        time.sleep(0.002)
    customers.say(conversation, "About their bells,")
    customers.say(conversation, "in one sentence.")
    customers.wait()
    check(conversation.messages, model.store.tree(conversation.id), customers)
    assert model.replay(conversation.messages[-1].id).recorded == conversation.messages[-1].text
