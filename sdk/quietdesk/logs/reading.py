r"""Reading: the conversations of logs in any format, what was wrong with them, and where.

::

    from quietdesk.logs.reading import read

    reading = read(["week1.jsonl.zst", "exports/"])
    for transcript in reading:
        ...
    print(reading.n_read, reading.n_rejected, *reading.problems, sep="\n")
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from quietdesk import columns
from quietdesk.errors import LogError, LogFormatError, LogRecordError, UnknownNameError
from quietdesk.logs import native, parquet, stored, table, text
from quietdesk.logs.detect import JSON_FORMATS, TITLES, detect, detect_head, marked
from quietdesk.logs.documents import Item, read_json, read_native, read_raws
from quietdesk.logs.format import Options
from quietdesk.logs.json_values import Raw
from quietdesk.logs.problem import Kind, Noted, Place, Rejected
from quietdesk.logs.record import Record, to_transcript
from quietdesk.logs.source import Bytes, Source
from quietdesk.logs.traces import unfold
from quietdesk.types import Transcript

OpenStore = Callable[[str], stored.Conversations]

_DATABASES = ("postgresql:", "postgresql+", "sqlite:")
BATCH_ROWS = 2048
BATCH_BYTES = 16 << 20
"""A batch is handed on when it has this many rows or, by estimate, bytes."""
KEPT_PROBLEMS = 100
KNOWN_IDS = 1_000_000
"""Ids that are remembered to find one that comes twice; about 70 MB."""


def read(
    paths: Iterable[str | Path],
    *,
    format: str | None = None,
    options: Options | None = None,
    strict: bool = False,
    open_store: OpenStore | None = None,
) -> "Reading":
    """The conversations of some logs.

    Args:
        paths: Files; folders, for every file below that is not hidden; `-` for standard input;
            addresses that Arrow knows of Parquet files or of folders of them, such as
            `s3://bucket/logs`, or of databases, such as `postgresql://host/desk`.
        format: The format's name, one of `detect.TITLES`; None: told by each file's content.
        options: How to read what the logs do not tell themselves.
        strict: Whether a record that must be rejected ends the reading.
        open_store: Opens the store behind a path or address that is a Quietdesk database.

    Raises:
        LogError: a file is not there.
        UnknownNameError: no such format, with the nearest names.
    """
    if format is not None and format not in TITLES:
        raise UnknownNameError("log format", format, TITLES)
    return Reading(_sources(paths), format, options or Options(), strict, open_store)


def _sources(paths: Iterable[str | Path]) -> list[Source]:
    found: list[Source] = []
    for given in paths:
        if str(given) == "-":
            found.append(Source(None, sys.stdin.buffer))
        elif "://" in str(given):
            if str(given).startswith(_DATABASES):
                found.append(Source(None, address=str(given)))
            else:
                files = parquet.inside(str(given))
                found += [Source(None, address=file, size_bytes=size) for file, size in files]
        elif Path(given).is_dir():
            inside = (p.relative_to(given) for p in Path(given).rglob("*") if p.is_file())
            shown = sorted(p for p in inside if not any(part.startswith(".") for part in p.parts))
            if not shown:
                raise LogError(f"The folder {str(given)!r} has no file in it.")
            found += [Source(Path(given) / p, label=p.as_posix()) for p in shown]
        else:
            found.append(Source(Path(given)))
    return found


class Reading:
    """An iteration over logs, once; what it met on the way is in its attributes.

    Attributes:
        n_read: Conversations so far.
        n_rejected: Records that were left out so far.
        n_noted: Remarks so far, about conversations that were not left out.
        kinds: How often each kind of problem occurred.
        problems: The first of them, at most `KEPT_PROBLEMS`.
        formats: Each log's name, and its format.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        format_: str | None,
        options: Options,
        strict: bool,
        open_store: OpenStore | None,
        *,
        watch_ids: bool = True,
        row_groups: Sequence[int] | None = None,
    ) -> None:
        """What `read` and `parts` make.

        Args:
            sources: The logs.
            format_: Their format, or None.
            options: How to read.
            strict: Whether a record that must be rejected ends it.
            open_store: Opens a database.
            watch_ids: Whether ids that come twice are noted.
            row_groups: Of the one Parquet file that there is then: which to read.
        """
        self._row_groups = row_groups
        self._watch_ids = watch_ids
        self._sources = sources
        self._format = format_
        self._options = options
        self._strict = strict
        self._open_store = open_store
        self._ids: set[int] = set()
        self.n_read = 0
        self.n_rejected = 0
        self.n_noted = 0
        self.kinds: Counter[Kind] = Counter()
        self.problems: list[Rejected | Noted] = []
        self.formats: dict[str, str] = {}

    def __iter__(self) -> Iterator[Transcript]:
        """The conversations.

        Raises:
            LogFormatError: a file's format is not known.
            LogRecordError: a record must be rejected, and reading is strict.
        """
        return map(to_transcript, self.records())

    def records(self) -> Iterator[Record]:
        """The conversations, in the quicker form."""
        for source in self._sources:
            for item in self._items(source):
                if isinstance(item, Record):
                    self._count(source, item.id)
                    yield item
                else:
                    self._meet(item)

    def sources(self) -> Iterator[tuple[Source, str]]:
        """Each log and its format; an empty one for a stream, which can only be told by reading.

        Raises:
            LogFormatError: a file's format is not known.
        """
        for source in self._sources:
            yield source, self._detect(source)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The conversations in columns; those that are in columns already stay so."""
        for source in self._sources:
            file = _parquet(source) if self._detect(source) == parquet.NAME else None
            if file is not None and parquet.is_ours(file.schema_arrow):
                yield from self._in_columns(file, source, rows)
            else:
                yield from self._gathered(source, rows)

    @property
    def done_bytes(self) -> int:
        """Bytes read so far, as the files are stored."""
        return sum(source.done_bytes for source in self._sources)

    @property
    def total_bytes(self) -> int | None:
        """Bytes to read; None where that is not known."""
        sizes = [source.size_bytes for source in self._sources]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def _detect(self, source: Source) -> str:
        """The source's format; empty for a stream that can only be looked at while it is read."""
        if source.name not in self.formats:
            if source.address:
                database = source.address.startswith(_DATABASES)
                self.formats[source.name] = stored.NAME if database else parquet.NAME
            elif source.path is None:
                return self._format or ""
            else:
                found = marked(source) or self._format or detect(source, self._options).format
                self.formats[source.name] = found
        return self.formats[source.name]

    def _items(self, source: Source) -> Iterator[Item]:
        name = self._detect(source)
        options = replace(self._options, label=source.label)
        if name == parquet.NAME:
            yield from _rows(_parquet(source), source.name, options)
        elif name == stored.NAME:
            if self._open_store is None:
                raise LogFormatError(
                    f"{source.name!r} is a database, which cannot be read from here. "
                    "`quietdesk convert` writes its conversations into a file."
                )
            with closing(self._open_store(source.name)) as store:
                yield from stored.read(store)
        else:
            with source.open() as stream:
                if not name:
                    name = detect_head(stream, source.name, options).format
                    self.formats[source.name] = name
                yield from _stream(stream, source, name, options)
            if source.damage:
                reason = f"The file is damaged or cut short here: {source.damage}."
                yield Rejected(Place(source.name), Kind.CUT_SHORT, reason)

    def _in_columns(
        self, file: pq.ParquetFile, source: Source, rows: int
    ) -> Iterator[pa.RecordBatch]:
        options = replace(self._options, label=source.label)
        for item in parquet.batches(file, source.name, options, self._row_groups, rows):
            if isinstance(item, Rejected | Noted):
                self._meet(item)
                continue
            for found in item["id"].to_pylist():
                self._count(source, found)
            yield item

    def _gathered(self, source: Source, rows: int) -> Iterator[pa.RecordBatch]:
        gathered: list[Record] = []
        size = 0
        for item in self._items(source):
            if not isinstance(item, Record):
                self._meet(item)
                continue
            self._count(source, item.id)
            gathered.append(item)
            for message in item.messages:
                size += len(message.text)
            if len(gathered) >= rows or size >= BATCH_BYTES:
                yield columns.to_batch(gathered)
                gathered, size = [], 0
        if gathered:
            yield columns.to_batch(gathered)

    def _count(self, source: Source, name: str) -> None:
        self.n_read += 1
        if not self._watch_ids:
            return
        known = len(self._ids)
        self._ids.add(hash(name))
        place = Place(source.name, None, self.n_read)
        if len(self._ids) == known:
            reason = f"The id {name!r} was there before; both conversations count."
            self._meet(Noted(place, Kind.DUPLICATE, reason))
        elif known >= KNOWN_IDS:
            self._watch_ids = False
            reason = f"After {KNOWN_IDS:,} conversations, ids that come twice are no longer found."
            self._meet(Noted(place, Kind.OTHER, reason))

    def _meet(self, problem: Rejected | Noted) -> None:
        if isinstance(problem, Rejected):
            if self._strict:
                raise LogRecordError(str(problem.place), problem.reason)
            self.n_rejected += 1
        else:
            self.n_noted += 1
        self.kinds[problem.kind] += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)


def _stream(stream: Bytes, source: Source, name: str, options: Options) -> Iterator[Item]:
    if name == native.NAME:
        return read_native(stream, source.name, options, source.span)
    if name == table.NAME:
        return table.read(stream, source.name, options)
    if name == text.NAME:
        return text.read(stream, source.name, options)
    return read_json(stream, source.name, JSON_FORMATS[name], options, source.span)


def _parquet(source: Source) -> pq.ParquetFile:
    return parquet.opened(source.address or str(source.path))


def _rows(file: pq.ParquetFile, name: str, options: Options) -> Iterator[Item]:
    """The conversations of a Parquet file of any columns, by rows."""
    rows = (parquet.sparse(row) for row in parquet.rows(file))
    first = next(rows, None)
    if first is None:
        raise LogFormatError(f"{name!r} is empty: there is no conversation in it.")
    if native.matches(first):
        return parquet.native_rows(file, name, options)
    values = ({k: unfold(v) for k, v in row.items()} for row in chain([first], rows))
    shape = {k: unfold(v) for k, v in first.items()}
    format_ = next((f for f in JSON_FORMATS.values() if f.matches(shape)), None)
    if format_ is not None:
        raws = (Raw(0, i + 1, msgspec.json.encode(value)) for i, value in enumerate(values))
        return read_raws(raws, name, format_, options)
    header = list(file.schema_arrow.names)
    cells = (
        (Place(name, None, i + 1), [row.get(column) for column in header])
        for i, row in enumerate(parquet.rows(file))
    )
    return table.conversations(cells, table.plan(header, options), options)
