"""Records: the native form as msgspec structs, which decode and copy faster than Pydantic models.

Field for field the same as `quietdesk.types.Transcript`; a test keeps the two equal.
"""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from quietdesk.types import Author, Transcript

Zoned = Annotated[datetime, msgspec.Meta(tz=True)]
Labels = dict[str, tuple[str, ...]]


class CallRecord(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A tool call."""

    id: str
    name: str
    arguments: str


class PassageRecord(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A passage that the bot was shown."""

    id: str
    text: str
    source: str = ""
    line: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    score: float | None = None


class MessageRecord(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a logged conversation."""

    author: Author
    text: str
    id: str = ""
    created_at: Zoned | None = None
    references: tuple[str, ...] = ()
    passages: tuple[PassageRecord, ...] = ()
    labels: Labels = msgspec.field(default_factory=dict)
    predictions: Labels = msgspec.field(default_factory=dict)
    ratings: tuple[float, ...] = ()
    tool_calls: tuple[CallRecord, ...] = ()


class Record(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One logged conversation."""

    id: str
    messages: tuple[MessageRecord, ...]
    customer: str | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    predictions: Labels = msgspec.field(default_factory=dict)
    ratings: tuple[float, ...] = ()
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


def to_transcript(record: Record) -> Transcript:
    """The same conversation as users see it."""
    return Transcript.model_validate(record, from_attributes=True)


def from_transcript(transcript: Transcript) -> Record:
    """The same conversation as readers and writers handle it."""
    return msgspec.convert(transcript.model_dump(), Record)
