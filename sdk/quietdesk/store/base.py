"""Store: the seam to whatever keeps conversations.

What a method has written when it returns is durable. Every method may be called from any thread.
Messages of a conversation form a tree; one leaf is active, and the way from the root to it is the
conversation as it stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from quietdesk.types import Author, ConversationInfo, KeptScore, Message

ROOT = ""
"""As a message's `parent_id`: hang it on nothing, beside the first message. None is the leaf."""


class Store(Protocol):
    """Keeps conversations and their messages."""

    def create(self, info: ConversationInfo) -> None:
        """Keep a new conversation.

        Raises:
            UsageError: its id is taken.
        """
        ...

    def conversation(self, conversation_id: str) -> ConversationInfo:
        """One conversation, by its id or by a beginning of it that fits only one.

        Raises:
            UnknownNameError: there is none, with the nearest ids.
        """
        ...

    def conversations(
        self,
        query: str = "",
        *,
        customer: str | None = None,
        tag: str | None = None,
        metadata: Mapping[str, str | int | float | bool] | None = None,
        author: Author | None = None,
        scores: Mapping[str, tuple[float, float]] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        deleted: bool = False,
        limit: int = 100,
        offset: int = 0,
    ) -> list[ConversationInfo]:
        """Conversations that are not deleted, the last used first.

        Args:
            query: Words that must all stand in the title or the messages; the last may be cut
                short. Case, accents and punctuation do not matter.
            customer: Only this customer's.
            tag: Only those with it in their metadata's `tags`.
            metadata: Only those whose metadata has these values, alone or in a list.
            author: Only those with a message by this author, on any branch.
            scores: Only those whose own kept scores, by metric, lie from the first to the second
                number, both counted; scores of single messages are not looked at.
            since: Only those last used at this time or later.
            until: Only those last used before this time.
            deleted: The deleted ones instead.
            limit: How many at most.
            offset: How many to pass over first.
        """
        ...

    def rename(self, conversation_id: str, title: str) -> None:
        """Give it another title."""
        ...

    def annotate(self, conversation_id: str, metadata: dict[str, Any]) -> None:
        """Replace its metadata."""
        ...

    def delete(self, conversation_id: str) -> None:
        """Hide it; `restore` brings it back until `purge`."""
        ...

    def restore(self, conversation_id: str) -> None:
        """Bring a deleted conversation back."""
        ...

    def purge(self, conversation_ids: Iterable[str] | None = None) -> int:
        """Remove deleted conversations for good, all of them if None; how many there were.

        Those in which a reply is being written stay until the next time.
        """
        ...

    def messages(
        self, conversation_id: str, leaf_id: str | None = None, *, reports: bool = True
    ) -> list[Message]:
        """The way from the root to a leaf, the active one if None, root first.

        A reply whose writer is dead comes back as interrupted. Without `reports` the messages'
        `context` and `recipe` are None, but for the newest `context`, by which the next prompt
        goes: in a long conversation they are most of what there is to read.
        """
        ...

    def find_message(self, message_id: str) -> tuple[str, Message]:
        """A message by its id or a beginning of it that fits only one, and its conversation's id.

        Messages of deleted conversations are not found.

        Raises:
            UnknownNameError: there is none, with the nearest ids.
        """
        ...

    def tree(self, conversation_id: str, *, reports: bool = True) -> list[Message]:
        """Every message of every branch, in the order of writing; `reports` as in `messages`."""
        ...

    def select(self, conversation_id: str, leaf_id: str) -> None:
        """Make another message the active leaf.

        Raises:
            UnknownNameError: it is no message of this conversation.
        """
        ...

    def begin_turn(
        self,
        conversation_id: str,
        said: tuple[Message, ...],
        reply: Message,
        *,
        after: str | None = None,
    ) -> None:
        """Keep what was said and an open reply after it, in one transaction.

        The reply has no finish reason; until it gets one the conversation is busy. The reply
        becomes the active leaf.

        Args:
            conversation_id: The conversation, which must exist.
            said: New messages in order, the first one hanging on the active leaf, or where its
                `parent_id` says (`ROOT` for another first message); empty for another version of
                a reply.
            reply: Hangs on the last of `said`, or on its own `parent_id`.
            after: The active leaf that the reply was prepared for, `ROOT` for none yet; None does
                not ask.

        Raises:
            ConversationBusyError: a reply is being written there by someone alive.
            ConversationMovedError: the active leaf is not `after` any more.
        """
        ...

    def add(self, conversation_id: str, message: Message) -> None:
        """Keep one finished message; it becomes the active leaf."""
        ...

    def interject(self, conversation_id: str, message: Message) -> str | None:
        """Keep one finished message in the place of a reply that is still being written.

        It hangs on what the reply answers and becomes the active leaf, so that the reply stands
        beside the active branch. Where none is being written by somebody alive, or the active
        branch goes on elsewhere already, it is as `add`. All of it is one transaction: a reply
        that is finished before stays on the branch, and one that is finished after does not.

        Returns:
            The id of the reply; None if there is none.
        """
        ...

    def leaf(self, conversation_id: str) -> str:
        """The id of the active leaf, `ROOT` for none yet; quick."""
        ...

    def checkpoint(self, reply_id: str, text: str) -> None:
        """Keep what an open reply says so far, and that its writer is alive."""
        ...

    def finish(self, reply: Message) -> None:
        """Close an open reply: its text, finish reason, usage and context, in one transaction."""
        ...

    def undo_turn(self, reply_id: str, said_ids: tuple[str, ...]) -> None:
        """Take back what `begin_turn` wrote for a turn that could not be started."""
        ...

    def import_conversations(
        self,
        conversations: Iterable[tuple[ConversationInfo, Sequence[Message]]],
        *,
        dry_run: bool = False,
    ) -> int:
        """Keep conversations from elsewhere, all of them or none; how many there were.

        The messages of each come parents first; the last one becomes the active leaf. A dry run
        only looks whether it could be done.

        Raises:
            ImportRefusedError: an id that is taken, a broken tree or a date in the future, with
                its place.
        """
        ...

    def keep_scores(self, scores: Mapping[str, Sequence[KeptScore]]) -> None:
        """Replace all scores of some conversations, in one transaction; their last use stays.

        Args:
            scores: By conversation id; no score of one is the way to remove them.

        Raises:
            UnknownNameError: a conversation or a message that is not there; nothing was kept.
            UsageError: two scores of one metric for one message.
        """
        ...

    def scores(self, conversation_id: str) -> list[KeptScore]:
        """The scores kept beside a conversation.

        Those of the whole come first, then those of its messages in the order of writing, by
        metric's name within each.
        """
        ...

    def export_customer(self, customer: str) -> dict[str, Any]:
        """Everything that is kept about a customer, deleted conversations too, as plain JSON."""
        ...

    def erase_customer(self, customer: str) -> int:
        """Remove everything that is kept about a customer for good; how many conversations.

        Raises:
            ConversationBusyError: a reply is being written in one of them; nothing was removed.
        """
        ...

    def purge_older_than(self, moment: datetime) -> int:
        """Remove conversations last used before a time for good; how many there were.

        Those in which a reply is being written stay.
        """
        ...

    def close(self) -> None:
        """Close it; open replies of this process become interrupted.

        What a database keeps can still be read; a store in memory has forgotten it.
        """
        ...
