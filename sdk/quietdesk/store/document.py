"""Document: a conversation as one file, JSON with every branch or Markdown of the active one."""

from collections.abc import Sequence
from typing import Any, Literal

from quietdesk.store.base import Store
from quietdesk.types import ConversationInfo, Message

Form = Literal["json", "markdown"]


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
        return to_json(info, store.tree(info.id))
    return to_markdown(info, store.messages(info.id, reports=False))


def to_json(info: ConversationInfo, messages: Sequence[Message]) -> dict[str, Any]:
    """Everything that is known of these messages."""
    return {
        "conversation": info.model_dump(mode="json"),
        "messages": [message.model_dump(mode="json") for message in messages],
    }


def to_markdown(info: ConversationInfo, messages: Sequence[Message]) -> str:
    """Who said what, to be read."""
    parts = [f"# {info.title or info.id}\n"]
    if info.system:
        parts.append(f"**system:** {info.system}\n")
    for message in messages:
        end = message.finish_reason
        mark = f" ({end})" if end not in (None, "stop") else ""
        parts.append(f"**{message.author}**{mark}: {message.text}\n")
    return "\n".join(parts)
