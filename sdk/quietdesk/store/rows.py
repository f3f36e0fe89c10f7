"""Rows: messages and conversations as the database holds them, and back."""

import json
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from quietdesk.store import tree
from quietdesk.types import (
    Author,
    ContextReport,
    ConversationInfo,
    FinishReason,
    Message,
    ToolCall,
    Usage,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOOL_CALLS = TypeAdapter(tuple[ToolCall, ...])
_WITH_COLUMN = frozenset(
    {
        "id",
        "author",
        "text",
        "created_at",
        "parent_id",
        "finish_reason",
        "tool_calls",
        "tool_call_id",
        "usage",
        "context",
        "model",
        "pinned",
    }
)
_REST = frozenset(Message.model_fields) - _WITH_COLUMN


def now() -> int:
    """The time by this machine's clock, as the database holds it."""
    return micros(datetime.now(UTC))


def micros(moment: datetime) -> int:
    """A time as the database holds it."""
    return (tree.aware(moment) - _EPOCH) // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """A time that the database holds."""
    return _EPOCH + timedelta(microseconds=micros)


def message_columns(message: Message) -> dict[str, Any]:
    """A message's columns, but for its place in the tree."""
    rest = message.model_dump(mode="json", include=set(_REST), exclude_defaults=True)
    return {
        "id": message.id,
        "author": message.author.value,
        "text": message.text,
        "created_at": micros(message.created_at),
        "finish_reason": message.finish_reason.value if message.finish_reason else None,
        "tool_call_id": message.tool_call_id,
        "tool_calls": _json([call.model_dump(mode="json") for call in message.tool_calls]),
        "model": message.model,
        "pinned": message.pinned,
        "usage": _json(message.usage and message.usage.model_dump(mode="json")),
        # A report names every message before it: over a long conversation they outgrow the texts.
        "context": zlib.compress(json.dumps(message.context.model_dump(mode="json")).encode())
        if message.context
        else None,
        "rest": _json(rest),
    }


def _json(value: object) -> str | None:
    """JSON text of ASCII letters, lone surrogates escaped; None for nothing."""
    return json.dumps(value) if value else None


def to_message(
    row: Row[Any], parent_id: str | None, finish_reason: str | None, *, report: bool, recipe: bool
) -> Message:
    """The message of a row.

    Args:
        row: Of the table `message`.
        parent_id: The id of the message at its parent's place.
        finish_reason: The row's own, or what it is now that its writer is dead.
        report: Whether to read its context report.
        recipe: Whether to read how it was made.
    """
    rest = {}
    if row.rest:
        # A newer version, before this one was brought back, may have kept fields unknown to it.
        rest = {name: value for name, value in json.loads(row.rest).items() if name in _REST}
        if not recipe:
            rest.pop("recipe", None)
    return Message(
        id=row.id,
        author=Author(row.author),
        text=row.text,
        created_at=moment(row.created_at),
        parent_id=parent_id,
        finish_reason=FinishReason(finish_reason) if finish_reason else None,
        tool_calls=_TOOL_CALLS.validate_python(json.loads(row.tool_calls or "[]")),
        tool_call_id=row.tool_call_id,
        usage=Usage.model_validate(json.loads(row.usage)) if row.usage else None,
        context=ContextReport.model_validate(json.loads(zlib.decompress(row.context)))
        if row.context and report
        else None,
        model=row.model,
        pinned=row.pinned,
        **rest,
    )


def to_info(row: Row[Any]) -> ConversationInfo:
    """The conversation of a row of `sql._INFO`."""
    return ConversationInfo(
        id=row.id,
        title=row.title,
        customer=row.customer,
        system=row.system,
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        message_count=row.depth or 0,
        last_text=(row.last_text or row.text_before or "")[:200],
        metadata=json.loads(row.metadata),
    )
