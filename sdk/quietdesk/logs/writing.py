"""Writing: conversations in any format, whole or not at all, and what the format could not say."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from quietdesk import columns
from quietdesk.errors import LogError, UnknownNameError, UsageError
from quietdesk.logs import native, parquet, table, text
from quietdesk.logs.detect import JSON_FORMATS
from quietdesk.logs.format import ALL_FIELDS, lost
from quietdesk.logs.record import Record

WRITTEN = (native.NAME, parquet.NAME, table.NAME, text.NAME, *sorted(JSON_FORMATS))
"""Formats that can be written."""
_SUFFIXES = {".parquet": parquet.NAME, ".csv": table.NAME, ".txt": text.NAME}
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
GROUP_ROWS = 8192
"""Conversations in a Parquet file's row group."""


def format_for(path: str) -> str:
    """The format that a file's name asks for: by its suffix, else the native form."""
    name = Path(path)
    if name.suffix in _COMPRESSED:
        name = name.with_suffix("")
    return _SUFFIXES.get(name.suffix, native.NAME)


class Writing:
    """A file of conversations under way; a context manager.

    The file appears under its name when everything is written, and not before.

    Attributes:
        format: The format's name.
        n_written: Conversations so far.
        lost: What the format cannot say: field to the number of conversations that had it.
    """

    def __init__(self, path: str, format_: str, *, force: bool = False) -> None:
        """Begin.

        Args:
            path: The file, compressed where it ends in .gz, .zst or .bz2; `-` for standard output.
            format_: One of `WRITTEN`.
            force: Whether a file of that name may be replaced.

        Raises:
            UnknownNameError: there is no such format to write, with the nearest names.
            UsageError: the file is there already.
        """
        if format_ not in WRITTEN:
            raise UnknownNameError("format to write", format_, WRITTEN)
        if path != "-" and Path(path).exists() and not force:
            raise UsageError(f"{path!r} is there already. Name another file, or allow --force.")
        if path == "-" and format_ == parquet.NAME:
            raise UsageError("Parquet cannot be written to standard output. Name a file.")
        self._path = path
        self.format = format_
        self._temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
        self._sink: BinaryIO | Any = None
        self._raw: BinaryIO | None = None
        self._gathered: list[Record] = []
        self._table: pq.ParquetWriter | None = None
        self.n_written = 0
        self.lost: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if self._path == "-":
            self._sink = sys.stdout.buffer
        else:
            try:
                self._raw = self._temporary.open("wb")
            except OSError as error:
                raise LogError(f"Cannot write {self._path!r}: {error.strerror}.") from None
            compression = _COMPRESSED.get(Path(self._path).suffix)
            if self.format == parquet.NAME:
                self._table = pq.ParquetWriter(
                    self._raw, columns.schema(), compression="zstd", compression_level=3
                )
            self._sink = (
                pa.CompressedOutputStream(self._raw, compression) if compression else self._raw
            )
        if self.format == table.NAME:
            self._sink.write(table.header_line().encode())
        return self

    def write(self, record: Record) -> None:
        """One conversation more.

        Raises:
            LogError: the disk is full, or the like.
        """
        try:
            self._write(record)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise LogError(f"Cannot write {self._path!r}: {error.strerror or error}.") from None
        self.n_written += 1
        self.lost.update(lost(record, *self._keeps()))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._path == "-":
            self._sink.flush()
            return
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise LogError(f"Cannot write {self._path!r}: {failure.strerror or failure}.") from None
        finally:
            assert self._raw is not None
            self._raw.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert self._raw is not None
        if self._table is not None:
            self._flush()
            self._table.close()
        elif self._sink is not self._raw:
            self._sink.close()
        if not self._raw.closed:
            self._raw.flush()
            os.fsync(self._raw.fileno())
        self._temporary.replace(self._path)

    def _write(self, record: Record) -> None:
        if self.format == parquet.NAME:
            self._gathered.append(record)
            if len(self._gathered) >= GROUP_ROWS:
                self._flush()
        else:
            self._sink.write(_said(record, self.format))

    def _keeps(self) -> tuple[Any, ...]:
        if self.format in JSON_FORMATS:
            format_ = JSON_FORMATS[self.format]
            return format_.keeps, format_.authors
        return ({table.NAME: table.KEEPS, text.NAME: text.KEEPS}.get(self.format, ALL_FIELDS),)

    def _flush(self) -> None:
        assert self._table is not None
        if self._gathered:
            self._table.write_batch(columns.to_batch(self._gathered))
            self._gathered = []


def _said(record: Record, name: str) -> bytes:
    """What a format of text says of a conversation."""
    if name == native.NAME:
        return native.encode(record) + b"\n"
    if name == table.NAME:
        return table.encode(record).encode()
    if name == text.NAME:
        return text.encode(record).encode()
    values = JSON_FORMATS[name].dump(record)
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)
