"""Device plan: what the engine uses of this machine, each choice with its reason."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quietdesk_models.gguf import Header
from quietdesk_models.memory import Memory, estimate

MAX_DEFAULT_CTX = 4096
"""Tokens: a long support chat; a longer one is kept inside it by the window."""
MAX_DEFAULT_SEQ = 16
"""Beyond that a step grows about as fast as the number of its rows on a CPU."""
KV_SHARE = 8
"""The KV cache takes at most this fraction (1/8) of the free memory unless told otherwise."""

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
    n_threads: int
    n_gpu_layers: int
    kv_type: KvType
    flash_attention: FlashAttention
    needed_bytes: int
    """Estimate: weights, KV cache and buffers."""
    choices: tuple[Choice, ...]


def machine() -> Machine:
    """Look at the machine that this runs on."""
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        cpu=_cpu_name(),
        cores=_usable_cores(),
        memory_bytes=_free_memory(),
    )


def plan(
    header: Header,
    here: Machine,
    *,
    n_ctx: int = 0,
    n_seq: int = 0,
    n_batch: int = 512,
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
        n_gpu_layers: Layers on the GPU.
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

    def memory(n_seq: int) -> Memory:
        return estimate(
            header, n_ctx=n_ctx, n_seq=n_seq, n_batch=n_batch, kv_type=kv_type, full_window=True
        )

    per_seq = memory(1).kv_cache + memory(1).states
    if n_seq:
        choose("n_seq", n_seq, "as set")
    else:
        room = (here.memory_bytes - header.weights_bytes) // KV_SHARE
        n_seq = max(1, min(MAX_DEFAULT_SEQ, room // max(per_seq, 1)))
        choose(
            "n_seq",
            n_seq,
            f"{per_seq / 2**20:.0f} MiB of KV cache each, at most 1/{KV_SHARE} of the free memory "
            f"({here.memory_bytes / 2**30:.1f} GiB), at most {MAX_DEFAULT_SEQ}",
        )
    choose("n_batch", n_batch, "prompt tokens in one step")
    if n_threads:
        choose("n_threads", n_threads, "as set")
    else:
        n_threads = max(1, here.cores)
        choose("n_threads", n_threads, "physical cores that this process may use")
    choose("kv_type", kv_type, "f16 is fastest on CPUs" if kv_type == "f16" else "as set")
    choose("flash_attention", flash_attention, "auto: on where the model allows it")
    needed = memory(n_seq).total
    choose("memory", f"{needed / 2**20:,.0f} MiB", "weights, KV cache and buffers, an estimate")
    return DevicePlan(
        n_ctx=n_ctx,
        n_seq=n_seq,
        n_batch=n_batch,
        n_threads=n_threads,
        n_gpu_layers=n_gpu_layers,
        kv_type=kv_type,
        flash_attention=flash_attention,
        needed_bytes=needed,
        choices=tuple(choices),
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    allowed = _affinity()
    physical = _physical_cores(allowed)
    quota = _cgroup_cpus()
    cores = physical or len(allowed) or os.cpu_count() or 1
    return max(1, min(cores, quota) if quota else cores)


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


def _cgroup_cpus() -> int:
    """Whole CPUs of the container's quota; 0 without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return 0
    return 0 if quota == "max" else max(1, int(quota) // int(period))


def _free_memory() -> int:
    free = 0
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        free = _sysctl("hw.memsize") // 2
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def _sysctl(name: str) -> int:
    """A number that macOS tells; 0 elsewhere."""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
        return int(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0
