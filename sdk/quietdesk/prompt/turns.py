"""Turns: a conversation cut where a part may go without tearing apart what belongs together.

A turn is what the customer says and everything until they speak again: replies, tool calls, their
results. A tool call and its result are always in one turn, also when the customer wrote in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quietdesk.types import Author, Message


@dataclass(frozen=True, slots=True)
class Turn:
    """Messages `start` to `end`, the last one not included."""

    start: int
    end: int


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """The turns of a conversation, oldest first; together they hold every message once."""
    starts = [0] if messages else []
    for index in range(1, len(messages)):
        # System messages before a customer's words belong to these words.
        spoke = messages[index - 1].author not in {Author.CUSTOMER, Author.SYSTEM}
        if spoke and messages[index].author in {Author.CUSTOMER, Author.SYSTEM}:
            starts.append(index)
    turns = [
        Turn(start, end) for start, end in zip(starts, [*starts[1:], len(messages)], strict=True)
    ]
    return _rejoin_tools(messages, turns)


def _rejoin_tools(messages: Sequence[Message], turns: list[Turn]) -> list[Turn]:
    """Turns joined wherever one holds a call and a later one its result."""
    called: dict[str, int] = {}
    joined: list[Turn] = []
    for turn in turns:
        first = len(joined)
        for message in messages[turn.start : turn.end]:
            if message.author is Author.TOOL and message.tool_call_id in called:
                first = min(first, called[message.tool_call_id])
        if first < len(joined):
            turn = Turn(joined[first].start, turn.end)
            joined = joined[:first]
            called = {call_id: min(place, first) for call_id, place in called.items()}
        joined.append(turn)
        for message in messages[turn.start : turn.end]:
            for call in message.tool_calls:
                called[call.id] = first
    return joined
