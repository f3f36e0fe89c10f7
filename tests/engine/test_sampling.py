"""Every sampler against a chain of llama.cpp's own, built by hand over the same scores."""

import ctypes
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quietdesk.config import Generation
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.remote.backend import RemoteBackend
from quietdesk.engine.remote.endpoint import read_address
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import UsageError

N_CTX = 512
SEED = 20
TEXT = (
    "the red bell and the blue bell: the red bell and the blue bell, the red bell and the blue bell"
)
"""Repeats itself, so that what is against repetition has something to do."""

Parts = Callable[[LlamaRunner], list[Any]]


def penalties(last_n: int, repeat: float, frequency: float, presence: float) -> Parts:
    return lambda runner: [
        llama_cpp.llama_sampler_init_penalties(
            runner.info.n_vocab, last_n, repeat, frequency, presence
        )
    ]


def dry(multiplier: float, base: float, allowed: int, last_n: int, *breakers: bytes) -> Parts:
    array = (ctypes.c_char_p * len(breakers))(*breakers)
    return lambda runner: [
        llama_cpp.llama_sampler_init_dry(
            llama_cpp.llama_model_get_vocab(runner._model),
            multiplier,
            base,
            allowed,
            last_n,
            array,
            len(breakers),
        )
    ]


def bias(*pairs: tuple[int, float]) -> Parts:
    array = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
    return lambda runner: [
        llama_cpp.llama_sampler_init_logit_bias(runner.info.n_vocab, len(pairs), array)
    ]


def drawn(*parts: Callable[[], Any], temperature: float = 0.9) -> Parts:
    return lambda _: [
        *(part() for part in parts),
        llama_cpp.llama_sampler_init_temp(temperature),
        llama_cpp.llama_sampler_init_dist(SEED),
    ]


def mirostat(tau: float, eta: float, temperature: float) -> Parts:
    return lambda _: [
        llama_cpp.llama_sampler_init_temp(temperature),
        llama_cpp.llama_sampler_init_mirostat_v2(SEED, tau, eta),
    ]


def greedy(_: LlamaRunner) -> list[Any]:
    return [llama_cpp.llama_sampler_init_greedy()]


HOT: dict[str, Any] = {"temperature": 0.9, "seed": SEED}
BREAKERS = (b"\n", b":", b'"', b"*")
CASES: dict[str, tuple[dict[str, Any], list[Parts]]] = {
    "temperature": (HOT, [drawn()]),
    "top_k": (
        HOT | {"top_k": 7},
        [drawn(lambda: llama_cpp.llama_sampler_init_top_k(7))],
    ),
    "top_p": (
        HOT | {"top_p": 0.6},
        [drawn(lambda: llama_cpp.llama_sampler_init_top_p(0.6, 1))],
    ),
    "min_p": (
        HOT | {"min_p": 0.2},
        [drawn(lambda: llama_cpp.llama_sampler_init_min_p(0.2, 1))],
    ),
    "typical_p": (
        HOT | {"typical_p": 0.5},
        [drawn(lambda: llama_cpp.llama_sampler_init_typical(0.5, 1))],
    ),
    "repeat_penalty": ({"repeat_penalty": 1.5}, [penalties(256, 1.5, 0.0, 0.0), greedy]),
    "presence_penalty": ({"presence_penalty": 1.9}, [penalties(256, 1.0, 0.0, 1.9), greedy]),
    "frequency_penalty": ({"frequency_penalty": 1.1}, [penalties(256, 1.0, 1.1, 0.0), greedy]),
    "penalty_last_n": (
        {"repeat_penalty": 1.5, "penalty_last_n": 6},
        [penalties(6, 1.5, 0.0, 0.0), greedy],
    ),
    "penalty_last_n of all": (
        {"repeat_penalty": 1.5, "penalty_last_n": -1},
        [penalties(N_CTX, 1.5, 0.0, 0.0), greedy],
    ),
    "dry": (
        {"dry_multiplier": 4.0},
        [dry(4.0, 1.75, 2, 64, *BREAKERS), greedy],
    ),
    "dry of its own": (
        {
            "dry_multiplier": 20.0,
            "dry_base": 2.5,
            "dry_allowed_length": 1,
            "dry_penalty_last_n": -1,
            "dry_sequence_breakers": ("red", "\n"),
        },
        [dry(20.0, 2.5, 1, N_CTX, b"red", b"\n"), greedy],
    ),
    "mirostat": (
        {"temperature": 1.3, "seed": SEED, "mirostat_tau": 3.0, "mirostat_eta": 0.3},
        [mirostat(3.0, 0.3, 1.3)],
    ),
    "everything": (
        HOT
        | {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.9}
        | {"repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.1}
        | {"dry_multiplier": 0.8, "logit_bias": ((28, 2.0), (260, -100.0))},
        [
            bias((28, 2.0), (260, -100.0)),
            penalties(256, 1.1, 0.1, 0.2),
            dry(0.8, 1.75, 2, 64, *BREAKERS),
            drawn(
                lambda: llama_cpp.llama_sampler_init_top_k(40),
                lambda: llama_cpp.llama_sampler_init_typical(0.9, 1),
                lambda: llama_cpp.llama_sampler_init_top_p(0.95, 1),
                lambda: llama_cpp.llama_sampler_init_min_p(0.05, 1),
            ),
        ],
    ),
}


def open_runner(path: Path, n_seq: int = 1) -> LlamaRunner:
    return LlamaRunner(path, plan(read_header(path), machine(), n_ctx=N_CTX, n_seq=n_seq))


@pytest.fixture(scope="module")
def runner(starter_path: Path) -> Iterator[LlamaRunner]:
    runner = open_runner(starter_path)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def prompt(runner: LlamaRunner) -> list[int]:
    return runner.tokenize(TEXT, special=False, begin=False)


@pytest.fixture(scope="module")
def scores(starter_path: Path, prompt: list[int]) -> NDArray[np.float32]:
    """What the model thinks at each place of the text, by llama-cpp-python; shape (n, n_vocab)."""
    llama = llama_cpp.Llama(str(starter_path), n_ctx=N_CTX, logits_all=True, verbose=False)
    llama.eval(prompt)
    rows: NDArray[np.float32] = llama.scores[: len(prompt)].astype(np.float32)
    llama.close()
    return rows


def by_hand(
    runner: LlamaRunner, parts: list[Parts], prompt: list[int], scores: NDArray[np.float32]
) -> list[int]:
    """What llama.cpp's samplers choose, each looking at the whole vocabulary."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for part in parts:
        for sampler in part(runner):
            llama_cpp.llama_sampler_chain_add(chain, sampler)
    for token in prompt:
        llama_cpp.llama_sampler_accept(chain, token)
    chosen = []
    for row in scores:
        table = np.zeros(len(row), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        table["id"], table["logit"] = np.arange(len(row)), row
        data = ctypes.cast(table.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data, len(row), -1, False)
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        chosen.append(int(array.data[array.selected].id))
        llama_cpp.llama_sampler_accept(chain, chosen[-1])
    llama_cpp.llama_sampler_free(chain)
    return chosen


def ours(
    runner: LlamaRunner, sampling: Sampling, prompt: list[int], scores: NDArray[np.float32]
) -> list[int]:
    number = runner.open_sampler(sampling, prompt)
    sampler = runner._samplers[number]
    chosen = [sampler.choose(row, int(row.argmax())) for row in scores]
    runner.close_sampler(number)
    return chosen


@pytest.mark.parametrize("case", CASES)
def test_each_sampler_chooses_as_llama_cpps_own_chain_does(
    runner: LlamaRunner, prompt: list[int], scores: NDArray[np.float32], case: str
) -> None:
    given, parts = CASES[case]
    chosen = ours(runner, Sampling(**given), prompt, scores)
    assert chosen == by_hand(runner, parts, prompt, scores)
    assert chosen != scores.argmax(axis=1).tolist()


def test_a_bias_counts_in_greedy_replies_and_the_largest_bans(
    runner: LlamaRunner, prompt: list[int], scores: NDArray[np.float32]
) -> None:
    likeliest = scores.argmax(axis=1).tolist()
    banned = likeliest[-1]
    assert banned not in ours(runner, Sampling(logit_bias=((banned, -100.0),)), prompt, scores)
    assert ours(runner, Sampling(logit_bias=((500, 100.0),)), prompt, scores) == [500] * len(scores)


def test_looking_back_on_nothing_changes_nothing(
    runner: LlamaRunner, prompt: list[int], scores: NDArray[np.float32]
) -> None:
    sampling = Sampling(
        repeat_penalty=2.0, dry_multiplier=5.0, penalty_last_n=0, dry_penalty_last_n=0
    )
    assert ours(runner, sampling, prompt, scores) == scores.argmax(axis=1).tolist()


def test_looking_back_on_all_sees_the_prompts_first_token(runner: LlamaRunner) -> None:
    row = np.zeros(runner.info.n_vocab, np.float32)
    row[100], row[200] = 10.0, 9.0
    long_ago = [100, *range(300, 300 + N_CTX - 2)]
    for last_n, token in ((-1, 200), (N_CTX, 200), (256, 100)):
        sampling = Sampling(repeat_penalty=2.0, penalty_last_n=last_n)
        assert ours(runner, sampling, long_ago, row[None]) == [token], last_n


# Whole replies: on a tiny model in 16 bits, where the shape of a batch hardly moves a score.


@pytest.fixture(scope="module")
def tiny(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["llama"]


def replies(
    path: Path, prompts: list[list[int]], samplings: list[Sampling], *, n_seq: int, n_draft: int
) -> tuple[list[list[int]], int]:
    """What is said to each prompt, and how many drafted tokens were right."""
    limits = Limits(max_tokens=40, ignore_end=True)
    with Engine(lambda: open_runner(path, n_seq), n_draft=n_draft) as engine:
        streams = []
        for prompt, sampling in zip(prompts, samplings, strict=True):
            streams.append(engine.submit(prompt, sampling=sampling, limits=limits))
            if n_seq == 1:
                streams[-1].wait()
        for stream in streams:
            stream.wait()
            assert stream.error is None
        return [list(stream.tokens) for stream in streams], engine.metrics().accepted_tokens


def test_drafts_and_batches_change_no_reply_whatever_the_sampler(tiny: Path) -> None:
    samplings = [Sampling(**given) for given, _ in CASES.values()]
    # Of three tokens there are few runs, so that they come again, and drafts foresee them.
    three = tuple((token, 60.0) for token in (300, 301, 302))
    samplings += [
        replace(sampling, logit_bias=(*sampling.logit_bias, *three)) for sampling in samplings
    ]
    with Engine(lambda: open_runner(tiny)) as engine:
        prompts = [
            engine.tokenize(f"{number}. {TEXT}", special=False, begin=False)
            for number in range(len(samplings))
        ]
    alone, none_right = replies(tiny, prompts, samplings, n_seq=1, n_draft=0)
    drafted, right = replies(tiny, prompts, samplings, n_seq=1, n_draft=8)
    together, _ = replies(tiny, prompts, samplings, n_seq=8, n_draft=0)
    assert drafted == alone
    assert together == alone
    assert none_right == 0
    assert right > len(CASES)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (HOT, {"temp": 0.9}),
        (HOT | {"top_k": 7}, {"temp": 0.9, "top_k": 7}),
        (HOT | {"top_p": 0.6}, {"temp": 0.9, "top_p": 0.6}),
        (HOT | {"min_p": 0.2}, {"temp": 0.9, "min_p": 0.2}),
        (HOT | {"typical_p": 0.5}, {"temp": 0.9, "typical_p": 0.5}),
        # Theirs applies no temperature with mirostat, which is what 1 does.
        (
            {"temperature": 1.0, "seed": SEED, "mirostat_tau": 3.0, "mirostat_eta": 0.3},
            {"temp": 1.0, "mirostat_mode": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.3},
        ),
    ],
)
def test_what_is_drawn_is_what_llama_cpp_python_draws(
    tiny: Path, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    with Engine(lambda: open_runner(tiny)) as engine:
        prompt = engine.tokenize(TEXT, special=False, begin=False)
        stream = engine.submit(
            prompt, sampling=Sampling(**options), limits=Limits(max_tokens=30, ignore_end=True)
        )
        stream.wait()
    llama = llama_cpp.Llama(str(tiny), n_ctx=N_CTX, flash_attn=True, seed=SEED, verbose=False)
    llama.set_seed(SEED)
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
    tokens = llama.generate(prompt, **off | theirs)
    assert list(stream.tokens) == [next(tokens) for _ in range(30)]
    llama.close()


def test_llama_server_is_asked_so_that_it_draws_what_is_drawn_here(
    tiny: Path, serve: Callable[[list[str]], str]
) -> None:
    program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        pytest.skip("llama-server is not on the PATH, and LLAMA_SERVER names none")
    options = ["-c", str(N_CTX), "-np", "1", "-t", "1", "--flash-attn", "on", "--no-webui"]
    address = serve([program, "-m", str(tiny), *options, "--port"])
    limits = Limits(max_tokens=24)
    with Engine(lambda: open_runner(tiny)) as here, RemoteBackend(read_address(address)) as there:
        prompt = here.tokenize(TEXT, special=False, begin=False)
        for case, (given, _) in CASES.items():
            texts = []
            for backend in (here, there):
                stream = backend.submit(prompt, sampling=Sampling(**given), limits=limits)
                stream.wait()
                assert stream.error is None
                texts.append(stream.text)
            # At its end it keeps to itself what may be half a character.
            assert texts[0].startswith(texts[1]), case
            assert len(texts[1]) > len(texts[0]) - 4


# What is refused.


@pytest.mark.parametrize(
    ("name", "token"), [("logit_bias", 512), ("stop_tokens", 512), ("logit_bias", 2**31 - 1)]
)
def test_a_token_that_the_model_does_not_have_is_refused_with_those_that_it_has(
    tiny: Path, name: str, token: int
) -> None:
    sampling, limits = Sampling(), Limits(max_tokens=1)
    with Engine(lambda: open_runner(tiny)) as engine:
        for good in (511, token):
            if name == "logit_bias":
                sampling = Sampling(logit_bias=((good, 1.0),))
            else:
                limits = Limits(max_tokens=1, stop_tokens=frozenset({good}))
            if good == 511:
                assert engine.submit([1], sampling=sampling, limits=limits).wait(30)
        with pytest.raises(UsageError, match=f"no token {token} for {name!r}.* 0 to 511"):
            engine.submit([1], sampling=sampling, limits=limits)
        assert engine.metrics().requests_total == 1


NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 5.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "penalty_last_n": (-1, 2**20),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 10.0),
    "dry_allowed_length": (0, 2**20),
    "dry_penalty_last_n": (-1, 2**20),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 1.0),
    "seed": (0, 2**32 - 2),
}


@given(name=st.sampled_from(sorted(NUMBERS)), value=st.floats(width=64))
def test_a_number_outside_its_range_is_refused_everywhere_with_name_and_value(
    name: str, value: float
) -> None:
    low, high = NUMBERS[name]
    is_whole = name in ("top_k", "seed") or name.endswith(("_n", "_length"))
    given: float = int(value) if is_whole and math.isfinite(value) else value
    if math.isfinite(given) and low < given <= high:
        return
    if given == low and name not in ("top_p", "typical_p", "mirostat_eta"):
        return
    for make in (
        lambda: Sampling(**{name: given}),
        lambda: Generation.checked({name: given}),
    ):
        with pytest.raises(UsageError) as refused:
            make()
        assert f"{given!r} for {name!r}" in str(refused.value)


@given(
    values=st.fixed_dictionaries(
        {"temperature": st.just(0.0) | st.floats(1e-6, 5.0)},
        optional={
            name: st.integers(int(low), int(high))
            if isinstance(low, int)
            else st.floats(low, high, exclude_min=True)
            for name, (low, high) in NUMBERS.items()
            if name not in ("temperature", "mirostat_tau")
        },
    )
)
def test_what_is_in_range_reaches_the_engine_as_far_as_it_has_an_effect(
    values: dict[str, Any],
) -> None:
    sampling = Sampling.of(Generation.checked(values))
    without_effect = {"seed", "top_k", "top_p", "min_p", "typical_p"}
    for name, value in values.items():
        if values["temperature"] == 0.0 and name in without_effect:
            value = Sampling.__dataclass_fields__[name].default
        assert getattr(sampling, name) == value


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": 0.0, "mirostat_tau": 5.0}, "'mirostat_tau' is 5 and 'temperature' is 0"),
        ({"mirostat_tau": 5.0, "top_k": 3}, "'top_k' is 3 and 'mirostat_tau' is 5"),
        ({"mirostat_tau": 5.0, "typical_p": 0.5}, "'typical_p' is 0.5 and 'mirostat_tau' is 5"),
        ({"temperature": 1e-9}, "1e-09 for 'temperature'.* 0, which is greedy, or at least 1e-06"),
        ({"dry_sequence_breakers": ["a", ""]}, "'' for 'dry_sequence_breakers.1'"),
        ({"dry_sequence_breakers": ["ä" * 21]}, "at most 40 bytes"),
        ({"dry_sequence_breakers": ["a\0b"]}, "without the character NUL"),
        ({"grammar": "root ::= 'a'\0"}, "without the character NUL"),
        ({"logit_bias": {-1: 1.0}}, "-1 for 'logit_bias.-1"),
        ({"logit_bias": {5: 100.5}}, "100.5 for 'logit_bias.5'"),
        ({"logit_bias": {5: math.nan}}, "nan for 'logit_bias.5'"),
        ({"logit_bias": {"word": 1.0}}, "'word' for 'logit_bias.word"),
        ({"stop": "END"}, "'END' for 'stop'"),
        ({"stop": [""]}, "'' for 'stop.0'"),
        ({"stop_tokens": [-3]}, "-3 for 'stop_tokens"),
        ({"max_tokens": 0}, "0 for 'max_tokens'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Generation.checked(values)
    with pytest.raises(UsageError, match="token stands twice"):
        Sampling(logit_bias=((3, 1.0), (3, 2.0)))


def test_the_engines_parameters_are_the_settings_of_the_same_names() -> None:
    own = {field.name for kind in (Sampling, Limits) for field in fields(kind)}
    # Tools are of one reply, and no setting.
    assert own - {"calls"} == set(Generation.model_fields)
