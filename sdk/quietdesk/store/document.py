"""Document: a conversation as a file: JSON with every branch, read back too, or Markdown."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

from pydantic import ValidationError

from quietdesk.errors import UsageError
from quietdesk.store.base import Store
from quietdesk.types import Author, ConversationInfo, FinishReason, Frozen, Message

Form = Literal["json", "markdown"]


class Document(Frozen):
    """What a JSON document holds."""

    conversation: ConversationInfo
    messages: tuple[Message, ...]
    """Of every branch, parents first."""
    leaf_id: str | None = None
    """The active leaf; None for the last message."""


def document(store: Store, conversation_id: str, form: Form) -> str | dict[str, Any]:
    """A conversation for a file.

    Args:
        store: Where it is kept.
        conversation_id: Its id, or a beginning of it.
        form: `json` has every branch, reports and figures; `markdown` what is said as it stands.

    Raises:
        UnknownNameError: there is none.
    """
    info = store.conversation(conversation_id)
    if form == "json":
        return {**to_json(info, store.tree(info.id)), "leaf_id": store.leaf(info.id) or None}
    return to_markdown(info, store.messages(info.id, reports=False))


def to_json(info: ConversationInfo, messages: Sequence[Message]) -> dict[str, Any]:
    """Everything that is known of these messages."""
    return {
        "conversation": info.model_dump(mode="json"),
        "messages": [message.model_dump(mode="json") for message in messages],
    }


def read_documents(text: str, name: str) -> Iterator[tuple[str, Document]]:
    """The conversations of a file and where each stands: one JSON object, or one in every line.

    A reply that was still being written when it was exported is an interrupted one here.

    Args:
        text: The file's content.
        name: The file's name, for places.

    Raises:
        UsageError: a record is none, with its place.
    """
    try:
        yield name, _document(_parse(text), name)
        return
    except json.JSONDecodeError as error:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if not lines:
            raise UsageError(f"Cannot import {name}: it is empty. Nothing was imported.") from None
        if len(lines) == 1 or not lines[0][1].rstrip().endswith("}"):
            raise _bad(name, f"it is no JSON: {error}") from None
    for record, (number, line) in enumerate(lines, 1):
        place = f"{name}, record {record} (line {number})"
        try:
            value = _parse(line)
        except json.JSONDecodeError as error:
            raise _bad(place, f"it is no JSON: {error}") from None
        yield place, _document(value, place)


def _parse(text: str) -> object:
    def refuse(constant: str) -> NoReturn:
        raise json.JSONDecodeError(f"{constant} is no JSON number", text, text.find(constant))

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", text, 0) from None
    return value


def _document(value: object, place: str) -> Document:
    try:
        found = Document.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        shown = repr(problem["input"])
        shown = shown if len(shown) < 60 else shown[:60] + "…"
        raise _bad(place, f"in {where}: {problem['msg']}, and there stands {shown}") from None
    if found.leaf_id is not None and all(m.id != found.leaf_id for m in found.messages):
        raise _bad(place, f"its leaf_id {found.leaf_id!r} is not among the messages")
    closed = [
        m.model_copy(update={"finish_reason": FinishReason.INTERRUPTED})
        if m.author is Author.BOT and m.finish_reason is None
        else m
        for m in found.messages
    ]
    return found.model_copy(update={"messages": tuple(closed)})


def _bad(place: str, why: str) -> UsageError:
    return UsageError(f"Cannot import {place}: {why}. Nothing was imported.")


def to_markdown(info: ConversationInfo, messages: Sequence[Message]) -> str:
    """Who said what, to be read."""
    parts = [f"# {info.title or info.id}\n"]
    if info.system:
        parts.append(f"**system:** {info.system}\n")
    for message in messages:
        end = message.finish_reason
        mark = f" ({end})" if end not in (None, "stop") else ""
        parts.append(f"**{message.author}**{mark}: {message.text}\n")
        parts += [f"calls `{call.name}` with `{call.arguments}`\n" for call in message.tool_calls]
    return "\n".join(parts)
