"""Texts that are only read: beside customers, in a crowd, cancelled, and on real models."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.engine.batch import Batch
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, log_softmax_at, read_header
from quietdesk.engine.sampling import Limits
from quietdesk.errors import ContextError, DecodeError, EngineError, UsageError
from quietdesk.testing import ScriptedRunner, scripted_assistant

FOREVER = Limits(max_tokens=100_000, ignore_end=True)


def open_engine(path: Path, **options: int) -> Engine:
    chosen = plan(read_header(path), machine(), **{"n_ctx": 512, "n_seq": 4} | options)
    return Engine(lambda: LlamaRunner(path, chosen))


def logprobs_alone(tokens: list[int], start: int) -> list[float]:
    with Engine(lambda: ScriptedRunner(n_seq=1)) as engine:
        return engine.read_logprobs(tokens, start).logprobs().tolist()


def mean_alone(tokens: list[int]) -> list[float]:
    with Engine(lambda: ScriptedRunner(n_seq=1)) as engine:
        return engine.read_hidden(tokens).mean().tolist()


asked = st.lists(
    st.tuples(
        st.sampled_from(["say", "score", "embed"]),
        st.integers(0, 2),  # which of three shared beginnings
        st.lists(st.integers(3, 40), min_size=2, max_size=45),
    ),
    min_size=1,
    max_size=10,
)


@given(asked, st.integers(1, 5), st.booleans(), st.sampled_from([0, 600, 10**6]))
@settings(max_examples=60, deadline=None)
def test_what_is_read_in_a_crowd_equals_what_is_read_alone(
    asked: list[tuple[str, int, list[int]]], n_seq: int, can_trim: bool, parked_bytes: int
) -> None:
    runner = ScriptedRunner(n_seq=n_seq, n_batch=24, can_trim=can_trim)
    with Engine(lambda: runner, n_prefill=8, parked_bytes=parked_bytes) as engine:
        texts = [(kind, [50 + start] * 40, rest) for kind, start, rest in asked]
        under_way = []
        for kind, head, rest in texts:
            tokens = [*head, *rest]
            if kind == "say":
                under_way.append(engine.submit(tokens, limits=Limits(max_tokens=6)))
            elif kind == "score":
                under_way.append(engine.read_logprobs(tokens, len(head)))
            else:
                under_way.append(engine.read_hidden(tokens))
        for (kind, head, rest), result in zip(texts, under_way, strict=True):
            tokens = [*head, *rest]
            if kind == "say":
                assert result.wait(30)
                with Engine(lambda: ScriptedRunner(n_seq=1)) as alone:
                    expected = alone.submit(tokens, limits=Limits(max_tokens=6))
                    expected.wait()
                assert result.text == expected.text
            elif kind == "score":
                assert result.logprobs().tolist() == logprobs_alone(tokens, len(head))
            else:
                assert np.allclose(result.mean(), mean_alone(tokens), rtol=1e-6)
        metrics = engine.metrics()
        assert metrics.n_running == metrics.n_waiting == 0
        assert metrics.requests_finished == len(asked)


def test_a_context_in_common_is_evaluated_once() -> None:
    with Engine(lambda: ScriptedRunner(n_seq=4)) as engine:
        context = list(range(100, 300))
        results = [engine.read_logprobs([*context, 300 + i, 7, 8], 200) for i in range(20)]
        for result in results:
            result.logprobs()
        # The context's last row is needed each time, for what follows it, and the last token never.
        assert engine.metrics().evaluated_tokens == 200 + 2 + 19 * 3


def test_a_text_that_is_kept_is_built_on_wherever_the_next_ones_part_from_it() -> None:
    with Engine(lambda: ScriptedRunner(n_seq=2)) as engine:
        text = list(range(100, 300))
        engine.read_logprobs(text, 1, keeps=True).logprobs()
        assert engine.metrics().evaluated_tokens == 199
        for parts_at, start in ((150, 151), (120, 120), (60, 61), (0, 1)):
            other = [*text[:parts_at], 7, 8, 9, 10]
            before = engine.metrics().evaluated_tokens
            told = engine.read_logprobs(other, start).logprobs().tolist()
            assert told == logprobs_alone(other, start)
            # Nothing twice but the row before the first token asked about; the last token never.
            assert engine.metrics().evaluated_tokens - before == len(other) - start


def test_reading_leaves_the_memory_of_customers_alone() -> None:
    engine = Engine(lambda: ScriptedRunner(["one two three"], n_seq=2), parked_bytes=10_000)
    with engine:
        histories = [[1000 + i] * 100 for i in range(6)]
        for history in histories:
            engine.submit(history, limits=Limits(max_tokens=3)).wait()
        before = engine.metrics().parked_states
        for i in range(50):
            engine.read_logprobs([5000 + i] * 90, 45).logprobs()
        # One customer's memory made room for the readings, and was parked.
        assert engine.metrics().parked_states == before + 1
        for history in histories:
            again = engine.submit([*history, 9], limits=Limits(max_tokens=1))
            again.wait()
            assert again.usage.cached_tokens == 100


def test_reading_takes_a_tenth_of_the_time_while_a_customer_is_answered() -> None:
    now = 0.0

    class Ticking(ScriptedRunner):
        """A runner of which every evaluation takes a second by the engine's clock."""

        def _take_time(self, batch: Batch) -> None:
            nonlocal now
            now += 1.0
            super()._take_time(batch)

    runner = Ticking(n_seq=4, n_batch=64)
    with Engine(lambda: runner, n_draft=0, clock=lambda: now) as engine:
        customer = engine.submit([60, 61, 62], limits=FOREVER)
        next(iter(customer))
        results = [engine.read_logprobs(list(range(100 + i, 160 + i)), 1) for i in range(3)]
        for result in results:
            result.logprobs()
        assert customer.finish_reason is None, "the texts were read beside it"
        customer.cancel()
        customer.wait()
    reads = [i for i, batch in enumerate(runner.batches) if batch.prefill and i > 0]
    assert all(later - earlier == 10 for earlier, later in pairwise(reads))
    assert len(reads) > 10
    assert all(runner.batches[i].n_rows <= runner.n_outputs for i in reads)


def test_a_long_text_is_left_where_it_is_when_a_customer_asks() -> None:
    runner = ScriptedRunner(n_seq=2, n_batch=512, prompt_delay_s=0.05)
    with Engine(lambda: runner) as engine:
        reading = engine.read_logprobs([*range(100, 600)], 490)
        while not engine._gives_way:
            time.sleep(0.001)
        customer = engine.submit([7], limits=Limits(max_tokens=2))
        assert customer.wait(30)
        assert not np.isfinite(reading.reading.logprobs).any()
        reading.stream.cancel()
        with pytest.raises(EngineError, match="cancelled"):
            reading.logprobs()


def test_one_bad_text_does_not_spoil_the_others() -> None:
    def fails(batch: Batch) -> bool:
        return any(666 in segment.tokens for segment in batch.prefill)

    with Engine(lambda: ScriptedRunner(n_seq=8, fails=fails)) as engine:
        bad = engine.read_logprobs([3, 666, 5], 1)
        good = engine.read_logprobs([3, 4, 5], 1)
        assert good.logprobs().tolist() == logprobs_alone([3, 4, 5], 1)
        with pytest.raises(DecodeError):
            bad.logprobs()


def test_what_cannot_be_read_is_refused_by_name() -> None:
    with Engine(lambda: ScriptedRunner(n_ctx=16)) as engine:
        for tokens, start in (([1, 2], 0), ([1, 2], 2), ([], 0)):
            with pytest.raises(UsageError):
                engine.read_logprobs(tokens, start)
        with pytest.raises(ContextError):
            engine.read_logprobs([5] * 17, 1)
        assert len(engine.read_logprobs([5] * 16, 1).logprobs()) == 15
        with pytest.raises(UsageError):
            engine.read_hidden([])


def test_the_sdk_scores_texts_pairs_and_token_ids_in_order_and_more_than_the_queue_holds() -> None:
    with scripted_assistant(n_seq=2) as assistant:
        assistant.engine._queue_limit = 3
        ids = assistant.prompt("Is it late?", system="Say yes or no.")
        texts = ["one two", ("a context", " and more"), (ids, " yes"), *["x y z"] * 30]
        told = assistant.logprobs(texts)
        assert ["".join(one.pieces) for one in told[:3]] == ["one two", " and more", " yes"]
        assert told[3:] == [told[3]] * 30
        assert told[3].logprob == pytest.approx(sum(told[3].logprobs))
        assert [len(one.tokens) == len(one.logprobs) for one in told] == [True] * 33
        with pytest.raises(UsageError, match="number 1"):
            assistant.logprobs(["good", ""])


async def test_async_callers_get_the_same() -> None:
    with scripted_assistant() as assistant:
        texts = ["one two", "three four five"]
        assert await assistant.alogprobs(texts) == assistant.logprobs(texts)
        theirs = await assistant.aembed(texts)
        assert np.array_equal(theirs.vectors, assistant.embed(texts).vectors)
        assert theirs.n_dims == 8
        assert np.allclose(np.linalg.norm(theirs.vectors, axis=1), 1)


def test_log_softmax_is_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.standard_normal((37, 500)) * 30).astype(np.float32)
    targets = rng.integers(0, 500, 37)
    wide = scores.astype(np.float64)
    expected = (
        wide[np.arange(37), targets]
        - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1))
        - wide.max(1)
    )
    assert np.allclose(log_softmax_at(scores, targets), expected, rtol=1e-6, atol=1e-5)


TEXTS = [
    "Your refund takes five to seven days until the money is back in your account.",
    "Yes.",
    "I am sorry to hear that the parcel has not arrived; let me look at the order for you.",
    "Grüße, 你好 🎉, where is my order?",
    "Where do I find the return label? You will find the label in your account, under orders.",
]


@pytest.fixture(scope="module")
def starter(starter_path: Path) -> Iterator[Engine]:
    with open_engine(starter_path) as engine:
        yield engine


def reference(path: Path, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of tokens[1:], by llama-cpp-python's own class, one text at a time."""
    llama = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False)
    llama.eval(tokens)
    wide = np.array(llama.scores[: len(tokens) - 1], np.float64)
    llama.close()
    highest = wide.max(1, keepdims=True)
    sums = np.log(np.exp(wide - highest).sum(1)) + highest[:, 0]
    return wide[np.arange(len(wide)), tokens[1:]] - sums


def test_logprobs_equal_llama_cpp_pythons_within_what_4_bit_kernels_round(
    starter: Engine, starter_path: Path
) -> None:
    cut = [starter.tokenize(text, special=False, begin=False) for text in TEXTS]
    cut = [tokens for tokens in cut if len(tokens) > 1]
    together = [starter.read_logprobs(tokens, 1) for tokens in cut]
    for tokens, result in zip(cut, together, strict=True):
        gap = np.abs(result.logprobs() - reference(starter_path, tokens))
        assert gap.max() < 0.35
        assert gap.mean() < 0.08


def test_figures_are_the_same_alone_and_beside_customers_and_after_a_common_context(
    starter: Engine,
) -> None:
    cut = [starter.tokenize(text, special=False, begin=False) for text in TEXTS]
    pairs = [[*cut[0], *cut[4], *cut[2], *tokens] for tokens in cut]
    start = len(pairs[0]) - len(cut[0])
    alone = [starter.read_logprobs(tokens, start).logprobs() for tokens in pairs]
    customers = [starter.submit(cut[i], limits=FOREVER) for i in range(3)]
    beside = [starter.read_logprobs(tokens, start) for tokens in reversed(pairs)]
    for one, other in zip(alone, reversed(beside), strict=True):
        assert np.array_equal(one, other.logprobs())
    for customer in customers:
        customer.cancel()
        customer.wait()


def test_a_crowd_is_read_as_each_is_read_alone_by_every_kind_of_memory(
    tiny_models: dict[str, Path],
) -> None:
    for kind, path in tiny_models.items():
        with open_engine(path) as engine:
            cut = [engine.tokenize(text * 2, special=False, begin=True) for text in TEXTS]
            alone = [engine.read_logprobs(tokens, 3).logprobs() for tokens in cut]
            single = [engine.read_hidden(tokens).mean() for tokens in cut]
        with open_engine(path) as engine:
            engine.submit(cut[0], limits=FOREVER)
            crowd = [engine.read_logprobs(tokens, 3) for tokens in cut]
            vectors = [engine.read_hidden(tokens) for tokens in cut]
            for one, many in zip(alone, crowd, strict=True):
                assert np.array_equal(one, many.logprobs()), kind
            for left, right in zip(single, vectors, strict=True):
                assert np.array_equal(left, right.mean()), kind


def test_texts_about_the_same_are_nearer_than_others(starter: Engine) -> None:
    def vector(text: str) -> np.ndarray:
        mean = starter.read_hidden(starter.tokenize(text, special=False, begin=True)).mean()
        return mean / np.linalg.norm(mean)

    label = vector("Where do I find the label for sending my parcel back?")
    same = vector("How can I get a return label for my package?")
    other = vector("The mitochondria are the powerhouse of the cell.")
    assert label @ same > label @ other
