r"""Plain transcripts: `Customer: ...` and `Agent: ...`, a turn per line, as people write them down.

A time may stand before the speaker, in brackets or not. What does not begin with a known speaker
goes on with the message before. Conversations are parted by lines such as `---`, `=== id ===` or
`Conversation 12`, or, where there are none, by blank lines (unless those part every single turn).
What we write indents the later lines of a message by two spaces, so that nothing in them can look
like a turn.
"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import msgspec

from quietdesk.errors import LogFormatError
from quietdesk.logs.format import AUTHORS, Context, Options
from quietdesk.logs.json_values import HEAD_BYTES, too_long
from quietdesk.logs.problem import Kind, Noted, Place, Rejected, excerpt
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.logs.source import Bytes, Line, decode, lines
from quietdesk.types import Author

NAME = "text"
TITLE = "Plain transcripts: a speaker, a colon, what was said"
KEEPS = frozenset({"id", "messages.author", "messages.text", "messages.created_at"})

_TURN = re.compile(
    r"(?:\[(?P<time>[^\]]{4,40})\]\s*|(?P<clock>\d[\d\-/.:T ]{3,25}(?:[AP]M)?)[\s\-|–,]+)?"
    r"(?P<speaker>[^\W\d_][^:\[\]()\n]{0,39}?)\s*(?:\((?P<time2>[^)]{4,40})\))?\s*:(?:\s|$)"
    r"(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
_PARTING = re.compile(r"\s*(?:-{3,}|={3,})\s*(?P<name>.*?)\s*[-=]*\s*")
_TITLE = re.compile(
    r"#*\s*(?:conversation|chat|dialog(?:ue)?|session|transcript|ticket)\b[\s#:]*"
    r"(?P<name>[^\s#:]*\d[^\s:]*)\s*:?",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:conversation|chat|dialog(?:ue)?|session|transcript|ticket)?\s*(?:id|no\.?)?\s*[:#]?\s*(.+)",
    re.IGNORECASE,
)
_CLOCK_ONLY = re.compile(r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?\s*(?:[AP]M)?", re.IGNORECASE)
_WORDS = {
    Author.CUSTOMER: "customer",
    Author.BOT: "bot",
    Author.HUMAN: "agent",
    Author.SYSTEM: "system",
    Author.TOOL: "tool",
}


def speakers(head: str) -> Counter[str]:
    """How often each word stands where a speaker would, in lower case."""
    turns = (_TURN.fullmatch(line) for line in head.split("\n") if line[:1].strip())
    return Counter(_word(turn["speaker"]) for turn in turns if turn)


def matches(head: str, options: Options) -> bool:
    """Whether the beginning of a file looks like a transcript with at least one known speaker."""
    found = speakers(head)
    known = sum(count for word, count in found.items() if _author(word, options))
    begun = sum(1 for line in head.split("\n") if line[:1].strip())
    return known > 0 and known * 4 >= begun


def read(stream: Bytes, file: str, options: Options) -> Iterator[Record | Rejected | Noted]:
    """The conversations of a transcript.

    Raises:
        LogFormatError: it is not known who one of the main speakers is.
    """
    head, _ = decode(stream.peek(HEAD_BYTES))
    _check_speakers(head, options)
    by_blank = _parts_by_blank(head, options)
    reader = _Reader(file, options)
    for line in lines(stream, options.limit):
        parting = _parting(decode(line.content)[0]) if len(line.raw) < 500 else None
        if parting is not None or (by_blank and not line.content):
            yield from reader.end()
            reader = _Reader(file, options, _name(parting["name"]) if parting else None)
        else:
            reader.take(line)
    yield from reader.end()


def encode(record: Record) -> str:
    """The transcript of a conversation, with the line that parts it from the one before."""
    rows = [f"=== {_written(record.id)} ==="]
    for message in record.messages:
        time = f"[{message.created_at.isoformat()}] " if message.created_at is not None else ""
        first, *others = message.text.split("\n")
        rows.append(f"{time}{_WORDS[message.author]}: {first}")
        rows += [f"  {other}" for other in others]
    return "\n".join(rows) + "\n"


class _Reader:
    """The conversation under way."""

    def __init__(self, file: str, options: Options, name: str | None = None) -> None:
        self._file = file
        self._options = options
        self._name = name
        self._context: Context | None = None
        self._before: Rejected | None = None
        """What stands before the first turn."""
        self._said: list[MessageRecord] = []
        self._rows: list[str] = []
        """Of the message under way."""
        self._blank: list[str] = []
        """Blank rows behind it, which count only if more of the message follows."""
        self._size = 0

    def take(self, line: Line) -> None:
        text, clean = decode(line.content)
        if self._context is None:
            if not text.strip():
                return
            self._context = Context(Place(self._file, line.number), self._options)
        if not clean:
            self._context.note(Kind.ENCODING, "It is not UTF-8; it was read as Windows-1252.")
        self._size += len(line.raw) + 1
        if line.too_long:
            self._size += self._options.limit
        if self._size > self._options.limit:
            return
        turn = _TURN.fullmatch(text) if text[:1].strip() else None
        author = _author(turn["speaker"], self._options) if turn else None
        if turn is not None and author is not None:
            self._finish_message()
            self._said.append(MessageRecord(author, "", created_at=self._time(turn)))
            self._rows = [turn["text"]]
        elif not self._said:
            self._begin(text, turn, line.number)
        elif text:
            self._rows += [*self._blank, text.removeprefix("  ")]
            self._blank = []
        else:
            self._blank.append("")

    def _begin(self, text: str, turn: re.Match[str] | None, line: int) -> None:
        """What comes before anyone known speaks."""
        if self._before is None and text.strip():
            who = f", but with {turn['speaker']!r}" if turn else ""
            reason = (
                f"It does not begin with a known speaker{who}. Say who speaks with "
                "--author NAME=customer (or bot, human, system)."
            )
            self._before = Rejected(Place(self._file, line), Kind.AUTHOR, reason, excerpt(text))

    def _time(self, turn: re.Match[str]) -> datetime | None:
        assert self._context is not None
        text = turn["time"] or turn["clock"] or turn["time2"]
        if text is not None and _CLOCK_ONLY.fullmatch(text.strip()):
            self._context.note(Kind.TIME, "Its times have no date; they were left out.")
            return None
        return self._context.time(text)

    def _finish_message(self) -> None:
        if self._said:
            self._said[-1].text = "\n".join(self._rows)
        self._blank = []

    def end(self) -> Iterator[Record | Rejected | Noted]:
        """What was gathered."""
        self._finish_message()
        context = self._context
        if context is not None and self._size > self._options.limit:
            problem = too_long(self._options.limit)
            yield Rejected(context.place, problem.kind, problem.reason)
        elif context is not None and self._said:
            if self._before is not None:
                reason = "What stands before its first known speaker was left out."
                yield Noted(self._before.place, Kind.AUTHOR, f"{reason} {self._before.excerpt!r}")
            yield from context.notes
            yield Record(self._name or context.id, tuple(self._said))
        elif self._before is not None:
            yield self._before


def _check_speakers(head: str, options: Options) -> None:
    found = speakers(head)
    total = sum(found.values())
    for word, count in found.most_common(5):
        if count >= 2 and count * 5 >= total and _author(word, options) is None:
            raise LogFormatError(
                f"It is not known who {word!r} is, who seems to speak {count} times at the "
                f"beginning of the transcript. Say so with --author {word!r}=customer "
                "(or bot, human, system)."
            )


def _parts_by_blank(head: str, options: Options) -> bool:
    """Whether blank lines part conversations: there is nothing else that does, and few of them."""
    rows = [row.rstrip("\r") for row in head.split("\n")]
    if any(_parting(row) for row in rows):
        return False
    begins = [_begins_turn(row, options) for row in rows]
    turns = sum(begins)
    after_blank = sum(begins[i] and not rows[i - 1].strip() for i in range(1, len(rows)))
    return after_blank * 2 < turns


def _begins_turn(row: str, options: Options) -> bool:
    turn = _TURN.fullmatch(row) if row[:1].strip() else None
    return turn is not None and _author(turn["speaker"], options) is not None


def _parting(row: str) -> re.Match[str] | None:
    return _PARTING.fullmatch(row) or _TITLE.fullmatch(row)


def _word(speaker: str) -> str:
    return re.sub(r"[\s#]*\d+$", "", speaker.strip().lower())


def _author(speaker: str, options: Options) -> Author | None:
    whole, word = speaker.strip().lower(), _word(speaker)
    return options.authors.get(whole) or options.authors.get(word) or AUTHORS.get(word)


def _name(text: str) -> str | None:
    if text.startswith('"'):
        try:
            return msgspec.json.decode(text, type=str)
        except msgspec.DecodeError:
            return text
    named = _NAMED.fullmatch(text)
    return named[1] if named else text or None


def _written(name: str) -> str:
    plain = _PARTING.fullmatch(f"=== {name} ===")
    if plain is not None and _name(plain["name"]) == name and not name.startswith('"'):
        return name
    return msgspec.json.encode(name).decode()
