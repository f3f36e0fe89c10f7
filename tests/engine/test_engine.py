"""The engine over a runner whose text depends on every token before it, so that errors show."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.engine.batch import Batch
from quietdesk.engine.engine import Engine
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import (
    ContextError,
    DeadlineError,
    DecodeError,
    EngineClosedError,
    QueueFullError,
    UsageError,
)
from quietdesk.testing import ScriptedRunner
from quietdesk.types import FinishReason

FOREVER = Limits(max_tokens=100_000, ignore_end=True)


class Opened:
    """Engines that a test opens, closed at its end."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []

    def __call__(self, runner: ScriptedRunner, **options: int) -> Engine:
        engine = Engine(lambda: runner, **options)
        self.engines.append(engine)
        return engine


@pytest.fixture
def opened() -> Iterator[Opened]:
    opened = Opened()
    yield opened
    for engine in opened.engines:
        engine.close()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.002)
    raise AssertionError("it never became true")


def alone(prompt: list[int], n: int, *, n_ctx: int = 4096) -> tuple[str, int]:
    """What the model says to a prompt when nobody else is there."""
    with Engine(lambda: ScriptedRunner(n_seq=1, n_ctx=n_ctx)) as engine:
        stream = engine.submit(prompt, limits=Limits(max_tokens=n))
        stream.wait()
        return stream.text, stream.usage.completion_tokens


requests = st.lists(
    st.tuples(
        st.integers(0, 2),  # which of three shared beginnings
        st.lists(st.integers(3, 40), min_size=1, max_size=20),
        st.integers(1, 12),  # tokens of the reply
        st.integers(0, 2),  # priority
    ),
    min_size=1,
    max_size=10,
)


@given(
    requests, st.integers(1, 4), st.booleans(), st.sampled_from([0, 600, 10**6]), st.integers(0, 4)
)
@settings(max_examples=60, deadline=None)
def test_text_in_a_crowd_equals_text_alone(
    asked: list[tuple[int, list[int], int, int]],
    n_seq: int,
    can_trim: bool,
    parked_bytes: int,
    n_draft: int,
) -> None:
    runner = ScriptedRunner(n_seq=n_seq, n_batch=16, can_trim=can_trim)
    with Engine(lambda: runner, n_prefill=8, parked_bytes=parked_bytes, n_draft=n_draft) as engine:
        prompts = [[50 + start] * 40 + rest for start, rest, _, _ in asked]
        streams = [
            engine.submit(prompt, limits=Limits(max_tokens=n), priority=priority)
            for prompt, (_, _, n, priority) in zip(prompts, asked, strict=True)
        ]
        for stream in streams:
            assert stream.wait(30)
        for stream, prompt, (_, _, n, _) in zip(streams, prompts, asked, strict=True):
            assert stream.error is None
            assert (stream.text, stream.usage.completion_tokens) == alone(prompt, n)
            assert 0 <= stream.usage.cached_tokens < len(prompt)
        metrics = engine.metrics()
        assert metrics.n_running == metrics.n_waiting == 0
        assert metrics.requests_finished == len(asked)
    assert runner.closed


def test_the_next_turn_evaluates_only_what_is_new(opened: Opened) -> None:
    runner = ScriptedRunner(n_seq=2)
    engine = opened(runner)
    prompt = list(range(10, 110))
    first = engine.submit(prompt, limits=Limits(max_tokens=5, ignore_end=True))
    first.wait()
    said = [token for slot in runner.memory for token in slot][100:]
    second = engine.submit([*prompt, *said, 7, 8, 9], limits=Limits(max_tokens=1))
    second.wait()
    assert second.usage.cached_tokens == 100 + len(said)
    assert second.usage.evaluated_tokens == 3


def test_new_customers_evaluate_a_shared_system_prompt_once(opened: Opened) -> None:
    runner = ScriptedRunner(n_seq=4)
    engine = opened(runner)
    system = list(range(10, 210))
    streams = [
        engine.submit([*system, 300 + i, 400 + i], limits=Limits(max_tokens=2)) for i in range(8)
    ]
    for stream in streams:
        stream.wait()
    evaluated = sum(stream.usage.evaluated_tokens for stream in streams)
    assert evaluated == len(system) + 8 * 2


def test_more_conversations_than_sequences_come_back_without_being_read_again(
    opened: Opened,
) -> None:
    engine = opened(ScriptedRunner(["one two three four five six"], n_seq=2))
    histories = [[100 + i] * 60 for i in range(8)]
    for turn in range(3):
        for i, history in enumerate(histories):
            stream = engine.submit(history, limits=Limits(max_tokens=4))
            stream.wait()
            if turn:
                # What is new, and the last token said, unless it was a guess that came true.
                assert 40 <= stream.usage.evaluated_tokens <= 1 + 40
            words = engine.tokenize(stream.text, special=False, begin=False)
            histories[i] = [*history, *words, *[200 + turn] * 40]


def test_a_memory_that_cannot_be_trimmed_starts_again_from_the_last_turn(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=2, can_trim=False))
    prompt = [5] * 80
    engine.submit(prompt, limits=Limits(max_tokens=6, ignore_end=True)).wait()
    # Another reply to the same words, then more: only the checkpoint fits.
    second = engine.submit([*prompt, 6, 7], limits=Limits(max_tokens=3))
    second.wait()
    assert second.usage.cached_tokens == 80
    assert second.text == alone([*prompt, 6, 7], 3)[0]


def test_a_memory_that_cannot_be_trimmed_shares_a_system_prompt_from_the_third_customer_on(
    opened: Opened,
) -> None:
    engine = opened(ScriptedRunner(n_seq=2, n_batch=64, can_trim=False))
    system = list(range(10, 210))
    evaluated = []
    for i in range(6):
        prompt = [*system, 300 + i, *[400 + i] * 40]
        stream = engine.submit(prompt, limits=Limits(max_tokens=5), owner=f"c{i}")
        assert stream.wait(10)
        assert stream.text == alone(prompt, 5)[0]
        evaluated.append(stream.usage.evaluated_tokens)
    assert evaluated == [241, 241, 41, 41, 41, 41]
    # It is a part of the second customer's words as far as anybody can tell, and goes with them.
    engine.forget("c1")
    again = engine.submit([*system, 500, 501], limits=Limits(max_tokens=1))
    assert again.wait(10)
    assert again.usage.cached_tokens == 0


def test_what_two_branches_share_goes_with_their_owner(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=2))
    words = list(range(10, 210))
    for branch in ([7] * 60, [8] * 60):
        assert engine.submit([*words, *branch], limits=Limits(max_tokens=1), owner="c1").wait(10)
    engine.forget("c1")
    again = engine.submit([*words, 500], limits=Limits(max_tokens=1), owner="c2")
    assert again.wait(10)
    assert again.usage.cached_tokens == 0


def test_cancel_keeps_what_was_said_and_the_next_turn_equals_a_fresh_run(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=1, delay_s=0.002))
    prompt = [9] * 30
    stream = engine.submit(prompt, limits=FOREVER)
    pieces = iter(stream)
    for _ in range(5):
        next(pieces)
    stream.cancel()
    assert stream.wait(5)
    assert stream.finish_reason is FinishReason.CANCELLED
    assert len(stream.text.split()) >= 5
    again = engine.submit([*prompt, 4, 4], limits=Limits(max_tokens=6))
    again.wait()
    assert again.text == alone([*prompt, 4, 4], 6)[0]


def test_cancel_while_the_prompt_is_read_returns_before_it_is_read(opened: Opened) -> None:
    runner = ScriptedRunner(n_seq=1, n_ctx=10_000, n_batch=5000, prompt_delay_s=0.01)
    engine = opened(runner)
    stream = engine.submit([3] * 4000)
    wait_until(lambda: bool(engine._in_decode))
    stream.cancel()
    assert stream.wait(5)
    assert stream.finish_reason is FinishReason.CANCELLED
    assert runner.batches == []
    assert engine.submit([4, 4], limits=Limits(max_tokens=3)).wait(5)


def test_cancelling_one_prompt_leaves_the_others_right(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=3, n_batch=600, prompt_delay_s=0.001))
    keep = [engine.submit([20 + i] * 200, limits=Limits(max_tokens=8)) for i in range(2)]
    gone = engine.submit([30] * 200)
    wait_until(lambda: bool(engine._in_decode))
    gone.cancel()
    for i, stream in enumerate(keep):
        assert stream.wait(10)
        assert stream.text == alone([20 + i] * 200, 8)[0]
    assert gone.finish_reason is FinishReason.CANCELLED


def test_a_full_queue_answers_at_once(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=1, delay_s=0.01), queue_limit=2)
    running = engine.submit([3], limits=FOREVER)
    wait_until(lambda: engine.metrics().n_running == 1)
    waiting = [engine.submit([4]), engine.submit([5])]
    with pytest.raises(QueueFullError) as refused:
        engine.submit([6])
    assert refused.value.limit == 2
    running.cancel()
    assert all(stream.wait(5) for stream in waiting)


def test_a_deadline_ends_a_request_with_a_typed_error(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=1, delay_s=0.002))
    stream = engine.submit([3], limits=FOREVER, deadline_s=0.05)
    waiting = engine.submit([4], limits=FOREVER, deadline_s=0.02)
    assert stream.wait(5)
    assert waiting.wait(5)
    assert isinstance(stream.error, DeadlineError)
    assert isinstance(waiting.error, DeadlineError)
    assert stream.text
    assert engine.submit([5], limits=Limits(max_tokens=2)).wait(5)


def test_a_failing_runner_ends_only_the_conversation_concerned(opened: Opened) -> None:
    poison = 13

    def fails(batch: Batch) -> bool:
        return any(poison in segment.tokens for segment in batch.segments)

    engine = opened(ScriptedRunner(n_seq=3, fails=fails))
    good = [engine.submit([20 + i] * 30, limits=Limits(max_tokens=6)) for i in range(2)]
    bad = engine.submit([5, poison, 5])
    assert bad.wait(5)
    assert isinstance(bad.error, DecodeError)
    assert bad.finish_reason is FinishReason.FAILED
    for i, stream in enumerate(good):
        assert stream.wait(5)
        assert stream.text == alone([20 + i] * 30, 6)[0]
    later = engine.submit([20] * 30, limits=Limits(max_tokens=6))
    later.wait()
    assert later.text == alone([20] * 30, 6)[0]


def test_an_unexpected_exception_in_the_runner_is_told_and_survived(opened: Opened) -> None:
    raised: list[int] = []

    def fails(batch: Batch) -> bool:
        if not raised:
            raised.append(1)
            raise MemoryError("no more")
        return False

    engine = opened(ScriptedRunner(n_seq=1, fails=fails))
    first = engine.submit([3, 4])
    assert first.wait(5)
    assert "MemoryError: no more" in str(first.error)
    assert engine.submit([3, 4], limits=Limits(max_tokens=2)).wait(5)


def test_whatever_the_runner_raises_wherever_only_who_is_concerned_ends(opened: Opened) -> None:
    """Each of its verbs fails once, in the middle of other people's replies."""
    for verb in ("decode", "remove", "load", "save", "piece", "is_end", "open_sampler"):
        runner = ScriptedRunner(n_seq=2, n_batch=16)
        failing: list[str] = []

        def fail(*given: object, verb: str = verb, failing: list[str] = failing) -> None:
            if not failing:
                failing.append(verb)
                raise RuntimeError(f"{verb} is broken")

        engine = opened(runner, parked_bytes=2000)
        prompts = [[20 + i] * 40 for i in range(6)]
        for round_ in range(3):
            if round_ == 1:
                whole = getattr(runner, verb)

                def broken(*given: object, whole: Callable[..., object] = whole) -> object:
                    fail()
                    return whole(*given)

                setattr(runner, verb, broken)
            streams = [
                engine.submit([*p, round_ + 3], limits=Limits(max_tokens=6)) for p in prompts
            ]
            for stream in streams:
                assert stream.wait(10), verb
            failed = [stream for stream in streams if stream.error is not None]
            assert len(failed) <= (2 if round_ == 1 else 0), verb
            for stream, prompt in zip(streams, prompts, strict=True):
                if stream.error is None:
                    assert stream.text == alone([*prompt, round_ + 3], 6)[0], verb
                else:
                    assert isinstance(stream.error, DecodeError)
                    assert f"{verb} is broken" in str(stream.error)
        assert failing == [verb]


def test_an_engine_that_cannot_go_on_says_why_to_everyone() -> None:
    runner = ScriptedRunner(n_seq=1, delay_s=0.01)
    engine = Engine(lambda: runner)
    streams = [engine.submit([3], limits=FOREVER) for _ in range(3)]
    wait_until(lambda: engine.metrics().n_running == 1)

    def broken(*given: object) -> bool:
        raise RuntimeError("gone")

    runner.remove = broken  # type: ignore[method-assign]
    runner.decode = broken  # type: ignore[method-assign,assignment]
    for stream in streams:
        assert stream.wait(5)
    with pytest.raises(EngineClosedError) as refused:
        engine.submit([3])
    assert "gone" in str(refused.value.__cause__)
    engine.close()
    assert all("gone" in str(stream.error) for stream in streams)
    assert runner.closed


def test_after_an_unnamed_failure_a_sampler_that_may_be_ahead_is_not_used(opened: Opened) -> None:
    """A grammar's or a random state cannot be put back; what is greedy has none."""
    runner = ScriptedRunner(n_seq=3)
    engine = opened(runner)
    whole, failed = runner.decode, []

    def decode(batch: Batch) -> list[list[int]]:
        said = whole(batch)
        if len(batch.segments) == 3 and not failed:
            failed.append(batch)
            raise RuntimeError("after everything was sampled")
        return said

    runner.decode = decode  # type: ignore[method-assign]
    limits = Limits(max_tokens=200, ignore_end=True)
    sampled = engine.submit([5] * 9, sampling=Sampling(temperature=1.0), limits=limits)
    greedy = [engine.submit([6 + i] * 9, limits=limits) for i in range(2)]
    for stream in (sampled, *greedy):
        assert stream.wait(10)
    assert failed
    assert isinstance(sampled.error, DecodeError)
    assert [stream.error for stream in greedy] == [None, None]


def test_a_memory_that_cannot_be_trimmed_is_not_given_guesses(opened: Opened) -> None:
    runner = ScriptedRunner(["a b c d e f a b c d e g a b c d e f"] * 9, n_seq=1, can_trim=False)
    engine = opened(runner)
    stream = engine.submit([5] * 40, limits=Limits(max_tokens=30))
    assert stream.wait(5)
    assert stream.error is None
    assert stream.text == "a b c d e f a b c d e g a b c d e f"
    assert engine.metrics().drafted_tokens == 0


def test_the_context_ends_a_reply_that_fills_it(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_seq=1, n_ctx=20))
    stream = engine.submit([3] * 15, limits=FOREVER)
    stream.wait()
    assert stream.finish_reason is FinishReason.LENGTH
    assert stream.usage.completion_tokens == 5


def test_prompts_that_cannot_be_are_refused(opened: Opened) -> None:
    engine = opened(ScriptedRunner(n_ctx=20))
    with pytest.raises(UsageError, match="at least one token"):
        engine.submit([])
    with pytest.raises(ContextError) as refused:
        engine.submit([3] * 20)
    assert (refused.value.needed_tokens, refused.value.available_tokens) == (20, 19)


def test_closing_ends_everything_and_refuses_more() -> None:
    runner = ScriptedRunner(n_seq=1, delay_s=0.002)
    engine = Engine(lambda: runner)
    streams = [engine.submit([3], limits=FOREVER) for _ in range(3)]
    engine.close()
    engine.close()
    assert {stream.finish_reason for stream in streams} == {FinishReason.CANCELLED}
    assert runner.closed
    with pytest.raises(EngineClosedError):
        engine.submit([3])


def test_a_runner_that_does_not_open_is_an_error_of_the_caller() -> None:
    def broken() -> ScriptedRunner:
        raise DecodeError("it does not open")

    before = threading.active_count()
    with pytest.raises(DecodeError, match="does not open"):
        Engine(broken)
    wait_until(lambda: threading.active_count() <= before)


def test_an_interrupt_while_it_opens_is_raised_once_the_thread_has_ended() -> None:
    given_up, ended = threading.Event(), []

    def slow() -> ScriptedRunner:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        given_up.wait()
        ended.append(True)
        return ScriptedRunner()

    with pytest.raises(KeyboardInterrupt):
        Engine(slow, give_up=given_up.set)
    assert ended
    assert "quietdesk-engine" not in {thread.name for thread in threading.enumerate()}


def test_an_engine_that_nobody_closed_is_closed_when_the_interpreter_exits() -> None:
    code = (
        "from quietdesk.engine.engine import Engine\n"
        "from quietdesk.engine.sampling import Limits\n"
        "from quietdesk.testing import ScriptedRunner\n"
        "class Told(ScriptedRunner):\n"
        "    def close(self):\n"
        "        super().close()\n"
        "        print('closed', flush=True)\n"
        "engine = Engine(lambda: Told(delay_s=0.01))\n"
        "stream = engine.submit([3], limits=Limits(max_tokens=1000, ignore_end=True))\n"
        "next(iter(stream))\n"
        "raise SystemExit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (7, [b"closed"], b"")


def test_stop_strings_and_tokens_end_a_reply(opened: Opened) -> None:
    engine = opened(ScriptedRunner(["one two three four"]))
    stream = engine.submit([3], limits=Limits(stop=("three",)))
    stream.wait()
    assert stream.text == "one two "
    assert stream.finish_reason is FinishReason.STOP


def test_the_books_balance_after_a_storm(opened: Opened) -> None:
    """Cancels, deadlines and failures at random: no slot, sampler or request is lost."""
    runner = ScriptedRunner(n_seq=3, n_batch=32, delay_s=0.0002, fails=lambda b: b.n_rows % 29 == 0)
    engine = opened(runner, queue_limit=500)
    streams = []
    for i in range(200):
        streams.append(
            engine.submit(
                [10 + i % 7] * (5 + i % 50),
                limits=Limits(max_tokens=1 + i % 20),
                deadline_s=0.05 if i % 11 == 0 else None,
                priority=i % 3,
            )
        )
        if i % 5 == 0:
            streams[i // 2].cancel()
    for stream in streams:
        assert stream.wait(30)
    metrics = engine.metrics()
    ended = metrics.requests_finished + metrics.requests_cancelled + metrics.requests_failed
    assert ended == metrics.requests_total == 200
    assert metrics.n_running == metrics.n_waiting == 0
    assert runner._samplers == {}
    assert not any(slot.busy for slot in engine._cache.slots)
    for slot in engine._cache.slots:
        assert runner.memory[slot.id][: len(slot.tokens)] == slot.tokens.tolist()
