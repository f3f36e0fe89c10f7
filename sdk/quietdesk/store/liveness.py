"""Liveness: whether the process that writes a reply is still there."""

import functools
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BEAT_S = 5.0
"""How often a writer says that it is alive."""
SILENCE_S = 15.0
"""A writer on another machine that was silent for so long is dead."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A process, told apart from a later one with the same number."""

    host: str
    """Machine, boot and process namespace: where `pid` means something."""
    pid: int
    started: str
    """The process's start time, in the system's own words."""


def this_process() -> Writer:
    """The process that asks."""
    return _writer(os.getpid())


def is_alive(writer: Writer, silent_s: float) -> bool:
    """Whether a writer still writes.

    Args:
        writer: Who opened the reply.
        silent_s: Seconds since its last heartbeat, by the database's clock.
    """
    here = this_process()
    if writer == here:
        return True
    if writer.host == here.host:
        return _started(writer.pid) == writer.started
    return silent_s < SILENCE_S


@functools.lru_cache(maxsize=4)
def _writer(pid: int) -> Writer:
    return Writer(_host(), pid, _started(pid) or "")


def _host() -> str:
    parts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(name)
        try:
            parts.append(str(path.readlink()) if "/ns/" in name else path.read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process of this machine started; None if it is gone, or dead and not yet reaped."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        # The name in brackets may hold spaces and brackets itself. State is field 3, start 22.
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return None if len(listed) < 2 or listed[0].startswith("Z") else listed[1].strip()
