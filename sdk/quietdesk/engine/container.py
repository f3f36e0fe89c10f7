"""Container limits: the CPUs and the memory that control groups leave to this process.

A limit may stand in the process's own group or in any group above it; the tightest one counts.
Where the container has a namespace of its own, its root is the process's group.

Source: the kernel's documentation of control groups, version 1 (cpu.cfs_quota_us,
memory.limit_in_bytes) and version 2 (cpu.max, memory.max).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left; None where nothing limits it."""

    cpus: float | None
    """CPU time in each second of wall time, as 1.5."""
    memory_bytes: int | None
    """What may still be taken; pages of files that would be dropped for it count as free."""


def read_limits(groups: Path = GROUPS, own: Path = OWN) -> Limits:
    """The tightest limits that hold for this process, of both versions of control groups.

    Args:
        groups: Where control groups are mounted.
        own: Tells which groups this process is in.
    """
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _folders(groups, own, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cpus.append(int(quota) / int(period))
        memory += _left(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _folders(groups, own, "cpu"):
        quota = _text(folder / "cpu.cfs_quota_us")
        period = _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # -1 is no limit
            cpus.append(int(quota) / int(period))
    for folder in _folders(groups, own, "memory"):
        limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        memory += _left(folder, limit, used, "total_inactive_file")
    return Limits(min(cpus, default=None), min(memory, default=None))


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """The process's group and all above it; version 2 has no name of a controller."""
    root = groups / controller
    yield root
    for line in _text(own).splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            inner = root
            for part in Path(path).parts[1:]:
                inner /= part
                yield inner


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> list[int]:
    """Bytes up to the folder's limit; empty without one."""
    most, taken = _text(folder / limit), _text(folder / used)
    if not (most.isdigit() and taken.isdigit()):
        return []
    rows = (line.partition(" ") for line in _text(folder / "memory.stat").splitlines())
    idle = sum(int(value) for name, _, value in rows if name == reclaimable)
    return [max(0, int(most) - int(taken) + idle)]


def _text(file: Path) -> str:
    """What stands in a file of the kernel's; empty where this system has no such file."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
