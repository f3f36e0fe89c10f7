"""OpenAI chat JSONL: messages with roles; fine-tuning files, batches, evals, completions too.

A person of the team speaks as the assistant with the name `human_agent`. Source: the pages "Chat",
"Batch" and "Supervised fine-tuning" of https://platform.openai.com/docs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from quietdesk.logs.chat import (
    Said,
    are_messages,
    attach,
    is_message,
    need_messages,
    read_message,
    write_messages,
)
from quietdesk.logs.foreign import Object, keep, kept, kept_messages, name_of, rest
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.record import Record

_REQUESTS = (
    ("messages",),
    ("body", "messages"),
    ("request", "messages"),
    ("request", "body", "messages"),
    ("input", "messages"),
    ("input",),
)
"""Where a record may hold the messages that were sent."""
_REPLIES = (
    ("choices",),
    ("response", "choices"),
    ("response", "body", "choices"),
    ("output", "choices"),
    ("preferred_output",),
)
"""Where it may hold those that came back."""
_USED = frozenset(
    {"id", "conversation_id", "custom_id", "messages", "user", "customer", "metadata", "model"}
)


def matches(value: Any) -> bool:
    """Whether a JSON value holds chat messages."""
    return are_messages(_parts(value).asked) or are_messages(_parts(value).replies)


def read(value: Any, context: Context) -> Iterator[Record]:
    """The conversation of one record."""
    parts = _parts(value)
    said = Said()
    asked = need_messages(parts.asked) if parts.asked is not None or not parts.replies else []
    for message in [*asked, *parts.replies]:
        said.add(*read_message(message, len(said.messages), context))
    about = {**parts.request, **parts.rest}
    own = about.get("metadata")
    record = Record(
        name_of(*(about.get(k) for k in ("conversation_id", "custom_id", "id"))) or context.id,
        tuple(said.messages),
        customer=name_of(about.get("user"), about.get("customer")),
        metadata=dict(own) if isinstance(own, dict) else {},
    )
    if isinstance(about.get("model"), str):
        record.metadata.setdefault("model", about["model"])
    extra = rest(parts.rest, _USED | attach(record, about))
    if own and not isinstance(own, dict):
        extra["metadata"] = own
    if said.extra:
        extra["messages"] = said.extra
    keep(record, "openai", extra)
    yield record


def dump(record: Record) -> Iterator[Object]:
    """One line that says the conversation."""
    extra = kept(record, "openai")
    messages = write_messages(record.messages, kept_messages(extra))
    metadata = {k: v for k, v in record.metadata.items() if k != "openai"}
    written: Object = {"id": record.id, "messages": messages}
    if record.customer is not None:
        written["user"] = record.customer
    if metadata:
        written["metadata"] = metadata
    yield {**written, **{k: v for k, v in extra.items() if k not in written}}


class _Parts(NamedTuple):
    """A record taken apart."""

    asked: Any
    """The messages that were sent; None where there are none."""
    replies: list[Any]
    """The messages that came back, where they stand apart."""
    request: Object
    """What stands beside the messages that were sent."""
    rest: Object
    """The record without the messages."""


def _parts(value: Any) -> _Parts:
    if isinstance(value, list):
        return _Parts(value, [], {}, {})
    if not isinstance(value, dict):
        return _Parts(None, [], {}, {})
    asked, request, left = None, value, value
    for *path, key in _REQUESTS:
        inner = _at(value, path)
        if isinstance(inner, dict) and (key in inner if key == "messages" else _has(inner, key)):
            asked, request, left = inner[key], inner, _without(value, path, key)
            break
    for *path, key in _REPLIES:
        inner = _at(left, path)
        if isinstance(inner, dict) and _has(inner, key):
            return _Parts(asked, inner[key], request, _without(left, path, key))
        if key == "choices" and isinstance(inner, dict) and isinstance(inner.get(key), list):
            replies = [c["message"] for c in inner[key][:1] if _has_message(c)]
            if replies:
                return _Parts(asked, replies, request, _without(left, path, key))
    return _Parts(asked, [], request, left)


def _has(value: Object, key: str) -> bool:
    return are_messages(value.get(key))


def _has_message(choice: Any) -> bool:
    return isinstance(choice, dict) and is_message(choice.get("message"))


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _without(value: Object, path: Sequence[str], key: str) -> Object:
    """A copy without one field; of choices, what is not the first one's message stays."""
    if path:
        inner = _without(value[path[0]], path[1:], key)
        return {**value, path[0]: inner}
    left = {k: v for k, v in value.items() if k != key}
    if key == "choices":
        first = rest(value[key][0], {"message", "index"})
        left[key] = [first] * bool(first) + value[key][1:]
    return left


FORMAT = JsonFormat(
    name="openai",
    title="OpenAI chat JSONL: messages with roles",
    matches=matches,
    read=read,
    keeps=frozenset(
        {"id", "customer", "metadata", "messages.author", "messages.text", "messages.tool_calls"}
    ),
    dump=dump,
    envelopes=("data",),
)
