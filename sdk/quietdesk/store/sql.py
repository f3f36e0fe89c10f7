"""SqlStore: conversations in SQLite or PostgreSQL.

SQLite writes one transaction at a time, so writers of this process queue for it in `Database`;
PostgreSQL locks the conversation's row. Every write is safe to repeat, because a lost connection
does not tell whether the commit arrived.
"""

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    and_,
    delete,
    exists,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from quietdesk.errors import ConversationBusyError, StoreError, UnknownNameError, UsageError
from quietdesk.store import tree
from quietdesk.store.base import ROOT, Store
from quietdesk.store.beside import WHOLE, drop_scores, read_scores, replace_scores
from quietdesk.store.database import Database, repeated
from quietdesk.store.index import SearchIndex
from quietdesk.store.liveness import BEAT_S, Writer, is_alive, sign_off, sign_on, this_writer
from quietdesk.store.memory import MemoryStore
from quietdesk.store.opening import open_database, revision
from quietdesk.store.rows import message_columns, micros, now, to_info, to_message
from quietdesk.store.rows import moment as moment_of
from quietdesk.store.schema import (
    AUTHOR,
    PLACE_BITS,
    backup,
    conversation,
    facet,
    message,
    open_reply,
    score,
)
from quietdesk.store.statements import (
    ABOVE,
    ADD_CONVERSATION,
    ADD_MESSAGE,
    AT,
    BY_ID,
    CLOSE_REPLY,
    FIND,
    FINISH,
    HOLD,
    IDS,
    INTERRUPT,
    LEAF,
    MESSAGES,
    MOVE_LEAF,
    OPEN_AT,
    SAY,
    USED,
    Dialect,
)
from quietdesk.store.words import Query, are_in
from quietdesk.store.words import query as words_of_query
from quietdesk.types import (
    Author,
    ConversationInfo,
    FinishReason,
    KeptScore,
    Message,
)

_T = TypeVar("_T")
_P = ParamSpec("_P")
BUSY_S = 10.0
"""How long a transaction waits for somebody else's lock, unless it is told otherwise."""
DAY_S = 86400.0
_CHUNK = 500
"""Values in one IN list; SQLite of old takes 999."""
_OPENED = 50
"""Conversations of an encrypted database that are read through at a time."""

Spot = tuple[int, int]
"""Where a message stands: its conversation's number and its place there."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A message that is looked for by its id."""

    spot: Spot
    depth: int
    text: str
    finish_reason: str | None


def _repeatable(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """A method that only reads, and so can be run again when the server was lost meanwhile."""

    @functools.wraps(method)
    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return repeated(lambda again: method(*args, **kwargs))

    return reading


class SqlStore:
    """Keeps conversations in an SQLite file or a PostgreSQL database.

    Attributes:
        database: What it stands on.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._closed = False
        self._mark = sign_on()
        self._dropped = weakref.finalize(self, sign_off, self._mark)
        self._mine: dict[str, Spot] = {}  # open replies of this store, by id
        self._mine_lock = threading.Lock()
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        self._keep_days = 0
        sqlite = database.path is not None
        self._sql = Dialect(sqlite=sqlite, sealed=database.sealed)
        self._index = SearchIndex(sqlite=sqlite, sealed=database.sealed)
        if not database.read_only:
            self._repair()

    # Conversations

    def create(self, info: ConversationInfo) -> None:
        """Keep a new conversation."""

        def work(connection: Connection, again: bool) -> None:
            if again and connection.execute(FIND, {"id": info.id}).first() is not None:
                return
            try:
                self._insert_conversation(connection, info)
            except IntegrityError as error:
                raise UsageError(f"There is a conversation {info.id!r} already.") from error

        self._write(work)

    @_repeatable
    def conversation(self, conversation_id: str) -> ConversationInfo:
        """One conversation, by its id or by a beginning of it that fits only one."""
        with self._read() as connection:
            row = connection.execute(
                self._sql.info.where(conversation.c.id == conversation_id)
            ).first()
            if row is not None and row.deleted_at is None:
                return to_info(row)
            if row is None and conversation_id:
                begins = and_(
                    conversation.c.id >= conversation_id,
                    conversation.c.id < conversation_id + "\U0010ffff",
                    conversation.c.deleted_at.is_(None),
                )
                rows = connection.execute(self._sql.info.where(begins).limit(10)).all()
                if len(rows) == 1:
                    return to_info(rows[0])
                if rows:
                    ids = [fit.id for fit in rows]
                    raise tree.unknown_conversation(conversation_id, ids, several=True)
            raise self._unknown(connection, conversation_id, deleted=row is not None)

    @_repeatable
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
        there = conversation.c.deleted_at
        by_use = (conversation.c.updated_at.desc(), conversation.c.number.desc())
        chosen = select(conversation.c.number).where(
            there.is_not(None) if deleted else there.is_(None)
        )
        if customer is not None:
            chosen = chosen.where(conversation.c.customer == customer)
        if since is not None:
            chosen = chosen.where(conversation.c.updated_at >= micros(since))
        if until is not None:
            chosen = chosen.where(conversation.c.updated_at < micros(until))
        wanted = tree.wanted_facets(tag, metadata)
        if author is not None:
            wanted.add((AUTHOR, author.value))
        for metric, (low, high) in sorted((scores or {}).items()):
            within = select(score.c.conversation).where(
                score.c.metric == metric, score.c.place == WHOLE, score.c.value.between(low, high)
            )
            chosen = chosen.where(conversation.c.number.in_(within))
        for name, value in sorted(wanted):
            owners = select(facet.c.conversation).where(
                facet.c.name == name, facet.c.value == value
            )
            chosen = chosen.where(conversation.c.number.in_(owners))
        asked = words_of_query(query)
        with self._read() as connection:
            if asked and self.database.sealed:
                every = connection.scalars(chosen.order_by(*by_use)).all()
                fitting = self._read_through(connection, every, asked)
                numbers = list(itertools.islice(fitting, offset, offset + limit))
                rows = [
                    row
                    for part in _chunks(numbers)
                    for row in connection.execute(
                        self._sql.info.where(conversation.c.number.in_(part)).order_by(*by_use)
                    )
                ]
                return [to_info(row) for row in rows]
            for matching in self._index.matching(asked) if asked else ():
                chosen = chosen.where(conversation.c.number.in_(matching))
            chosen = chosen.order_by(*by_use).limit(limit).offset(offset)
            # The page first: what a list shows of each is read for those on it only.
            page = self._sql.info.where(conversation.c.number.in_(chosen)).order_by(*by_use)
            return [to_info(row) for row in connection.execute(page)]

    def _read_through(
        self, connection: Connection, numbers: Sequence[int], asked: Query
    ) -> Iterator[int]:
        """Those conversations that have the words, found by opening every text.

        An index of words, even of scrambled ones, would tell a thief which of them are common.
        """
        for part in _chunks(numbers, _OPENED):
            texts: dict[int, list[str]] = {number: [] for number in part}
            titles = select(conversation.c.number, conversation.c.title)
            said = select(message.c.conversation, message.c.text)
            for number, text in (
                *connection.execute(titles.where(conversation.c.number.in_(part))),
                *connection.execute(said.where(message.c.conversation.in_(part))),
            ):
                texts[number].append(text)
            yield from (number for number in part if are_in(asked, texts[number]))

    def rename(self, conversation_id: str, title: str) -> None:
        """Give it another title."""

        def work(connection: Connection, again: bool) -> None:
            number = self._hold(connection, conversation_id).number
            connection.execute(
                update(conversation).where(conversation.c.number == number).values(title=title)
            )
            self._index.title(connection, number, title)

        self._write(work)

    def annotate(self, conversation_id: str, metadata: dict[str, Any]) -> None:
        """Replace its metadata."""
        kept = tree.check_metadata(metadata)

        def work(connection: Connection, again: bool) -> None:
            number = self._hold(connection, conversation_id).number
            connection.execute(
                update(conversation).where(conversation.c.number == number).values(metadata=kept)
            )
            connection.execute(
                delete(facet).where(facet.c.conversation == number, facet.c.name != AUTHOR)
            )
            self._insert_facets(connection, number, tree.facets(metadata))

        self._write(work)

    def delete(self, conversation_id: str) -> None:
        """Hide it; `restore` brings it back until `purge`."""
        self._mark_deleted(conversation_id, now())

    def restore(self, conversation_id: str) -> None:
        """Bring a deleted conversation back."""
        self._mark_deleted(conversation_id, None)

    def purge(self, conversation_ids: Iterable[str] | None = None) -> int:
        """Remove deleted conversations for good, all of them if None; how many there were.

        Those in which a reply is being written stay until it is finished.
        """
        chosen = conversation.c.deleted_at.is_not(None)
        if conversation_ids is None:
            return self._remove([chosen])
        ids = list(conversation_ids)
        return self._remove([and_(chosen, conversation.c.id.in_(part)) for part in _chunks(ids)])

    def purge_older_than(self, moment: datetime) -> int:
        """Remove conversations last used before a time for good; how many there were."""
        return self._remove([conversation.c.updated_at < micros(moment)])

    def keep_for(self, days: int, told: Callable[[int], None]) -> None:
        """Remove what was not used for so long for good, now and once a day while this is open.

        Conversations in which a reply is being written stay.

        Args:
            days: At least 1.
            told: How many conversations went, where some did; on any thread.

        Raises:
            StoreError: it cannot be done now.
        """
        self._keep_days = days
        weakref.finalize(self, self._stop.set)
        threading.Thread(
            target=_daily,
            args=(weakref.ref(self), self._stop, told),
            name="quietdesk-expiry",
            daemon=True,
        ).start()
        self._expire(told)

    def _expire(self, told: Callable[[int], None]) -> None:
        count = self.purge_older_than(datetime.now(UTC) - timedelta(days=self._keep_days))
        if count:
            told(count)

    # Messages

    @_repeatable
    def messages(
        self, conversation_id: str, leaf_id: str | None = None, *, reports: bool = True
    ) -> list[Message]:
        """The way from the root to a leaf, the active one if None, root first."""
        with self._read() as connection:
            found = self._find(connection, conversation_id)
            rows = self._rows(connection, found.number)
            leaf = found.leaf
            if leaf_id is not None:
                leaf = next((row.place for row in rows.values() if row.id == leaf_id), None)
                if leaf is None:
                    known = [row.id for row in rows.values()]
                    raise tree.unknown_message(conversation_id, leaf_id, known)
            way = []
            while leaf is not None:
                way.append(rows[leaf])
                leaf = rows[leaf].parent
            way.reverse()
            return self._messages(connection, way, rows, reports)

    @_repeatable
    def find_message(self, message_id: str) -> tuple[str, Message]:
        """A message by its id or a beginning of it, and the id of its conversation."""
        there = (
            select(message.c.id, message.c.conversation, conversation.c.id.label("owner"))
            .join_from(message, conversation)
            .where(conversation.c.deleted_at.is_(None))
        )
        begins = and_(message.c.id >= message_id, message.c.id < message_id + "\U0010ffff")
        with self._read() as connection:
            fits = connection.execute(there.where(message.c.id == message_id)).all()
            if not fits and message_id:
                fits = connection.execute(there.where(begins).limit(10)).all()
            if len(fits) != 1:
                newest = there.order_by(conversation.c.updated_at.desc()).limit(_CHUNK)
                known = [row.id for row in fits or connection.execute(newest)]
                raise tree.unfound_message(message_id, known, several=bool(fits))
            rows = self._rows(connection, fits[0].conversation)
            row = next(row for row in rows.values() if row.id == fits[0].id)
            return fits[0].owner, self._messages(connection, [row], rows, True)[0]

    @_repeatable
    def tree(self, conversation_id: str, *, reports: bool = True) -> list[Message]:
        """Every message of every branch, in the order of writing; `reports` as in `messages`."""
        with self._read() as connection:
            rows = self._rows(connection, self._find(connection, conversation_id).number)
            return self._messages(connection, list(rows.values()), rows, reports)

    def select(self, conversation_id: str, leaf_id: str) -> None:
        """Make another message the active leaf."""

        def work(connection: Connection, again: bool) -> None:
            number = self._hold(connection, conversation_id).number
            place = self._place(connection, conversation_id, number, leaf_id)
            connection.execute(
                update(conversation).where(conversation.c.number == number).values(leaf=place)
            )

        self._write(work)

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
        writer = this_writer(self._mark)

        def work(connection: Connection, again: bool) -> Spot:
            held = self._hold(connection, conversation_id)
            number = held.number
            opened = connection.execute(self._sql.open_in, {"of": number}).first()
            if opened is not None:
                if again and opened.id == reply.id:
                    return number, opened.place
                if _alive(opened, opened.now):
                    raise ConversationBusyError(conversation_id)
                self._interrupt(connection, (number, opened.place))
            places = self._hang(connection, held, said, reply, after)
            connection.execute(
                self._sql.open_reply,
                {
                    "conversation": number,
                    "place": places[-1],
                    "host": writer.host,
                    "pid": writer.pid,
                    "started": writer.started,
                    "earlier_leaf": held.leaf,
                    "earlier_updated_at": held.updated_at,
                },
            )
            texts = [(place, m.text) for place, m in zip(places, said, strict=False)]
            self._index.add(connection, number, texts)
            return number, places[-1]

        spot = self._write(work)
        with self._mine_lock:
            self._mine[reply.id] = spot
            if self._heart is None:
                self._heart = threading.Thread(
                    target=_beat,
                    args=(weakref.ref(self), self._stop),
                    name="quietdesk-store",
                    daemon=True,
                )
                self._heart.start()

    def add(self, conversation_id: str, message: Message) -> None:
        """Keep one finished message; it becomes the active leaf."""

        def work(connection: Connection, again: bool) -> None:
            held = self._hold(connection, conversation_id)
            if again and self._by_id(connection, message.id) is not None:
                return
            places = self._hang(connection, held, (message,), None, None)
            self._index.add(connection, held.number, [(places[0], message.text)])

        self._write(work)

    def interject(self, conversation_id: str, message: Message) -> str | None:
        """Keep one finished message in the place of a reply that is still being written."""

        def work(connection: Connection, again: bool) -> str | None:
            held = self._hold(connection, conversation_id)
            opened = connection.execute(self._sql.open_in, {"of": held.number}).first()
            alive = opened is not None and _alive(opened, opened.now)
            if again and self._by_id(connection, message.id) is not None:
                return opened.id if opened is not None and alive else None
            if opened is not None and not alive:
                self._interrupt(connection, (held.number, opened.place))
            own, given_way = message.model_copy(update={"parent_id": None}), None
            if opened is not None and alive and opened.place == held.leaf:
                given_way = opened.id
                above = connection.scalar(ABOVE, {"of": held.number, "at": opened.place})
                own = message.model_copy(update={"parent_id": above or ROOT})
            places = self._hang(connection, held, (own,), None, None)
            self._index.add(connection, held.number, [(places[0], message.text)])
            return given_way

        return self._write(work)

    @_repeatable
    def leaf(self, conversation_id: str) -> str:
        """The id of the active leaf."""
        with self._read() as connection:
            found = self._find(connection, conversation_id)
            if found.leaf is None:
                return ROOT
            at = {"of": found.number, "at": found.leaf}
            id_: str = connection.execute(LEAF, at).one().id
            return id_

    def checkpoint(self, reply_id: str, text: str) -> None:
        """Keep what an open reply says so far, and that its writer is alive."""

        def work(connection: Connection, again: bool) -> None:
            spot = self._mine.get(reply_id) or self._known(connection, reply_id).spot
            at = {"of": spot[0], "at": spot[1]}
            # The open reply first, as everywhere: writers that lock in one order never deadlock.
            connection.execute(self._sql.beat, at)
            changed = connection.execute(SAY, {**at, "said": text})
            if changed.rowcount == 0:
                raise tree.closed_reply(reply_id)

        self._write(work, durable=False)

    def finish(self, reply: Message) -> None:
        """Close an open reply: its text, finish reason, usage and context, in one transaction.

        A reply that was taken for dead meanwhile, because its writer could not be seen, is closed
        all the same.
        """
        tree.check_closed(reply)
        columns = {f"new_{name}": value for name, value in message_columns(reply).items()}

        def work(connection: Connection, again: bool) -> None:
            found = self._known(connection, reply.id)
            number, place = found.spot
            at = {"of": number, "at": place}
            # The conversation first, as everywhere: writers that lock in one order never deadlock.
            connection.execute(USED, {"of": number, "now": now()})
            closed = connection.execute(CLOSE_REPLY, at).rowcount
            interrupted = not closed
            if interrupted:
                if (found.text, found.finish_reason) == (reply.text, reply.finish_reason):
                    return
                if found.finish_reason != FinishReason.INTERRUPTED:
                    raise tree.closed_reply(reply.id)
            connection.execute(FINISH, columns | at)
            if interrupted:
                self._index.rebuild(connection, number)
            else:
                self._index.add(connection, number, [(place, reply.text)])

        self._write(work)
        with self._mine_lock:
            self._mine.pop(reply.id, None)

    def undo_turn(self, reply_id: str, said_ids: tuple[str, ...]) -> None:
        """Take back what `begin_turn` wrote for a turn that could not be started."""

        def work(connection: Connection, again: bool) -> None:
            found = self._by_id(connection, reply_id)
            if found is None:
                if again:
                    return
                raise UnknownNameError("message", reply_id)
            number, place = found.spot
            held = connection.execute(
                select(conversation).where(conversation.c.number == number).with_for_update()
            ).one()
            opened = connection.execute(
                select(open_reply).where(OPEN_AT), {"of": number, "at": place}
            ).first()
            gone = {self._place(connection, held.id, number, id_) for id_ in said_ids} | {place}
            follower = connection.execute(
                select(message.c.id).where(
                    message.c.conversation == number,
                    message.c.parent.in_(gone),
                    message.c.place.not_in(gone),
                )
            ).first()
            if follower is not None:
                raise tree.undone_parent(follower.id)
            if opened is not None:
                connection.execute(CLOSE_REPLY, {"of": number, "at": place})
                leaf, used = opened.earlier_leaf, opened.earlier_updated_at
            else:
                leaf = connection.scalar(
                    select(message.c.parent).where(AT), {"of": number, "at": min(gone)}
                )
                used = held.updated_at
            connection.execute(
                update(conversation)
                .where(conversation.c.number == number)
                .values(leaf=leaf if held.leaf in gone else held.leaf, updated_at=used)
            )
            connection.execute(
                delete(message).where(message.c.conversation == number, message.c.place.in_(gone))
            )
            drop_scores(connection, number, gone)
            self._index.rebuild(connection, number)
            self._count_authors(connection, number)

        self._write(work)
        with self._mine_lock:
            self._mine.pop(reply_id, None)

    # Scores

    def keep_scores(self, scores: Mapping[str, Sequence[KeptScore]]) -> None:
        """Replace all scores of some conversations, in one transaction; their last use stays."""

        def work(connection: Connection, again: bool) -> None:
            # In one order, as everywhere: writers that lock in one order never deadlock.
            for conversation_id in sorted(scores):
                held = self._hold(connection, conversation_id)
                replace_scores(connection, held.id, held.number, scores[conversation_id])

        self._write(work)

    @_repeatable
    def scores(self, conversation_id: str) -> list[KeptScore]:
        """The scores kept beside a conversation."""
        with self._read() as connection:
            return read_scores(connection, self._find(connection, conversation_id).number)

    # Whole customers and whole conversations

    def import_conversations(
        self,
        conversations: Iterable[tuple[ConversationInfo, Sequence[Message]]],
        *,
        dry_run: bool = False,
    ) -> int:
        """Keep conversations from elsewhere, all of them or none; how many there were.

        Other processes wait meanwhile if it is SQLite, so a caller with many thousands gives them
        in blocks.
        """
        pairs = [(info, [tree.rooted(m) for m in messages]) for info, messages in conversations]

        def work(connection: Connection, again: bool) -> None:
            ids = [info.id for info, _ in pairs]
            message_ids = [m.id for _, messages in pairs for m in messages]
            taken = _taken(connection, conversation.c.id, ids)
            if again and ids and taken.issuperset(ids):
                return
            tree.check_imports(pairs, taken, _taken(connection, message.c.id, message_ids))
            for info, messages in () if dry_run else pairs:
                number = self._insert_conversation(connection, info)
                if not messages:
                    continue
                if len(messages) >= 1 << PLACE_BITS:
                    raise tree.too_long(info.id)
                places = {m.id: place for place, m in enumerate(messages, 1)}
                depths: dict[str | None, int] = {None: 0}
                rows = []
                for m in messages:
                    depths[m.id] = depths[m.parent_id] + 1
                    rows.append(
                        {
                            **message_columns(m),
                            "conversation": number,
                            "place": places[m.id],
                            "parent": places[m.parent_id] if m.parent_id else None,
                            "depth": depths[m.id],
                        }
                    )
                connection.execute(ADD_MESSAGE, rows)
                n, used = len(messages), micros(info.updated_at)
                connection.execute(
                    MOVE_LEAF, {"of": number, "leaf": n, "last_place": n, "now": used}
                )
                self._index.add(
                    connection, number, [(places[m.id], m.text) for m in messages], new=True
                )
                authors = {(AUTHOR, m.author.value) for m in messages}
                self._insert_facets(connection, number, authors)

        self._write(work)
        return len(pairs)

    @_repeatable
    def export_customer(self, customer: str) -> dict[str, Any]:
        """Everything that is kept about a customer, deleted conversations too, as plain JSON."""
        with self._read() as connection:
            theirs = connection.execute(
                self._sql.info.where(conversation.c.customer == customer).order_by(
                    conversation.c.number
                )
            ).all()
            found = []
            for row in theirs:
                rows = self._rows(connection, row.number)
                leaf_id = rows[row.leaf].id if row.leaf is not None else None
                messages = self._messages(connection, list(rows.values()), rows, True)
                scores = read_scores(connection, row.number)
                deleted = row.deleted_at is not None
                found.append((to_info(row), deleted, leaf_id, messages, scores))
        return tree.export(customer, found)

    def erase_customer(self, customer: str) -> int:
        """Remove everything that is kept about a customer for good; how many conversations.

        Of an SQLite database the file is written anew, so that nothing is left between its rows.
        PostgreSQL keeps deleted rows until its next vacuum, which is asked for, and its write-ahead
        log and backups as long as it was told to.

        Raises:
            ConversationBusyError: a reply is being written in one of them; nothing was removed.
            StoreWriteError: the rows are gone, but another process kept the file from being
                written anew; call it again later.
        """
        count = self._remove([conversation.c.customer == customer], refuse_busy=True)
        self.database.scrub()
        return count

    # Care

    def backup(self, path: str | Path) -> None:
        """Copy the database to a new file while it is used; SQLite only.

        Raises:
            UsageError: the file exists, or it is PostgreSQL.
        """
        self._check_open()
        named = Path(path).expanduser()
        self.database.backup(named)
        whole = named.absolute()
        if self.database.read_only:
            return  # nobody can be told of it here

        def work(connection: Connection, again: bool) -> None:
            connection.execute(delete(backup).where(backup.c.path == str(whole)))
            connection.execute(backup.insert(), {"path": str(whole), "made_at": now()})

        self._write(work)

    @_repeatable
    def backups(self) -> list[tuple[Path, datetime]]:
        """The copies that `backup` made and that are still there, each with when, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(backup).order_by(backup.c.made_at)).all()
        return [(path, moment_of(row.made_at)) for row in rows if (path := Path(row.path)).exists()]

    @_repeatable
    def integrity_check(self) -> list[str]:
        """What is wrong with the database, in words; empty if nothing is."""
        problems = self.database.problems()
        with self._read() as connection:
            child, parent = message.alias("child"), message.alias("parent")
            for row in connection.execute(
                select(child.c.id)
                .outerjoin_from(
                    child,
                    parent,
                    and_(
                        parent.c.conversation == child.c.conversation,
                        parent.c.place == child.c.parent,
                    ),
                )
                .where(func.coalesce(parent.c.depth, 0) + 1 != child.c.depth)
            ):
                problems.append(f"Message {row.id!r} has a wrong depth in its tree.")
            for row in connection.execute(
                self._sql.info.where(
                    (
                        conversation.c.leaf.is_not(None)
                        & self._sql.info.selected_columns.leaf_place.is_(None)
                    )
                    | (
                        conversation.c.leaf.is_(None)
                        & exists().where(message.c.conversation == conversation.c.number)
                    )
                )
            ):
                problems.append(f"Conversation {row.id!r} has no active leaf.")
            for row in connection.execute(
                select(message.c.id)
                .join_from(open_reply, message)
                .where(message.c.finish_reason.is_not(None))
            ):
                problems.append(f"Reply {row.id!r} is finished and still open.")
        return problems

    @_repeatable
    def status(self) -> dict[str, str | int]:
        """What there is: the database, its schema and size, conversations, messages."""
        found: dict[str, str | int] = {"database": self.database.name}
        with self._read() as connection:
            found["engine"], found["size_bytes"] = self.database.version_and_size(connection)
            found["schema"] = revision(connection) or ""
            found["encrypted"] = "yes" if self.database.sealed else "no"
            found["keep_days"] = self._keep_days or "off"
            for name, counted in (
                ("conversations", select(func.count()).where(conversation.c.deleted_at.is_(None))),
                ("deleted", select(func.count()).where(conversation.c.deleted_at.is_not(None))),
                ("messages", select(func.count()).select_from(message)),
                ("backups", select(func.count()).select_from(backup)),
                ("open_replies", select(func.count()).select_from(open_reply)),
            ):
                found[name] = connection.scalar(counted) or 0
        return found

    def close(self) -> None:
        """Close it; open replies of this process become interrupted."""
        if self._closed:
            return
        self._stop.set()
        with self._mine_lock:
            mine, self._mine = self._mine, {}
        try:
            if mine:
                self._write(lambda c, again: self._interrupt_all(c, mine.values()))
        finally:
            self._closed = True
            self._dropped()
            if self._heart is not None:
                self._heart.join(timeout=BEAT_S)
            self.database.close()

    # Rows

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        # What was said stays readable after the end, on a connection for just that.
        try:
            with self.database.read() as connection:
                yield connection
        finally:
            if self._closed:
                self.database.close()

    def _write(self, work: Callable[[Connection, bool], _T], *, durable: bool = True) -> _T:
        self._check_open()
        return self.database.write(work, durable=durable)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed. Open the assistant again.")

    def _find(self, connection: Connection, conversation_id: str) -> Row[Any]:
        row = connection.execute(FIND, {"id": conversation_id}).first()
        if row is None or row.deleted_at is not None:
            raise self._unknown(connection, conversation_id, deleted=row is not None)
        return row

    def _hold(
        self, connection: Connection, conversation_id: str, deleted: bool = False
    ) -> Row[Any]:
        """The conversation's row, locked until the transaction ends."""
        row = connection.execute(HOLD, {"id": conversation_id}).first()
        if row is None or (row.deleted_at is not None and not deleted):
            raise self._unknown(
                connection, conversation_id, deleted=row is not None, among_deleted=deleted
            )
        return row

    def _unknown(
        self,
        connection: Connection,
        conversation_id: str,
        *,
        deleted: bool,
        among_deleted: bool = False,
    ) -> UnknownNameError:
        there = select(conversation.c.id)
        if not among_deleted:
            there = there.where(conversation.c.deleted_at.is_(None))
        known = connection.scalars(there.order_by(conversation.c.updated_at.desc()).limit(_CHUNK))
        return tree.unknown_conversation(conversation_id, known, deleted=deleted)

    def _mark_deleted(self, conversation_id: str, moment: int | None) -> None:
        def work(connection: Connection, again: bool) -> None:
            number = self._hold(connection, conversation_id, deleted=True).number
            connection.execute(
                update(conversation)
                .where(conversation.c.number == number)
                .values(deleted_at=moment)
            )

        self._write(work)

    def _insert_conversation(self, connection: Connection, info: ConversationInfo) -> int:
        done = connection.execute(
            ADD_CONVERSATION,
            {
                "id": info.id,
                "title": info.title,
                "customer": info.customer,
                "system": info.system,
                "metadata": tree.check_metadata(info.metadata),
                "created_at": micros(info.created_at),
                "updated_at": micros(info.updated_at),
                "last_place": 0,
            },
        )
        assert done.inserted_primary_key is not None
        number: int = done.inserted_primary_key[0]
        self._insert_facets(connection, number, tree.facets(info.metadata))
        self._index.title(connection, number, info.title, new=True)
        return number

    def _insert_facets(
        self, connection: Connection, number: int, facets: Iterable[tuple[str, str]]
    ) -> None:
        found = [
            {"conversation": number, "name": name, "value": value} for name, value in sorted(facets)
        ]
        if found:
            connection.execute(self._sql.add_facet, found)

    def _count_authors(self, connection: Connection, number: int) -> None:
        """Say anew who speaks in a conversation, after messages went."""
        connection.execute(
            delete(facet).where(facet.c.conversation == number, facet.c.name == AUTHOR)
        )
        there = select(message.c.author).where(message.c.conversation == number).distinct()
        authors = connection.scalars(there).all()
        self._insert_facets(connection, number, {(AUTHOR, author) for author in authors})

    def _hang(
        self,
        connection: Connection,
        held: Row[Any],
        said: Sequence[Message],
        reply: Message | None,
        after: str | None,
    ) -> list[int]:
        """Insert the messages of a turn where they belong, the last one as leaf; their places."""
        number = held.number
        where: dict[str | None, tuple[int | None, int]] = {None: (None, 0)}
        leaf_id = None
        if held.leaf is not None:
            leaf_id, depth = connection.execute(LEAF, {"of": number, "at": held.leaf}).one()
            where[leaf_id] = (held.leaf, depth)
        tree.check_leaf(held.id, leaf_id, after)
        placed = tree.hang(said, reply, leaf_id)
        rows = []
        for place, m in enumerate(placed, held.last_place + 1):
            if m.parent_id not in where:
                found = self._by_id(connection, m.parent_id or "")
                if found is None or found.spot[0] != number:
                    known = connection.scalars(IDS, {"of": number})
                    raise tree.unknown_message(held.id, m.parent_id or "", known)
                where[m.parent_id] = (found.spot[1], found.depth)
            parent, depth = where[m.parent_id]
            where[m.id] = (place, depth + 1)
            rows.append(
                {
                    **message_columns(m),
                    "conversation": number,
                    "place": place,
                    "parent": parent,
                    "depth": depth + 1,
                }
            )
        last = held.last_place + len(rows)
        if last >= 1 << PLACE_BITS:
            raise tree.too_long(held.id)
        used = max(held.updated_at, now())
        connection.execute(MOVE_LEAF, {"of": number, "leaf": last, "last_place": last, "now": used})
        try:
            connection.execute(ADD_MESSAGE, rows)
        except IntegrityError as error:
            raise tree.taken_message(*(m.id for m in placed)) from error
        self._insert_facets(connection, number, {(AUTHOR, m.author.value) for m in placed})
        return [row["place"] for row in rows]

    def _place(
        self, connection: Connection, conversation_id: str, number: int, message_id: str
    ) -> int:
        mine = message.c.conversation == number
        at = select(message.c.place).where(mine, message.c.id == message_id)
        place: int | None = connection.scalar(at)
        if place is None:
            known = connection.scalars(select(message.c.id).where(mine))
            raise tree.unknown_message(conversation_id, message_id, known)
        return place

    def _by_id(self, connection: Connection, message_id: str) -> _Found | None:
        row = connection.execute(BY_ID, {"id": message_id}).first()
        if row is None:
            return None
        return _Found((row.conversation, row.place), row.depth, row.text, row.finish_reason)

    def _known(self, connection: Connection, message_id: str) -> _Found:
        found = self._by_id(connection, message_id)
        if found is None:
            raise UnknownNameError("message", message_id)
        return found

    def _rows(self, connection: Connection, number: int) -> dict[int, Row[Any]]:
        return {row.place: row for row in connection.execute(MESSAGES, {"of": number})}

    def _messages(
        self,
        connection: Connection,
        chosen: Iterable[Row[Any]],
        rows: Mapping[int, Row[Any]],
        reports: bool,
    ) -> list[Message]:
        chosen = list(chosen)
        newest = next((row.place for row in reversed(chosen) if row.context is not None), None)
        found = []
        for row in chosen:
            reason = row.finish_reason
            if row.host is not None:
                now = connection.scalar(self._sql.time) or 0
                reason = None if _alive(row, now) else FinishReason.INTERRUPTED.value
            parent_id = rows[row.parent].id if row.parent is not None else None
            report = reports or row.place == newest
            found.append(to_message(row, parent_id, reason, report=report, recipe=reports))
        return found

    # Writers

    def _repair(self) -> None:
        """Mark the replies of dead writers as interrupted."""
        opened = select(open_reply, self._sql.clock.label("now"))

        def look(again: bool) -> bool:
            with self._read() as connection:
                return any(not _alive(row, row.now) for row in connection.execute(opened))

        if not repeated(look):
            return

        def work(connection: Connection, again: bool) -> None:
            for row in connection.execute(opened.with_for_update(skip_locked=True)).all():
                if not _alive(row, row.now):
                    self._interrupt(connection, (row.conversation, row.place))

        self._write(work)

    def _interrupt(self, connection: Connection, spot: Spot) -> None:
        """End an open reply whose writer is gone with what was checkpointed."""
        at = {"of": spot[0], "at": spot[1]}
        if not connection.execute(CLOSE_REPLY, at).rowcount:
            return
        connection.execute(INTERRUPT, at)
        said = connection.scalar(select(message.c.text).where(AT), at) or ""
        self._index.add(connection, spot[0], [(spot[1], said)])

    def _interrupt_all(self, connection: Connection, spots: Iterable[Spot]) -> None:
        for spot in spots:
            self._interrupt(connection, spot)

    def beat(self) -> None:
        """Say that the open replies of this store have a living writer; a thread does it."""
        with self._mine_lock:
            spots = list(self._mine.values())
        with contextlib.suppress(StoreError):
            # Whoever writes the reply meets the same trouble, and can act on it.
            for part in _chunks(spots):
                beating = (
                    update(open_reply)
                    .where(tuple_(open_reply.c.conversation, open_reply.c.place).in_(part))
                    .values(heartbeat=self._sql.clock)
                )
                self.database.write(_running(beating), durable=False)

    def _remove(self, choices: Sequence[ColumnElement[bool]], *, refuse_busy: bool = False) -> int:
        """Remove conversations for good, but for those in which a reply is being written."""

        def work(connection: Connection, again: bool) -> int:
            count = 0
            for chosen in choices:
                rows = connection.execute(
                    select(conversation.c.number, conversation.c.id).where(chosen).with_for_update()
                ).all()
                names = {row.number: row.id for row in rows}
                gone: list[int] = []
                for part in _chunks(list(names)):
                    opened = connection.execute(
                        select(open_reply, self._sql.clock.label("now")).where(
                            open_reply.c.conversation.in_(part)
                        )
                    ).all()
                    busy = {row.conversation for row in opened if _alive(row, row.now)}
                    if busy and refuse_busy:
                        raise ConversationBusyError(names[min(busy)])
                    gone += [number for number in part if number not in busy]
                self._remove_rows(connection, gone)
                count += len(gone)
            return count

        removed = self._write(work)
        if removed:
            self.database.tidy()
        return removed

    def _remove_rows(self, connection: Connection, numbers: Sequence[int]) -> None:
        self._index.remove(connection, numbers)
        for part in _chunks(numbers):
            for table in (score, open_reply, facet, message):
                connection.execute(delete(table).where(table.c.conversation.in_(part)))
            connection.execute(delete(conversation).where(conversation.c.number.in_(part)))


def open_store(database: str, key: str | None = None) -> Store:
    """Open the store that a setting or an argument names.

    Args:
        database: The path of an SQLite file, which is made if it is not there; a URL that begins
            with `sqlite:///` or `postgresql://`; or `:memory:`.
        key: The passphrase of an encrypted database; a new database is encrypted with it.

    Raises:
        UsageError: a URL of another kind.
        StoreVersionError: it was made by a newer version.
        StoreKeyError: it is encrypted and the key is another or none, or the other way round.
        StoreError: it cannot be opened, naming it, the cause and what to do.
    """
    if database in {":memory:", "sqlite://", "sqlite:///:memory:"}:
        return MemoryStore()
    return open_sql_store(database, key=key)


def open_sql_store(database: str, *, key: str | None = None, busy_s: float = BUSY_S) -> SqlStore:
    """As `open_store`, for a database on disk or a server.

    Args:
        database: A path or a URL.
        key: As of `open_store`.
        busy_s: How long a transaction waits for somebody else's lock before it gives up.
    """
    opened = open_database(database, busy_s, key)
    try:
        return SqlStore(opened)
    except BaseException:
        opened.close()
        raise


def _beat(find: Callable[[], SqlStore | None], stop: threading.Event) -> None:
    """A store's heart, which does not keep it: one that was dropped writes no more."""
    while not stop.wait(BEAT_S):
        store = find()
        if store is None:
            return
        store.beat()
        del store


def _daily(
    find: Callable[[], SqlStore | None], stop: threading.Event, told: Callable[[int], None]
) -> None:
    while not stop.wait(DAY_S):
        store = find()
        if store is None:
            return
        with contextlib.suppress(StoreError):  # Whoever writes meets it too; tomorrow again.
            store._expire(told)
        del store


def _running(statement: Executable) -> Callable[[Connection, bool], None]:
    def work(connection: Connection, again: bool) -> None:
        connection.execute(statement)

    return work


def _alive(row: Row[Any], now: int) -> bool:
    writer = Writer(row.host, row.pid, row.started)
    return is_alive(writer, (now - row.heartbeat) / 1e6)


def _taken(connection: Connection, ids: ColumnElement[str], wanted: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for part in _chunks(wanted):
        found.update(connection.scalars(select(ids).where(ids.in_(part))))
    return found


def _chunks(values: Sequence[_T], size: int = _CHUNK) -> list[Sequence[_T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
