"""ShareGPT: `conversations` of `from` and `value`, as fine-tuning tools read them.

A person of the team speaks as `human_agent`, a name that is ours. Sources: "Conversation" in the
dataset formats of https://docs.axolotl.ai and `data/README.md` of LLaMA-Factory (function calls).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from quietdesk.logs.chat import attach
from quietdesk.logs.foreign import (
    Object,
    a_list,
    a_text,
    an_object,
    json_text,
    keep,
    kept,
    kept_messages,
    name_of,
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.record import CallRecord, MessageRecord, Record
from quietdesk.types import Author

_TURNS = ("conversations", "conversation")
_NAMES = {
    Author.CUSTOMER: "human",
    Author.BOT: "gpt",
    Author.HUMAN: "human_agent",
    Author.SYSTEM: "system",
    Author.TOOL: "observation",
}


def matches(value: Any) -> bool:
    """Whether a JSON value holds turns with `from` and `value`."""
    turns = _turns(value)
    return (
        isinstance(turns, list)
        and bool(turns)
        and isinstance(turns[0], dict)
        and {"from", "value"} <= turns[0].keys()
    )


def read(value: Any, context: Context) -> Iterator[Record]:
    """The conversation of one record."""
    whole = an_object(value, "The record")
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    if isinstance(whole.get("system"), str) and whole["system"]:
        said.append(MessageRecord(Author.SYSTEM, whole["system"]))
    for turn in a_list(_turns(whole), "conversations"):
        at = len(said)
        message, extra = _message(an_object(turn, f"Message {at + 1}"), at, context)
        said.append(message)
        if extra:
            extras[str(at)] = extra
    name = name_of(whole.get("id"), whole.get("conversation_id")) or context.id
    record = Record(name, tuple(said))
    used = attach(record, whole)
    extra = rest(whole, {"id", "conversation_id", "system", *_TURNS} | used)
    if extras:
        extra["messages"] = extras
    keep(record, "sharegpt", extra)
    yield record


def dump(record: Record) -> Iterator[Object]:
    """One line that says the conversation."""
    extra = kept(record, "sharegpt")
    extras = kept_messages(extra)
    turns: list[Object] = []
    for at, message in enumerate(record.messages):
        for call in message.tool_calls:
            arguments = _json_or_text(call.arguments)
            named = json_text({"name": call.name, "arguments": arguments})
            turns.append({"from": "function_call", "value": named})
        if message.text or not message.tool_calls:
            turn = {"from": _NAMES[message.author], "value": message.text}
            turns.append({**turn, **extras.get(at, {})})
    written: Object = {"id": record.id, "conversations": turns}
    yield {**written, **{k: v for k, v in extra.items() if k not in written}}


def _turns(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    return next((value[key] for key in _TURNS if key in value), None)


def _message(turn: Object, at: int, context: Context) -> tuple[MessageRecord, Object]:
    extra = rest(turn, {"from", "value"})
    text = a_text(turn.get("value"), f"value of message {at + 1}")
    if turn.get("from") == "function_call":
        called = _json_or_text(text)
        if isinstance(called, dict) and isinstance(called.get("name"), str):
            arguments = called.get("arguments", {})
            written = arguments if isinstance(arguments, str) else json_text(arguments)
            call = CallRecord("", called["name"], written)
            return MessageRecord(Author.BOT, "", tool_calls=(call,)), extra
        return MessageRecord(Author.BOT, text), extra
    return MessageRecord(context.author(turn.get("from"), at), text), extra


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


FORMAT = JsonFormat(
    name="sharegpt",
    title="ShareGPT: conversations of from and value",
    matches=matches,
    read=read,
    # Calls are written, but without their ids, and by the bot only.
    keeps=frozenset({"id", "messages.author", "messages.text"}),
    dump=dump,
)
