"""SearchIndex: which words stand in which conversation, in SQLite's FTS5 or PostgreSQL's GIN.

A row holds the words of one message that no earlier message of its conversation has, so that the
commonest word has one row per conversation and not one per message. Place 0 is the title's row.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    Connection,
    Select,
    Text,
    TextualSelect,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    select,
    text,
)

from quietdesk.store.schema import PLACE_BITS, WordQuery, conversation, message, search
from quietdesk.store.words import Query, words

_BLOCK = 500
"""Conversations that are indexed at a time."""

_ADD_SQLITE = text("INSERT INTO search (rowid, words) VALUES (:row, :words)")
_OWN_SQLITE = text("SELECT words FROM search WHERE rowid BETWEEN :first AND :last")
_REMOVE_SQLITE = text("DELETE FROM search WHERE rowid BETWEEN :first AND :last")
_ADD_POSTGRES = insert(search).values(
    conversation=bindparam("of"),
    place=bindparam("at"),
    words=func.array_to_tsvector(bindparam("found", type_=ARRAY(Text))),
)
_OWN_POSTGRES = select(func.unnest(func.tsvector_to_array(search.c.words))).where(
    search.c.conversation == bindparam("of"), search.c.place > 0
)


class SearchIndex:
    """Adds, removes and looks up words, inside the caller's transaction."""

    def __init__(self, *, sqlite: bool, sealed: bool = False) -> None:
        self._sqlite = sqlite
        self._sealed = sealed  # words would tell what the texts do not

    def title(self, connection: Connection, number: int, title: str, *, new: bool = False) -> None:
        """Find a conversation by this title from now on, and by no earlier one."""
        if not new:
            self._remove(connection, number, 0, 0)
        self._insert(connection, [(number, 0, words(title))])

    def add(
        self,
        connection: Connection,
        number: int,
        texts: Iterable[tuple[int, str]],
        *,
        new: bool = False,
    ) -> None:
        """Find a conversation by messages, given as place and text.

        Args:
            connection: In a transaction.
            number: The conversation's number.
            texts: Messages that are not in the index yet.
            new: Whether the conversation has no other messages there.
        """
        found = [(place, words(said)) for place, said in texts]
        if not any(said for _, said in found):
            return
        known = set() if new else self._own(connection, number)
        rows = []
        for place, said in found:
            rows.append((number, place, [word for word in said if word not in known]))
            known.update(said)
        self._insert(connection, rows)

    def rebuild(self, connection: Connection, number: int) -> None:
        """Index a conversation's messages anew, as when one of them went or changed."""
        self._remove(connection, number, 1, (1 << PLACE_BITS) - 1)
        texts = connection.execute(
            select(message.c.place, message.c.text)
            .where(message.c.conversation == number)
            .order_by(message.c.place)
        )
        self.add(connection, number, [(row.place, row.text) for row in texts], new=True)

    def rebuild_all(self, connection: Connection) -> None:
        """Index everything anew, as after an upgrade."""
        connection.execute(text("DELETE FROM search") if self._sqlite else delete(search))
        last = 0
        while True:
            rows = connection.execute(
                select(conversation.c.number, conversation.c.title)
                .where(conversation.c.number > last)
                .order_by(conversation.c.number)
                .limit(_BLOCK)
            ).all()
            if not rows:
                return
            for row in rows:
                self.title(connection, row.number, row.title, new=True)
                self.rebuild(connection, row.number)
            last = rows[-1].number

    def remove(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Find these conversations no more, and forget their words."""
        for number in numbers:
            self._remove(connection, number, 0, (1 << PLACE_BITS) - 1)
        if self._sqlite and numbers:
            # Until its parts are merged, FTS5 keeps a removed word and a note that it was removed.
            connection.execute(text("INSERT INTO search(search) VALUES ('optimize')"))

    def matching(self, asked: Query) -> list[Select[tuple[int]] | TextualSelect]:
        """For each word that is looked for, the numbers of the conversations that have it."""
        assert not self._sealed, "an encrypted database has no index"
        patterns = [(word, False) for word in asked.words]
        if asked.beginning:
            patterns.append((asked.beginning, True))
        found: list[Select[tuple[int]] | TextualSelect] = []
        for place, (word, cut) in enumerate(patterns):
            if self._sqlite:
                name = f"word_{place}"
                rows = f"SELECT rowid >> {PLACE_BITS} AS n FROM search WHERE search MATCH :{name}"
                found.append(
                    text(rows)
                    .bindparams(bindparam(name, f'"{word}"' + ("*" if cut else "")))
                    .columns(column("n"))
                )
            else:
                pattern = f"'{word}'" + (":*" if cut else "")
                found.append(
                    select(search.c.conversation).where(
                        search.c.words.op("@@")(cast(pattern, WordQuery))
                    )
                )
        return found

    def _own(self, connection: Connection, number: int) -> set[str]:
        if not self._sqlite:
            return set(connection.scalars(_OWN_POSTGRES, {"of": number}))
        rows = connection.scalars(_OWN_SQLITE, _span(number, 1, (1 << PLACE_BITS) - 1))
        return {word for row in rows for word in row.split(" ")}

    def _insert(self, connection: Connection, rows: Iterable[tuple[int, int, list[str]]]) -> None:
        filled = [row for row in rows if row[2]]
        if not filled or self._sealed:
            return
        values: list[dict[str, Any]]
        if self._sqlite:
            values = [
                {"row": number << PLACE_BITS | place, "words": " ".join(found)}
                for number, place, found in filled
            ]
            connection.execute(_ADD_SQLITE, values)
        else:
            values = [
                {"of": number, "at": place, "found": found} for number, place, found in filled
            ]
            connection.execute(_ADD_POSTGRES, values)

    def _remove(self, connection: Connection, number: int, first: int, last: int) -> None:
        if self._sqlite:
            connection.execute(_REMOVE_SQLITE, _span(number, first, last))
        else:
            connection.execute(
                delete(search).where(
                    search.c.conversation == number, search.c.place.between(first, last)
                )
            )


def _span(number: int, first: int, last: int) -> dict[str, int]:
    return {"first": number << PLACE_BITS | first, "last": number << PLACE_BITS | last}
