"""Parts: logs cut where records end, so that any process can read any part by itself.

A log of lines is cut at line ends, a Parquet file between row groups. What cannot be cut (an array,
a table whose rows have to be brought together, a large compressed log) is read here, once and in
order, and handed on in parts of conversations. Either way the same logs are cut in the same way
each time, and a part says by its identity what it holds: a file's part by the file's size and time
and its place in it, another one by what stands in it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from quietdesk.errors import LogError
from quietdesk.logs import native, parquet, stored
from quietdesk.logs.detect import JSON_FORMATS
from quietdesk.logs.format import Options
from quietdesk.logs.json_values import HEAD_BYTES, Layout, layout_of
from quietdesk.logs.problem import Noted, Rejected
from quietdesk.logs.reading import OpenStore, Reading, read
from quietdesk.logs.source import CHUNK_BYTES, Source, Span, compression_of

PART_BYTES = 64 << 20
"""Of the logs as they are stored; a killed process loses one part."""
SMALL_PART_BYTES = 4 << 20
"""Logs that are not large are cut finer, down to this, so that several processes share them."""
HANDED_ROWS = 4096
"""Conversations in a part that is handed on."""
HANDED_BYTES = 16 << 20
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(slots=True)
class Report:
    """What was read of a part, and what was wrong; adds up."""

    n_read: int = 0
    n_rejected: int = 0
    n_noted: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    """The first of them, in words."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file, or some lines or row groups of it.

    Attributes:
        where: In words.
        size_bytes: As it is stored.
    """

    path: str
    label: str
    format: str
    options: Options
    strict: bool
    size_bytes: int
    file_bytes: int
    modified_ns: int
    span: Span | None = None
    row_groups: tuple[int, ...] | None = None
    n_rows: int = 0
    """Of a Parquet file's row groups; 0 where that is not known."""

    @property
    def where(self) -> str:
        """Which part it is, for a reader."""
        if self.span is not None:
            return f"{self.path} from line {self.span.first_line}"
        if self.row_groups is not None:
            return f"{self.path} from row group {self.row_groups[0]}"
        return self.path

    @property
    def identity(self) -> str:
        """Changes when what is read could."""
        return _identity(
            [self.path, self.file_bytes, self.modified_ns, self.format, self.label],
            self.options,
            None if self.span is None else [self.span.start, self.span.stop],
            None if self.row_groups is None else list(self.row_groups),
        )

    def open(self) -> "Opened":
        """Begin to read it; in any process.

        Raises:
            LogError: the file is not there, or not as it was when it was cut.
        """
        address = self.path if "://" in self.path else ""
        path = None if address else Path(self.path)
        source = Source(path, address=address, label=self.label, span=self.span)
        if _stat(source) != (self.file_bytes, self.modified_ns):
            raise LogError(f"{self.path!r} changed while it was read. Start again.")
        reading = Reading(
            [source],
            self.format,
            self.options,
            self.strict,
            None,
            watch_ids=False,
            row_groups=self.row_groups,
        )
        reading.formats[source.name] = self.format
        return Opened(reading, self.size_bytes, self.n_rows)


class Opened:
    """A part that is being read."""

    def __init__(self, reading: Reading, size_bytes: int = 0, n_rows: int = 0) -> None:
        self._reading = reading
        self._size_bytes = size_bytes
        self._n_rows = n_rows

    @property
    def share(self) -> float:
        """How much of it was read, 0 to 1, about."""
        if self._n_rows:
            return min(1.0, self._reading.n_read / self._n_rows)
        return min(1.0, self._reading.done_bytes / self._size_bytes) if self._size_bytes else 0.0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its conversations."""
        return self._reading.batches()

    def report(self) -> Report:
        """What was read so far, and what was wrong."""
        reading = self._reading
        return Report(
            reading.n_read,
            reading.n_rejected,
            reading.n_noted,
            Counter({str(kind): count for kind, count in reading.kinds.items()}),
            [str(problem) for problem in reading.problems],
        )


@dataclass(frozen=True, slots=True)
class HandedPart:
    """Conversations that were read already, of a log that cannot be cut."""

    where: str
    identity: str
    size_bytes: int
    handed: tuple[pa.RecordBatch, ...]
    found: Report

    @property
    def share(self) -> float:
        """It was read before."""
        return 0.0

    def open(self) -> "HandedPart":
        """Itself: there is nothing to open."""
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its conversations."""
        return iter(self.handed)

    def report(self) -> Report:
        """What was read, and what was wrong."""
        return self.found


Part = FilePart | HandedPart


class Parts:
    """The parts of some logs, in order; made while they are asked for.

    Attributes:
        total_bytes: Of all logs, as they are stored; None where that is not known.
        formats: Each log's name, and its format, as far as they were cut.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        format: str | None = None,
        options: Options | None = None,
        strict: bool = False,
        open_store: OpenStore | None = None,
        part_bytes: int | None = None,
    ) -> None:
        """As `quietdesk.logs.reading.read`, and the size of parts; None: by that of the logs."""
        self._reading = read(
            paths, format=format, options=options, strict=strict, open_store=open_store
        )
        self._options = options or Options()
        self._strict = strict
        self._open_store = open_store
        self.total_bytes = self._reading.total_bytes
        if part_bytes is None:
            # By the logs alone: not by how many processes there are, so that a run can go on with
            # more of them.
            about = PART_BYTES if self.total_bytes is None else self.total_bytes // 64
            part_bytes = min(PART_BYTES, max(SMALL_PART_BYTES, about))
        self._part_bytes = part_bytes
        self.formats = self._reading.formats

    def __iter__(self) -> Iterator[Part]:
        """The parts.

        Raises:
            LogFormatError: a file's format is not known.
        """
        for source, name in self._reading.sources():
            if name == parquet.NAME and (source.address or source.path):
                yield from self._parquet(source)
            elif source.path is None or name == stored.NAME:
                yield from self._handed(source, name)
            elif source.path is not None:
                yield from self._file(source, source.path, name)

    def _part(
        self,
        source: Source,
        name: str,
        size: int,
        span: Span | None = None,
        row_groups: tuple[int, ...] | None = None,
        n_rows: int = 0,
    ) -> FilePart:
        return FilePart(
            source.name,
            source.label,
            name,
            self._options,
            self._strict,
            size,
            *_stat(source),
            span,
            row_groups,
            n_rows,
        )

    def _file(self, source: Source, path: Path, name: str) -> Iterator[Part]:
        size = source.size_bytes or 0
        if size <= self._part_bytes:
            yield self._part(source, name, size)
        elif _has_lines(path, name):
            for span in _spans(path, size, self._part_bytes):
                yield self._part(source, name, span.stop - span.start, span)
        else:
            yield from self._handed(source, name)

    def _parquet(self, source: Source) -> Iterator[Part]:
        file = parquet.opened(source.address or str(source.path))
        if not parquet.is_ours(file.schema_arrow):
            small = (source.size_bytes or self._part_bytes + 1) <= self._part_bytes
            if small:
                yield self._part(source, parquet.NAME, source.size_bytes or 0)
            else:
                yield from self._handed(source, parquet.NAME)
            return
        groups: list[int] = []
        size = n_rows = 0
        for group in range(file.num_row_groups):
            more = _stored_bytes(file, group)
            if groups and size + more > self._part_bytes:
                yield self._groups(source, size, groups, n_rows)
                groups, size, n_rows = [], 0, 0
            groups.append(group)
            size += more
            n_rows += file.metadata.row_group(group).num_rows
        if groups:
            yield self._groups(source, size, groups, n_rows)

    def _groups(self, source: Source, size: int, groups: list[int], n_rows: int) -> FilePart:
        return self._part(source, parquet.NAME, size, row_groups=tuple(groups), n_rows=n_rows)

    def _handed(self, source: Source, name: str) -> Iterator[Part]:
        reading = Reading(
            [source], name or None, self._options, self._strict, self._open_store, watch_ids=False
        )
        if name:
            reading.formats[source.name] = name
        waiting: list[pa.RecordBatch] = []
        before, done, count = Report(), 0, 0

        def part() -> HandedPart:
            nonlocal before, done, count
            now = Opened(reading).report()
            found, before = _since(before, now, reading.problems), now
            read_bytes, done = source.done_bytes - done, source.done_bytes
            count += 1
            where = f"{source.name}, part {count}"
            told = [source.name, name, source.label, count, _digest(waiting), found.problems]
            identity = _identity(told, self._options)
            return HandedPart(where, identity, read_bytes, tuple(waiting), found)

        for batch in reading.batches():
            waiting.append(batch)
            rows = sum(b.num_rows for b in waiting)
            if rows >= HANDED_ROWS or sum(b.nbytes for b in waiting) >= HANDED_BYTES:
                yield part()
                waiting = []
        if waiting or Opened(reading).report() != before:
            yield part()
        self.formats.update(reading.formats)


def _stat(source: Source) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    if source.path is None:
        return parquet.stat(source.address)
    stat = source.path.stat()
    return stat.st_size, stat.st_mtime_ns


def _digest(batches: Sequence[pa.RecordBatch]) -> str:
    """Of what stands in the batches: neither a stream nor a database has a time to go by."""
    hashed = hashlib.blake2b(digest_size=16)
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        hashed.update(sink.getvalue())
    return hashed.hexdigest()


def _identity(told: list[Any], options: Options, *more: Any) -> str:
    how = [dict(options.authors), dict(options.columns), options.limit]
    return json.dumps([told, how, more], sort_keys=True, default=str)


def _since(before: Report, now: Report, problems: Sequence[Rejected | Noted]) -> Report:
    return Report(
        now.n_read - before.n_read,
        now.n_rejected - before.n_rejected,
        now.n_noted - before.n_noted,
        now.kinds - before.kinds,
        [str(problem) for problem in problems[len(before.problems) :]],
    )


def _stored_bytes(file: pq.ParquetFile, group: int) -> int:
    about = file.metadata.row_group(group)
    return sum(about.column(i).total_compressed_size for i in range(about.num_columns))


def _has_lines(path: Path, name: str) -> bool:
    """Whether every line of a file is a record, and it can be read from any of them."""
    format_ = JSON_FORMATS.get(name)
    if name != native.NAME and (format_ is None or format_.key is not None):
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if compression_of(head) or head.startswith(_MARKS):
        return False
    return layout_of(head) is Layout.LINES


def _spans(path: Path, size: int, part_bytes: int) -> Iterator[Span]:
    """Runs of lines of about one size; each begins where the one before ended."""
    start, line = 0, 1
    with path.open("rb") as file:
        while start < size:
            stop, count = start, 0
            while stop < size:
                chunk = file.read(min(CHUNK_BYTES, size - stop))
                if not chunk:
                    break
                wanted = start + part_bytes - stop
                end = chunk.find(b"\n", max(0, wanted)) + 1 if wanted < len(chunk) else 0
                if end:
                    chunk = chunk[:end]
                stop += len(chunk)
                count += chunk.count(b"\n")
                if end:
                    break
            if stop == start:
                return
            yield Span(start, stop, line)
            file.seek(stop)
            start, line = stop, line + count
