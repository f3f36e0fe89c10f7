"""Sources: the bytes of a log, decompressed, as UTF-8, in lines of bounded length.

gzip, zstd, bzip2 and xz are recognised by their first bytes, whatever the file is called. UTF-16
and UTF-32 with a byte order mark become UTF-8 on the way; the mark of UTF-8 is taken off.
"""

import codecs
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import pyarrow as pa

from quietdesk.errors import LogError

CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
"""A longer record is rejected: one conversation of 16 MiB is a broken file, not a long talk."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class ByteReader(Protocol):
    """Something to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A run of whole lines in a file that is not compressed."""

    start: int
    """Its first byte."""
    stop: int
    """The byte after its last."""
    first_line: int
    """The number of its first line."""


class Source:
    """One log: a file, standard input, or an address of a Parquet file elsewhere.

    Attributes:
        name: As it is shown in places.
        path: The file; None for the others.
        address: The address (`s3://...`); empty for the others.
        label: What it is called in ids: the name below the folder that was given.
        span: The lines that are to be read; None for all.
        size_bytes: As it is stored, compressed; None where it is not known.
        done_bytes: How many of them were read, for a progress bar.
        damage: Why reading ended before the end of a compressed file; empty while all is well.
    """

    def __init__(
        self,
        path: Path | None,
        stream: BinaryIO | None = None,
        address: str = "",
        label: str = "",
        span: Span | None = None,
        size_bytes: int | None = None,
    ) -> None:
        self.path = path
        self.span = span
        self.address = address
        self.name = str(path) if path is not None else address or "<stdin>"
        self.label = label or (path.name if path is not None else address.rpartition("/")[2])
        self._stream = stream
        self.done_bytes = 0
        self.damage = ""
        try:
            self.size_bytes = path.stat().st_size if path is not None else size_bytes
        except OSError as error:
            raise LogError(f"Cannot read {self.name!r}: {error.strerror}.") from None

    @contextmanager
    def open(self) -> Iterator["Bytes"]:
        """The content as it is after decompression and in UTF-8, of the span if there is one.

        Raises:
            LogError: it cannot be opened.
        """
        if self.path is None:
            assert self._stream is not None
            yield self._decoded(_Counted(self._stream, self))
            return
        try:
            raw = self.path.open("rb", buffering=0)
        except OSError as error:
            raise LogError(f"Cannot read {self.name!r}: {error.strerror}.") from None
        with raw:
            self.done_bytes = 0
            counted = _Counted(cast(BinaryIO, raw), self)
            if self.span is not None:
                raw.seek(self.span.start)
                yield _limited(counted, self.span.stop - self.span.start)
            else:
                yield self._decoded(counted)

    def _decoded(self, raw: "_Counted") -> "Bytes":
        plain = _decompressed(raw, self)
        head = plain.peek(4)
        if head.startswith(codecs.BOM_UTF8):
            plain.read(3)
            return plain
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                return _transcoded(plain, encoding)
        return plain


def _limited(raw: "_Counted", left: int) -> "Bytes":
    def read(size: int) -> bytes:
        nonlocal left
        data = raw.read(min(size, left))
        left -= len(data)
        return data

    return Bytes(read)


def compression_of(head: bytes) -> str:
    """The compression that these first bytes tell of; empty for none."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


class Bytes:
    """A stream of bytes that can be looked into before it is read."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end, without moving on."""
        parts, known = [self._ahead], len(self._ahead)
        while known < size:
            more = self._read(max(size - known, 4096))
            if not more:
                break
            parts.append(more)
            known += len(more)
        self._ahead = b"".join(parts)
        return self._ahead[:size]

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        if self._ahead:
            head, self._ahead = self._ahead[:size], self._ahead[size:]
            return head
        return self._read(size)


class Line:
    """One line, without its end.

    Attributes:
        number: From 1.
        offset: Where it begins in the stream.
        raw: Its bytes, with the carriage return that may be part of its end; only the beginning of
            it where it is too long.
        too_long: Whether it was longer than allowed.
    """

    __slots__ = ("number", "offset", "raw", "too_long")

    def __init__(self, number: int, offset: int, raw: bytes, size_bytes: int) -> None:
        self.number = number
        self.offset = offset
        self.raw = raw
        self.too_long = size_bytes > len(raw)

    @property
    def content(self) -> bytes:
        """Its bytes without its end."""
        return self.raw.removesuffix(b"\r")


def lines(stream: ByteReader, limit: int = MAX_RECORD_BYTES, first_line: int = 1) -> Iterator[Line]:
    """The lines of a stream, in bounded memory however long they are."""
    number, offset, held, size = first_line, 0, b"", 0
    while chunk := stream.read(CHUNK_BYTES):
        *ended, last = chunk.split(b"\n")
        for piece in ended:
            size += len(piece)
            yield Line(number, offset, held + piece[: limit - len(held)], size)
            number, offset, held, size = number + 1, offset + size + 1, b"", 0
        held += last[: limit - len(held)]
        size += len(last)
    if size:
        yield Line(number, offset, held, size)


def decode(raw: bytes) -> tuple[str, bool]:
    """The text of some bytes, and whether they were UTF-8; others are taken as Windows-1252."""
    try:
        return raw.decode("utf-8"), True
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), False


class _Counted:
    """A raw file that says how far it was read."""

    def __init__(self, raw: BinaryIO, source: Source) -> None:
        self._raw = raw
        self._source = source
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._source.done_bytes += len(data)
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def _decompressed(raw: _Counted, source: Source) -> Bytes:
    plain = Bytes(raw.read)
    compression = compression_of(plain.peek(6))
    if not compression:
        return plain
    if compression == "xz":
        return Bytes(_xz(plain, source))
    # Arrow's codecs, since zstandard's reader takes a file that is cut short for a whole one.
    inner = pa.PythonFile(_Peeked(plain), mode="r")
    stream = pa.CompressedInputStream(inner, compression)

    def read(size: int) -> bytes:
        try:
            # What is decoded of a read that fails is lost, so it is read in small bites.
            return cast(bytes, stream.read(min(size, 1 << 16)))
        except OSError as error:
            source.damage = str(error)
            return b""

    return Bytes(read)


class _Peeked:
    """`Bytes` with the methods that Arrow asks of a file."""

    closed = False

    def __init__(self, plain: Bytes) -> None:
        self._plain = plain

    def read(self, size: int = -1) -> bytes:
        return self._plain.read(CHUNK_BYTES if size < 0 else size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _xz(plain: Bytes, source: Source) -> Callable[[int], bytes]:
    decompressor = lzma.LZMADecompressor()

    def read(size: int) -> bytes:
        nonlocal decompressor
        while True:
            if decompressor.eof:
                rest = decompressor.unused_data or plain.read(CHUNK_BYTES)
                if not rest:
                    return b""
                decompressor = lzma.LZMADecompressor()
                more = rest
            else:
                more = plain.read(CHUNK_BYTES) if decompressor.needs_input else b""
                if not more and decompressor.needs_input:
                    source.damage = "the xz stream has no end"
                    return b""
            try:
                data = decompressor.decompress(more, size)
            except lzma.LZMAError as error:
                source.damage = str(error)
                return b""
            if data:
                return data

    return read


def _transcoded(plain: Bytes, encoding: str) -> Bytes:
    decode = codecs.getincrementaldecoder(encoding)(errors="replace").decode

    def read(size: int) -> bytes:
        while True:
            raw = plain.read(size)
            text = decode(raw, final=not raw)
            if text or not raw:
                return text.encode("utf-8", errors="replace")

    return Bytes(read)
