"""Liveness: whether the process that writes a reply is still there."""

import functools
import os
import platform
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BEAT_S = 5.0
"""How often a writer says that it is alive."""
SILENCE_S = 15.0
"""A writer on another machine that was silent for so long is dead."""


_OPEN: set[str] = set()
"""Marks of what writes in this process; a process outlives stores that were closed or dropped."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes a reply: a store in a process, told apart from a later one with that number."""

    host: str
    """Machine, boot and process namespace: where `pid` means something."""
    pid: int
    started: str
    """The process's start time, in the system's own words, a slash, and the store's mark."""


def sign_on() -> str:
    """A new mark; whoever has it is alive until `sign_off`, or until the process ends."""
    mark = secrets.token_hex(4)
    _OPEN.add(mark)
    return mark


def sign_off(mark: str) -> None:
    """Whoever had this mark is dead."""
    _OPEN.discard(mark)


def this_writer(mark: str) -> Writer:
    """Who has this mark, in the process that asks."""
    pid = os.getpid()
    return Writer(_host(), pid, f"{_own_start(pid)}/{mark}")


def is_alive(writer: Writer, silent_s: float) -> bool:
    """Whether a writer still writes.

    Args:
        writer: Who opened the reply.
        silent_s: Seconds since its last heartbeat, by the database's clock.
    """
    if writer.host != _host():
        return silent_s < SILENCE_S
    start, _, mark = writer.started.partition("/")
    if writer.pid == os.getpid():
        return start == _own_start(writer.pid) and mark in _OPEN
    return _started(writer.pid) == start


@functools.lru_cache(maxsize=4)
def _own_start(pid: int) -> str:
    return _started(pid) or ""


@functools.lru_cache(maxsize=1)
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
