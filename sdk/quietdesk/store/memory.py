"""MemoryStore: a store that forgets everything when it is closed, for tests and for trying out."""

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from quietdesk.errors import ConversationBusyError, StoreError, UnknownNameError, UsageError
from quietdesk.store import tree
from quietdesk.store.base import ROOT
from quietdesk.store.words import query as words_of_query
from quietdesk.store.words import words
from quietdesk.types import Author, ConversationInfo, FinishReason, KeptScore, Message


@dataclass
class _Kept:
    """One conversation with all its branches."""

    info: ConversationInfo
    serial: int
    messages: dict[str, Message] = field(default_factory=dict)
    leaf_id: str | None = None
    deleted: bool = False
    open_id: str | None = None
    before_open: tuple[str | None, datetime] | None = None
    """Leaf and last use before the open reply, for `undo_turn`."""
    scores: list[KeptScore] = field(default_factory=list)

    def way(self, leaf_id: str | None) -> list[Message]:
        parents = {id_: message.parent_id for id_, message in self.messages.items()}
        return [self.messages[id_] for id_ in tree.branch(parents, leaf_id)]


class MemoryStore:
    """Keeps conversations in this process's memory, by the same contract as `SqlStore`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: dict[str, _Kept] = {}
        self._home: dict[str, str] = {}  # message id to conversation id
        self._words: dict[str, set[str]] = {}  # message id to its words
        self._serial = 0
        self._closed = False

    def create(self, info: ConversationInfo) -> None:
        """Keep a new conversation."""
        tree.check_metadata(info.metadata)
        with self._lock:
            self._open()
            if info.id in self._kept:
                raise UsageError(f"There is a conversation {info.id!r} already.")
            self._serial += 1
            self._kept[info.id] = _Kept(_own(info), self._serial)

    def conversation(self, conversation_id: str) -> ConversationInfo:
        """One conversation, by its id or by a beginning of it that fits only one."""
        with self._lock:
            self._open()
            kept = self._kept.get(conversation_id)
            if kept is not None and not kept.deleted:
                return self._info(kept)
            alive = self._by_use()
            fits = [k for k in alive if conversation_id and k.info.id.startswith(conversation_id)]
            if kept is None and len(fits) == 1:
                return self._info(fits[0])
            raise tree.unknown_conversation(
                conversation_id,
                [k.info.id for k in fits or alive],
                deleted=kept is not None,
                several=len(fits) > 1,
            )

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
        """Conversations that are not deleted, the last used first."""
        tree.check_page(limit, offset)
        wanted = tree.wanted_facets(tag, metadata)
        asked = words_of_query(query)
        with self._lock:
            self._open()
            found = []
            for kept in self._by_use(deleted):
                info = kept.info
                if (
                    (customer is not None and info.customer != customer)
                    or not wanted <= tree.facets(info.metadata)
                    or (since is not None and info.updated_at < tree.aware(since))
                    or (until is not None and info.updated_at >= tree.aware(until))
                    or (
                        author is not None
                        and not any(m.author is author for m in kept.messages.values())
                    )
                    or not all(
                        any(
                            (one.metric, one.message_id) == (metric, None)
                            and one.value is not None
                            and low <= one.value <= high
                            for one in kept.scores
                        )
                        for metric, (low, high) in (scores or {}).items()
                    )
                ):
                    continue
                if asked:
                    there = set(words(info.title)).union(
                        *(self._words.get(id_, ()) for id_ in kept.messages)
                    )
                    if not there.issuperset(asked.words) or (
                        asked.beginning and not any(w.startswith(asked.beginning) for w in there)
                    ):
                        continue
                found.append(kept)
            return [self._info(kept) for kept in found[offset : offset + limit]]

    def rename(self, conversation_id: str, title: str) -> None:
        """Give it another title."""
        with self._lock:
            kept = self._get(conversation_id)
            kept.info = kept.info.model_copy(update={"title": title})

    def annotate(self, conversation_id: str, metadata: dict[str, Any]) -> None:
        """Replace its metadata."""
        tree.check_metadata(metadata)
        with self._lock:
            kept = self._get(conversation_id)
            kept.info = kept.info.model_copy(update={"metadata": copy.deepcopy(metadata)})

    def delete(self, conversation_id: str) -> None:
        """Hide it; `restore` brings it back until `purge`."""
        with self._lock:
            self._get(conversation_id, deleted=None).deleted = True

    def restore(self, conversation_id: str) -> None:
        """Bring a deleted conversation back."""
        with self._lock:
            self._get(conversation_id, deleted=None).deleted = False

    def purge(self, conversation_ids: Iterable[str] | None = None) -> int:
        """Remove deleted conversations for good, all of them if None; how many there were."""
        with self._lock:
            self._open()
            ids = None if conversation_ids is None else set(conversation_ids)
            gone = [
                kept
                for kept in self._kept.values()
                if kept.deleted and kept.open_id is None and (ids is None or kept.info.id in ids)
            ]
            return self._remove(gone)

    def messages(
        self, conversation_id: str, leaf_id: str | None = None, *, reports: bool = True
    ) -> list[Message]:
        """The way from the root to a leaf, the active one if None, root first."""
        with self._lock:
            kept = self._get(conversation_id)
            if leaf_id is not None and leaf_id not in kept.messages:
                raise tree.unknown_message(conversation_id, leaf_id, kept.messages)
            way = kept.way(kept.leaf_id if leaf_id is None else leaf_id)
        return way if reports else _bare(way)

    def find_message(self, message_id: str) -> tuple[str, Message]:
        """A message by its id or a beginning of it, and the id of its conversation."""
        with self._lock:
            self._open()
            known = {
                id_: (kept.info.id, message)
                for kept in self._by_use(False)
                for id_, message in kept.messages.items()
            }
        fits = [message_id] if message_id in known else []
        fits = fits or [id_ for id_ in known if message_id and id_.startswith(message_id)]
        if len(fits) != 1:
            raise tree.unfound_message(message_id, fits or known, several=bool(fits))
        return known[fits[0]]

    def tree(self, conversation_id: str, *, reports: bool = True) -> list[Message]:
        """Every message of every branch, in the order of writing; `reports` as in `messages`."""
        with self._lock:
            kept = list(self._get(conversation_id).messages.values())
        return kept if reports else _bare(kept)

    def select(self, conversation_id: str, leaf_id: str) -> None:
        """Make another message the active leaf."""
        with self._lock:
            kept = self._get(conversation_id)
            if leaf_id not in kept.messages:
                raise tree.unknown_message(conversation_id, leaf_id, kept.messages)
            kept.leaf_id = leaf_id

    def begin_turn(
        self,
        conversation_id: str,
        said: tuple[Message, ...],
        reply: Message,
        *,
        after: str | None = None,
    ) -> None:
        """Keep what was said and an open reply after it, in one transaction."""
        tree.check_open(reply)
        with self._lock:
            kept = self._get(conversation_id)
            if kept.open_id is not None:
                raise ConversationBusyError(conversation_id)
            tree.check_leaf(conversation_id, kept.leaf_id, after)
            before = (kept.leaf_id, kept.info.updated_at)
            self._put(kept, tree.hang(said, reply, kept.leaf_id))
            del self._words[reply.id]
            kept.open_id, kept.before_open = reply.id, before

    def add(self, conversation_id: str, message: Message) -> None:
        """Keep one finished message; it becomes the active leaf."""
        with self._lock:
            kept = self._get(conversation_id)
            self._put(kept, tree.hang((message,), None, kept.leaf_id))

    def interject(self, conversation_id: str, message: Message) -> str | None:
        """Keep one finished message in the place of a reply that is still being written."""
        with self._lock:
            kept = self._get(conversation_id)
            reply_id = kept.open_id if kept.open_id == kept.leaf_id else None
            where = kept.messages[reply_id].parent_id if reply_id else kept.leaf_id
            own = message.model_copy(update={"parent_id": where or ROOT})
            self._put(kept, tree.hang((own,), None, kept.leaf_id))
            return reply_id

    def leaf(self, conversation_id: str) -> str:
        """The id of the active leaf."""
        with self._lock:
            return self._get(conversation_id).leaf_id or ROOT

    def checkpoint(self, reply_id: str, text: str) -> None:
        """Keep what an open reply says so far, and that its writer is alive."""
        with self._lock:
            kept, reply = self._reply(reply_id)
            if kept.open_id != reply_id:
                raise tree.closed_reply(reply_id)
            kept.messages[reply_id] = reply.model_copy(update={"text": text})

    def finish(self, reply: Message) -> None:
        """Close an open reply: its text, finish reason, usage and context, in one transaction."""
        tree.check_closed(reply)
        with self._lock:
            kept, opened = self._reply(reply.id)
            if kept.open_id != reply.id:
                if (opened.text, opened.finish_reason) == (reply.text, reply.finish_reason):
                    return
                if opened.finish_reason is not FinishReason.INTERRUPTED:
                    raise tree.closed_reply(reply.id)
            self._close(kept, reply.model_copy(update={"parent_id": opened.parent_id}))

    def undo_turn(self, reply_id: str, said_ids: tuple[str, ...]) -> None:
        """Take back what `begin_turn` wrote for a turn that could not be started."""
        with self._lock:
            kept, reply = self._reply(reply_id)
            gone = {reply_id, *said_ids}
            for id_ in gone:
                if id_ not in kept.messages:
                    raise tree.unknown_message(kept.info.id, id_, kept.messages)
            for message in kept.messages.values():
                if message.parent_id in gone and message.id not in gone:
                    raise tree.undone_parent(message.id)
            first = kept.messages[said_ids[0]] if said_ids else reply
            leaf_id, used = first.parent_id, kept.info.updated_at
            if kept.open_id == reply_id and kept.before_open is not None:
                leaf_id, used = kept.before_open
                kept.open_id = kept.before_open = None
            for id_ in gone:
                del kept.messages[id_], self._home[id_]
                self._words.pop(id_, None)
            kept.scores = [s for s in kept.scores if s.message_id not in gone]
            if kept.leaf_id in gone:
                kept.leaf_id = leaf_id
            kept.info = kept.info.model_copy(update={"updated_at": used})

    def keep_scores(self, scores: Mapping[str, Sequence[KeptScore]]) -> None:
        """Replace all scores of some conversations, in one transaction; their last use stays."""
        with self._lock:
            chosen = [(self._get(id_), found) for id_, found in sorted(scores.items())]
            for kept, found in chosen:
                tree.check_scores(kept.info.id, found)
                for one in found:
                    if one.message_id is not None and one.message_id not in kept.messages:
                        raise tree.unknown_message(kept.info.id, one.message_id, kept.messages)
            for kept, found in chosen:
                place = {id_: place for place, id_ in enumerate(kept.messages, 1)}
                kept.scores = sorted(
                    found, key=lambda s: (place[s.message_id] if s.message_id else 0, s.metric)
                )

    def scores(self, conversation_id: str) -> list[KeptScore]:
        """The scores kept beside a conversation."""
        with self._lock:
            return list(self._get(conversation_id).scores)

    def import_conversations(
        self,
        conversations: Iterable[tuple[ConversationInfo, Sequence[Message]]],
        *,
        dry_run: bool = False,
    ) -> int:
        """Keep conversations from elsewhere, all of them or none; how many there were."""
        pairs = [(info, list(messages)) for info, messages in conversations]
        with self._lock:
            self._open()
            tree.check_imports(pairs, self._kept.keys(), self._home.keys())
            for info, messages in () if dry_run else pairs:
                self._serial += 1
                kept = self._kept[info.id] = _Kept(_own(info), self._serial)
                self._put(kept, [tree.rooted(message) for message in messages])
                kept.info = _own(info)
        return len(pairs)

    def export_customer(self, customer: str) -> dict[str, Any]:
        """Everything that is kept about a customer, deleted conversations too, as plain JSON."""
        with self._lock:
            self._open()
            theirs = [k for k in self._kept.values() if k.info.customer == customer]
            return tree.export(
                customer,
                [
                    (self._info(k), k.deleted, k.leaf_id, list(k.messages.values()), k.scores)
                    for k in theirs
                ],
            )

    def erase_customer(self, customer: str) -> int:
        """Remove everything that is kept about a customer for good; how many conversations."""
        with self._lock:
            self._open()
            theirs = [k for k in self._kept.values() if k.info.customer == customer]
            for kept in theirs:
                if kept.open_id is not None:
                    raise ConversationBusyError(kept.info.id)
            return self._remove(theirs)

    def purge_older_than(self, moment: datetime) -> int:
        """Remove conversations last used before a time for good; how many there were."""
        with self._lock:
            self._open()
            return self._remove(
                [
                    k
                    for k in self._kept.values()
                    if k.open_id is None and k.info.updated_at < tree.aware(moment)
                ]
            )

    def close(self) -> None:
        """Close it; open replies of this process become interrupted."""
        with self._lock:
            for kept in self._kept.values():
                if kept.open_id is not None:
                    update = {"finish_reason": FinishReason.INTERRUPTED}
                    self._close(kept, kept.messages[kept.open_id].model_copy(update=update))
            self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed. Open the assistant again.")

    def _get(self, conversation_id: str, deleted: bool | None = False) -> _Kept:
        self._open()
        kept = self._kept.get(conversation_id)
        if kept is None or (deleted is False and kept.deleted):
            raise tree.unknown_conversation(
                conversation_id,
                [
                    *(k.info.id for k in self._by_use()),
                    *(k.info.id for k in self._by_use(True) if deleted is None),
                ],
                deleted=kept is not None,
            )
        return kept

    def _reply(self, reply_id: str) -> tuple[_Kept, Message]:
        self._open()
        if reply_id not in self._home:
            raise UnknownNameError("message", reply_id)
        kept = self._kept[self._home[reply_id]]
        return kept, kept.messages[reply_id]

    def _by_use(self, deleted: bool = False) -> list[_Kept]:
        alive = [kept for kept in self._kept.values() if kept.deleted is deleted]
        return sorted(alive, key=lambda k: (k.info.updated_at, k.serial), reverse=True)

    def _info(self, kept: _Kept) -> ConversationInfo:
        count, last = tree.summary(kept.way(kept.leaf_id))
        return _own(kept.info).model_copy(update={"message_count": count, "last_text": last})

    def _put(self, kept: _Kept, placed: list[Message]) -> None:
        new: set[str] = set()
        for message in placed:
            if message.id in self._home or message.id in new:
                raise tree.taken_message(message.id)
            parent_id = message.parent_id
            if parent_id is not None and parent_id not in kept.messages and parent_id not in new:
                raise tree.unknown_message(kept.info.id, parent_id, kept.messages)
            new.add(message.id)
        for message in placed:
            kept.messages[message.id] = message
            self._home[message.id] = kept.info.id
            self._words[message.id] = set(words(message.text))
            kept.leaf_id = message.id
        used = max(kept.info.updated_at, datetime.now(UTC))
        kept.info = kept.info.model_copy(update={"updated_at": used})

    def _close(self, kept: _Kept, reply: Message) -> None:
        kept.messages[reply.id] = reply
        self._words[reply.id] = set(words(reply.text))
        if kept.open_id == reply.id:
            kept.open_id = kept.before_open = None
        used = max(kept.info.updated_at, datetime.now(UTC))
        kept.info = kept.info.model_copy(update={"updated_at": used})

    def _remove(self, gone: Iterable[_Kept]) -> int:
        count = 0
        for kept in list(gone):
            for id_ in kept.messages:
                del self._home[id_]
                self._words.pop(id_, None)
            del self._kept[kept.info.id]
            count += 1
        return count


def _own(info: ConversationInfo) -> ConversationInfo:
    """A copy that shares nothing that can be changed."""
    return info.model_copy(update={"metadata": copy.deepcopy(info.metadata)})


def _bare(messages: Sequence[Message]) -> list[Message]:
    """The messages without what takes most of the room, the newest report aside."""
    newest = next((m.id for m in reversed(messages) if m.context is not None), None)
    return [
        m.model_copy(update={"context": m.context if m.id == newest else None, "recipe": None})
        for m in messages
    ]
