"""State files: KV states of conversations in a folder, each checked before it is believed.

A file names what it depends on (its key: the model's weights, the memory's shape, llama.cpp's
version), the tokens that it stands for, and a checksum over everything. Whether it helps a prompt
is decided by comparing token ids, never by whose it is. A file that does not fit is as good as
none: the prompt is read again.

    magic, 8 bytes | length of the header, 4 bytes | header, JSON | token ids, int32 | state

Everything in a file is what a customer said, in another form: the folder is for its user alone.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quietdesk.engine.prefix_cache import Tokens

MAGIC = b"qdstate1"
MAX_HEADER_BYTES = 2**16
SUFFIX = ".state"
PART = ".part"
"""Ends the name of a file that is being written; one that is left over is removed when old."""
STALE_S = 600.0

Reach = Callable[[Tokens, Tokens], int]
"""How many tokens of a prompt a state of these tokens saves; see `PrefixCache.reach`."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A file that fits the runner by its own account; only `read` knows whether it is whole."""

    path: Path
    owner: str
    tokens: Tokens
    state_bytes: int
    digest: str
    start: int
    """Where the token ids begin in the file."""
    version: tuple[int, int]
    """Inode and time of writing: another version of the file has others."""


class StateFolder:
    """The files of one folder that belong to one database.

    Any thread may look while one writes: what is known is changed a file at a time, and a file that
    goes away under a reader is one that was not there.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, scope: str = "") -> None:
        """Nothing is read or made yet.

        Args:
            folder: Shared by all databases and models of a user.
            limit_bytes: Disk space of the whole folder at most; the files unused for longest go.
            scope: Tells the files of one database from those of another.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._scope = _digest(scope)[:8]
        self._key = ""
        self._files: dict[str, StateFile] = {}

    def open(self, key: str) -> None:
        """Learn which files there are for a runner.

        Args:
            key: What a state depends on; see `Runner.state_key`.
        """
        self._key = key
        for path in self._paths(f"-{_digest(key)[:16]}-{self._scope}{SUFFIX}"):
            self._learn(path)
        self.make_room(0)

    def _paths(self, end: str) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as found:
            for entry in found:
                if entry.name.endswith(end):
                    yield Path(entry.path)

    def path_of(self, owner: str) -> Path:
        """Where an owner's state for this runner stands, if there is one."""
        name = f"{_digest(owner)[:24]}-{_digest(self._key)[:16]}-{self._scope}{SUFFIX}"
        return self.folder / name

    def _learn(self, path: Path) -> StateFile | None:
        found = _read_header(path, self._key)
        if found is None or self.path_of(found.owner) != path:
            self._files.pop(path.name, None)
            return None
        self._files[path.name] = found
        return found

    def of(self, owner: str) -> StateFile | None:
        """An owner's file as it is now; other processes may have written or removed it."""
        path = self.path_of(owner)
        known = self._files.get(path.name)
        try:
            about = path.stat()
        except OSError:
            self._files.pop(path.name, None)
            return None
        if known is not None and known.version == (about.st_ino, about.st_mtime_ns):
            return known
        return self._learn(path)

    def find(self, prompt: Tokens, owner: str, reach: Reach) -> tuple[StateFile, int] | None:
        """The file that saves the most tokens of a prompt, and how many; the owner's at a tie."""
        own = self.of(owner) if owner else None
        best: tuple[StateFile, int] | None = None
        for file in (*([own] if own else []), *list(self._files.values())):
            length = reach(file.tokens, prompt)
            if length and (best is None or length > best[1]):
                best = (file, length)
        return best

    def read(self, file: StateFile) -> bytes | None:
        """The state, checked; None where it is gone, and it is removed where it is damaged."""
        try:
            data = file.path.read_bytes()
        except OSError:
            self._files.pop(file.path.name, None)
            return None
        content = memoryview(data)[file.start :]
        at = 4 * len(file.tokens)
        same = content[:at] == memoryview(file.tokens.astype("<i4").tobytes())
        if not same or _checksum(self._key, file.owner, content) != file.digest:
            self.remove(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(file.path)  # Used now: others go first when room is needed.
            about = file.path.stat()
            version = (about.st_ino, about.st_mtime_ns)
            self._files[file.path.name] = replace(file, version=version)
        return bytes(content[at:])

    def write(self, owner: str, tokens: Tokens, state: bytes) -> bool:
        """Keep a state in the place of the owner's former one, wholly or not at all.

        Returns:
            False where it is larger than all the space there may be.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        ids = tokens.astype("<i4").tobytes()
        digest = hashlib.sha256(_prefix(self._key, owner))
        digest.update(ids)
        digest.update(state)
        header = json.dumps(
            {
                "key": self._key,
                "owner": owner,
                "n_tokens": len(tokens),
                "state_bytes": len(state),
                "sha256": digest.hexdigest(),
            }
        ).encode()
        whole = len(MAGIC) + 4 + len(header) + len(ids) + len(state)
        if whole > self.limit_bytes or len(header) > MAX_HEADER_BYTES:
            return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path_of(owner)
        self.make_room(whole, besides=path)
        aside = path.with_name(f"{path.name}.{os.getpid()}{PART}")
        try:
            aside.touch(0o600)
            with aside.open("r+b") as file:
                file.write(MAGIC + len(header).to_bytes(4, "little") + header)
                file.write(ids)
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        self._learn(path)
        return True

    def make_room(self, n_bytes: int, *, besides: Path | None = None) -> None:
        """Remove files, those unused for longest first, until so much more fits in.

        Args:
            n_bytes: What is to be written.
            besides: A file that is about to be replaced: it goes anyway.
        """
        kept: list[tuple[int, int, Path]] = []
        for path in [*self._paths(SUFFIX), *self._paths(PART)]:
            with contextlib.suppress(OSError):
                about = path.stat()
                if path.name.endswith(PART) and time.time() - about.st_mtime > STALE_S:
                    path.unlink()
                elif path != besides:
                    kept.append((about.st_mtime_ns, about.st_size, path))
        total = n_bytes + sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.limit_bytes:
                break
            self._unlink(path)
            total -= size

    def remove(self, file: StateFile) -> None:
        """Remove a file that is no good."""
        self._unlink(file.path)

    def _unlink(self, path: Path) -> None:
        self._files.pop(path.name, None)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def erase(self, owner: str) -> int:
        """Remove what is kept of an owner, for every model; how many files there were."""
        start = _digest(owner)[:24]
        mine = [
            path for path in self._paths(f"-{self._scope}{SUFFIX}") if path.name.startswith(start)
        ]
        for path in mine:
            self._unlink(path)
        return len(mine)

    def sweep(self, exists: Callable[[str], bool]) -> int:
        """Remove files of owners that do not exist any more; how many there were."""
        removed = 0
        for path in list(self._paths(f"-{self._scope}{SUFFIX}")):
            found = _read_header(path, None)
            if found is None or not exists(found.owner):
                self._unlink(path)
                removed += 1
        return removed

    def usage(self) -> tuple[int, int]:
        """Files and bytes of all databases and models in the folder."""
        sizes = []
        for path in self._paths(SUFFIX):
            with contextlib.suppress(OSError):
                sizes.append(path.stat().st_size)
        return len(sizes), sum(sizes)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _prefix(key: str, owner: str) -> bytes:
    return f"{_digest(key)}{_digest(owner)}".encode()


def _checksum(key: str, owner: str, content: memoryview) -> str:
    digest = hashlib.sha256(_prefix(key, owner))
    digest.update(content)
    return digest.hexdigest()


def _read_header(path: Path, key: str | None) -> StateFile | None:
    """What a file says of itself; None where it is no state file, or one of another key."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            start = file.read(len(MAGIC) + 4)
            if start[: len(MAGIC)] != MAGIC:
                return None
            n_header = int.from_bytes(start[len(MAGIC) :], "little")
            if n_header > MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(n_header))
            n_tokens, n_state = int(header["n_tokens"]), int(header["state_bytes"])
            at = len(start) + n_header
            fits = key is None or header["key"] == key
            if not fits or n_tokens < 1 or about.st_size != at + 4 * n_tokens + n_state:
                return None
            tokens = np.frombuffer(file.read(4 * n_tokens), "<i4").astype(np.int32)
            return StateFile(
                path,
                str(header["owner"]),
                tokens,
                n_state,
                str(header["sha256"]),
                at,
                (about.st_ino, about.st_mtime_ns),
            )
    except (OSError, ValueError, KeyError, TypeError):
        return None
