"""Scores kept beside the conversations of a database: written, read, taken back with a turn."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from quietdesk.store import tree
from quietdesk.store.rows import micros, moment
from quietdesk.store.schema import message, score
from quietdesk.types import KeptScore

WHOLE = 0
"""The place of a score that is about the whole conversation."""


def replace_scores(
    connection: Connection, conversation_id: str, number: int, scores: Sequence[KeptScore]
) -> None:
    """Replace the scores of one conversation, whose row the caller holds.

    Raises:
        UnknownNameError: one is about a message that is not in it.
        UsageError: two are of one metric for one message.
    """
    tree.check_scores(conversation_id, scores)
    places: Mapping[str | None, int] = {
        None: WHOLE,
        **{row.id: row.place for row in _messages(connection, number)},
    }
    for one in scores:
        if one.message_id not in places:
            known = [id_ for id_ in places if id_ is not None]
            raise tree.unknown_message(conversation_id, one.message_id or "", known)
    connection.execute(delete(score).where(score.c.conversation == number))
    rows: list[dict[str, Any]] = [
        {
            "conversation": number,
            "place": places[one.message_id],
            "metric": one.metric,
            "value": one.value,
            "cause": one.cause,
            "at": micros(one.at),
            "fingerprint": one.fingerprint,
        }
        for one in scores
    ]
    if rows:
        connection.execute(insert(score), rows)


def read_scores(connection: Connection, number: int) -> list[KeptScore]:
    """The scores of one conversation, in the order of `Store.scores`."""
    names = {row.place: row.id for row in _messages(connection, number)}
    rows = connection.execute(select(score).where(score.c.conversation == number)).all()
    return [
        KeptScore(
            metric=row.metric,
            message_id=names.get(row.place),
            value=row.value,
            cause=row.cause,
            at=moment(row.at),
            fingerprint=row.fingerprint,
        )
        # Sorted here: databases disagree about the order of letters.
        for row in sorted(rows, key=lambda row: (row.place, row.metric))
    ]


def drop_scores(connection: Connection, number: int, places: Collection[int]) -> None:
    """Remove the scores of messages that are taken back."""
    connection.execute(
        delete(score).where(score.c.conversation == number, score.c.place.in_(places))
    )


def _messages(connection: Connection, number: int) -> Iterable[Any]:
    at = select(message.c.id, message.c.place).where(message.c.conversation == number)
    return connection.execute(at)
