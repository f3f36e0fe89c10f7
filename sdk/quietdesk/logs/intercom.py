"""Intercom conversations: the source message and the conversation parts after it.

Contacts are the customer, admins the team, bots and AI agents the bot. Notes between teammates were
never said to the customer: they are kept in the metadata, and so are parts without a text
(assignments, closings). HTML becomes plain text. Source: "Conversations" of
https://developers.intercom.com/docs/references/rest-api/api.intercom.io/conversations.
"""

from collections.abc import Iterator
from typing import Any

from quietdesk.logs.foreign import (
    Object,
    a_text,
    an_object,
    html,
    keep,
    kept,
    kept_messages,
    name_of,
    number,
    objects,
    plain,
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.types import Author

_KNOWN = {
    "user": Author.CUSTOMER,
    "lead": Author.CUSTOMER,
    "contact": Author.CUSTOMER,
    "visitor": Author.CUSTOMER,
    "admin": Author.HUMAN,
    "team": Author.HUMAN,
    "teammate": Author.HUMAN,
    "bot": Author.BOT,
    "operator": Author.BOT,
    "ai_agent": Author.BOT,
}
_TYPES = {Author.CUSTOMER: "user", Author.HUMAN: "admin", Author.BOT: "bot"}
_USED = frozenset({"type", "id", "source", "conversation_parts", "conversation_rating", "tags"})
_PART_USED = frozenset({"type", "id", "body", "created_at", "part_type", "updated_at"})


def matches(value: Any) -> bool:
    """Whether a JSON value is an Intercom conversation."""
    if not isinstance(value, dict):
        return False
    parts = value.get("conversation_parts")
    source = value.get("source")
    return isinstance(parts, dict) or (
        value.get("type") == "conversation" and isinstance(source, dict)
    )


def read(value: Any, context: Context) -> Iterator[Record]:
    """The conversation of one record."""
    whole = an_object(value, "The record")
    source = an_object(whole.get("source"), "source")
    parts = an_object(whole.get("conversation_parts"), "conversation_parts")
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    others: list[Object] = []
    first = {**source, "created_at": whole.get("created_at")} if source else None
    for part in [
        *([first] if first else []),
        *objects(parts.get("conversation_parts"), "conversation_parts"),
    ]:
        at = len(said)
        body = plain(a_text(part.get("body"), f"body of message {at + 1}"))
        if part.get("part_type") == "note" or (not body and part is not first):
            others.append({"at": at, **part})
            continue
        author = an_object(part.get("author"), f"author of message {at + 1}")
        message = MessageRecord(
            _who(author, at, context),
            body,
            id=name_of(part.get("id")) or "",
            created_at=context.time(part.get("created_at")),
        )
        extra = rest(part, _PART_USED)
        if part.get("part_type") not in (None, "comment"):
            extra["part_type"] = part["part_type"]
        if extra:
            extras[str(at)] = extra
        said.append(message)
    record = Record(name_of(whole.get("id")) or context.id, tuple(said), customer=_customer(whole))
    _about(record, whole)
    extra = rest(whole, _USED)
    if extras:
        extra["messages"] = extras
    if others:
        extra["parts"] = others
    keep(record, "intercom", extra)
    yield record


def _who(author: Object, at: int, context: Context) -> Author:
    name = name_of(author.get("name"))
    if name is not None and name.lower() in context.options.authors:
        return context.options.authors[name.lower()]
    if author.get("from_ai_agent") is True:
        return Author.BOT
    return context.author(author.get("type"), at, _KNOWN)


def _customer(whole: Object) -> str | None:
    contacts = an_object(whole.get("contacts"), "contacts")
    found = objects(contacts.get("contacts"), "contacts")
    source = an_object(an_object(whole.get("source"), "source").get("author"), "author")
    own = source.get("id") if source.get("type") in {"user", "lead", "contact"} else None
    return name_of(*(contact.get("id") for contact in found[:1]), own)


def _about(record: Record, whole: Object) -> None:
    rating = an_object(whole.get("conversation_rating"), "conversation_rating")
    stars = number(rating.get("rating")) if rating.get("rating") is not None else None
    if stars is not None:
        record.ratings = (stars,)
    if more := rest(rating, {"rating"}):
        keep(record, "intercom", {"conversation_rating": more})
    tags = objects(an_object(whole.get("tags"), "tags").get("tags"), "tags")
    if names := [tag["name"] for tag in tags if isinstance(tag.get("name"), str)]:
        record.metadata["tags"] = names
    source = an_object(whole.get("source"), "source")
    if isinstance(source.get("type"), str):
        record.metadata["channel"] = source["type"]
    if isinstance(whole.get("state"), str):
        record.metadata["status"] = whole["state"]


def dump(record: Record) -> Iterator[Object]:
    """One conversation."""
    extra = kept(record, "intercom")
    extras, others = kept_messages(extra), extra.pop("parts", [])
    said = [m for m in record.messages if m.author in _TYPES]
    written: Object = {"type": "conversation", "id": record.id}
    parts: list[Object] = []
    at = -1
    for at, message in enumerate(record.messages):
        if at:
            parts += _before(others, at)
        if message.author not in _TYPES:
            continue
        part = _part(message, extras.get(at, {}), record.customer)
        if message is said[0]:
            written["created_at"] = part.pop("created_at", None)
            channel = record.metadata.get("channel")
            written["source"] = {**part, "type": channel or "conversation"}
        else:
            parts.append({"type": "conversation_part", "part_type": "comment", **part})
    parts += _before(others, at + 1)
    written["conversation_parts"] = {
        "type": "conversation_part.list",
        "conversation_parts": parts,
        "total_count": len(parts),
    }
    if record.customer is not None:
        contact = {"type": "contact", "id": record.customer}
        written["contacts"] = {"type": "contact.list", "contacts": [contact]}
    if record.ratings:
        more = extra.pop("conversation_rating", {})
        written["conversation_rating"] = {"rating": record.ratings[0], **more}
    if tags := record.metadata.get("tags"):
        names = tags if isinstance(tags, list) else [tags]
        written["tags"] = {"type": "tag.list", "tags": [{"name": name} for name in names]}
    yield {**written, **{k: v for k, v in extra.items() if k not in written}}


def _part(message: MessageRecord, extra: Object, customer: str | None) -> Object:
    author: Object = {"type": _TYPES[message.author]}
    if message.author is Author.CUSTOMER and customer is not None:
        author["id"] = customer
    part: Object = {"id": message.id, "body": html(message.text), "author": author}
    if message.created_at is not None:
        part["created_at"] = message.created_at.timestamp()
    return {**part, **extra}


def _before(others: Any, at: int) -> Iterator[Object]:
    for part in others if isinstance(others, list) else []:
        if isinstance(part, dict) and part.get("at") == at:
            yield rest(part, {"at"})


FORMAT = JsonFormat(
    name="intercom",
    title="Intercom conversations",
    matches=matches,
    read=read,
    keeps=frozenset(
        {
            *("id", "customer", "ratings[1]", "messages.author", "messages.text", "messages.id"),
            "messages.created_at",
        }
    ),
    dump=dump,
    authors=frozenset(_TYPES),
    envelopes=("conversations", "data"),
)
