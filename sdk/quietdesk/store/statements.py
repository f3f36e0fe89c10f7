"""Statements: the SQL of the hot paths, built once, since building it takes longer than running it.

Parameters are named `of` (a conversation's number), `at` (a place in it), `id` and `now`; the rest
have the names of the columns that they fill.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from quietdesk.store.schema import (
    POSTGRES_SCHEMA,
    Sealed,
    SealedEqual,
    conversation,
    facet,
    message,
    open_reply,
)
from quietdesk.types import FinishReason

_leaf = message.alias("leaf")
_above = message.alias("above")


def _info(last_text: ColumnElement[str], text_before: ColumnElement[str]) -> Select[Any]:
    return (
        select(
            conversation,
            _leaf.c.place.label("leaf_place"),
            _leaf.c.depth,
            last_text.label("last_text"),
            text_before.label("text_before"),
        )
        .outerjoin_from(
            conversation,
            _leaf,
            and_(
                _leaf.c.conversation == conversation.c.number, _leaf.c.place == conversation.c.leaf
            ),
        )
        .outerjoin(
            _above,
            and_(_above.c.conversation == _leaf.c.conversation, _above.c.place == _leaf.c.parent),
        )
    )


# Escapes may make a text up to five times longer than it is.
_INFO = _info(
    func.substr(_leaf.c.text, 1, 1000, type_=Sealed),
    func.substr(_above.c.text, 1, 1000, type_=Sealed),
)
_SEALED_INFO = _info(_leaf.c.text, _above.c.text)

FIND = select(conversation).where(conversation.c.id == bindparam("id"))
HOLD = FIND.with_for_update()
"""FIND, and nobody else writes in the conversation until the transaction ends."""

AT = and_(message.c.conversation == bindparam("of"), message.c.place == bindparam("at"))
OPEN_AT = and_(open_reply.c.conversation == bindparam("of"), open_reply.c.place == bindparam("at"))

MESSAGES = (
    select(
        message, open_reply.c.host, open_reply.c.pid, open_reply.c.started, open_reply.c.heartbeat
    )
    .outerjoin_from(
        message,
        open_reply,
        and_(
            open_reply.c.conversation == message.c.conversation,
            open_reply.c.place == message.c.place,
        ),
    )
    .where(message.c.conversation == bindparam("of"))
    .order_by(message.c.place)
)
"""All messages of a conversation, each with its writer if it is being written."""

BY_ID = select(
    message.c.conversation,
    message.c.place,
    message.c.parent,
    message.c.depth,
    message.c.text,
    message.c.finish_reason,
).where(message.c.id == bindparam("id"))
LEAF = select(message.c.id, message.c.depth).where(AT)
ABOVE = (
    select(_above.c.id)
    .join_from(
        message,
        _above,
        and_(_above.c.conversation == message.c.conversation, _above.c.place == message.c.parent),
    )
    .where(AT)
)
"""The id of the message that another one hangs on."""
IDS = select(message.c.id).where(message.c.conversation == bindparam("of"))

ADD_CONVERSATION = insert(conversation)
ADD_MESSAGE = insert(message)
MOVE_LEAF = (
    update(conversation)
    .where(conversation.c.number == bindparam("of"))
    .values(leaf=bindparam("leaf"), last_place=bindparam("last_place"), updated_at=bindparam("now"))
)
USED = (
    update(conversation)
    .where(conversation.c.number == bindparam("of"))
    .values(
        updated_at=case(
            (conversation.c.updated_at < bindparam("now"), bindparam("now")),
            else_=conversation.c.updated_at,
        )
    )
)

CLOSE_REPLY = delete(open_reply).where(OPEN_AT)
SAY = (
    update(message)
    .where(
        AT,
        message.c.finish_reason.is_(None)
        # Taken for dead meanwhile, because its writer could not be seen.
        | (message.c.finish_reason == FinishReason.INTERRUPTED.value),
    )
    .values(text=bindparam("said"))
)
FINISH = (
    update(message)
    .where(AT)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "text",
                "finish_reason",
                "tool_call_id",
                "tool_calls",
                "model",
                "pinned",
                "usage",
                "context",
                "rest",
            )
        }
    )
)
"""Everything of a reply that is known only at its end, each under `new_` and its name."""
INTERRUPT = update(message).where(AT).values(finish_reason=FinishReason.INTERRUPTED.value)


class Dialect:
    """The statements that differ between databases.

    Attributes:
        info: What a list shows of each conversation, deleted ones too.
    """

    def __init__(self, *, sqlite: bool, sealed: bool) -> None:
        # Of a sealed text no beginning can be read.
        self.info = _SEALED_INFO if sealed else _INFO
        # The database's own clock: machines that share it may disagree about the time.
        self.clock: ColumnElement[int] = (
            cast((func.julianday("now") - 2440587.5) * 86_400_000_000, BigInteger)
            if sqlite
            else cast(literal_column("extract(epoch from clock_timestamp()) * 1000000"), BigInteger)
        )
        table = facet.name if sqlite else f"{POSTGRES_SCHEMA}.{facet.name}"
        self.add_facet = text(
            f"INSERT INTO {table} (conversation, name, value) "
            "VALUES (:conversation, :name, :value) ON CONFLICT DO NOTHING"
        ).bindparams(
            bindparam("name", type_=SealedEqual()), bindparam("value", type_=SealedEqual())
        )
        self.open_in = (
            select(open_reply, message.c.id, self.clock.label("now"))
            .join_from(open_reply, message)
            .where(open_reply.c.conversation == bindparam("of"))
        )
        self.open_reply = insert(open_reply).values(heartbeat=self.clock)
        self.beat = update(open_reply).where(OPEN_AT).values(heartbeat=self.clock)
        self.time = select(self.clock)
