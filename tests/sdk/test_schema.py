"""Replies by a schema: the parsed value, and what stands in its place."""

import pytest
from pydantic import BaseModel

from quietdesk.errors import SchemaError, UnparsedReplyError, UsageError
from quietdesk.testing import scripted_assistant


class Order(BaseModel):
    item: str
    count: int = 1


def test_a_reply_by_a_schema_has_a_parsed_value() -> None:
    with scripted_assistant(['{"item": "bell", "count": 2}']) as assistant:
        conversation = assistant.start()
        reply = conversation.send("Two bells.", schema=Order)
        assert reply.parsed == Order(item="bell", count=2)
        again = conversation.send("Two bells.", schema=Order.model_json_schema())
        assert again.parsed == {"item": "bell", "count": 2}


def test_a_reply_that_was_cut_or_not_asked_for_by_a_schema_has_none() -> None:
    with scripted_assistant(['{"item": "bell", "count": 2}']) as assistant:
        conversation = assistant.start()
        cut = conversation.send("Two bells.", schema=Order, max_tokens=2)
        with pytest.raises(UnparsedReplyError, match="incomplete"):
            _ = cut.parsed
        with pytest.raises(UsageError, match="schema"):
            _ = conversation.send("Two bells.").parsed


def test_a_schema_that_cannot_be_kept_to_leaves_nothing_behind() -> None:
    with scripted_assistant() as assistant:
        conversation = assistant.start()
        with pytest.raises(SchemaError):
            conversation.send("Hello.", schema={"not": {}})
        assert conversation.messages == []
