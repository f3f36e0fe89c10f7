"""Quietdesk's own store: its conversations as transcripts, each as its active branch stands."""

from collections.abc import Iterator
from typing import Protocol

from quietdesk.logs.foreign import Object, keep
from quietdesk.logs.format import ALL_FIELDS
from quietdesk.logs.record import CallRecord, MessageRecord, Record
from quietdesk.types import Author, ConversationInfo, Message

NAME = "store"
TITLE = "Quietdesk's own database of conversations"
KEEPS = ALL_FIELDS - {
    *("labels", "predictions", "ratings", "messages.references", "messages.passages"),
    *("messages.labels", "messages.predictions", "messages.ratings"),
}
_PAGE = 500


class Conversations(Protocol):
    """The part of a store that is needed here."""

    def conversations(self, *, limit: int, offset: int) -> list[ConversationInfo]:
        """Some of the conversations."""
        ...

    def messages(self, conversation_id: str) -> list[Message]:
        """The active branch of one."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def read(store: Conversations) -> Iterator[Record]:
    """Every conversation that is not deleted."""
    seen: set[str] = set()
    offset = 0
    while page := store.conversations(limit=_PAGE, offset=offset):
        offset += len(page)
        for info in page:
            # The list is by last use: a conversation that is used meanwhile may come twice.
            if info.id not in seen:
                seen.add(info.id)
                yield record_of(info, store.messages(info.id))


def record_of(info: ConversationInfo, messages: list[Message]) -> Record:
    """One conversation of a store."""
    said = [MessageRecord(Author.SYSTEM, info.system, created_at=info.created_at)]
    extras: dict[str, Object] = {}
    for message in messages:
        said.append(
            MessageRecord(
                message.author,
                message.text,
                id=message.id,
                created_at=message.created_at,
                tool_calls=tuple(
                    CallRecord(call.id, call.name, call.arguments) for call in message.tool_calls
                ),
            )
        )
        extra: Object = {
            "finish_reason": message.finish_reason and message.finish_reason.value,
            "tool_call_id": message.tool_call_id,
            "model": message.model,
            "usage": message.usage and message.usage.model_dump(mode="json"),
            "pinned": message.pinned or None,
        }
        extra = {key: value for key, value in extra.items() if value is not None}
        if extra:
            extras[str(len(said) - 1)] = extra
    if not info.system:
        del said[0]
        extras = {str(int(at) - 1): extra for at, extra in extras.items()}
    record = Record(info.id, tuple(said), customer=info.customer, metadata=dict(info.metadata))
    models = {message.model for message in messages if message.model}
    if len(models) == 1:
        record.metadata.setdefault("model", models.pop())
    extra = {"title": info.title} if info.title else {}
    if extras:
        extra["messages"] = extras
    keep(record, "store", extra)
    return record
