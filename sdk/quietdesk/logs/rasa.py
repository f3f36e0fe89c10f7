"""Rasa trackers: a sender's events, as the tracker store, the HTTP API and brokers give them.

One conversation per session of a tracker. What the assistant understood becomes the prediction
`intent`; `agent` events are a person of the team; every other event is kept in the metadata with
its place. Source: "Events in Rasa", https://rasa.com/docs/reference/primitives/events.
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
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.types import Author

_SAYS = {"user": Author.CUSTOMER, "bot": Author.BOT, "agent": Author.HUMAN}
_EVENTS = {author: event for event, author in _SAYS.items()}
_USED = frozenset({"event", "text", "timestamp", "message_id", "sender_id"})


def matches(value: Any) -> bool:
    """Whether a JSON value is a tracker, or an event that a broker published."""
    if not isinstance(value, dict) or not isinstance(value.get("sender_id"), str):
        return False
    return isinstance(value.get("events"), list) or isinstance(value.get("event"), str)


def key(value: Any) -> str | None:
    """The sender of an event or tracker."""
    return name_of(value.get("sender_id")) if isinstance(value, dict) else None


def read(values: Any, context: Context) -> Iterator[Record]:
    """The sessions of one sender: from one tracker, or from events in the order of the log."""
    events: list[Object] = []
    tracker: Object = {}
    for value in a_list(values, "The records"):
        whole = an_object(value, "The record")
        if "events" in whole:
            tracker = rest(whole, {"events", "sender_id"})
            events += [an_object(e, "An event") for e in a_list(whole["events"], "events")]
        else:
            events.append(whole)
    sender = key(values[0]) if values else None
    sessions = _sessions(events)
    for number, session in enumerate(sessions):
        suffix = f"#{number + 1}" if len(sessions) > 1 else ""
        yield _session((sender or context.id) + suffix, sender, session, tracker, context)


def _sessions(events: list[Object]) -> list[list[Object]]:
    """The events cut where sessions begin; a session without a message goes with the next."""
    sessions: list[list[Object]] = [[]]
    for event in events:
        begins = event.get("event") == "action" and event.get("name") == "action_session_start"
        if begins and any(name_of(e.get("event")) in _SAYS for e in sessions[-1]):
            sessions.append([])
        sessions[-1].append(event)
    if len(sessions) > 1 and not any(name_of(e.get("event")) in _SAYS for e in sessions[-1]):
        sessions[-2] += sessions.pop()
    return sessions


def _session(
    name: str, sender: str | None, events: list[Object], tracker: Object, context: Context
) -> Record:
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    others: list[Object] = []
    for event in events:
        author = _SAYS.get(a_text(event.get("event"), "event"))
        if author is None:
            # The sender's name is the same for all; `at` says which message it came before.
            others.append({"at": len(said), **rest(event, {"sender_id"})})
            continue
        at = len(said)
        message = MessageRecord(
            author,
            a_text(event.get("text"), f"text of message {at + 1}"),
            id=name_of(event.get("message_id")) or "",
            created_at=context.time(event.get("timestamp")),
        )
        intent = _intent(event)
        if intent:
            message.predictions = {"intent": (intent,)}
        if extra := rest(event, _USED):
            extras[str(at)] = extra
        said.append(message)
    record = Record(name, tuple(said), customer=sender)
    channel = next((e["input_channel"] for e in events if e.get("input_channel")), None)
    if isinstance(channel, str):
        record.metadata["channel"] = channel
    extra = dict(tracker)
    if extras:
        extra["messages"] = extras
    if others:
        extra["events"] = others
    keep(record, "rasa", extra)
    return record


def _intent(event: Object) -> str | None:
    parsed = event.get("parse_data")
    intent = parsed.get("intent") if isinstance(parsed, dict) else None
    return name_of(intent.get("name")) if isinstance(intent, dict) else None


def dump(record: Record) -> Iterator[Object]:
    """One tracker that says the conversation."""
    extra = kept(record, "rasa")
    extras, others = kept_messages(extra), extra.pop("events", [])
    events: list[Object] = []
    for at, message in enumerate(record.messages):
        events += _before(others, at)
        if message.author in _EVENTS:
            events.append(_event(message, extras.get(at, {})))
    events += _before(others, len(record.messages))
    yield {"sender_id": record.customer or record.id, "events": events, **extra}


def _before(others: Any, at: int) -> Iterator[Object]:
    for event in others if isinstance(others, list) else []:
        if isinstance(event, dict) and event.get("at") == at:
            yield rest(event, {"at"})


def _event(message: MessageRecord, extra: Object) -> Object:
    event: Object = {"event": _EVENTS[message.author], "text": message.text}
    if message.created_at is not None:
        event["timestamp"] = message.created_at.timestamp()
    if message.id:
        event["message_id"] = message.id
    intent = message.predictions.get("intent")
    if intent and "parse_data" not in extra:
        event["parse_data"] = {"intent": {"name": intent[0]}, "text": message.text}
    return {**event, **extra}


FORMAT = JsonFormat(
    name="rasa",
    title="Rasa trackers and broker events",
    matches=matches,
    read=read,
    keeps=frozenset(
        {
            *("customer", "messages.author", "messages.text", "messages.id"),
            *("messages.created_at", "messages.predictions[1]"),
        }
    ),
    dump=dump,
    key=key,
    authors=frozenset(_EVENTS),
    envelopes=("trackers", "conversations"),
)
