"""Tree: where messages hang, and what a tree from outside must be like."""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from quietdesk.errors import (
    ConversationMovedError,
    ImportRefusedError,
    UnknownNameError,
    UsageError,
)
from quietdesk.store.base import ROOT
from quietdesk.types import ConversationInfo, KeptScore, Message

CLOCK_SKEW = timedelta(minutes=10)
"""How far ahead of ours another machine's clock may be."""


def hang(said: Sequence[Message], reply: Message | None, leaf_id: str | None) -> list[Message]:
    """The messages of a turn, each with the parent that it hangs on.

    Args:
        said: New messages in order.
        reply: The reply after them, if there is one.
        leaf_id: The active leaf, where the first one hangs if it does not say otherwise.

    Raises:
        UsageError: one in the middle names another parent than the message before it.
    """
    placed: list[Message] = []
    before = leaf_id
    for message in (*said, *(() if reply is None else (reply,))):
        named = message.parent_id
        if named is not None:
            if placed and named != before:
                raise UsageError(
                    f"Message {message.id!r} of a turn hangs on {named!r}, but the message before "
                    f"it is {before!r}. Leave out its parent_id."
                )
            before = None if named == ROOT else named
        placed.append(message.model_copy(update={"parent_id": before}))
        before = message.id
    return placed


def branch(parents: Mapping[str, str | None], leaf_id: str | None) -> list[str]:
    """The ids from the root to a leaf."""
    way = []
    while leaf_id is not None:
        way.append(leaf_id)
        leaf_id = parents[leaf_id]
    way.reverse()
    return way


def facets(metadata: Mapping[str, Any]) -> set[tuple[str, str]]:
    """What of a conversation's metadata can be filtered by: plain values, and lists of them."""
    found = set()
    for name, value in metadata.items():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, (str, int, float)):
                found.add((name, facet_value(item)))
    return found


def facet_value(value: str | int | float | bool) -> str:
    """A plain metadata value as it is compared: true, 1 and "1" are three different things."""
    if isinstance(value, str):
        return value
    return f"\x1f{str(value).lower()}" if isinstance(value, bool) else f"\x1f{value!r}"


def wanted_facets(
    tag: str | None, metadata: Mapping[str, str | int | float | bool] | None
) -> set[tuple[str, str]]:
    """What a search's `tag` and `metadata` ask for, as `facets` gives it."""
    wanted = {(name, facet_value(value)) for name, value in (metadata or {}).items()}
    if tag is not None:
        wanted.add(("tags", tag))
    return wanted


def check_metadata(metadata: Mapping[str, Any]) -> str:
    """A conversation's metadata as JSON text.

    Raises:
        UsageError: it holds something that JSON has no word for.
    """
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The metadata {metadata!r} is no JSON: {error}.") from None


def check_scores(conversation_id: str, scores: Sequence[KeptScore]) -> None:
    """Make sure that no metric has two scores for one message, or for the whole.

    Raises:
        UsageError: one has.
    """
    seen: set[tuple[str | None, str]] = set()
    for score in scores:
        if (score.message_id, score.metric) in seen:
            about = "the whole" if score.message_id is None else f"message {score.message_id!r}"
            raise UsageError(
                f"There are two scores {score.metric!r} for {about} of conversation "
                f"{conversation_id!r}. Give one."
            )
        seen.add((score.message_id, score.metric))


def check_page(limit: int, offset: int) -> None:
    """Make sure that a page of a list can be meant.

    Raises:
        UsageError: a negative number.
    """
    if limit < 0 or offset < 0:
        raise UsageError(f"limit {limit!r} and offset {offset!r} must not be negative.")


def check_open(reply: Message) -> None:
    """Make sure that a reply is about to be written.

    Raises:
        UsageError: it is finished already.
    """
    if reply.finish_reason is not None:
        raise UsageError(
            f"The reply {reply.id!r} is finished already ({reply.finish_reason}). Use add for it."
        )


def check_closed(reply: Message) -> None:
    """Make sure that a reply says why it ended.

    Raises:
        UsageError: it does not.
    """
    if reply.finish_reason is None:
        raise UsageError(f"The reply {reply.id!r} has no finish reason. Say why it ended.")


def check_leaf(conversation_id: str, leaf_id: str | None, after: str | None) -> None:
    """Make sure that the active leaf is still the one that a turn was prepared for.

    Raises:
        ConversationMovedError: it is not.
    """
    if after is not None and (leaf_id or ROOT) != after:
        raise ConversationMovedError(conversation_id)


def aware(moment: datetime) -> datetime:
    """A time with its zone; one that names none is UTC."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def rooted(message: Message) -> Message:
    """A message to import, whose parent is just what it says."""
    return message.model_copy(update={"parent_id": None}) if not message.parent_id else message


def check_imports(
    conversations: Sequence[tuple[ConversationInfo, Sequence[Message]]],
    known_conversations: Container[str],
    known_messages: Container[str],
) -> None:
    """Make sure that conversations from outside are whole, new, and lie in the past.

    Raises:
        ImportRefusedError: naming the conversation and the message's place, both from 1.
    """
    latest = datetime.now(UTC) + CLOCK_SKEW
    seen_conversations: dict[str, int] = {}
    seen: dict[str, str] = {}
    for number, (info, messages) in enumerate(conversations, 1):
        whole = f"conversation {number} of {len(conversations)} (id {info.id!r})"
        bad = partial(ImportRefusedError, number, whole)
        if not info.id:
            raise bad("", "it has no id")
        if info.id in seen_conversations:
            raise bad("", f"conversation {seen_conversations[info.id]} has the same id")
        if info.id in known_conversations:
            raise bad("", "the store has a conversation of that id already")
        seen_conversations[info.id] = number
        check_metadata(info.metadata)
        for name, date in (("created_at", info.created_at), ("updated_at", info.updated_at)):
            if why := _wrong_date(name, date, latest):
                raise bad("", why)
        own: set[str] = set()
        for place, message in enumerate(messages, 1):
            here = f"message {place} of {len(messages)} (id {message.id!r})"
            if not message.id:
                raise bad(here, "it has no id")
            if message.id in seen:
                raise bad(here, f"{seen[message.id]} has the same id")
            if message.id in known_messages:
                raise bad(here, "the store has a message of that id already")
            if message.parent_id and message.parent_id not in own:
                later = any(other.id == message.parent_id for other in messages[place - 1 :])
                raise bad(
                    here,
                    f"its parent {message.parent_id!r} "
                    + ("does not come before it" if later else "is not among the messages"),
                )
            if why := _wrong_date("created_at", message.created_at, latest):
                raise bad(here, why)
            own.add(message.id)
            seen[message.id] = f"{here} of conversation {number}"


def _wrong_date(name: str, value: datetime, latest: datetime) -> str:
    """What is wrong with a date; empty where nothing is."""
    if value.tzinfo is None:
        return f"{name} {value.isoformat()!r} has no time zone"
    if value > latest:
        return f"{name} {value.isoformat()!r} is in the future"
    return ""


def summary(way: Sequence[Message]) -> tuple[int, str]:
    """How many messages a branch has, and the beginning of its newest that says something."""
    for message in way[:-3:-1]:
        if message.text:
            return len(way), message.text[:200]
    return len(way), ""


def unknown_conversation(
    name: str, known: Iterable[str], *, deleted: bool = False, several: bool = False
) -> UnknownNameError:
    """The error for a conversation that is not there, is deleted, or could be one of several."""
    hint = ""
    if deleted:
        hint = "It was deleted; restore brings it back."
    elif several:
        hint = f"Several begin with {name!r}; give more of it."
    return UnknownNameError("conversation", name, known, hint)


def unknown_message(conversation_id: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a message that is not in this conversation."""
    return UnknownNameError(
        "message", name, known, f"(Looked for in conversation {conversation_id!r}.)"
    )


def unfound_message(name: str, known: Iterable[str], *, several: bool = False) -> UnknownNameError:
    """The error for a message that is in no conversation, or could be one of several."""
    hint = f"Several begin with {name!r}; give more of it." if several else ""
    return UnknownNameError("message", name, known, hint)


def taken_message(*message_ids: str) -> UsageError:
    """The error for new messages of which one has an id that is taken, in any conversation."""
    names = " or ".join(map(repr, message_ids))
    return UsageError(f"There is a message {names} already. Give each an id of its own.")


def too_long(conversation_id: str) -> UsageError:
    """The error for more messages than a conversation can have."""
    return UsageError(
        f"Conversation {conversation_id!r} would have more than a million messages. Start another."
    )


def closed_reply(reply_id: str) -> UsageError:
    """The error for writing into a reply that has ended."""
    return UsageError(f"The reply {reply_id!r} is not being written; it has ended.")


def undone_parent(message_id: str) -> UsageError:
    """The error for taking back a turn that something hangs on."""
    return UsageError(f"The turn cannot be taken back: message {message_id!r} follows it.")


def export(
    customer: str,
    conversations: Iterable[
        tuple[ConversationInfo, bool, str | None, Sequence[Message], Sequence[KeptScore]]
    ],
) -> dict[str, Any]:
    """What is kept about a customer, as JSON.

    Args:
        customer: Whose.
        conversations: Each with whether it is deleted, its active leaf, all its messages
            and scores.
    """
    return {
        "customer": customer,
        "conversations": [
            {
                **info.model_dump(mode="json"),
                "deleted": deleted,
                "leaf_id": leaf_id,
                "messages": [
                    message.model_dump(mode="json", exclude_none=True) for message in messages
                ],
                "scores": [score.model_dump(mode="json", exclude_none=True) for score in scores],
            }
            for info, deleted, leaf_id, messages, scores in conversations
        ],
    }
