"""What holds for every backend: llama.cpp here, servers of several kinds, the scripted runner."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quietdesk.assistant import Assistant
from quietdesk.config import Settings
from quietdesk.engine.backend import Backend, ChatMessage
from quietdesk.engine.batch import Batch
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.remote.backend import RemoteBackend
from quietdesk.engine.remote.endpoint import read_address
from quietdesk.engine.runner import Runner
from quietdesk.engine.sampling import Limits
from quietdesk.engine.stream import Stream
from quietdesk.errors import (
    ContextError,
    DeadlineError,
    EngineClosedError,
    QueueFullError,
    UsageError,
)
from quietdesk.store.memory import MemoryStore
from quietdesk.testing import ScriptedRunner
from quietdesk.types import FinishReason

N_SEQ = 2
N_CTX = 512
LONG = 200
"""Tokens of a reply that takes a second at least, so that it can be stopped in its middle."""
QUESTION = "Hello, where is my order?"
KINDS = ("llama.cpp", "llama-cpp-python", "llama-server", "scripted")

Open = Callable[[int], Backend]


class SlowLlama(LlamaRunner):
    """A step takes a moment, so that a long reply can be stopped in its middle."""

    def decode(self, batch: Batch) -> list[list[int]]:
        time.sleep(0.005)
        return super().decode(batch)


@pytest.fixture(params=KINDS)
def open_backend(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[Open]:
    """Opens backends of one kind with a queue of a given length; closes them."""
    opened: list[Backend] = []
    path = tiny_models["llama"]

    def runner() -> Runner:
        if request.param == "scripted":
            return ScriptedRunner(n_seq=N_SEQ, n_ctx=N_CTX, delay_s=0.005)
        chosen = plan(read_header(path), machine(), n_ctx=N_CTX, n_seq=N_SEQ, n_threads=1)
        return SlowLlama(path, chosen)

    def open_backend(queue_limit: int) -> Backend:
        backend: Backend
        if request.param in ("scripted", "llama.cpp"):
            backend = Engine(runner, queue_limit=queue_limit)
        else:
            name = "llama_server" if request.param == "llama-server" else "llama_cpp_server"
            address = read_address(request.getfixturevalue(name))
            # llama-cpp-python's serves one request at a time, and the backend knows.
            n_seq = N_SEQ if request.param == "llama-server" else 0
            backend = RemoteBackend(address, n_ctx=N_CTX, n_seq=n_seq, queue_limit=queue_limit)
        opened.append(backend)
        return backend

    yield open_backend
    for backend in opened:
        backend.close()


@pytest.fixture
def backend(open_backend: Open) -> Backend:
    return open_backend(64)


def ask(backend: Backend, text: str = QUESTION, *, max_tokens: int = 12, **more: object) -> Stream:
    """Submit a question as messages and as the tokens that they were rendered to."""
    messages: list[ChatMessage] = [{"role": "user", "content": text}]
    prompt = backend.tokenize(
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True, begin=False
    )
    limits = Limits(max_tokens=max_tokens, stop=more.pop("stop", ()))  # type: ignore[arg-type]
    return backend.submit(prompt, messages=messages, limits=limits, **more)  # type: ignore[arg-type]


def said(backend: Backend, text: str = QUESTION, **more: object) -> str:
    stream = ask(backend, text, **more)  # type: ignore[arg-type]
    assert stream.wait(60)
    assert stream.error is None
    return stream.text


def talks_long(backend: Backend) -> str:
    """A question that gets a long answer; models of random weights end some at once."""
    for number in range(60):
        question = f"Question {number}: {QUESTION}"
        stream = ask(backend, question, max_tokens=50)
        stream.wait(60)
        # Half characters, of which random weights say many, are held back until they are whole.
        if stream.finish_reason is FinishReason.LENGTH and len(list(stream)) > 30:
            return question
    raise AssertionError("it never talks long")


async def test_a_reply_is_the_same_for_every_way_of_reading(backend: Backend) -> None:
    stream = ask(backend)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == stream.text
    assert [piece async for piece in stream] == pieces
    assert stream.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert said(backend) == stream.text


def test_what_it_cost_is_told(backend: Backend) -> None:
    stream = ask(backend, max_tokens=8)
    assert stream.wait(60)
    usage = stream.usage
    assert 1 <= usage.completion_tokens <= 8
    assert 0 <= usage.cached_tokens < usage.prompt_tokens < N_CTX
    assert 0 <= usage.queue_s <= usage.first_token_s


def test_the_token_limit_ends_a_reply(backend: Backend) -> None:
    question = talks_long(backend)
    long = said(backend, question, max_tokens=60)
    short = ask(backend, question, max_tokens=5)
    assert short.wait(60)
    assert short.finish_reason is FinishReason.LENGTH
    assert long.startswith(short.text)
    assert len(short.text) < len(long)


def test_a_stop_string_ends_a_reply_and_is_no_part_of_it(backend: Backend) -> None:
    question = talks_long(backend)
    whole = said(backend, question, max_tokens=40)
    stop = whole[len(whole) // 2 :][:3]
    stream = ask(backend, question, max_tokens=40, stop=("never said at all", stop))
    assert stream.wait(60)
    assert stream.finish_reason is FinishReason.STOP
    assert stream.text == whole[: whole.index(stop)]


def test_more_requests_than_places_all_get_their_answer(backend: Backend) -> None:
    questions = [f"{QUESTION} It has the number {number}." for number in range(3 * N_SEQ)]
    together = [ask(backend, question) for question in questions]
    for stream in together:
        assert stream.wait(60)
        assert stream.error is None
        assert stream.usage.completion_tokens >= 1
    metrics = backend.metrics()
    assert metrics.n_waiting == metrics.n_running == 0
    assert metrics.requests_finished == metrics.requests_total == len(questions)


def test_cancelling_keeps_what_was_said_and_the_next_one_is_right(backend: Backend) -> None:
    question = talks_long(backend)
    whole = said(backend, question, max_tokens=LONG)
    stream = ask(backend, question, max_tokens=LONG)
    next(iter(stream))
    stream.cancel()
    assert stream.wait(60)
    assert stream.finish_reason is FinishReason.CANCELLED
    assert stream.error is None
    assert stream.text
    assert whole.startswith(stream.text)
    again = said(backend, question, max_tokens=20)
    assert again
    assert whole.startswith(again)


def test_one_that_waits_can_be_cancelled_and_a_full_queue_answers_at_once(
    open_backend: Open,
) -> None:
    backend = open_backend(2)
    question = talks_long(backend)
    running = [ask(backend, question, max_tokens=LONG) for _ in range(backend.metrics().n_slots)]
    for stream in running:
        next(iter(stream))
    waiting = [ask(backend, question) for _ in range(2)]
    with pytest.raises(QueueFullError):
        ask(backend, question)
    waiting[0].cancel()
    assert waiting[0].wait(60)
    assert waiting[0].finish_reason is FinishReason.CANCELLED
    assert waiting[0].text == ""
    for stream in running:
        stream.cancel()
    assert waiting[1].wait(60)
    assert waiting[1].error is None


def test_a_deadline_ends_a_reply(backend: Backend) -> None:
    question = talks_long(backend)
    stream = ask(backend, question, max_tokens=LONG, deadline_s=0.05)
    assert stream.wait(60)
    assert stream.finish_reason is FinishReason.FAILED
    assert isinstance(stream.error, DeadlineError)


def test_what_cannot_be_asked_is_refused_at_once(backend: Backend) -> None:
    with pytest.raises(UsageError):
        backend.submit([])
    with pytest.raises(ContextError) as refused:
        backend.submit([5] * N_CTX, messages=[{"role": "user", "content": "x"}])
    assert refused.value.available_tokens == N_CTX - 1


def test_closing_ends_what_is_under_way(open_backend: Open) -> None:
    backend = open_backend(8)
    question = talks_long(backend)
    streams = [ask(backend, question, max_tokens=LONG) for _ in range(N_SEQ + 2)]
    next(iter(streams[0]))
    backend.close()
    assert {stream.finish_reason for stream in streams} == {FinishReason.CANCELLED}
    with pytest.raises(EngineClosedError):
        ask(backend, question)


def test_a_conversation_goes_on_over_several_turns(open_backend: Open) -> None:
    settings = Settings(max_tokens=16, temperature=0.0)
    with Assistant(open_backend(8), MemoryStore(), settings) as assistant:
        conversation = assistant.start(system="Be brief.")
        first = conversation.send(QUESTION)
        second = conversation.send("And when does it come?")
        told = [message.text for message in conversation.messages]
        assert told == [QUESTION, first.text, "And when does it come?", second.text]
        for reply in (first, second):
            assert reply.context.estimated == assistant.model.renders
            assert bool(reply.context.notes) >= assistant.model.renders
            if not assistant.model.renders:
                assert reply.usage.prompt_tokens == reply.context.prompt_tokens
