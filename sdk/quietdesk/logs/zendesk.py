"""Zendesk: tickets with their comments, and chats with their history.

The requester is the customer, other authors are the team unless `users` beside the tickets, or the
options, say otherwise; triggers of a chat are the bot. Internal comments were never said to the
customer: they are kept in the metadata. Sources: "Tickets", "Ticket Comments" and "Chats" of
https://developer.zendesk.com/api-reference, "Full JSON export" of https://support.zendesk.com.
"""

from collections.abc import Iterator
from typing import Any

from quietdesk.logs.foreign import (
    Object,
    a_text,
    an_object,
    keep,
    kept,
    kept_messages,
    name_of,
    objects,
    plain,
    rest,
)
from quietdesk.logs.format import Context, JsonFormat
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import MessageRecord, Record
from quietdesk.types import Author

_TICKET_USED = frozenset({"id", "comments", "requester_id", "tags"})
_COMMENT_USED = frozenset({"id", "body", "html_body", "plain_body", "created_at", "author_id"})
_CHAT_USED = frozenset({"id", "history", "tags", "visitor", "message", "rating"})
_EVENT_USED = frozenset({"type", "msg", "timestamp", "msg_id", "sender_type", "nick"})


def matches(value: Any) -> bool:
    """Whether a JSON value is a ticket with comments, or a chat."""
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("history"), list) or value.get("type") == "offline_msg":
        return "visitor" in value or "session" in value
    ticket = value["ticket"] if isinstance(value.get("ticket"), dict) else value
    comments = value.get("comments", ticket.get("comments"))
    return isinstance(comments, list) and (
        "requester_id" in ticket or "requester" in ticket or _are_comments(comments)
    )


def _are_comments(comments: list[Any]) -> bool:
    first = comments[0] if comments else None
    return isinstance(first, dict) and "author_id" in first and "body" in first


def read(value: Any, context: Context) -> Iterator[Record]:
    """The conversation of one ticket or chat."""
    record = an_object(value, "The record")
    if "history" in record or record.get("type") == "offline_msg":
        yield _chat(record, context)
        return
    ticket = {**record, **an_object(record.get("ticket"), "ticket")}
    ticket.pop("ticket", None)
    yield _ticket(ticket, context)


def _ticket(ticket: Object, context: Context) -> Record:
    users = objects(ticket.pop("users", None), "users")
    users += objects(context.envelope.get("users"), "users")
    roles = {name_of(user.get("id")): user.get("role") for user in users}
    requester = name_of(ticket.get("requester_id"), _id_in(ticket.get("requester")))
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    notes: list[Object] = []
    for comment in objects(ticket.get("comments"), "comments"):
        text = _comment_text(comment, len(said))
        if comment.get("public") is False:
            notes.append({"at": len(said), "text": text, **rest(comment, {"public", "body"})})
            continue
        at = len(said)
        author = name_of(comment.get("author_id"), _id_in(comment.get("author")))
        said.append(
            MessageRecord(
                _who(author, requester, roles, comment, at, context),
                text,
                id=name_of(comment.get("id")) or "",
                created_at=context.time(comment.get("created_at")),
            )
        )
        extra = rest(comment, _COMMENT_USED)
        if author is not None and author != requester:
            extra["author_id"] = author
        if extra:
            extras[str(at)] = extra
    if not said and not notes and isinstance(ticket.get("description"), str):
        said.append(MessageRecord(Author.CUSTOMER, ticket["description"]))
    record = Record(name_of(ticket.get("id")) or context.id, tuple(said), customer=requester)
    _about(record, ticket)
    extra = rest(ticket, _TICKET_USED)
    if extras:
        extra["messages"] = extras
    if notes:
        extra["notes"] = notes
    keep(record, "zendesk", extra)
    return record


def _comment_text(comment: Object, at: int) -> str:
    for name in ("plain_body", "body"):
        if isinstance(comment.get(name), str):
            # Zendesk writes a space that HTML keeps as its entity into the plain text.
            return str(comment[name]).replace("&nbsp;", " ")
    return plain(a_text(comment.get("html_body"), f"body of message {at + 1}"))


def _who(
    author: str | None,
    requester: str | None,
    roles: dict[str | None, Any],
    comment: Object,
    at: int,
    context: Context,
) -> Author:
    if author is None:
        raise BadRecordError(Kind.AUTHOR, f"Message {at + 1} does not say who speaks.")
    if author.lower() in context.options.authors:
        return context.options.authors[author.lower()]
    via = comment.get("via")
    channel = name_of(via.get("channel")) if isinstance(via, dict) else None
    if channel in {"answer_bot", "ai_agent", "answer_bot_for_web_widget"}:
        return Author.BOT
    # -1 is the author of what Zendesk itself writes.
    if author == "-1" or channel in {"rule", "system"}:
        return Author.SYSTEM
    role = roles.get(author) or (comment.get("author") or {}).get("role")
    if author == requester or role == "end-user":
        return Author.CUSTOMER
    return Author.BOT if role == "bot" else Author.HUMAN


def _id_in(value: Any) -> Any:
    return value.get("id") if isinstance(value, dict) else None


def _about(record: Record, ticket: Object) -> None:
    """What a ticket can be sliced by, and what the customer said of it."""
    via = ticket.get("via")
    channel = via.get("channel") if isinstance(via, dict) else None
    for name, value in (
        ("channel", channel),
        ("status", ticket.get("status")),
        ("tags", ticket.get("tags")),
    ):
        if value:
            record.metadata[name] = value
    rating = ticket.get("satisfaction_rating")
    score = rating.get("score") if isinstance(rating, dict) else None
    if isinstance(score, str) and score not in {"unoffered", "offered"}:
        record.labels["satisfaction"] = (score,)


def _chat(chat: Object, context: Context) -> Record:
    visitor = an_object(chat.get("visitor"), "visitor")
    customer = name_of(visitor.get("id"), visitor.get("email"), visitor.get("name"))
    said: list[MessageRecord] = []
    extras: dict[str, Object] = {}
    others: list[Object] = []
    for event in objects(chat.get("history"), "history"):
        at = len(said)
        if event.get("type") != "chat.msg":
            others.append({"at": at, **event})
            continue
        said.append(
            MessageRecord(
                _chat_author(event, at, context),
                a_text(event.get("msg"), f"msg of message {at + 1}"),
                id=name_of(event.get("msg_id")) or "",
                created_at=context.time(event.get("timestamp")),
            )
        )
        if extra := rest(event, _EVENT_USED):
            extras[str(at)] = extra
    if isinstance(chat.get("message"), str) and not said:
        time = context.time(chat.get("timestamp"))
        said.append(MessageRecord(Author.CUSTOMER, chat["message"], created_at=time))
    record = Record(name_of(chat.get("id")) or context.id, tuple(said), customer=customer)
    record.metadata["channel"] = "chat"
    if chat.get("tags"):
        record.metadata["tags"] = chat["tags"]
    if isinstance(chat.get("rating"), str) and chat["rating"]:
        record.labels["satisfaction"] = (chat["rating"],)
    extra = rest(chat, _CHAT_USED)
    if more := rest(visitor, {"id"}):
        extra["visitor"] = more
    if extras:
        extra["messages"] = extras
    if others:
        extra["history"] = others
    keep(record, "zendesk", extra)
    return record


def _chat_author(event: Object, at: int, context: Context) -> Author:
    nick = event.get("nick")
    if isinstance(nick, str) and nick.lower() in context.options.authors:
        return context.options.authors[nick.lower()]
    if isinstance(nick, str) and nick.startswith(("agent:trigger", "agent:bot")):
        return Author.BOT
    if isinstance(nick, str) and nick.startswith(("agent", "visitor")):
        return Author.HUMAN if nick.startswith("agent") else Author.CUSTOMER
    known = {"visitor": Author.CUSTOMER, "agent": Author.HUMAN, "trigger": Author.BOT}
    return context.author(event.get("sender_type"), at, known)


def dump(record: Record) -> Iterator[Object]:
    """One ticket that says the conversation."""
    extra = kept(record, "zendesk")
    extras, notes = kept_messages(extra), extra.pop("notes", [])
    ids = {
        Author.CUSTOMER: record.customer or "quietdesk-customer",
        Author.BOT: "quietdesk-bot",
        Author.HUMAN: "quietdesk-agent",
    }
    comments: list[Object] = []
    for at, message in enumerate(record.messages):
        comments += [_note(n) for n in notes if isinstance(n, dict) and n.get("at") == at]
        comment: Object = {
            "id": message.id,
            "author_id": ids.get(message.author, "-1"),
            "body": message.text,
            "public": True,
        }
        if message.created_at is not None:
            comment["created_at"] = message.created_at.isoformat()
        comments.append({**comment, **extras.get(at, {})})
    end = len(record.messages)
    comments += [_note(n) for n in notes if isinstance(n, dict) and n.get("at", 0) >= end]
    ticket: Object = {"id": record.id, "comments": comments}
    if record.customer is not None:
        ticket["requester_id"] = record.customer
    if satisfaction := record.labels.get("satisfaction"):
        rated = an_object(extra.pop("satisfaction_rating", {}), "satisfaction_rating")
        ticket["satisfaction_rating"] = {**rated, "score": satisfaction[0]}
    for name in ("status", "tags"):
        if record.metadata.get(name):
            ticket[name] = record.metadata[name]
    if isinstance(record.metadata.get("channel"), str):
        ticket["via"] = {"channel": record.metadata["channel"]}
    roles = {Author.CUSTOMER: "end-user", Author.BOT: "bot", Author.HUMAN: "agent"}
    users = [{"id": ids[author], "role": role} for author, role in roles.items()]
    for at, message in enumerate(record.messages):
        author_id = extras.get(at, {}).get("author_id")
        if author_id is not None and message.author in roles:
            users.append({"id": author_id, "role": roles[message.author]})
    yield {**ticket, **{k: v for k, v in extra.items() if k not in ticket}, "users": users}


def _note(note: Object) -> Object:
    return {"body": note.get("text"), "public": False, **rest(note, {"at", "text"})}


FORMAT = JsonFormat(
    name="zendesk",
    title="Zendesk tickets with comments, and chats",
    matches=matches,
    read=read,
    keeps=frozenset(
        {
            *("id", "customer", "messages.author", "messages.text", "messages.id"),
            "messages.created_at",
        }
    ),
    dump=dump,
    authors=frozenset({Author.CUSTOMER, Author.BOT, Author.HUMAN, Author.SYSTEM}),
    envelopes=("tickets", "chats", "results"),
)
