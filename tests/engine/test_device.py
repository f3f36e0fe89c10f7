"""The plan keeps to what there is, and tells why."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.container import read_limits
from quietdesk.engine.device import (
    CPU_BATCH,
    GPU_BATCH,
    GPU_UBATCH,
    MAX_DEFAULT_CTX,
    MAX_DEFAULT_SEQ,
    Machine,
    machine,
    plan,
    refuse_what_does_not_fit,
    whole_cores,
)
from quietdesk.engine.llama.gpus import gpus
from quietdesk.engine.llama.runner import LlamaRunner
from quietdesk.engine.offload import RESERVE_BYTES, Gpu, offload
from quietdesk.errors import ModelTooLargeError
from quietdesk_models.gguf import TENSOR_TYPES, Header, TensorInfo, read_header
from quietdesk_models.memory import estimate, layer_bytes

GIB = 2**30
N_VOCAB = 32_000


def llama2(n_layer: int, n_embd: int, n_ff: int, n_head: int) -> Header:
    """A header of Llama 2's shape with Q4_0 weights, and a Q6_K output as llama.cpp makes it."""
    shapes = [("token_embd.weight", (n_embd, N_VOCAB), "Q4_0")]
    for n in range(n_layer):
        shapes += [(f"blk.{n}.attn_{x}.weight", (n_embd, n_embd), "Q4_0") for x in "qkvo"]
        shapes += [(f"blk.{n}.ffn_{x}.weight", (n_embd, n_ff), "Q4_0") for x in ("gate", "up")]
        shapes += [(f"blk.{n}.ffn_down.weight", (n_ff, n_embd), "Q4_0")]
    shapes += [("output.weight", (n_embd, N_VOCAB), "Q6_K")]
    per_type = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
    tensors = []
    for name, (rows, columns), kind in shapes:
        block, size = per_type[kind]
        tensors.append(TensorInfo(name, (rows, columns), kind, 0, rows * columns // block * size))
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "llama.block_count": n_layer,
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_head,
        "llama.vocab_size": N_VOCAB,
    }
    return Header(Path("made.gguf"), 3, metadata, tuple(tensors), 0, 0, 0, "")


SEVEN, THIRTEEN = llama2(32, 4096, 11_008, 32), llama2(40, 5120, 13_824, 40)


def with_gpus(*free: int, memory: int = 16 * GIB) -> Machine:
    gpus = tuple(Gpu(f"GPU{n}", "simulated", size, size) for n, size in enumerate(free))
    return Machine("any", "any", 8, memory, gpus)


@pytest.fixture(scope="module")
def header(tiny_models: dict[str, Path]) -> Header:
    return read_header(tiny_models["llama"])


def test_what_is_set_is_taken(header: Header) -> None:
    chosen = plan(header, machine(), n_ctx=100, n_seq=3, n_threads=5, kv_type="q8_0")
    assert (chosen.n_ctx, chosen.n_seq, chosen.n_threads) == (100, 3, 5)
    assert {c.reason for c in chosen.choices if c.name in ("n_ctx", "n_seq")} == {"as set"}


@given(memory=st.integers(0, 2**40), cores=st.integers(1, 256))
def test_the_defaults_fit_the_machine(header: Header, memory: int, cores: int) -> None:
    here = Machine("any", "any", cores, memory)
    chosen = plan(header, here)
    assert 1 <= chosen.n_seq <= MAX_DEFAULT_SEQ
    assert chosen.n_ctx == min(header.n_ctx_train, MAX_DEFAULT_CTX)
    assert chosen.n_threads == cores
    one = plan(header, here, n_seq=1).needed_bytes
    assert chosen.n_seq == 1 or chosen.needed_bytes - one <= memory / 8
    assert all(choice.reason for choice in chosen.choices)


def test_more_context_and_finer_numbers_need_more_memory(header: Header) -> None:
    here = machine()
    small = plan(header, here, n_ctx=256, n_seq=1).needed_bytes
    assert plan(header, here, n_ctx=4096, n_seq=1).needed_bytes > small
    assert plan(header, here, n_ctx=256, n_seq=8).needed_bytes > small
    assert plan(header, here, n_ctx=256, n_seq=1, kv_type="f32").needed_bytes > small


def test_the_machine_is_seen() -> None:
    here = machine()
    assert here.cores >= 1
    assert here.memory_bytes > 2**28


def test_without_a_gpu_everything_is_computed_on_the_cpu() -> None:
    chosen = plan(SEVEN, with_gpus())
    assert (chosen.gpu_split, chosen.gpu_bytes) == ((), ())
    assert chosen.n_batch == chosen.n_ubatch == CPU_BATCH
    told = {choice.name: choice for choice in chosen.choices}
    assert (told["n_gpu_layers"].value, told["n_gpu_layers"].reason) == (
        "0",
        "llama.cpp sees no GPU",
    )


def test_seven_billion_in_four_bits_go_on_eight_gigabytes_in_whole() -> None:
    here = with_gpus(8 * GIB)
    chosen = plan(SEVEN, here)
    assert (chosen.n_gpu_layers, chosen.gpu_split) == (33, (33,))
    assert (chosen.n_batch, chosen.n_ubatch) == (GPU_BATCH, GPU_UBATCH)
    # 32 layers x 4,096 tokens x (4,096 keys + 4,096 values) x 2 bytes, and all but the embeddings.
    kv = 32 * 4096 * 8192 * 2
    weights = SEVEN.weights_bytes - N_VOCAB * 4096 * 18 // 32
    assert chosen.n_seq == 1
    assert weights + kv < chosen.gpu_bytes[0] <= 8 * GIB - RESERVE_BYTES
    assert chosen.needed_bytes < GIB
    refuse_what_does_not_fit("seven", chosen, here)


def test_a_larger_gpu_holds_more_conversations_up_to_where_layers_would_leave_it() -> None:
    chosen = plan(SEVEN, with_gpus(16 * GIB))
    assert chosen.n_gpu_layers == 33
    assert 1 < chosen.n_seq < MAX_DEFAULT_SEQ
    more = plan(SEVEN, with_gpus(16 * GIB), n_seq=chosen.n_seq + 1)
    assert more.n_gpu_layers < 33


def test_of_thirteen_billion_the_layers_that_fit_go_on_the_gpu_in_whole() -> None:
    block = (4 * 5120**2 + 3 * 5120 * 13_824) * 18 // 32 + 4096 * 2 * 5120 * 2
    output = N_VOCAB * 5120 * 210 // 256
    buffers = estimate(THIRTEEN, n_ctx=4096, n_batch=GPU_UBATCH).buffers
    room = output + 23 * block + buffers + RESERVE_BYTES
    chosen = plan(THIRTEEN, with_gpus(room))
    assert (chosen.n_gpu_layers, chosen.n_seq) == (24, 1)
    assert chosen.gpu_bytes == (room - RESERVE_BYTES,)
    assert plan(THIRTEEN, with_gpus(room - 1)).n_gpu_layers == 23
    # What is not on the GPU is in the machine's memory.
    everything = estimate(THIRTEEN, n_ctx=4096, n_batch=GPU_UBATCH).total
    assert chosen.needed_bytes == everything - output - 23 * block


def test_two_gpus_share_what_is_too_large_for_one() -> None:
    small = plan(SEVEN, with_gpus(8 * GIB, 10 * GIB), n_seq=1)
    assert small.gpu_split == (0, 33)
    both = plan(THIRTEEN, with_gpus(8 * GIB, 8 * GIB), n_seq=1)
    assert both.n_gpu_layers == sum(both.gpu_split) == 41
    assert min(both.gpu_split) > 0
    assert max(both.gpu_bytes) <= 8 * GIB - RESERVE_BYTES


def test_a_gpu_without_room_for_a_layer_is_left_alone() -> None:
    chosen = plan(THIRTEEN, with_gpus(RESERVE_BYTES))
    assert (chosen.n_gpu_layers, chosen.gpu_split, chosen.n_batch) == (0, (), CPU_BATCH)
    assert plan(SEVEN, with_gpus(8 * GIB), n_gpu_layers=0).n_gpu_layers == 0


def test_an_integrated_gpu_has_no_memory_beside_the_machines() -> None:
    gpu = Gpu("Metal", "simulated", 64 * GIB, 64 * GIB, shares_memory=True)
    here = Machine("any", "any", 8, 4 * GIB, (gpu,))
    chosen = plan(SEVEN, here, n_seq=1)
    assert 0 < chosen.n_gpu_layers < 33
    with pytest.raises(ModelTooLargeError):
        refuse_what_does_not_fit("seven", chosen, here)


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    here = with_gpus(memory=2 * GIB)
    chosen = plan(SEVEN, here, n_seq=1)
    with pytest.raises(ModelTooLargeError) as refused:
        refuse_what_does_not_fit("seven", chosen, here)
    assert refused.value.needed_bytes == chosen.needed_bytes > SEVEN.weights_bytes
    assert refused.value.available_bytes == 2 * GIB
    assert f"{chosen.needed_bytes / GIB:.1f} GiB of memory and 2.0 GiB are" in str(refused.value)


def test_more_layers_than_fit_are_refused_with_the_gpus_numbers() -> None:
    here = with_gpus(2 * GIB, 4 * GIB)
    chosen = plan(SEVEN, here, n_gpu_layers=33)
    with pytest.raises(ModelTooLargeError) as refused:
        refuse_what_does_not_fit("seven", chosen, here)
    assert refused.value.needed_bytes > refused.value.available_bytes
    assert "GPU memory" in str(refused.value)
    assert "n_gpu_layers" in str(refused.value)


@given(
    layers=st.lists(st.integers(1, GIB), min_size=1, max_size=40),
    free=st.lists(st.integers(0, 8 * GIB), min_size=1, max_size=4),
    buffers=st.integers(0, GIB),
)
def test_no_gpu_is_given_more_than_it_has_and_none_more_would_fit(
    layers: list[int], free: list[int], buffers: int
) -> None:
    gpus = [Gpu(str(n), "", size, size) for n, size in enumerate(free)]
    there = offload(layers, gpus, buffers)
    assert there.fits
    assert sum(there.split) == there.n_layers
    for size, gpu in zip(there.gpu_bytes, gpus, strict=True):
        assert size == 0 or size + RESERVE_BYTES <= gpu.free_bytes
    if there.n_layers < len(layers):
        assert not offload(layers, gpus, buffers, there.n_layers + 1).fits


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mamba", "lfm2"])
def test_the_layers_and_what_stays_on_the_cpu_are_the_whole_model(
    tiny_models: dict[str, Path], name: str
) -> None:
    header = read_header(tiny_models[name])
    layers = layer_bytes(header, n_ctx=1024, n_seq=2, kv_type="f16")
    whole = estimate(header, n_ctx=1024, n_seq=2, full_window=True)
    sizes = {tensor.name: tensor.size_bytes for tensor in header.tensors}
    outside = sum(size for name, size in sizes.items() if not name.startswith(("blk.", "output")))
    copied = 0 if "output.weight" in sizes else sizes["token_embd.weight"]
    total = whole.weights + whole.kv_cache + whole.states
    assert sum(layers) == pytest.approx(total - outside + copied, abs=len(layers))


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_with_one_and_a_half_cpus_has_one_thread(tmp_path: Path, version: int) -> None:
    own = tmp_path / "own"
    if version == 2:
        own.write_text("0::/desk/inner\n")
        folder = tmp_path / "desk"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "cpu.max").write_text("max 100000\n")
        (folder / "cpu.max").write_text("150000 100000\n")
        (folder / "memory.max").write_text(f"{2 * GIB}\n")
        (folder / "memory.current").write_text(f"{GIB}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 4}\n")
    else:
        own.write_text("5:cpu,cpuacct:/desk\n4:memory:/desk/inner\n0::/\n")
        (tmp_path / "cpu" / "desk").mkdir(parents=True)
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
        (tmp_path / "cpu" / "desk" / "cpu.cfs_quota_us").write_text("150000\n")
        (tmp_path / "cpu" / "desk" / "cpu.cfs_period_us").write_text("100000\n")
        folder = tmp_path / "memory" / "desk"
        folder.mkdir(parents=True)
        (folder / "memory.limit_in_bytes").write_text(f"{2 * GIB}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{GIB}\n")
        (folder / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {GIB // 4}\n")
    limits = read_limits(tmp_path, own)
    assert limits.cpus == 1.5
    assert limits.memory_bytes == GIB + GIB // 4
    assert whole_cores(8, limits.cpus) == 1
    here = Machine("any", "any", whole_cores(8, limits.cpus), 16 * GIB, cpu_limit=limits.cpus)
    (threads,) = [choice for choice in plan(SEVEN, here).choices if choice.name == "n_threads"]
    assert threads.value == "1"
    assert "1.5 CPUs" in threads.reason


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    limits = read_limits(tmp_path, tmp_path / "none")
    assert (limits.cpus, limits.memory_bytes) == (None, None)
    assert whole_cores(8, None) == 8
    assert whole_cores(8, 0.5) == 1


def test_the_gpus_that_are_found_are_those_that_llama_cpp_offloads_to() -> None:
    assert bool(gpus()) == llama_cpp.llama_supports_gpu_offload()


@pytest.mark.gpu
def test_layers_on_a_gpu_answer_as_on_the_cpu(starter_path: Path) -> None:
    found = gpus()
    if not found:
        pytest.skip("llama.cpp sees no GPU here")
    header = read_header(starter_path)
    told = []
    for layers in (0, header.n_layer // 2, -1):
        chosen = plan(header, machine(found), n_ctx=256, n_seq=1, n_gpu_layers=layers)
        runner = LlamaRunner(starter_path, chosen)
        try:
            text = "The capital of France is Paris, and that of Italy is Rome."
            tokens = tuple(runner.tokenize(text, special=False, begin=True))
            segment = Segment(0, 0, tokens[:-1], sample=False, targets=tokens[1:])
            told.append(runner.score(Batch(prefill=(segment,)))[0])
        finally:
            runner.close()
    # CPUs round activations to 8 bits and GPUs otherwise: some tenths; a wrong layer costs nats.
    np.testing.assert_allclose(told[1], told[0], atol=0.5)
    np.testing.assert_allclose(told[2], told[0], atol=0.5)
