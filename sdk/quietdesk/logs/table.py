"""Tables: CSV and TSV, a message per row, or a question and its answer per row.

Columns are known by their names, as other programs call them; `--column text=Body` says what a name
does not tell. Columns beyond are kept in the metadata. Commas, semicolons, tabs and bars are
recognised. Source for the form: RFC 4180.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from quietdesk.errors import LogFormatError
from quietdesk.logs.chat import ratings
from quietdesk.logs.foreign import Object, a_text, json_text, keep, name_of, passages, texts
from quietdesk.logs.format import Context, Options
from quietdesk.logs.grouping import Groups, Piece
from quietdesk.logs.json_values import HEAD_BYTES, too_long
from quietdesk.logs.problem import BadRecordError, Kind, Noted, Place, Rejected, excerpt
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.logs.source import Bytes, Line, decode, lines
from quietdesk.logs.traces import unfold
from quietdesk.types import Author

NAME = "csv"
TITLE = "CSV or TSV: a message per row, or a question and its answer per row"
KEEPS = frozenset(
    {
        *("id", "customer", "messages.id", "messages.author", "messages.text"),
        *("messages.created_at", "messages.references[1]", "messages.ratings[1]"),
    }
)
COLUMNS = (
    *("conversation_id", "customer", "message_id", "created_at", "author", "text"),
    *("reference", "rating"),
)
"""What we write."""

_NAMES: Mapping[str, tuple[str, ...]] = {
    "id": (
        *("conversation_id", "conversation", "conv_id", "dialogue_id", "dialog_id", "chat_id"),
        *("session_id", "thread_id", "ticket_id", "case_id", "conversationid", "sessionid"),
    ),
    "author": (
        *("author", "role", "speaker", "sender", "from", "sender_type", "author_role"),
        *("sender_role", "participant", "who"),
    ),
    "text": (*("text", "message", "content", "body", "utterance", "msg", "message_text", "value"),),
    "created_at": ("created_at", "timestamp", "time", "datetime", "date", "sent_at"),
    "customer": ("customer", "customer_id", "user_id", "contact_id", "visitor_id", "requester_id"),
    "message_id": ("message_id", "msg_id", "turn_id", "utterance_id"),
    "references": (
        *("references", "reference", "expected", "expected_output", "ground_truth", "gold"),
        *("ideal", "target"),
    ),
    "passages": ("passages", "passage", "contexts", "context", "snippet", "retrieved_contexts"),
    "ratings": ("ratings", "rating", "csat", "stars"),
    "question": (
        *("question", "query", "prompt", "user", "user_message", "customer_message", "input"),
        *("instruction",),
    ),
    "reply": (
        *("answer", "reply", "response", "output", "completion", "assistant", "bot"),
        *("bot_message", "hypothesis"),
    ),
}
_LABEL = re.compile(
    r"(?:label|true)[_:. ](?P<label>.+)|(?:pred|predicted|prediction)[_:. ](?P<pred>.+)"
)
_SEPARATOR = re.compile(rb"sep=(.)\r?")
_DELIMITERS = ",;\t|"


@dataclass(slots=True)
class Plan:
    """Which column says what."""

    header: list[str]
    places: dict[str, int] = field(default_factory=dict)
    """Our field to the column's place."""
    labels: dict[int, str] = field(default_factory=dict)
    predictions: dict[int, str] = field(default_factory=dict)
    rest: list[int] = field(default_factory=list)
    """The columns that no field takes."""

    @property
    def pairs(self) -> bool:
        """Whether a row is a question with its answer, not one message."""
        return "text" not in self.places


def plan(header: Sequence[str], options: Options) -> Plan:
    """What the columns of a table are.

    Raises:
        LogFormatError: they do not tell who said what, or a column that was named is not there.
    """
    found = Plan([name.strip() for name in header])
    plain = [re.sub(r"[\s\-.]+", "_", name).lower() for name in found.header]
    for ours, theirs in options.columns.items():
        if theirs not in found.header:
            raise LogFormatError(
                f"There is no column {theirs!r}. Columns are {', '.join(found.header[:30])}."
            )
        place = found.header.index(theirs)
        kind, _, name = ours.partition(".")
        if kind in {"labels", "predictions"} and name:
            getattr(found, kind)[place] = name
        elif ours in _NAMES:
            found.places[ours] = place
        else:
            raise LogFormatError(
                f"There is no field {ours!r} for the column {theirs!r}. Fields are "
                f"{', '.join(_NAMES)}, labels.NAME and predictions.NAME."
            )
    for ours, names in _NAMES.items():
        if ours not in found.places:
            known = [plain.index(name) for name in names if name in plain]
            if known and known[0] not in found.places.values():
                found.places[ours] = known[0]
    for place, name in enumerate(plain):
        label = _LABEL.fullmatch(name)
        if label and place not in found.places.values():
            kept = found.labels if label["label"] else found.predictions
            kept.setdefault(place, label["label"] or label["predicted"])
        elif name == "intent":
            found.labels.setdefault(place, "intent")
    _check(found)
    used = {*found.places.values(), *found.labels, *found.predictions}
    found.rest = [i for i in range(len(header)) if i not in used]
    return found


def _check(found: Plan) -> None:
    if {"author", "text"} <= found.places.keys():
        for name in ("question", "reply"):
            found.places.pop(name, None)
        if "id" not in found.places:
            raise LogFormatError(
                "No column tells which conversation a message belongs to. Say so with "
                f"--column id=NAME. Columns are {', '.join(found.header[:30])}."
            )
    elif "question" in found.places:
        for name in ("author", "text", "message_id"):
            found.places.pop(name, None)
    elif "text" not in found.places:
        raise LogFormatError(
            "The columns do not tell who said what. Say so with --column text=NAME and "
            f"--column author=NAME, or question=NAME and reply=NAME. Columns are "
            f"{', '.join(found.header[:30])}."
        )


def conversation(rows: Sequence[Sequence[Any]], found: Plan, context: Context) -> Record:
    """The conversation that some rows say; one row where rows are pairs or single messages."""
    record = Record(_cell(rows[0], found, "id") or context.id, ())
    said: list[tuple[MessageRecord, Object]] = []
    for row in rows:
        extra = {found.header[i]: row[i] for i in found.rest if row[i] not in (None, "")}
        if found.pairs:
            said += [(message, extra) for message in _pair(row, found, context)]
        else:
            said.append((_message(row, found, len(said), context), extra))
        record.customer = record.customer or _cell(row, found, "customer")
    times = [message.created_at for message, _ in said if message.created_at is not None]
    if len(times) == len(said) and times != sorted(times):
        said.sort(key=lambda pair: pair[0].created_at or times[0])
        context.note(Kind.OTHER, "Its rows were not in the order of their times; they were sorted.")
    record.messages = tuple(message for message, _ in said)
    _keep(record, [extra for _, extra in said])
    return record


def _keep(record: Record, extras: list[Object]) -> None:
    """What every row says alike is about the conversation; the rest is about its message."""
    first = extras[0] if extras else {}
    same = {k: v for k, v in first.items() if all(extra.get(k) == v for extra in extras)}
    record.metadata.update(same)
    left = [{k: v for k, v in extra.items() if k not in same} for extra in extras]
    messages = {str(i): more for i, more in enumerate(left) if more}
    if messages:
        keep(record, "csv", {"messages": messages})


def _message(row: Sequence[Any], found: Plan, at: int, context: Context) -> MessageRecord:
    if "author" in found.places:
        author = context.author(_cell(row, found, "author"), at)
    else:
        author = Author.CUSTOMER
        context.note(Kind.AUTHOR, "No column tells who speaks; it was taken as the customer.")
    message = MessageRecord(author, a_text(row[found.places["text"]], "the text"))
    _fill(message, row, found, context)
    return message


def _pair(row: Sequence[Any], found: Plan, context: Context) -> list[MessageRecord]:
    question = a_text(row[found.places["question"]], "the question")
    said = [MessageRecord(Author.CUSTOMER, question)]
    if "reply" in found.places:
        said.append(MessageRecord(Author.BOT, a_text(row[found.places["reply"]], "the reply")))
    _fill(said[-1], row, found, context)
    return said


def _fill(message: MessageRecord, row: Sequence[Any], found: Plan, context: Context) -> None:
    message.id = _cell(row, found, "message_id") or ""
    for name, place in found.places.items():
        value = row[place]
        if value is None or value == "":
            continue
        if name == "created_at":
            message.created_at = context.time(value)
        elif name == "references":
            message.references = texts(unfold(value))
        elif name == "passages":
            unfolded = unfold(value)
            message.passages = passages(unfolded if isinstance(unfolded, list) else [unfolded])
        elif name == "ratings":
            message.ratings = ratings(unfold(value))
            if not message.ratings:
                context.note(Kind.SHAPE, f"The rating {value!r} is no number; it was left out.")
    for place, name in found.labels.items():
        if row[place] not in (None, ""):
            message.labels[name] = texts(unfold(row[place]))
    for place, name in found.predictions.items():
        if row[place] not in (None, ""):
            message.predictions[name] = texts(unfold(row[place]))


def _cell(row: Sequence[Any], found: Plan, name: str) -> str | None:
    place = found.places.get(name)
    return name_of(row[place]) if place is not None else None


def conversations(
    rows: Iterable[tuple[Place, list[Any]]], found: Plan, options: Options
) -> Iterator[Record | Rejected | Noted]:
    """The conversations of a table's rows, those of one conversation brought together."""
    if found.pairs or "author" not in found.places:
        for place, row in rows:
            yield from _read([row], found, Context(place, options))
        return
    with Groups(options.limit) as groups:
        file = ""
        for place, row in rows:
            name = _cell(row, found, "id")
            file = place.file
            if name is None:
                reason = "This row does not tell which conversation it belongs to."
                yield Rejected(place, Kind.SHAPE, reason, excerpt(_shown(row)))
            else:
                groups.add(name, Piece(place.line, place.record, msgspec.json.encode(row)))
        for group in groups:
            place = Place(file, group.pieces[0].line, group.pieces[0].record)
            if group.problem is not None:
                yield Rejected(place, group.problem.kind, group.problem.reason)
                continue
            cells = [msgspec.json.decode(piece.content) for piece in group.pieces]
            yield from _read(cells, found, Context(place, options))


def _read(
    rows: list[list[Any]], found: Plan, context: Context
) -> Iterator[Record | Rejected | Noted]:
    try:
        record = conversation(rows, found, context)
    except BadRecordError as error:
        shown = excerpt(_shown(rows[0]))
        yield Rejected(context.place, error.kind, error.reason, shown)
        return
    yield from context.notes
    yield record


def _shown(row: Sequence[Any]) -> str:
    return " | ".join(str(cell) for cell in row[:20])


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table is written."""

    delimiter: str
    quoted: bool
    header: tuple[str, ...]


def dialect_of(head: bytes) -> Dialect | None:
    """How a table that begins so is written; None where it does not look like one."""
    text, _ = decode(head)
    rows = [row for row in text.split("\n")[:200] if row.strip()]
    if not rows:
        return None
    named = _SEPARATOR.fullmatch(rows[0].encode())
    if named:
        rows = rows[1:]
    delimiters = named[1].decode() if named else _DELIMITERS
    best = max(delimiters, key=lambda d: rows[0].count(d)) if rows else ""
    if not best or best not in rows[0]:
        return None
    # Programs that write no quotes in TSV leave lone ones inside the text.
    starts = [c for row in rows[1:] for c in row.rstrip("\r").split(best) if c.startswith('"')]
    quoted = best != "\t" or all(c.endswith('"') and len(c) > 1 for c in starts)
    try:
        header = next(csv.reader([rows[0]], delimiter=best, quoting=_quoting(quoted)))
    except csv.Error:
        return None
    return Dialect(best, quoted, tuple(header))


def _quoting(quoted: bool) -> Any:
    return csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE


def read(stream: Bytes, file: str, options: Options) -> Iterator[Record | Rejected | Noted]:
    """The conversations of a table.

    Raises:
        LogFormatError: it does not look like a table, or its columns do not tell who said what.
    """
    dialect = dialect_of(stream.peek(HEAD_BYTES))
    if dialect is None:
        raise LogFormatError(f"{file!r} is no table: its first line has no columns.")
    found = plan(dialect.header, options)
    problems: list[Rejected | Noted] = []
    cells = _rows(stream, file, dialect, options, problems)
    for item in conversations(cells, found, options):
        yield from problems
        problems.clear()
        yield item
    yield from problems


def _rows(
    stream: Bytes,
    file: str,
    dialect: Dialect,
    options: Options,
    problems: list[Rejected | Noted],
) -> Iterator[tuple[Place, list[str]]]:
    """The rows below the header; what is wrong with one goes to `problems`."""
    feed = _Feed(lines(stream, options.limit), file, problems)
    # The limit is the process's, not the reader's: it is only ever raised here.
    csv.field_size_limit(max(csv.field_size_limit(), options.limit))
    reader = csv.reader(feed, delimiter=dialect.delimiter, quoting=_quoting(dialect.quoted))
    width, begun = len(dialect.header), False
    while True:
        place = Place(file, feed.number + 1)
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"This row cannot be read: {error}."
            problems.append(Rejected(place, Kind.SHAPE, reason, excerpt(feed.last)))
            continue
        if not begun:
            begun = tuple(row) == dialect.header
            continue
        if not row or all(not cell.strip() for cell in row):
            continue
        if len(row) > width:
            reason = f"This row has {len(row)} cells, the header {width}."
            problems.append(Rejected(place, Kind.SHAPE, reason, excerpt(_shown(row))))
            continue
        yield place, row + [""] * (width - len(row))


class _Feed:
    """Lines as the csv module wants them."""

    def __init__(self, source: Iterator[Line], file: str, problems: list[Rejected | Noted]) -> None:
        self._source = source
        self._file = file
        self._problems = problems
        self.number = 0
        self.last = ""

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._source)
            self.number = line.number
            place = Place(self._file, line.number)
            if line.too_long:
                problem = too_long(len(line.raw))
                shown = excerpt(line.raw)
                self._problems.append(Rejected(place, problem.kind, problem.reason, shown))
                continue
            text, clean = decode(line.raw)
            if not clean:
                reason = "It is not UTF-8; it was read as Windows-1252."
                self._problems.append(Noted(place, Kind.ENCODING, reason))
            self.last = text
            return text + "\n"


def header_line() -> str:
    """The first line of what we write."""
    return ",".join(COLUMNS) + "\r\n"


def encode(record: Record) -> str:
    """The rows of a conversation."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\r\n")
    for message in record.messages:
        time = message.created_at.isoformat() if message.created_at is not None else ""
        # `human` is the customer in other programs' tables.
        author = "agent" if message.author is Author.HUMAN else message.author.value
        reference = message.references[0] if message.references else ""
        if reference.lstrip()[:1] in {"[", "{"}:
            # Or it would be read as a list of references.
            reference = json_text([reference])
        rating = repr(message.ratings[0]) if message.ratings else ""
        head = (record.id, record.customer or "", message.id, time, author, message.text)
        writer.writerow((*head, reference, rating))
    return sink.getvalue()
