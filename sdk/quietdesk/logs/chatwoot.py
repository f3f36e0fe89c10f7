"""Chatwoot: conversations with their messages, lists of messages, and webhook events.

Incoming messages are the customer's; outgoing ones are the team's or the bot's, as their sender
says; without a sender, and for templates, the bot's. Private notes and activities were never said
to the customer: they are kept in the metadata. Source: "Messages" and "Webhook events" of
https://developers.chatwoot.com.
"""

from collections.abc import Iterator
from typing import Any

from quietdesk.logs.foreign import (
    Object,
    a_list,
    a_text,
    an_object,
    keep,
    kept,
    kept_messages,
    name_of,
    number,
    objects,
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.types import Author

_TYPES = {0: "incoming", 1: "outgoing", 2: "activity", 3: "template"}
_SENDERS = {
    "contact": Author.CUSTOMER,
    "user": Author.HUMAN,
    "agent_bot": Author.BOT,
    "agentbot": Author.BOT,
    "captain_assistant": Author.BOT,
    "captain::assistant": Author.BOT,
}
_NAMES = {
    Author.CUSTOMER: (0, "contact"),
    Author.BOT: (1, "agent_bot"),
    Author.HUMAN: (1, "user"),
}
_USED = frozenset({"id", "content", "message_type", "created_at", "private", "conversation_id"})
_WHOLE_USED = frozenset({"id", "messages", "payload", "meta", "labels", "status"})


def matches(value: Any) -> bool:
    """Whether a JSON value is a conversation, a list of messages, or a webhook event."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("event"), str):
        return value["event"].startswith(("message_", "conversation_")) and (
            "message_type" in value or "messages" in value
        )
    for name in ("messages", "payload"):
        inner = value.get(name)
        if isinstance(inner, list) and inner:
            return isinstance(inner[0], dict) and _is_message(inner[0])
    return _is_message(value)


def _is_message(value: Any) -> bool:
    return "message_type" in value and "content" in value and "conversation_id" in value


def key(value: Any) -> str | None:
    """The conversation that a record, a message or an event belongs to."""
    if not isinstance(value, dict):
        return None
    if "message_type" in value:
        inner = value.get("conversation")
        return name_of(
            value.get("conversation_id"), inner.get("id") if isinstance(inner, dict) else None
        )
    messages = value.get("messages") or value.get("payload")
    first = messages[0] if isinstance(messages, list) and messages else None
    inside = first.get("conversation_id") if isinstance(first, dict) else None
    return name_of(value.get("id"), inside)


def read(values: Any, context: Context) -> Iterator[Record]:
    """The conversation that one or more records say."""
    whole: Object = {}
    messages: list[Object] = []
    for value in a_list(values, "The records"):
        part = an_object(value, "The record")
        if "message_type" in part:
            whole.update(an_object(part.get("conversation"), "conversation"))
            messages.append(rest(part, {"conversation", "event", "account", "inbox"}))
        else:
            whole.update(rest(part, {"event"}))
            messages += objects(part.get("messages", part.get("payload")), "messages")
    yield _conversation(key(values[0]) if values else None, whole, _unique(messages), context)


def _unique(messages: list[Object]) -> list[Object]:
    """Each message once, as it was last said: an event of a change repeats the message."""
    by_id: dict[str, Object] = {}
    for at, message in enumerate(messages):
        by_id[name_of(message.get("id")) or f" {at}"] = message
    return list(by_id.values())


def _conversation(
    name: str | None, whole: Object, messages: list[Object], context: Context
) -> Record:
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    others: list[Object] = []
    record = Record(name or context.id, (), customer=_customer(whole, messages))
    for message in messages:
        at = len(said)
        kind = _kind(message)
        _rating(record, message)
        text = a_text(message.get("content"), f"content of message {at + 1}")
        if message.get("private") is True or kind == "activity":
            others.append({"at": at, **message})
            continue
        said.append(
            MessageRecord(
                _who(kind, message, at, context),
                text,
                id=name_of(message.get("id")) or "",
                created_at=context.time(message.get("created_at")),
            )
        )
        if extra := rest(message, _USED):
            extras[str(at)] = extra
    record.messages = tuple(said)
    meta = an_object(whole.get("meta"), "meta")
    for field, value in (
        ("channel", meta.get("channel", whole.get("channel"))),
        ("status", whole.get("status")),
        ("tags", whole.get("labels")),
    ):
        if value:
            record.metadata[field] = value
    extra = rest(whole, _WHOLE_USED)
    if more := rest(meta, {"channel"}):
        extra["meta"] = more
    if extras:
        extra["messages"] = extras
    if others:
        extra["others"] = others
    keep(record, "chatwoot", extra)
    return record


def _kind(message: Object) -> str:
    kind = message.get("message_type")
    return _TYPES.get(kind, str(kind)) if isinstance(kind, int) else str(kind)


def _who(kind: str, message: Object, at: int, context: Context) -> Author:
    sender = an_object(message.get("sender"), f"sender of message {at + 1}")
    name = name_of(sender.get("name"))
    if name is not None and name.lower() in context.options.authors:
        return context.options.authors[name.lower()]
    if kind == "incoming":
        return Author.CUSTOMER
    if kind not in {"outgoing", "template"}:
        raise BadRecordError(
            Kind.AUTHOR, f"Message {at + 1} has the unknown message_type {kind!r}."
        )
    role = sender.get("type", message.get("sender_type"))
    if role is None or kind == "template":
        return Author.BOT
    return context.author(role, at, _SENDERS)


def _customer(whole: Object, messages: list[Object]) -> str | None:
    meta = an_object(whole.get("meta"), "meta")
    sender = an_object(meta.get("sender"), "sender")
    inbox = an_object(whole.get("contact_inbox"), "contact_inbox")
    contact = an_object(meta.get("contact", whole.get("contact")), "contact")
    found = name_of(sender.get("id"), contact.get("id"), inbox.get("contact_id"))
    if found is not None:
        return found
    for message in messages:
        if _kind(message) == "incoming":
            return name_of(an_object(message.get("sender"), "sender").get("id"))
    return None


def _rating(record: Record, message: Object) -> None:
    """What the customer answered to the satisfaction survey."""
    attributes = message.get("content_attributes")
    values = attributes.get("submitted_values") if isinstance(attributes, dict) else None
    survey = values.get("csat_survey_response") if isinstance(values, dict) else None
    stars = number(survey.get("rating")) if isinstance(survey, dict) else None
    if stars is not None:
        record.ratings = (*record.ratings, stars)


def dump(record: Record) -> Iterator[Object]:
    """One conversation with its messages."""
    extra = kept(record, "chatwoot")
    extras, others = kept_messages(extra), extra.pop("others", [])
    messages: list[Object] = []
    for at, message in enumerate(record.messages):
        messages += _before(others, at)
        if message.author not in _NAMES:
            continue
        kind, sender = _NAMES[message.author]
        written: Object = {
            "id": message.id,
            "content": message.text,
            "message_type": kind,
            "private": False,
            "conversation_id": record.id,
            "sender": {"type": sender},
        }
        if message.created_at is not None:
            written["created_at"] = message.created_at.timestamp()
        messages.append({**written, **extras.get(at, {})})
    messages += _before(others, len(record.messages))
    meta = an_object(extra.pop("meta", {}), "meta")
    if record.customer is not None:
        meta = {**meta, "sender": {"id": record.customer, **(meta.get("sender") or {})}}
    if isinstance(record.metadata.get("channel"), str):
        meta["channel"] = record.metadata["channel"]
    whole: Object = {"id": record.id, "messages": messages, "meta": meta}
    for name, field in (("status", "status"), ("labels", "tags")):
        if record.metadata.get(field):
            whole[name] = record.metadata[field]
    yield {**whole, **{k: v for k, v in extra.items() if k not in whole}}


def _before(others: Any, at: int) -> Iterator[Object]:
    for message in others if isinstance(others, list) else []:
        if isinstance(message, dict) and message.get("at") == at:
            yield rest(message, {"at"})


FORMAT = JsonFormat(
    name="chatwoot",
    title="Chatwoot conversations, messages and webhook events",
    matches=matches,
    read=read,
    keeps=frozenset(
        {
            *("id", "customer", "messages.author", "messages.text", "messages.id"),
            "messages.created_at",
        }
    ),
    dump=dump,
    key=key,
    authors=frozenset(_NAMES),
    envelopes=("data", "conversations"),
)
