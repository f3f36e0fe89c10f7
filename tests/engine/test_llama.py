"""llama.cpp behind the seam: the bundled model and tiny ones of every kind of memory."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import ModelFileError, UsageError
from quietdesk.types import FinishReason

NEAR_TIE = 0.35
"""Logits this close may change places: repacked 4-bit kernels round activations to 8 bits, so that
a row evaluated in another shape of batch differs by some hundredths of a logit, and rounding errors
of the cache entries before it add up to a few tenths over a reply."""


def open_runner(path: Path, **options: int) -> LlamaRunner:
    chosen = plan(read_header(path), machine(), **{"n_ctx": 512, "n_seq": 4} | options)
    return LlamaRunner(path, chosen)


@pytest.fixture(scope="module")
def engine(starter_path: Path) -> Iterator[Engine]:
    with Engine(lambda: open_runner(starter_path, n_ctx=4500, n_seq=3)) as engine:
        yield engine


def ask(engine: Engine, question: str, system: str = "") -> list[int]:
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    text = f"{head}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return engine.tokenize(text, special=True, begin=False)


def is_near_tie(path: Path, prompt: list[int], left: int, right: int) -> bool:
    """Whether two next tokens are nearly equally likely, by llama-cpp-python's own class."""
    llama = llama_cpp.Llama(str(path), n_ctx=1024, logits_all=False, verbose=False)
    llama.eval(prompt)
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (llama.n_vocab(),))
    gap = abs(float(logits[left] - logits[right]))
    llama.close()
    return gap < NEAR_TIE


QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about bicycles.",
    "List three colours.",
    "How do I return a parcel?",
    "Say hello in Chinese.",
    "What is seven times eight?",
]


def test_a_crowd_says_what_each_says_alone_up_to_near_ties(
    engine: Engine, starter_path: Path
) -> None:
    limits = Limits(max_tokens=24)
    together = [engine.submit(ask(engine, question), limits=limits) for question in QUESTIONS]
    for stream in together:
        stream.wait()
    differing = 0
    for question, crowd in zip(QUESTIONS, together, strict=True):
        prompt = ask(engine, question)
        alone = engine.submit(prompt, limits=limits)
        alone.wait()
        if alone.text == crowd.text:
            continue
        differing += 1
        ours = engine.tokenize(alone.text, special=False, begin=False)
        theirs = engine.tokenize(crowd.text, special=False, begin=False)
        at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        assert is_near_tie(starter_path, [*prompt, *ours[:at]], ours[at], theirs[at])
    assert differing <= len(QUESTIONS) // 2


def test_greedy_text_equals_llama_cpp_pythons(engine: Engine, starter_path: Path) -> None:
    llama = llama_cpp.Llama(str(starter_path), n_ctx=512, verbose=False)
    for question in QUESTIONS[:3]:
        prompt = ask(engine, question)
        theirs = llama.create_completion(prompt, max_tokens=12, temperature=0.0)
        stream = engine.submit(prompt, limits=Limits(max_tokens=12))
        stream.wait()
        expected = theirs["choices"][0]["text"]
        if stream.text != expected:
            ours, their = (
                engine.tokenize(text, special=False, begin=False)
                for text in (stream.text, expected)
            )
            at = next(i for i, (a, b) in enumerate(zip(ours, their, strict=False)) if a != b)
            assert is_near_tie(starter_path, [*prompt, *ours[:at]], ours[at], their[at])
    llama.close()


def test_a_reply_that_ends_inside_a_draft_leaves_no_position_behind(engine: Engine) -> None:
    words = "apples, pears, plums, figs, dates, limes, melons, grapes"
    prompt = ask(engine, f"Repeat this list three times, word for word: {words}. {words}. {words}.")
    accepted = engine.metrics().accepted_tokens
    runner = engine._runner
    assert isinstance(runner, LlamaRunner)
    for max_tokens in range(8, 28, 2):
        engine.submit(prompt, limits=Limits(max_tokens=max_tokens, ignore_end=True)).wait()
        while any(slot.busy for slot in engine._cache.slots):
            time.sleep(0.001)
        for slot in engine._cache.slots:
            held = llama_cpp.llama_memory_seq_pos_max(runner._memory, slot.id) + 1
            assert held == len(slot.tokens), max_tokens
    assert engine.metrics().accepted_tokens > accepted


def test_chinese_and_emoji_never_stream_a_broken_character(engine: Engine) -> None:
    text = "你好，世界！🙂👩‍👩‍👧 naïve 한국어"
    prompt = ask(engine, f"Repeat exactly: {text} {text} {text}")
    for seed in range(4):
        stream = engine.submit(
            prompt,
            sampling=Sampling(temperature=1.5, top_k=0, seed=seed),
            limits=Limits(max_tokens=40, ignore_end=True),
        )
        pieces = [delta.text for delta in stream]
        assert all(piece.encode() for piece in pieces)
        assert "".join(pieces) == stream.text
    # Fed as tokens of single bytes, whole characters come out.
    tokens = engine.tokenize(text, special=False, begin=False)
    pieces_of = [engine._runner.piece(token) for token in tokens]
    assert b"".join(pieces_of).decode().strip() == text
    assert any(_is_broken(piece) for piece in pieces_of), "the vocabulary splits characters"


def _is_broken(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_cancel_in_a_long_prompt_stops_before_it_is_read(engine: Engine) -> None:
    before = engine.metrics().evaluated_tokens
    stream = engine.submit([1000 + i % 500 for i in range(4096)])
    while not engine._in_decode:
        pass
    stream.cancel()
    assert stream.wait(30)
    assert stream.finish_reason is FinishReason.CANCELLED
    # At most the micro-batch under way was begun.
    assert engine.metrics().evaluated_tokens - before <= 2 * 512
    again = engine.submit(ask(engine, QUESTIONS[0]), limits=Limits(max_tokens=8))
    again.wait()
    assert "Paris" in again.text


def test_the_same_seed_says_the_same_and_another_does_not(engine: Engine) -> None:
    def say(seed: int) -> str:
        stream = engine.submit(
            ask(engine, "Tell a story."),
            sampling=Sampling(temperature=1.0, top_k=50, seed=seed),
            limits=Limits(max_tokens=20),
        )
        stream.wait()
        return stream.text

    assert say(1) == say(1)
    assert len({say(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("top_k", [1, 5, 40, 200])
def test_choosing_among_candidates_equals_choosing_from_the_whole_vocabulary(
    starter_path: Path, top_k: int
) -> None:
    runner = open_runner(starter_path, n_seq=1)
    sampling = Sampling(temperature=0.9, top_k=top_k, top_p=0.95, min_p=0.02, seed=7)
    narrow = runner._samplers[runner.open_sampler(sampling, [])]
    whole = runner._samplers[runner.open_sampler(sampling, [])]
    whole._narrow = False
    rng = np.random.default_rng(top_k)
    for _ in range(50):
        scores = (rng.standard_normal(runner.info.n_vocab) * 4).astype(np.float32)
        best = int(scores.argmax())
        assert narrow.choose(scores, best) == whole.choose(scores, best)
    runner.close()


def test_penalties_see_the_prompt(starter_path: Path) -> None:
    runner = open_runner(starter_path, n_seq=1)
    scores = np.zeros(runner.info.n_vocab, np.float32)
    scores[100], scores[200] = 10.0, 9.0
    number = runner.open_sampler(Sampling(repeat_penalty=2.0), [100])
    assert runner._samplers[number].choose(scores, 100) == 200
    runner.close()


def test_a_grammar_binds_and_a_broken_one_is_an_error(engine: Engine) -> None:
    stream = engine.submit(
        ask(engine, "Is Paris in France?"),
        sampling=Sampling(temperature=0.7, grammar='root ::= "yes" | "no"'),
        limits=Limits(max_tokens=8),
    )
    stream.wait()
    assert stream.text in ("yes", "no")
    with pytest.raises(UsageError, match="no GBNF"):
        engine.submit([1, 2], sampling=Sampling(grammar="root ::= ((("))
    after = engine.submit([1, 2], limits=Limits(max_tokens=1))
    assert after.wait(10)
    assert after.error is None


def test_a_draft_that_is_right_is_accepted_and_the_text_is_the_same(starter_path: Path) -> None:
    runner = open_runner(starter_path, n_seq=1)
    prompt = runner.tokenize("One two three four five six", special=False, begin=False)
    sampler = runner.open_sampler(Sampling(), prompt)
    said = runner.decode(Batch(prefill=(Segment(0, 0, tuple(prompt), True, 0, sampler),)))[0]
    for _ in range(4):
        at = len(prompt) + len(said) - 1
        said += runner.decode(Batch(decode=(Segment(0, at, (said[-1],), True, 0, sampler),)))[0]
    runner.remove(0, len(prompt))
    draft = (said[0], *said[1:3], 5)
    answer = runner.decode(Batch(decode=(Segment(0, len(prompt), draft, True, 3, sampler),)))[0]
    assert answer[:2] == said[1:3]
    assert len(answer) == 3
    runner.close()


def test_a_state_is_restored_and_a_foreign_one_is_refused(starter_path: Path) -> None:
    runner = open_runner(starter_path, n_seq=2)
    prompt = tuple(runner.tokenize("The bicycle is", special=False, begin=False))
    sampler = runner.open_sampler(Sampling(), prompt)
    first = runner.decode(Batch(prefill=(Segment(0, 0, prompt, True, 0, sampler),)))
    state = runner.save(0)
    assert runner.load(1, state)
    step = (first[0][0],)
    here, there = runner.decode(
        Batch(decode=tuple(Segment(i, len(prompt), step, True, 0, sampler) for i in range(2)))
    )
    assert here == there
    assert not runner.load(1, b"not a state")
    assert runner.remove(1, 0)
    runner.close()


def test_every_kind_of_memory_answers_a_second_turn_as_a_fresh_run_would(
    tiny_models: dict[str, Path],
) -> None:
    for kind, path in tiny_models.items():
        limits = Limits(max_tokens=10, ignore_end=True)
        with Engine(lambda path=path: open_runner(path, n_ctx=256, n_seq=2)) as engine:
            prompt = engine.tokenize(
                "hello there, how are you today " * 3, special=False, begin=True
            )
            first = engine.submit(prompt, limits=limits)
            first.wait()
            more = engine.tokenize(" and you?", special=False, begin=False)
            second = engine.submit([*prompt, *more], limits=limits)
            second.wait()
            assert second.error is None, kind
            assert second.usage.cached_tokens > 0, kind
        with Engine(lambda path=path: open_runner(path, n_ctx=256, n_seq=2)) as fresh:
            alone = fresh.submit([*prompt, *more], limits=limits)
            alone.wait()
        assert second.text == alone.text, kind


def test_every_kind_of_memory_shares_a_system_prompt_with_new_customers(
    tiny_models: dict[str, Path],
) -> None:
    limits = Limits(max_tokens=10, ignore_end=True)
    asked = ("hello there", "where is it", "my order number", "thank you")
    for kind, path in tiny_models.items():
        with Engine(lambda path=path: open_runner(path, n_ctx=512, n_seq=2)) as engine:
            system = engine.tokenize("the parcel left on Monday " * 8, special=False, begin=True)
            prompts = [
                [*system, *engine.tokenize(f"{i} {words} " * 5, special=False, begin=False)]
                for i, words in enumerate(asked)
            ]
            streams = []
            for prompt in prompts:
                streams.append(engine.submit(prompt, limits=limits))
                assert streams[-1].wait(30)
            cached = [stream.usage.cached_tokens for stream in streams]
            assert cached[0] == 0, kind
            assert min(cached[2:]) >= len(system), kind
        for prompt, stream in zip(prompts, streams, strict=True):
            with Engine(lambda path=path: open_runner(path, n_ctx=512, n_seq=2)) as fresh:
                alone = fresh.submit(prompt, limits=limits)
                alone.wait()
            assert stream.text == alone.text, kind


def test_a_loaded_state_of_a_sliding_window_is_not_cut_back_past_its_window(
    tiny_models: dict[str, Path],
) -> None:
    """llama.cpp's states leave out what has left the window; it would be missing then."""
    runner = open_runner(tiny_models["gemma3"], n_seq=2)
    prompt = tuple(5 + i * 7 % 500 for i in range(200))
    sampler = runner.open_sampler(Sampling(), prompt)
    runner.decode(Batch(prefill=(Segment(0, 0, prompt, True, 0, sampler),)))
    assert runner.load(1, runner.save(0))
    assert not runner.remove(1, 100)
    assert runner.remove(1, 199)
    assert runner.remove(1, 0)
    assert runner.remove(0, 100), "what was evaluated here is all there"
    runner.close()


def test_a_grammar_that_has_ended_goes_on_with_the_end(engine: Engine) -> None:
    """llama.cpp would end the process if it were asked for more."""
    stream = engine.submit(
        ask(engine, "Is Paris in France?"),
        sampling=Sampling(grammar='root ::= "yes" | "no"'),
        limits=Limits(max_tokens=8, ignore_end=True),
    )
    stream.wait()
    assert stream.error is None
    assert stream.text in ("yes", "no")
    assert stream.usage.completion_tokens == 8


def test_a_context_that_memory_does_not_hold_is_an_error_and_a_smaller_one_opens(
    tiny_models: dict[str, Path],
) -> None:
    runner = open_runner(tiny_models["llama"])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, limits[1]))
    try:
        with pytest.raises(ModelFileError, match="no context could be opened"):
            open_runner(tiny_models["llama"], n_ctx=2**20, n_seq=8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    another = open_runner(tiny_models["llama"])
    for whole in (runner, another):
        sampler = whole.open_sampler(Sampling(), [])
        assert whole.decode(Batch(prefill=(Segment(0, 0, (9, 9), True, 0, sampler),)))[0]
        whole.close()


def test_gpt2_is_among_the_kinds_that_run(tiny_models: dict[str, Path]) -> None:
    assert {"llama", "gpt2"} <= set(tiny_models)


def test_files_that_are_no_models_are_refused_by_name(tmp_path: Path, starter_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with starter_path.open("rb") as whole:
        cut.write_bytes(whole.read(30_000_000))
    text = tmp_path / "text.gguf"
    text.write_text("Hello")
    for path, words in (
        (cut, "cut short|truncated|bytes"),
        (text, "GGUF"),
        (tmp_path / "no", "no"),
    ):
        with pytest.raises(ModelFileError, match=words) as refused:
            open_runner(path)
        assert refused.value.path == str(path)


def test_an_architecture_that_llama_cpp_does_not_know_is_named(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    strange = tmp_path / "strange.gguf"
    data = tiny_models["llama"].read_bytes()
    # Same length, so that nothing else in the file moves.
    strange.write_bytes(data.replace(b"llama", b"blama"))
    with pytest.raises(ModelFileError, match="blama"):
        open_runner(strange)
