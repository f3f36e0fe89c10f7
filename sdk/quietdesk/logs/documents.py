"""Documents: the conversations of a JSON log whose format is known."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from quietdesk.logs import native
from quietdesk.logs.format import Context, JsonFormat, Options
from quietdesk.logs.grouping import Groups, Piece
from quietdesk.logs.json_values import Raw, parse, records
from quietdesk.logs.problem import BadRecordError, Kind, Noted, Place, Rejected, excerpt
from quietdesk.logs.record import Record
from quietdesk.logs.source import Bytes, Span

Item = Record | Rejected | Noted


def read_native(
    stream: Bytes, file: str, options: Options, span: Span | None = None
) -> Iterator[Item]:
    """The conversations of a log in the native form, or of some of its lines."""
    for raw in records(stream, (), options.limit, span):
        context = Context(Place(file, raw.line, raw.record), options)
        try:
            if raw.problem is not None:
                raise raw.problem
            record = native.decode(raw.content, context)
        except BadRecordError as error:
            yield Rejected(context.place, error.kind, error.reason, excerpt(raw.content))
        else:
            yield from context.notes
            yield record


def read_json(
    stream: Bytes, file: str, format_: JsonFormat, options: Options, span: Span | None = None
) -> Iterator[Item]:
    """The conversations of a log in another program's JSON, or of some of its lines."""
    raws = records(stream, format_.envelopes, options.limit, span)
    return read_raws(raws, file, format_, options)


def read_raws(
    raws: Iterable[Raw], file: str, format_: JsonFormat, options: Options
) -> Iterator[Item]:
    """The conversations of some records."""
    values = _values(raws, file, format_, options)
    return _grouped(values, file, format_, options) if format_.key else _single(values, format_)


class _Value(NamedTuple):
    """One record, or why it is none."""

    value: Any
    context: Context
    content: bytes
    """What it stands in, for a reader."""
    problem: BadRecordError | None = None

    @property
    def rejected(self) -> Rejected:
        assert self.problem is not None
        return _rejected(self.problem, self.context, self.content)


def _rejected(problem: BadRecordError, context: Context, content: bytes) -> Rejected:
    return Rejected(context.place, problem.kind, problem.reason, excerpt(content))


def _values(
    raws: Iterable[Raw], file: str, format_: JsonFormat, options: Options
) -> Iterator[_Value]:
    for raw in raws:
        context = Context(Place(file, raw.line or None, raw.record), options)
        try:
            if raw.problem is not None:
                raise raw.problem
            value, clean = parse(raw.content)
        except BadRecordError as error:
            yield _Value(None, context, raw.content, error)
            continue
        inner, envelope = _unwrapped(value, format_)
        for number, item in enumerate(inner):
            if len(inner) > 1 or envelope:
                place = Place(file, raw.line or None, number + 1)
                context = Context(place, options, envelope)
            if not clean and not number:
                context.note(Kind.ENCODING, "It is not UTF-8; it was read as Windows-1252.")
            yield _Value(item, context, raw.content)


def _unwrapped(value: Any, format_: JsonFormat) -> tuple[Sequence[Any], dict[str, Any]]:
    """The records in a JSON value, and the envelope around them."""
    if format_.matches(value):
        return [value], {}
    if isinstance(value, list):
        return value, {}
    for key in format_.envelopes:
        inner = value.get(key) if isinstance(value, dict) else None
        if isinstance(inner, list):
            return inner, {k: v for k, v in value.items() if k != key}
    return [value], {}


def _single(values: Iterable[_Value], format_: JsonFormat) -> Iterator[Item]:
    """The conversations of a format whose every record is one."""
    for value in values:
        if value.problem is not None:
            yield value.rejected
        else:
            yield from _read(value.value, format_, value.context, value.content)


def _grouped(
    values: Iterable[_Value], file: str, format_: JsonFormat, options: Options
) -> Iterator[Item]:
    """The conversations of a format that says one in several records."""
    assert format_.key is not None
    with Groups(options.limit) as groups:
        for value in values:
            if value.problem is not None:
                yield value.rejected
                continue
            name = format_.key(value.value)
            if name is None:
                reason = "It does not tell which conversation it belongs to."
                yield value._replace(problem=BadRecordError(Kind.SHAPE, reason)).rejected
                continue
            yield from value.context.notes
            place = value.context.place
            packed = msgspec.json.encode(value.value)
            groups.add(name, Piece(place.line, place.record, packed))
        for group in groups:
            first = group.pieces[0]
            context = Context(Place(file, first.line, first.record), options)
            if group.problem is not None:
                yield _rejected(group.problem, context, first.content)
                continue
            whole = [msgspec.json.decode(piece.content) for piece in group.pieces]
            yield from _read(whole, format_, context, first.content)


def _read(value: Any, format_: JsonFormat, context: Context, content: bytes) -> Iterator[Item]:
    try:
        found = list(format_.read(value, context))
    except BadRecordError as error:
        yield _rejected(error, context, content)
        return
    if not all(record.messages for record in found):
        context.note(Kind.EMPTY, "It has no message.")
    yield from context.notes
    yield from found
