"""Detection: what format a log has, by its content and not by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quietdesk.errors import LogFormatError
from quietdesk.logs import (
    chatwoot,
    intercom,
    langfuse,
    langsmith,
    native,
    openai,
    parquet,
    rasa,
    sharegpt,
    stored,
    table,
    text,
    zendesk,
)
from quietdesk.logs.format import JsonFormat, Options
from quietdesk.logs.json_values import HEAD_BYTES, parse, records
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.source import MAX_RECORD_BYTES, Bytes, Source, compression_of, decode

JSON_FORMATS: Mapping[str, JsonFormat] = {
    format_.name: format_
    for format_ in (
        langsmith.FORMAT,
        langfuse.FORMAT,
        rasa.FORMAT,
        intercom.FORMAT,
        chatwoot.FORMAT,
        zendesk.FORMAT,
        sharegpt.FORMAT,
        openai.FORMAT,
    )
}
"""The more particular first: the first one that matches most records is it."""

TITLES: Mapping[str, str] = {
    native.NAME: native.TITLE,
    **{name: format_.title for name, format_ in sorted(JSON_FORMATS.items())},
    table.NAME: table.TITLE,
    parquet.NAME: parquet.TITLE,
    text.NAME: text.TITLE,
    stored.NAME: stored.TITLE,
}
"""Every format's name, and what it is."""

_SAMPLE = 20


@dataclass(frozen=True, slots=True)
class Detected:
    """What a log is."""

    format: str
    reason: str
    """By what it was recognised, in words."""


def detect(source: Source, options: Options | None = None) -> Detected:
    """What a log is.

    Raises:
        LogFormatError: it is empty, or none of the formats known here.
        LogError: it cannot be read.
    """
    with source.open() as stream:
        return detect_head(stream, source.name, options or Options())


def marked(source: Source) -> str | None:
    """The format of a file whose first bytes leave no doubt; None where they tell nothing."""
    with source.open() as stream:
        return _marked(stream.peek(16))


def _marked(head: bytes) -> str | None:
    if head.startswith(b"PAR1"):
        return parquet.NAME
    return stored.NAME if head.startswith(b"SQLite format 3\x00") else None


def detect_head(stream: Bytes, name: str, options: Options) -> Detected:
    """What a log that begins so is; nothing is taken from the stream."""
    head = stream.peek(HEAD_BYTES)
    if not head.strip():
        raise LogFormatError(f"{name!r} is empty: there is no conversation in it.")
    mark = _marked(head)
    if mark is not None:
        return Detected(mark, "its first bytes say so")
    if b"\x00" in head or compression_of(head):
        raise LogFormatError(
            f"{name!r} is neither text nor Parquet: it has zero bytes, or is compressed twice."
        )
    if head.lstrip()[:1] in (b"{", b"["):
        return _json(stream, name)
    return _plain(head, name, options)


def _json(stream: Bytes, name: str) -> Detected:
    values = _sample(stream.peek(HEAD_BYTES))
    if not values:
        # The first record is longer than the head.
        values = _sample(stream.peek(MAX_RECORD_BYTES))
    hits = {native.NAME: sum(native.matches(value) for value in values)}
    hits |= {
        key: sum(format_.matches(value) for value in values)
        for key, format_ in JSON_FORMATS.items()
    }
    best = max(hits, key=lambda key: hits[key])
    if not hits[best]:
        keys = sorted({key for value in values if isinstance(value, dict) for key in value})
        found = f"records with the fields {', '.join(keys[:20])}" if keys else "no records"
        raise LogFormatError(
            f"{name!r} is JSON with {found}, which no format known here has. Known are "
            f"{', '.join(TITLES)}; name one with --format."
        )
    return Detected(best, f"{hits[best]} of {len(values)} records looked at are of its shape")


def _sample(head: bytes) -> list[Any]:
    """The first records of a JSON log, as far as they are whole."""
    pending = [head]
    stream = Bytes(lambda size: pending.pop() if pending else b"")
    values: list[Any] = []
    for raw in records(stream):
        if raw.problem is not None and raw.problem.kind is Kind.CUT_SHORT:
            continue
        try:
            value, _ = parse(raw.content)
        except BadRecordError:
            continue
        values += unwrap(value)
        if len(values) >= _SAMPLE:
            break
    return values[:_SAMPLE]


def unwrap(value: Any) -> Sequence[Any]:
    """The records in a JSON value: itself, the items of a list, or of a list in an envelope."""
    if any(format_.matches(value) for format_ in JSON_FORMATS.values()) or native.matches(value):
        return [value]
    if isinstance(value, list):
        return value
    for format_ in JSON_FORMATS.values():
        for key in format_.envelopes:
            inner = value.get(key) if isinstance(value, dict) else None
            if isinstance(inner, list) and any(format_.matches(item) for item in inner[:5]):
                return inner
    return [value]


def _plain(head: bytes, name: str, options: Options) -> Detected:
    words, _ = decode(head)
    dialect = table.dialect_of(head)
    problem: LogFormatError | None = None
    if dialect is not None:
        try:
            table.plan(dialect.header, options)
        except LogFormatError as error:
            problem = error
        else:
            what = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
            between = what.get(dialect.delimiter, repr(dialect.delimiter))
            return Detected(table.NAME, f"its first line names columns, with {between} between")
    if text.matches(words, options):
        return Detected(text.NAME, "lines begin with a speaker and a colon")
    if dialect is not None and problem is not None and len(dialect.header) > 1:
        raise LogFormatError(f"{name!r} looks like a table. {problem}")
    raise LogFormatError(
        f"{name!r} is none of the formats known here: {', '.join(TITLES)}. Name one with --format."
    )
