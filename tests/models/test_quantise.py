"""Requantising: what is chosen and why, once, whole, and whatever happens in the middle."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk_models import quantise
from quietdesk_models.errors import BadFileError, QuantiseError
from quietdesk_models.gguf import read_model
from quietdesk_models.quantise import Choice, Measured, decide
from quietdesk_models.weights import Places


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    return []


@pytest.fixture(scope="module")
def choice(tiny_models: dict[str, Path], places: Places, told: list[tuple[str, float]]) -> Choice:
    def report(what: str, share: float) -> None:
        told.append((what, share))

    return quantise.choose(
        tiny_models["llama"], places, ("Q8_0", "Q4_0"), report, n_threads=1, niceness=0
    )


def files_of(places: Places) -> set[str]:
    return {path.name for path in places.cache.rglob("*") if path.is_file()}


def test_every_candidate_is_measured_and_the_source_stands_first(choice: Choice) -> None:
    assert [row.type for row in choice.measured] == ["F16", "Q8_0", "Q4_0"]
    source, q8, q4 = choice.measured
    assert (source.ratio, source.ratio_error) == (1.0, 0.0)
    # A type's loss grows as its bits shrink; a random model is near the vocabulary's size.
    assert abs(q8.ratio - 1) < abs(q4.ratio - 1) < 1
    assert source.perplexity > 100
    assert q8.size_bytes < source.size_bytes
    assert all(row.prompt_tokens_per_s > row.single_tokens_per_s > 0 for row in choice.measured)


def test_the_ratio_is_that_of_the_perplexities(choice: Choice) -> None:
    for row in choice.measured:
        assert row.ratio == pytest.approx(row.perplexity / choice.of_source.perplexity, rel=2e-4)


def test_only_what_was_chosen_is_kept(choice: Choice, places: Places) -> None:
    made = {f"tiny-llama.{choice.chosen}.gguf"} - {"tiny-llama.F16.gguf"}
    left = {name for name in files_of(places) if not name.endswith(".lock")}
    assert left == {"choice.json"} | made
    assert read_model(choice.path).n_vocab == 512


def test_progress_goes_from_nothing_to_all(choice: Choice, told: list[tuple[str, float]]) -> None:
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {"making Q8_0", "measuring Q4_0"} <= {what for what, _ in told}


def test_a_choice_is_made_once(
    choice: Choice, tiny_models: dict[str, Path], places: Places
) -> None:
    assert quantise.ready(tiny_models["llama"], places) == choice
    assert quantise.choose(tiny_models["llama"], places) == choice


def test_another_file_another_cpu_or_another_llama_cpp_is_another_matter(
    choice: Choice,
    tiny_models: dict[str, Path],
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert quantise.ready(tiny_models["draft"], places) is None
    with monkeypatch.context() as patch:
        patch.setattr(quantise, "_machine", lambda: "another")
        assert quantise.ready(tiny_models["llama"], places) is None
    with monkeypatch.context() as patch:
        patch.setattr(quantise, "_tool", lambda: "another")
        assert quantise.ready(tiny_models["llama"], places) is None
    assert quantise.ready(tiny_models["llama"], places) == choice


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"measured": 3}'])
def test_a_broken_card_counts_as_none(
    tiny_models: dict[str, Path], tmp_path: Path, text: str
) -> None:
    header = read_model(tiny_models["gpt2"])
    card = quantise._folder(header, Places(tmp_path)) / "choice.json"
    card.parent.mkdir(parents=True)
    card.write_text(text)
    assert quantise.ready(tiny_models["gpt2"], Places(tmp_path)) is None


def test_a_named_type_is_made_whatever_it_costs_and_removed_again(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    places = Places(tmp_path)
    made = quantise.make(tiny_models["gpt2"], "Q4_0", places, n_threads=1)
    header = read_model(made.path)
    assert header.quantisation == made.chosen == made.of_chosen.type == "Q4_0"
    assert header.architecture == "gpt2"
    assert quantise.ready(tiny_models["gpt2"], places) == made
    with pytest.raises(QuantiseError, match="already"):
        quantise.make(Path(made.path), "Q4_0", places)
    size = made.of_chosen.size_bytes
    with Path(made.path).open("r+b") as file:
        file.truncate(size - 1)
    assert quantise.ready(tiny_models["gpt2"], places) is None
    assert quantise.remove(tiny_models["gpt2"], places) > size - 1
    assert not Path(made.path).exists()
    assert quantise.remove(tiny_models["gpt2"], places) == 0


def test_losses_are_those_of_reading_token_by_token(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Where is my order? It left the warehouse on Monday. " * 3)
    task = {"do": "measure", "source": str(tiny_models["gemma3"]), "text": str(text)}
    losses = quantise._run({**task, "n_threads": 1, "niceness": 0}, lambda share: None)["losses"]
    code = """
import ctypes, json, sys
import llama_cpp as llama
import numpy as np

silence = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(silence, None)
model = llama.llama_model_load_from_file(sys.argv[1].encode(), llama.llama_model_default_params())
vocab = llama.llama_model_get_vocab(model)
text = open(sys.argv[2], "rb").read()
room = (llama.llama_token * 512)()
tokens = list(room[: llama.llama_tokenize(vocab, text, len(text), room, 512, False, False)])
tokens[0] = llama.llama_vocab_bos(vocab)
params = llama.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 512, 1, 1
context = llama.llama_init_from_model(model, params)
losses = []
for token, following in zip(tokens, tokens[1:]):
    held = (llama.llama_token * 1)(token)
    assert llama.llama_decode(context, llama.llama_batch_get_one(held, 1)) == 0
    logits = llama.llama_get_logits_ith(context, -1)
    row = np.ctypeslib.as_array(logits, (512,)).astype(float)
    losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[following])
print(json.dumps(losses))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tiny_models["gemma3"]), str(text)],
        capture_output=True,
        text=True,
        check=True,
    )
    alone = json.loads(run.stdout)
    assert len(losses) == math.ceil((len(alone) + 1) / 2)
    # The batch's shape changes the last bits of 16-bit arithmetic.
    assert losses == pytest.approx(alone[-len(losses) :], abs=0.02)


def test_two_processes_make_it_once(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from quietdesk_models import quantise\n"
        "from quietdesk_models.weights import Places\n"
        "places = Places(Path(sys.argv[2]))\n"
        "choice = quantise.choose(Path(sys.argv[1]), places, ('Q8_0',), n_threads=1)\n"
        "print(choice.time, choice.measured)\n"
    )
    command = [sys.executable, "-c", code, str(tiny_models["lfm2"]), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # Timings never repeat, so equal numbers are the same run's.
    assert said[0] == said[1] != ""


def test_a_killed_process_leaves_nothing_that_looks_whole_and_its_child_ends(
    starter_path: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from quietdesk_models import quantise\n"
        "from quietdesk_models.gguf import read_model\n"
        "work = quantise._Work(read_model(sys.argv[1]), Path(sys.argv[2]), 1, 0)\n"
        "work.make(quantise.RECIPES['IQ4_NL'], lambda share: print(share, flush=True))\n"
    )
    command = [sys.executable, "-c", code, str(starter_path), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if float(line) > 0.1:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.suffix == ".tmp"
    for _ in range(100):
        running = subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True).stdout
        if str(unfinished) not in running:
            break
        time.sleep(0.1)
    assert str(unfinished) not in running
    quantise._Work(read_model(starter_path), tmp_path, 1, 0)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_the_middle_leaves_nothing(starter_path: Path, tmp_path: Path) -> None:
    def interrupt(share: float) -> None:
        if share > 0.05:
            raise KeyboardInterrupt

    work = quantise._Work(read_model(starter_path), tmp_path, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        work.make(quantise.RECIPES["IQ4_NL"], interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_llama_cpp_refuses_is_told_with_its_reason(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    work = quantise._Work(read_model(tiny_models["llama"]), tmp_path, 1, 0)
    with pytest.raises(QuantiseError, match="invalid output file type"):
        work.make(quantise.Recipe("nonsense", 999), lambda share: None)
    assert list(tmp_path.iterdir()) == []


def test_a_second_rounding_to_few_bits_is_not_tried_unasked(
    starter_path: Path, tiny_models: dict[str, Path]
) -> None:
    assert quantise.candidates_for(read_model(starter_path)) == ("Q8_0",)
    assert quantise.candidates_for(read_model(tiny_models["llama"])) == quantise.BENCHED


def test_a_worker_that_dies_is_told(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(QuantiseError, match="exit code 1"):
        quantise._run({"do": "measure", "source": "x"}, lambda share: None)


def test_a_full_disk_is_refused_before_it_is_full(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = quantise._Work(read_model(tiny_models["llama"]), tmp_path, 1, 0)
    usage = quantise.shutil._ntuple_diskusage(100, 99, 1)
    monkeypatch.setattr(quantise.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(QuantiseError, match="1 are free"):
        work.make(quantise.RECIPES["Q8_0"], lambda share: None)


def test_a_source_that_is_no_model_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "x.gguf"
    source.write_bytes(b"nothing")
    for act in (quantise.ready, quantise.choose, quantise.bench):
        with pytest.raises(BadFileError):
            act(source)


SOURCE = Measured("Q4_1", 100, 20.0, 1.0, 0.0, 400.0, 100.0, 200.0)


@pytest.mark.parametrize(
    ("ratio", "faster", "expected"),
    [
        (1.006, 2.0, "Q8_0"),
        (0.99, 2.0, "Q8_0"),
        (1.021, 9.0, "Q4_1"),
        (1.006, 1.04, "Q4_1"),
        (1.006, 0.5, "Q4_1"),
    ],
)
def test_quality_is_a_bound_and_speed_decides_within_it(
    ratio: float, faster: float, expected: str
) -> None:
    row = replace(
        SOURCE,
        type="Q8_0",
        ratio=ratio,
        prompt_tokens_per_s=SOURCE.prompt_tokens_per_s * faster,
        single_tokens_per_s=SOURCE.single_tokens_per_s * faster,
        batch_tokens_per_s=SOURCE.batch_tokens_per_s * faster,
    )
    chosen, reason = decide([SOURCE, row])
    assert chosen == expected
    assert reason.startswith(expected)


speeds = st.floats(1.0, 1e5)


@given(st.lists(st.tuples(st.floats(0.9, 1.5), speeds, speeds, speeds), max_size=6))
def test_no_choice_is_slower_or_worse_than_allowed(
    rows: list[tuple[float, float, float, float]],
) -> None:
    measured = [SOURCE] + [
        Measured(f"T{i}", 100, 20.0, ratio, 0.0, *rates) for i, (ratio, *rates) in enumerate(rows)
    ]
    name, _ = decide(measured)
    chosen = next(row for row in measured if row.type == name)
    assert chosen.ratio <= quantise.TOLERANCE
    assert chosen.seconds <= SOURCE.seconds
