"""Problems: what was found wrong in a log, and where."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of problem it is; counted by it."""

    NOT_JSON = "not-json"
    SHAPE = "shape"
    """It is JSON, or a row, and not of the format's shape."""
    AUTHOR = "author"
    """Who spoke is missing or unknown."""
    TOO_LONG = "too-long"
    CUT_SHORT = "cut-short"
    ENCODING = "encoding"
    TIME = "time"
    DUPLICATE = "duplicate"
    EMPTY = "empty"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a log."""

    file: str
    line: int | None = None
    """From 1; where the record begins."""
    record: int | None = None
    """From 1, in files that are not read by lines: an array's item, a table's row."""

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(str(self.line))
        return ":".join(parts) + (f" (record {self.record})" if self.record is not None else "")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is not among the conversations, and why."""

    place: Place
    kind: Kind
    reason: str
    """In words for a reader, with the value and what to do."""
    excerpt: str = ""
    """Beginning of the record as it stands, at most 200 characters."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth a word about a record that is among the conversations."""

    place: Place
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadRecordError(Exception):
    """This record cannot be read. Readers turn it into `Rejected`; it never leaves the room."""

    def __init__(self, kind: Kind, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(reason)


def excerpt(raw: bytes | str) -> str:
    """The beginning of a record, for a reader."""
    text = raw[:800].decode("utf-8", errors="replace") if isinstance(raw, bytes) else raw[:800]
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else flat[:199] + "…"
