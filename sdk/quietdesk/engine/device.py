"""Device plan: what the engine uses of this machine, each choice with its reason."""

import math
import os
import platform
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from quietdesk.engine.container import Limits, read_limits
from quietdesk.engine.offload import RESERVE_BYTES, Gpu, Offload, offload
from quietdesk.errors import ModelTooLargeError
from quietdesk_models.gguf import Header
from quietdesk_models.memory import Memory, estimate, layer_bytes, output_copy_bytes

MAX_DEFAULT_CTX = 4096
"""Tokens: a long support chat; a longer one is kept inside it by the window."""
MAX_DEFAULT_SEQ = 16
"""Beyond that a step grows about as fast as the number of its rows on a CPU."""
KV_SHARE = 8
"""The KV cache takes at most this fraction (1/8) of the free memory unless told otherwise."""
CPU_BATCH = 512
GPU_BATCH = 2048
GPU_UBATCH = 1024
"""Rows that a GPU evaluates in one pass: it is idle in part with fewer; more need more memory."""

FlashAttention = Literal["auto", "on", "off"]
KvType = Literal["f16", "q8_0", "f32"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is."""

    system: str
    cpu: str
    cores: int
    """Physical cores that this process may use: affinity and container limits counted in."""
    memory_bytes: int
    """Memory that is free for us, container limits counted in."""
    gpus: tuple[Gpu, ...] = ()
    """Those that llama.cpp can use, in its order."""
    cpu_limit: float | None = None
    """CPUs that the container leaves us, as 1.5; None without a limit."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting in force, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """How a model is run here."""

    n_ctx: int
    """Tokens per sequence."""
    n_seq: int
    n_batch: int
    """Rows of a step."""
    n_ubatch: int
    """Rows that are evaluated in one pass."""
    n_threads: int
    n_gpu_layers: int
    """The output counted in; -1: left to llama.cpp, where no GPU was looked at."""
    gpu_split: tuple[int, ...]
    """Layers of each GPU; empty where none was looked at."""
    kv_type: KvType
    flash_attention: FlashAttention
    needed_bytes: int
    """Estimate: weights, KV cache and buffers in the machine's memory."""
    gpu_bytes: tuple[int, ...]
    """Estimate of the same on each GPU."""
    fits_gpus: bool
    """False only where more layers were set than fit."""
    choices: tuple[Choice, ...]


def machine(gpus: tuple[Gpu, ...] = ()) -> Machine:
    """Look at the machine that this runs on.

    Args:
        gpus: What llama.cpp found; only its libraries can tell.
    """
    limits = read_limits()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        cpu=_cpu_name(),
        cores=_usable_cores(limits),
        memory_bytes=_free_memory(limits),
        gpus=gpus,
        cpu_limit=limits.cpus,
    )


def plan(
    header: Header,
    here: Machine,
    *,
    n_ctx: int = 0,
    n_seq: int = 0,
    n_batch: int = 0,
    n_threads: int = 0,
    n_gpu_layers: int = -1,
    kv_type: KvType = "f16",
    flash_attention: FlashAttention = "auto",
) -> DevicePlan:
    """Choose what was not set (0, or -1 for the GPU's layers).

    Args:
        header: What the model's file says.
        here: The machine's.
        n_ctx: Tokens per sequence.
        n_seq: Sequences at the same time.
        n_batch: Prompt rows in a step.
        n_threads: Threads.
        n_gpu_layers: Layers on the GPUs, the output counted as one.
        kv_type: Number format of the KV cache.
        flash_attention: Whether attention is fused.
    """
    choices: list[Choice] = []

    def choose(name: str, value: int | str, reason: str) -> None:
        choices.append(Choice(name, str(value), reason))

    if n_ctx:
        choose("n_ctx", n_ctx, "as set")
        if n_ctx > header.n_ctx_train:
            choose("warning", f"n_ctx > {header.n_ctx_train}", "the model was trained with less")
    else:
        n_ctx = min(header.n_ctx_train or MAX_DEFAULT_CTX, MAX_DEFAULT_CTX)
        choose("n_ctx", n_ctx, f"the model was trained with {header.n_ctx_train:,} tokens")

    def memory(n_seq: int, n_ubatch: int) -> Memory:
        return estimate(
            header, n_ctx=n_ctx, n_seq=n_seq, n_batch=n_ubatch, kv_type=kv_type, full_window=True
        )

    gpu_ubatch = min(n_batch or GPU_UBATCH, GPU_UBATCH)

    def layers(n_seq: int) -> list[int]:
        return layer_bytes(header, n_ctx=n_ctx, n_seq=n_seq, kv_type=kv_type)

    def on_gpus(n_seq: int) -> Offload:
        buffers = memory(n_seq, gpu_ubatch).buffers
        return offload(layers(n_seq), _bounded(here), buffers, n_gpu_layers)

    n_all = header.n_layer + 1
    there = on_gpus(n_seq or 1) if here.gpus and n_gpu_layers else None
    if there is not None and not there.n_layers:
        there = None
    one = memory(1, CPU_BATCH)
    per_seq = one.kv_cache + one.states
    each = f"{per_seq / 2**20:.0f} MiB of KV cache each"
    if n_seq:
        choose("n_seq", n_seq, "as set")
    elif there is not None and _is_whole(there, n_all):
        whole = [n for n in range(1, MAX_DEFAULT_SEQ + 1) if _is_whole(on_gpus(n), n_all)]
        n_seq = whole[-1]
        there = on_gpus(n_seq)
        choose("n_seq", n_seq, f"{each}, with all layers on the GPU, at most {MAX_DEFAULT_SEQ}")
    elif there is not None:
        n_seq = 1
        choose("n_seq", n_seq, f"{each}, and more would take layers off the GPU")
    else:
        room = (here.memory_bytes - header.weights_bytes) // KV_SHARE
        n_seq = max(1, min(MAX_DEFAULT_SEQ, room // max(per_seq, 1)))
        choose(
            "n_seq",
            n_seq,
            f"{each}, at most 1/{KV_SHARE} of the free memory "
            f"({here.memory_bytes / 2**30:.1f} GiB), at most {MAX_DEFAULT_SEQ}",
        )
    if n_batch:
        choose("n_batch", n_batch, "as set: prompt tokens in one step")
    else:
        n_batch = GPU_BATCH if there is not None else CPU_BATCH
        choose("n_batch", n_batch, "prompt tokens in one step")
    n_ubatch = gpu_ubatch if there is not None else n_batch
    choose("n_ubatch", n_ubatch, "of them in one pass")
    if n_threads:
        choose("n_threads", n_threads, "as set")
    else:
        n_threads = max(1, here.cores)
        limit = "" if here.cpu_limit is None else f"; the container has {here.cpu_limit:g} CPUs"
        choose("n_threads", n_threads, f"physical cores that this process may use{limit}")
    choices += _gpu_choices(here, there, n_all, n_gpu_layers)
    choose("kv_type", kv_type, _kv_reason(kv_type, there is not None))
    choose("flash_attention", flash_attention, "auto: on where the model allows it")
    choose("memory_mapping", *_mapping(there is not None))
    needed = memory(n_seq, n_ubatch).total
    if there is not None:
        # What lies on a GPU is not in the machine's memory, unless that is the same.
        moved = sum(layers(n_seq)[n_all - there.n_layers :]) - output_copy_bytes(header)
        needed -= 0 if any(gpu.shares_memory for gpu in here.gpus) else moved
    choose("memory", f"{needed / 2**20:,.0f} MiB", "weights, KV cache and buffers, an estimate")
    no_gpu_layers = 0 if here.gpus else n_gpu_layers
    return DevicePlan(
        n_ctx=n_ctx,
        n_seq=n_seq,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_threads=n_threads,
        n_gpu_layers=there.n_layers if there is not None else no_gpu_layers,
        gpu_split=there.split if there is not None else (),
        kv_type=kv_type,
        flash_attention=flash_attention,
        needed_bytes=needed,
        gpu_bytes=there.gpu_bytes if there is not None else (),
        fits_gpus=there is None or there.fits,
        choices=tuple(choices),
    )


def refuse_what_does_not_fit(name: str, chosen: DevicePlan, here: Machine) -> None:
    """Check a plan against what there is, before anything is loaded.

    Raises:
        ModelTooLargeError: it needs more memory than is free, here or on the GPUs.
    """
    if not chosen.fits_gpus:
        needed = sum(size + RESERVE_BYTES for size in chosen.gpu_bytes if size)
        free = max(gpu.free_bytes for gpu in _bounded(here))
        raise ModelTooLargeError(name, needed, free, "GPU memory")
    if chosen.needed_bytes > here.memory_bytes:
        raise ModelTooLargeError(name, chosen.needed_bytes, here.memory_bytes)


def _bounded(here: Machine) -> list[Gpu]:
    """GPUs whose memory is the machine's have no more of it than the machine has free."""
    return [
        replace(gpu, free_bytes=min(gpu.free_bytes or here.memory_bytes, here.memory_bytes))
        if gpu.shares_memory
        else gpu
        for gpu in here.gpus
    ]


def _is_whole(there: Offload, n_all: int) -> bool:
    return there.fits and there.n_layers == n_all


def _gpu_choices(here: Machine, there: Offload | None, n_all: int, wanted: int) -> list[Choice]:
    if not here.gpus:
        return [Choice("n_gpu_layers", "0", "llama.cpp sees no GPU")]
    if there is None:
        reason = "as set" if wanted == 0 else "not one layer fits on a GPU"
        return [Choice("n_gpu_layers", f"0 of {n_all}", reason)]
    told = [f"all {n_all} fit" if there.n_layers == n_all else "as many as fit"]
    if wanted >= 0:
        told = ["as set" if there.fits else "as set, and they do not fit"]
    choices = [
        Choice("n_gpu_layers", f"{there.n_layers} of {n_all}", f"{told[0]}, the output counted in")
    ]
    for gpu, count, size in zip(here.gpus, there.split, there.gpu_bytes, strict=True):
        reason = f"{size / 2**20:,.0f} MiB of {gpu.free_bytes / 2**20:,.0f} MiB that are free, "
        kept = f"{RESERVE_BYTES / 2**20:.0f} MiB are kept free"
        choices.append(Choice(gpu.name, f"{count} layers", reason + kept))
    return choices


def _kv_reason(kv_type: KvType, on_gpu: bool) -> str:
    if kv_type != "f16":
        return "as set"
    return "f16 loses nothing, and GPUs compute with it" if on_gpu else "f16 is fastest on CPUs"


def _mapping(on_gpu: bool) -> tuple[str, str]:
    if on_gpu:
        return "auto", "where the GPU's driver can read the file so, else it is read in whole"
    return "on", "the file's pages are read as they are needed, and shared between programs"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores(limits: Limits) -> int:
    allowed = _affinity()
    cores = _physical_cores(allowed) or len(allowed) or os.cpu_count() or 1
    return whole_cores(cores, limits.cpus)


def whole_cores(cores: int, limit: float | None) -> int:
    """Cores that are ours all the time, at least 1.

    A thread more than that would be stopped for a part of each period, and the others, which
    meet it after every operation, with it.
    """
    return cores if limit is None else max(1, min(cores, math.floor(limit)))


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _physical_cores(allowed: frozenset[int]) -> int:
    """Physical cores among the allowed CPUs; 0 where the system does not tell."""
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            return _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu")
    return len(siblings)


def _free_memory(limits: Limits) -> int:
    free = 0
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        free = _sysctl("hw.memsize") // 2
    return free if limits.memory_bytes is None else min(free, limits.memory_bytes)


def _sysctl(name: str) -> int:
    """A number that macOS tells; 0 elsewhere."""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
        return int(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0
