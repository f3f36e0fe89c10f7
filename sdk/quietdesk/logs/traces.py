"""Traces: what traced calls say, as a conversation; for the exports of tracing programs.

A trace is one call of the bot: its input, its output, when, and perhaps what it retrieved. The
traces of a session make up a conversation. An input often carries the history so far; what was
said already is not said twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from quietdesk.logs.chat import Said, read_message
from quietdesk.logs.foreign import Object, json_text
from quietdesk.logs.format import Context
from quietdesk.logs.problem import Kind
from quietdesk.logs.record import MessageRecord, PassageRecord, Record
from quietdesk.types import Author

Heard = tuple[MessageRecord, Object]
"""A message, and what it says beyond the native form."""

_ASKED = (
    *("messages", "input", "question", "query", "prompt", "user_input", "user_message"),
    *("human_input", "text", "message", "content", "utterance", "inputs", "kwargs", "args"),
)
_REPLIED = (
    *("messages", "output", "answer", "response", "reply", "text", "content", "result"),
    *("completion", "generation", "message", "choices", "generations", "outputs", "return_values"),
)
_HISTORY = ("chat_history", "history")
_RATINGS = frozenset(
    {
        *("rating", "user_rating", "user_feedback", "user_score", "feedback", "thumbs"),
        *("thumbs_up", "csat", "satisfaction"),
    }
)


@dataclass(slots=True)
class Trace:
    """One call of the bot."""

    asked: Any
    """Its input as logged."""
    replied: Any
    """Its output as logged."""
    start: datetime | None = None
    end: datetime | None = None
    passages: tuple[PassageRecord, ...] = ()
    """What was retrieved for it."""
    scores: list[tuple[str, float | str]] = field(default_factory=list)
    """Feedback by name: a number, or a category."""


def conversation(traces: Sequence[Trace], context: Context) -> Said:
    """What the traces say, in their order."""
    said = Said()
    for trace in traces:
        before = len(said.messages)
        _weave(said, list(heard(trace.asked, Author.CUSTOMER, _ASKED, context)), trace.start)
        _weave(said, list(heard(trace.replied, Author.BOT, _REPLIED, context)), trace.end)
        new = said.messages[before:]
        reply = next((m for m in reversed(new) if m.author in {Author.BOT, Author.HUMAN}), None)
        if reply is not None:
            reply.passages = reply.passages or trace.passages
            _score(reply, trace.scores)
    return said


def ordered(values: list[Object], *fields: str) -> list[Object]:
    """Objects by the first of these fields that they have; the log's order among equals."""

    def when(value: Object) -> str:
        return next((str(value[name]) for name in fields if value.get(name) is not None), "")

    return sorted(values, key=when)


def exchanges(record: Record) -> Iterator[tuple[list[MessageRecord], MessageRecord | None]]:
    """The conversation cut behind each reply: what was said before it, and the reply."""
    asked: list[MessageRecord] = []
    for message in record.messages:
        if message.author in {Author.BOT, Author.HUMAN} and not message.tool_calls:
            yield asked, message
            asked = []
        else:
            asked.append(message)
    if asked:
        yield asked, None


def unfold(value: Any) -> Any:
    """What a text holds that is JSON of an object or list; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    return value


def heard(
    value: Any, author: Author, keys: Sequence[str], context: Context, deep: int = 0
) -> Iterator[Heard]:
    """The messages that an input or output says.

    Args:
        value: As logged.
        author: Who speaks where it does not say so.
        keys: Fields that may hold what was said, the likeliest first.
        context: What stands around it.
        deep: How far inside the logged value this is.
    """
    value = unfold(value) if deep < 8 else json_text(value)
    if value is None or value == "" or value == [] or value == {}:
        return
    if isinstance(value, str):
        yield MessageRecord(author, value), {}
    elif isinstance(value, list):
        if _is_pair(value):
            value = [{"role": value[0], "content": value[1]}]
        for item in value:
            yield from heard(item, author, keys, context, deep + 1)
    elif isinstance(value, dict):
        message = as_chat(value)
        if message is not None:
            yield read_message(message, 0, context)
            return
        for name in _HISTORY:
            yield from heard(value.get(name), Author.CUSTOMER, keys, context, deep + 1)
        told = [value[key] for key in keys if key in value]
        if told:
            inner = next((item for item in told if item), None)
            yield from heard(inner, author, keys, context, deep + 1)
        else:
            reason = "An object does not show what was said; its JSON stands as the message."
            context.note(Kind.SHAPE, reason)
            yield MessageRecord(author, json_text(value)), {}
    else:
        yield MessageRecord(author, json_text(value)), {}


def as_chat(value: Object) -> Object | None:
    """A message of LangChain or OpenAI as a chat message; None where it is none."""
    if isinstance(value.get("kwargs"), dict) and isinstance(value.get("id"), list):
        inner = value["kwargs"]
        return (
            {**inner, "role": _role(value["id"][-1]), "id": inner.get("id")}
            if value["id"]
            else None
        )
    if isinstance(value.get("role"), str) and not {"content", "tool_calls"}.isdisjoint(value):
        return value
    if isinstance(value.get("type"), str) and isinstance(value.get("data"), dict):
        return {**value["data"], "role": _role(value["type"])}
    if isinstance(value.get("type"), str) and "content" in value:
        role = _role(value["type"])
        if role in {"human", "ai", "system", "tool", "function", "user", "assistant"}:
            return {**{k: v for k, v in value.items() if k != "type"}, "role": role}
    if set(value) <= {"text", "message", "generation_info", "type"} and isinstance(
        value.get("message"), dict
    ):
        return as_chat(value["message"])
    return None


def _role(name: Any) -> str:
    word = str(name).lower()
    for ending in ("chunk", "message"):
        word = word.removesuffix(ending)
    return word


def _is_pair(value: list[Any]) -> bool:
    return (
        len(value) == 2
        and all(isinstance(item, str) for item in value)
        and value[0].lower() in {"human", "ai", "user", "assistant", "system"}
    )


def _weave(said: Said, new: list[Heard], time: datetime | None) -> None:
    """Add what was not said before."""
    for message, extra in new[_known(said, new) :]:
        told = message.author is Author.SYSTEM and any(
            m.author is Author.SYSTEM and m.text == message.text for m in said.messages
        )
        if not told:
            if message.created_at is None:
                message.created_at = time
            said.add(message, extra)


def _known(said: Said, new: list[Heard]) -> int:
    """How many of the new messages are history."""
    if not any(message.author in {Author.BOT, Author.HUMAN} for message, _ in new[:-1]):
        return 0
    old = [(m.author, m.text) for m in said.messages if m.author is not Author.SYSTEM]
    words = [(m.author, m.text) for m, _ in new]
    first = next((i for i, (author, _) in enumerate(words) if author is not Author.SYSTEM), 0)
    told = words[first:]
    for length in range(min(len(old), len(told)), 0, -1):
        if told[:length] == old[-length:]:
            return first + length
    return 0


def _score(reply: MessageRecord, scores: Sequence[tuple[str, float | str]]) -> None:
    for name, value in scores:
        if isinstance(value, str):
            reply.labels[name] = (*reply.labels.get(name, ()), value)
        elif name.lower().replace("-", "_").replace(" ", "_") in _RATINGS:
            reply.ratings = (*reply.ratings, value)
        else:
            reply.labels[name] = (*reply.labels.get(name, ()), json_text(value))
