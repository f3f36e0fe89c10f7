"""Format: what there is to know about one way of writing conversations down."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from quietdesk.logs.problem import BadRecordError, Kind, Noted, Place
from quietdesk.logs.record import Record
from quietdesk.logs.source import MAX_RECORD_BYTES
from quietdesk.types import Author

AUTHORS: Mapping[str, Author] = {
    **dict.fromkeys(
        (
            *("customer", "user", "human", "client", "visitor", "guest", "caller", "end-user"),
            *("end user", "contact", "lead", "consumer", "buyer", "shopper", "requester", "member"),
        ),
        Author.CUSTOMER,
    ),
    **dict.fromkeys(
        (
            *("bot", "assistant", "ai", "chatbot", "gpt", "chatgpt", "model", "agent_bot"),
            *("agentbot", "virtual agent", "virtual assistant", "bing", "bard"),
        ),
        Author.BOT,
    ),
    **dict.fromkeys(
        (
            *("agent", "human agent", "human_agent", "operator", "advisor", "representative"),
            *("rep", "support", "staff", "admin", "employee", "teammate", "team", "specialist"),
        ),
        Author.HUMAN,
    ),
    **dict.fromkeys(("system", "developer", "trigger"), Author.SYSTEM),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), Author.TOOL),
}
"""Who speaks, by the words of other programs, in lower case.

`human` is the customer, as ShareGPT and LangChain have it; a person of the support team is an
`agent`.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """How a log is to be read where it does not say so itself."""

    authors: Mapping[str, Author] = field(default_factory=dict)
    """Who speaks, by the log's own names in lower case, before `AUTHORS`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of a table: our field to the table's column, where its name does not tell."""
    limit: int = MAX_RECORD_BYTES
    """Bytes that one conversation may have."""
    label: str = ""
    """What the ids of conversations begin with that have none of their own; empty: the file."""


class Context:
    """What stands around one record while it is read: its place, the options, room for notes.

    Attributes:
        place: Where the record stands.
        options: How to read.
        envelope: The object around the record, without the list that the record stands in.
        notes: What is worth a word.
    """

    def __init__(
        self, place: Place, options: Options, envelope: Mapping[str, Any] | None = None
    ) -> None:
        self.place = place
        self.options = options
        self.envelope = envelope or {}
        self.notes: list[Noted] = []

    def note(self, kind: Kind, reason: str) -> None:
        """Remember something; the same thing about a record only once."""
        noted = Noted(self.place, kind, reason)
        if noted not in self.notes:
            self.notes.append(noted)

    @property
    def id(self) -> str:
        """An id for a conversation that has none: where it stands."""
        place = self.place
        number = place.line if place.record is None else place.record
        label = self.options.label or place.file
        return f"{label}:{number}" if number is not None else label

    def author(self, role: object, at: int, known: Mapping[str, Author] = AUTHORS) -> Author:
        """Who speaks, by the log's own word.

        Args:
            role: The word.
            at: The message's place in the conversation, from 0, for the error.
            known: Who is who where the options do not say.

        Raises:
            BadRecordError: the word is missing or unknown.
        """
        if not isinstance(role, str) or not role.strip():
            raise BadRecordError(Kind.AUTHOR, f"Message {at + 1} does not say who speaks.")
        word = role.strip().lower()
        author = self.options.authors.get(word) or known.get(word)
        if author is None:
            raise BadRecordError(
                Kind.AUTHOR,
                f"Message {at + 1} is by {role!r}, and it is not known who that is. "
                f"Say so with --author {role!r}=customer (or bot, human, system, tool).",
            )
        return author

    def time(self, value: object) -> datetime | None:
        """The time that some JSON means: ISO 8601, or seconds to microseconds since 1970.

        What cannot be read gives None and a note.
        """
        if value is None or value == "":
            return None
        time = _time(value)
        if time is None:
            self.note(Kind.TIME, f"The time {value!r} cannot be read; it was left out.")
            return None
        return self.zoned(time)

    def zoned(self, time: datetime | None) -> datetime | None:
        """The time with a zone: UTC where it has none, with a note."""
        if time is None or time.tzinfo is not None:
            return time
        self.note(Kind.TIME, "Its times have no zone; they were taken as UTC.")
        return time.replace(tzinfo=UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PATTERNS = (
    "%Y-%m-%d %H:%M:%S %Z",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%a, %d %b %Y %H:%M:%S %z",
)


def _time(value: object) -> datetime | None:
    if isinstance(value, str):
        text = value.strip()
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
        try:
            value = float(text)
        except ValueError:
            return _spelt(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Seconds, milliseconds or microseconds: the ranges do not overlap between 1973 and 5138.
    scale = 1 if abs(value) < 1e11 else 1e3 if abs(value) < 1e14 else 1e6
    try:
        return _EPOCH + timedelta(microseconds=round(value * (1e6 / scale)))
    except (OverflowError, ValueError):
        return None


def _spelt(text: str) -> datetime | None:
    for pattern in _PATTERNS:
        try:
            time = datetime.strptime(text, pattern)
        except ValueError:
            continue
        return time.replace(tzinfo=UTC) if text.endswith(("UTC", "GMT")) else time
    return None


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A way of writing conversations as JSON."""

    name: str
    title: str
    matches: Callable[[Any], bool]
    """Whether a JSON value is a record of this format."""
    read: Callable[[Any, Context], Iterable[Record]]
    """The conversations of one value; of a list of values where there is a `key`.

    Raises `BadRecordError`; any other exception is a bug.
    """
    keeps: frozenset[str]
    """Native fields that `dump` can say, with dots: `messages.passages`; of one that ends in `[1]`,
    only the first value."""
    dump: Callable[[Record], Iterable[Any]]
    """The values that say a conversation in this format."""
    key: Callable[[Any], str | None] | None = None
    """Where several values make up a conversation: which one a value belongs to, if any."""
    authors: frozenset[Author] = frozenset(Author)
    """Whose messages `dump` can say; it passes over the others."""
    envelopes: tuple[str, ...] = ()
    """Keys of the object that may stand around a list of records."""


ALL_FIELDS = frozenset(
    {
        *("id", "customer", "labels", "predictions", "ratings", "metadata", "messages.author"),
        *("messages.text", "messages.id", "messages.created_at", "messages.references"),
        *("messages.passages", "messages.labels", "messages.predictions", "messages.ratings"),
        "messages.tool_calls",
    }
)
"""Every field of the native form."""


def lost(
    record: Record, keeps: frozenset[str], authors: frozenset[Author] = frozenset(Author)
) -> set[str]:
    """What a conversation says and a format cannot: names of fields, and whose messages."""
    gone = set()
    for name in ALL_FIELDS - keeps:
        inner = name.removeprefix("messages.")
        holders = [record] if inner == name else record.messages
        values = [getattr(holder, inner) for holder in holders]
        if f"{name}[1]" in keeps:
            if any(_several(value) for value in values):
                gone.add(f"{name} after the first")
        elif any(values):
            gone.add(name)
    return gone | {f"messages by {m.author}" for m in record.messages if m.author not in authors}


def _several(value: Any) -> bool:
    if isinstance(value, dict):
        return len(value) > 1 or any(_several(item) for item in value.values())
    return len(value) > 1
