"""JSON values: a stream of JSON cut into its records, each decoded by itself, in bounded memory.

A log is one of three things: a record per line, one record after another over several lines, or one
array (perhaps inside an envelope such as `{"data": [...]}`). A record that is no JSON costs only
itself where there is a way to tell where the next one begins.
"""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.source import (
    CHUNK_BYTES,
    MAX_RECORD_BYTES,
    ByteReader,
    Bytes,
    Span,
    decode,
    lines,
)

Integers = npt.NDArray[np.int64]

HEAD_BYTES = 256 << 10
"""How much is looked at before a format or a layout is settled."""
MAX_DEPTH = 100
"""Deeper nesting is no conversation; and what writes JSON again could not take it."""


class Layout(StrEnum):
    """How the records of a JSON log follow each other."""

    LINES = "lines"
    VALUES = "values"
    """Whole values, one after another, over any number of lines."""
    ARRAY = "array"


class Raw(NamedTuple):
    """One record as it stands."""

    line: int
    record: int | None
    """From 1 in an array; None in lines."""
    content: bytes
    problem: BadRecordError | None = None
    """Why it cannot be decoded at all: too long, or no object between the others."""


def parse(content: bytes) -> tuple[Any, bool]:
    """The JSON value of some bytes, and whether they were UTF-8.

    Raises:
        BadRecordError: they are no JSON, or nested too deeply.
    """
    clean = True
    try:
        try:
            value = msgspec.json.decode(content)
        except UnicodeDecodeError:
            text, clean = decode(content)
            value = msgspec.json.decode(text)
        check_depth(value)
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    return value, clean


def not_json(error: msgspec.DecodeError) -> BadRecordError:
    """The problem of a record that is no JSON."""
    reason = str(error).removeprefix("JSON is malformed: ")
    return BadRecordError(Kind.NOT_JSON, f"It is no JSON: {reason}.")


def too_deep() -> BadRecordError:
    """The problem of a record that is nested too deeply."""
    return BadRecordError(Kind.SHAPE, f"It is nested more than {MAX_DEPTH} levels deep.")


def check_depth(value: Any) -> None:
    """Raise RecursionError where lists and objects are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if type(item) is dict:
                deeper.extend(v for v in item.values() if type(v) is dict or type(v) is list)
            elif type(item) is list:
                deeper.extend(v for v in item if type(v) is dict or type(v) is list)
        if not deeper:
            return
        level = deeper
    raise RecursionError


def layout_of(head: bytes) -> Layout:
    """How the records follow each other, told by the beginning of the log."""
    start = head.lstrip()
    first, _, more = start.partition(b"\n")
    if _is_json(first):
        return Layout.LINES if more.strip() or not start.startswith(b"[") else Layout.ARRAY
    if start.startswith(b"["):
        return Layout.ARRAY
    # A broken first line must not turn a log of lines into one long value.
    later = more.split(b"\n")[:50]
    if any(line.startswith(b"{") and line.rstrip() != b"{}" and _is_json(line) for line in later):
        return Layout.LINES
    return Layout.VALUES if start.startswith(b"{") else Layout.LINES


def _is_json(line: bytes) -> bool:
    try:
        parse(line.strip())
    except BadRecordError:
        return False
    return line.lstrip()[:1] in (b"{", b"[")


def records(
    stream: Bytes,
    envelopes: Sequence[str] = (),
    limit: int = MAX_RECORD_BYTES,
    span: Span | None = None,
) -> Iterator[Raw]:
    """The records of a JSON log, as bytes.

    Args:
        stream: The log.
        envelopes: Keys that may hold the array of records in an object around them, where the whole
            is longer than `limit`; a shorter one comes as one record with its envelope.
        limit: Bytes that a record may have.
        span: The lines that the stream holds, where it is a part of a log of lines.
    """
    head = stream.peek(HEAD_BYTES)
    layout = Layout.LINES if span is not None else layout_of(head)
    if layout is Layout.LINES:
        for line in lines(stream, limit, 1 if span is None else span.first_line):
            if line.content.strip():
                problem = too_long(limit) if line.too_long else None
                yield Raw(line.number, None, line.content, problem)
        return
    if layout is Layout.VALUES and len(stream.peek(limit + 1)) > limit:
        skipped = _skip_to_envelope(stream, head, envelopes)
        if skipped is not None:
            yield from split(stream, 1, limit, first_line=1 + skipped)
            return
    yield from split(stream, 1 if layout is Layout.ARRAY else 0, limit)


def too_long(limit: int) -> BadRecordError:
    """The problem of a record that is longer than allowed."""
    return BadRecordError(
        Kind.TOO_LONG, f"It is longer than {limit / 2**20:g} MiB, too long for one conversation."
    )


def _skip_to_envelope(stream: Bytes, head: bytes, envelopes: Sequence[str]) -> int | None:
    """Read up to the array of an envelope; how many lines that was, None where there is none."""
    if not envelopes:
        return None
    keys = b"|".join(re.escape(key.encode()) for key in envelopes)
    found = re.search(rb'"(?:' + keys + rb')"\s*:\s*(?=\[\s*\{)', head)
    if found is None:
        return None
    return stream.read(found.end()).count(b"\n")


_STEP = np.zeros(256, np.int8)
_STEP[[ord("{"), ord("[")]] = 1
_STEP[[ord("}"), ord("]")]] = -1


class _Scanner:
    """Finds brackets outside strings, chunk after chunk, without looking at single bytes."""

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False
        """Whether the first byte of the next chunk is escaped."""
        self._depth = 0

    def scan(self, chunk: bytes) -> tuple[Integers, npt.NDArray[np.int8], Integers]:
        """Places of the brackets, the step of each (1 or -1), and the depth after it."""
        data = np.frombuffer(chunk, np.uint8)
        quotes = data == ord('"')
        self._unescape(data, quotes)
        inside = np.logical_xor.accumulate(quotes)
        if self._in_string:
            np.logical_not(inside, out=inside)
        self._in_string = bool(inside[-1])
        steps = _STEP[data]
        steps[inside] = 0
        places = np.flatnonzero(steps)
        steps = steps[places]
        depths = self._depth + np.cumsum(steps, dtype=np.int64)
        if len(depths):
            self._depth = int(depths[-1])
        return places, steps, depths

    def _unescape(self, data: npt.NDArray[np.uint8], quotes: npt.NDArray[np.bool_]) -> None:
        """Take escaped quotes out of `quotes`."""
        slashes = np.flatnonzero(data == ord("\\"))
        if self._escaped:
            quotes[0] = False
            if len(slashes) and slashes[0] == 0:
                slashes = slashes[1:]
        self._escaped = False
        if not len(slashes):
            return
        starts = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)
        lengths = np.diff(starts, append=len(slashes))
        escaped = (slashes[starts] + lengths)[lengths % 2 == 1]
        if len(escaped) and escaped[-1] == len(data):
            self._escaped = True
            escaped = escaped[:-1]
        quotes[escaped] = False


def split(
    stream: ByteReader, level: int, limit: int = MAX_RECORD_BYTES, first_line: int = 1
) -> Iterator[Raw]:
    """The objects and arrays of one level, as bytes.

    Args:
        stream: JSON; reading ends where the enclosing array does.
        level: 0 for values one after another, 1 for the items of one array.
        limit: Bytes that a record may have.
        first_line: The line that the stream begins in.
    """
    scanner, cutter = _Scanner(), _Cutter(level, limit, first_line)
    while chunk := stream.read(CHUNK_BYTES):
        places, steps, depths = scanner.scan(chunk)
        opens = (steps > 0) & (depths == level + 1)
        closes = (steps < 0) & (depths == level)
        ends = (steps < 0) & (depths < level)
        done = 0
        marks = np.flatnonzero(opens | closes | ends)
        for place, closing, end in zip(
            places[marks].tolist(), closes[marks].tolist(), ends[marks].tolist(), strict=True
        ):
            if end and level:
                cutter.hold(chunk[done:place])
                yield from cutter.between()
                return
            done, cut = place + closing, done
            cutter.hold(chunk[cut:done])
            yield from cutter.record() if closing else cutter.between()
        cutter.hold(chunk[done:])
    yield from cutter.finish()


class _Cutter:
    """Gathers the bytes of what is under way: a record, or what stands between two."""

    def __init__(self, level: int, limit: int, first_line: int) -> None:
        self._level = level
        self._limit = limit
        self._line = first_line
        self._number = 0
        self._inside = False
        self._held: list[bytes] = []
        self._size = 0
        self._lines = 0

    def hold(self, piece: bytes) -> None:
        room = max(0, self._limit - self._size)
        self._held.append(piece[:room])
        self._size += len(piece)
        self._lines += piece.count(b"\n")

    def record(self) -> Iterator[Raw]:
        """What is held is a whole record."""
        self._inside = False
        yield self._take(too_long(self._limit) if self._size > self._limit else None)

    def between(self) -> Iterator[Raw]:
        """What is held stands before a record; a comma and space are all that may stand there."""
        self._inside = True
        content = b"".join(self._held)
        odd = content.strip(b" \t\r\n,")
        if self._level and not self._number:
            odd = odd.removeprefix(b"[").strip(b" \t\r\n,")
        if odd:
            self._held = [odd]
            reason = "What stands here, between the records, is no object."
            yield self._take(BadRecordError(Kind.SHAPE, reason))
        else:
            self._line += self._lines
            self._held, self._size, self._lines = [], 0, 0

    def finish(self) -> Iterator[Raw]:
        """The stream is over."""
        if self._inside and self._size > self._limit:
            yield self._take(too_long(self._limit))
        elif self._inside:
            reason = "The log ends in the middle of this record."
            yield self._take(BadRecordError(Kind.CUT_SHORT, reason))
        else:
            yield from self.between()
            if self._level:
                reason = "The log ends without the bracket that closes its array."
                yield self._take(BadRecordError(Kind.CUT_SHORT, reason))

    def _take(self, problem: BadRecordError | None) -> Raw:
        self._number += 1
        raw = Raw(self._line, self._number, b"".join(self._held), problem)
        self._line += self._lines
        self._held, self._size, self._lines = [], 0, 0
        return raw
