"""Chat messages as OpenAI writes them, and most programs after it: role, content, tool calls."""

from collections.abc import Mapping, Sequence
from typing import Any

from quietdesk.logs.foreign import (
    Object,
    a_text,
    an_object,
    content_text,
    name_of,
    number,
    passages,
    rest,
    texts,
    tool_calls,
)
from quietdesk.logs.format import Context
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import CallRecord, Labels, MessageRecord, Record
from quietdesk.types import Author

HUMAN_NAME = "human_agent"
"""`name` of an assistant's message that a person of the team wrote; OpenAI has no role for it."""
_HUMAN_NAMES = frozenset({HUMAN_NAME, "agent", "human", "operator", "support_agent"})
_TIMES = ("created_at", "timestamp", "time", "created")
_REFERENCES = ("references", "reference", "ideal", "expected", "expected_output", "ground_truth")
_PASSAGES = ("passages", "documents", "retrieved_contexts", "contexts", "context", "retrieved")
_RATINGS = ("ratings", "rating", "csat")
_USED = frozenset(
    {"role", "content", "tool_calls", "function_call", "id"} | set(_TIMES) | {"references"}
)
_FIELDS = frozenset({"labels", "predictions", *_RATINGS, *_PASSAGES})
_PLAIN = frozenset({"role", "content"})


def is_message(value: Any) -> bool:
    """Whether a JSON value is a chat message."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and not {"content", "tool_calls", "function_call", "refusal"}.isdisjoint(value)
    )


def are_messages(value: Any) -> bool:
    """Whether a JSON value is a list of chat messages."""
    return isinstance(value, list) and bool(value) and is_message(value[0])


class Said:
    """A conversation under construction: its messages, and what they say beyond the native form."""

    def __init__(self) -> None:
        self.messages: list[MessageRecord] = []
        self.extra: dict[str, Object] = {}

    def add(self, message: MessageRecord, extra: Object) -> None:
        """One message more."""
        if extra:
            self.extra[str(len(self.messages))] = extra
        self.messages.append(message)

    @property
    def last_reply(self) -> MessageRecord | None:
        """The bot's last message."""
        return next((m for m in reversed(self.messages) if m.author is Author.BOT), None)


def read_message(value: Any, at: int, context: Context) -> tuple[MessageRecord, Object]:
    """One chat message, and what it says beyond the native form.

    Args:
        value: The message.
        at: Its place in the conversation, from 0.
        context: What stands around it.
    """
    message = an_object(value, f"Message {at + 1}")
    what = f"content of message {at + 1}"
    author = context.author(message.get("role"), at)
    if message.keys() == _PLAIN and isinstance(message["content"], str):
        return MessageRecord(author, message["content"]), {}
    if author is Author.BOT and name_of(message.get("name")) in _HUMAN_NAMES:
        author = Author.HUMAN
    text, others = content_text(message.get("content"), what)
    if not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    calls = tool_calls(message.get("tool_calls"), f"tool_calls of message {at + 1}")
    if isinstance(message.get("function_call"), dict):
        called = message["function_call"]
        calls += (
            CallRecord("", a_text(called.get("name"), what), a_text(called.get("arguments"), what)),
        )
    used = set(_USED)
    if author is Author.HUMAN:
        used.add("name")
    said = MessageRecord(
        author,
        text,
        id=name_of(message.get("id")) or "",
        created_at=context.time(next((message[k] for k in _TIMES if message.get(k)), None)),
        references=texts(message.get("references")),
        tool_calls=calls,
    )
    used |= _fields(said, message)
    extra = rest(message, used)
    if others:
        extra["content"] = others
    return said, extra


def _fields(said: MessageRecord | Record, value: Mapping[str, Any]) -> set[str]:
    """Fill labels, predictions, ratings and passages from fields so called; which were used."""
    if _FIELDS.isdisjoint(value):
        return set()
    used = set()
    for name in ("labels", "predictions"):
        found = labels(value.get(name))
        if found:
            setattr(said, name, found)
            used.add(name)
    for name in _RATINGS:
        rated = ratings(value.get(name))
        if rated and not said.ratings:
            said.ratings = rated
            used.add(name)
    if isinstance(said, MessageRecord):
        for name in _PASSAGES:
            shown = passages(value.get(name))
            if shown and not said.passages:
                said.passages = shown
                used.add(name)
    return used


def labels(value: Any) -> Labels:
    """Labels by name; empty where the value is nothing of the kind."""
    if not isinstance(value, dict):
        return {}
    kinds = (str, bool, int, float)
    found: Labels = {}
    for name, values in value.items():
        items = values if isinstance(values, list) else [values]
        if not all(isinstance(item, kinds) for item in items):
            return {}
        found[name] = texts(items)
    return found


def ratings(value: Any) -> tuple[float, ...]:
    """Ratings, one or several; empty where the value is nothing of the kind."""
    found = [number(item) for item in (value if isinstance(value, list) else [value])]
    return tuple(item for item in found if item is not None) if None not in found else ()


def attach(record: Record, value: Mapping[str, Any]) -> set[str]:
    """Give what stands beside the messages its place; which fields were used.

    References and passages beside the messages belong to the bot's last message.
    """
    used = _fields(record, value)
    if _FIELDS.isdisjoint(value) and not any(name in value for name in _REFERENCES):
        return used
    reply = next((m for m in reversed(record.messages) if m.author is Author.BOT), None)
    if reply is None:
        return used
    for name in _REFERENCES:
        if value.get(name) and not reply.references:
            reply.references = texts(value[name])
            used.add(name)
    for name in _PASSAGES:
        shown = passages(value.get(name))
        if shown and not reply.passages:
            reply.passages = shown
            used.add(name)
    return used


def write_message(message: MessageRecord, extra: Object, tool_call_id: str | None) -> Object:
    """The chat message that says this; `extra` is what `read_message` found beyond."""
    others = extra.pop("content", None)
    content: Any = message.text
    if others:
        content = [{"type": "text", "text": message.text}] if message.text else []
        content += others
    elif not message.text and message.tool_calls:
        content = None
    written: Object = {"role": _ROLES[message.author], "content": content}
    if message.author is Author.HUMAN:
        written["name"] = HUMAN_NAME
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.author is Author.TOOL:
        written["tool_call_id"] = tool_call_id or ""
    return {**written, **extra}


_ROLES = {
    Author.CUSTOMER: "user",
    Author.BOT: "assistant",
    Author.HUMAN: "assistant",
    Author.SYSTEM: "system",
    Author.TOOL: "tool",
}


def write_messages(messages: Sequence[MessageRecord], extra: Mapping[int, Object]) -> list[Object]:
    """The chat messages of a conversation; a tool's message answers the oldest open call."""
    written, open_calls = [], []
    for at, message in enumerate(messages):
        open_calls += [call.id for call in message.tool_calls]
        answered = open_calls.pop(0) if message.author is Author.TOOL and open_calls else None
        written.append(write_message(message, dict(extra.get(at, {})), answered))
    return written


def need_messages(value: Any) -> list[Any]:
    """The list of messages, which must be one.

    Raises:
        BadRecordError: it is none.
    """
    if not isinstance(value, list):
        raise BadRecordError(Kind.SHAPE, "It has no list of messages.")
    return value
