"""Grouping: brings together what belongs to one conversation, in bounded memory.

Exports often mix the rows of many conversations. They are gathered in memory as long as they are
few; beyond that they go to temporary files by a hash of their key, and one file is read at a time.
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple, Self

import msgspec

from quietdesk.logs.problem import BadRecordError, Kind

MEMORY_BYTES = 64 << 20
N_PARTS = 64


class Piece(NamedTuple):
    """One part of a conversation, as it stands in the log."""

    line: int | None
    record: int | None
    content: bytes


class Group(NamedTuple):
    """Everything that has one key, in the order of the log."""

    key: str
    pieces: list[Piece]
    problem: BadRecordError | None = None
    """Why it cannot be read: it is too large. The pieces are then only its beginning."""


class Groups:
    """Gathers pieces by key; a context manager, since it may hold temporary files."""

    def __init__(self, limit: int, memory_bytes: int = MEMORY_BYTES, depth: int = 0) -> None:
        self._limit = limit
        self._memory_bytes = memory_bytes
        self._depth = depth
        self._size = 0
        self._groups: dict[str, list[Piece]] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._parts: list[BinaryIO] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for part in self._parts:
            part.close()
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, key: str, piece: Piece) -> None:
        """One piece more."""
        # The 200 is about what Python needs for the objects around the bytes.
        self._size += len(piece.content) + 200
        self._groups.setdefault(key, []).append(piece)
        if self._size > self._memory_bytes:
            self._spill()

    def __iter__(self) -> Iterator[Group]:
        """Every group once; in the order in which keys appeared, within each temporary file."""
        if not self._parts:
            for key in list(self._groups):
                yield self._checked(key, self._groups.pop(key))
            return
        self._spill()
        for part in self._parts:
            yield from self._read(part)

    def _checked(self, key: str, pieces: list[Piece]) -> Group:
        size = sum(len(piece.content) for piece in pieces)
        if size <= self._limit:
            return Group(key, pieces)
        reason = (
            f"The conversation {key!r} has {size / 2**20:.1f} MiB, more than the "
            f"{self._limit / 2**20:g} MiB that one may have."
        )
        return Group(key, pieces[:1], BadRecordError(Kind.TOO_LONG, reason))

    def _spill(self) -> None:
        if not self._parts:
            self._folder = TemporaryDirectory(prefix="quietdesk-")
            folder = Path(self._folder.name)
            self._parts = [(folder / f"{i}").open("w+b") for i in range(N_PARTS)]
        for key, pieces in self._groups.items():
            part = self._parts[self._part_of(key)]
            for piece in pieces:
                packed = msgspec.msgpack.encode((key, *piece))
                part.write(struct.pack("<I", len(packed)) + packed)
        self._groups, self._size = {}, 0

    def _part_of(self, key: str) -> int:
        digest = hashlib.blake2b(key.encode(), digest_size=4, salt=bytes([self._depth]))
        return int.from_bytes(digest.digest(), "little") % N_PARTS

    def _read(self, part: BinaryIO) -> Iterator[Group]:
        part.seek(0)
        # A part that is itself too large for the memory is parted again, by another hash; one
        # conversation alone cannot be, and at the third time there is nothing but those.
        memory = self._memory_bytes if self._depth < 2 else 1 << 62
        with Groups(self._limit, memory, self._depth + 1) as groups:
            while head := part.read(4):
                (size,) = struct.unpack("<I", head)
                key, line, record, content = msgspec.msgpack.decode(part.read(size))
                groups.add(key, Piece(line, record, content))
            yield from groups
