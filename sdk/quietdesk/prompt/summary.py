"""Summaries: what stands for turns that no longer fit, with the facts that must not be lost.

A summary has two parts. The facts (order numbers, names, promises) are read from every message that
went, each time anew and by fixed rules, so no number of compactions can wear them away. The story
is a rolling one: the previous story and the messages that went since go in, a new one comes out. It
is written by a callable, a model's or the extractive default, which needs none.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from quietdesk.prompt.facts import facts_of, sentences_of
from quietdesk.types import Author, Message

_TITLE = "Earlier in this conversation:"
_FACTS = "Facts to keep:"
_FACTS_SHARE = 0.6
"""Share of the summary's room that facts take at most; the story gets what they leave."""


class Summariser(Protocol):
    """Writes the story of turns that no longer fit."""

    def __call__(self, previous: str, messages: Sequence[Message], max_tokens: int) -> str:
        """A story that goes on from the previous one.

        Args:
            previous: The story so far; empty at first.
            messages: What went since, oldest first.
            max_tokens: Tokens that the story should take at most; more are cut off.
        """
        ...


def extract(previous: str, messages: Sequence[Message], max_tokens: int) -> str:
    """A story of the messages' own sentences: one line per message, no model needed.

    The first line, what the customer came for, stays; of the others the newest do.
    """
    lines = previous.splitlines()
    lines += [line for line in map(_line_of, messages) if line]
    room = max_tokens * 4  # about four letters a token; what is too much is cut off exactly later
    while len(lines) > 2 and sum(len(line) + 1 for line in lines) > room:
        del lines[1]
    return "\n".join(lines)


def rolling_summary(
    previous: str,
    gone: Sequence[Message],
    new: Sequence[Message],
    *,
    room: int,
    count: Callable[[str], int],
    summarise: Summariser,
) -> tuple[str, int]:
    """What stands for the messages that went.

    Args:
        previous: The summary of the last compaction; empty at the first.
        gone: Every message that went, oldest first.
        new: Those of them that the previous summary does not tell of.
        room: Tokens that the summary may take.
        count: Tokens of a text.
        summarise: Writes the story.

    Returns:
        The summary, and how many facts had no room in it.
    """
    facts = list(dict.fromkeys(fact for message in gone for fact in facts_of(message)))
    total = len(facts)
    # Facts that are easily told again go first, then the oldest promises.
    order = sorted(range(total), key=lambda index: (_RANK[facts[index].kind], -index))
    kept = set(order)
    costs = [count(f"- {fact}\n") + 1 for fact in facts]
    used = sum(costs)
    for index in reversed(order):
        if used <= _FACTS_SHARE * room:
            break
        kept.discard(index)
        used -= costs[index]
    lines = [f"- {fact}" for index, fact in enumerate(facts) if index in kept]
    listed = "\n".join([_FACTS, *lines]) if lines else ""
    left = room - count(f"{_TITLE}\n\n{listed}") - 2
    story = summarise(_story_of(previous), new, max(0, left))
    told = story.splitlines()
    while told and count("\n".join(told)) > left:
        # The first line says what it was all about; what lies longest back goes first.
        del told[1 if len(told) > 1 else 0]
    text = "\n".join([_TITLE, *told, *([listed] if listed else [])])
    return (text if told or listed else ""), total - len(kept)


_RANK = {"name": 0, "number": 1, "promise": 2, "contact": 3}
"""What is kept first when there is no room for all facts."""


def _story_of(summary: str) -> str:
    """The story in a summary, without its title and its facts."""
    return summary.partition(_FACTS)[0].removeprefix(_TITLE).strip()


def _line_of(message: Message) -> str:
    if message.author in {Author.SYSTEM, Author.TOOL}:
        return ""
    sentence = _telling(message.text)
    who = "Customer" if message.author is Author.CUSTOMER else "Support"
    return f"{who}: {sentence}" if sentence else ""


def _telling(text: str) -> str:
    """The sentence that tells most: a question, else the first that is more than a greeting."""
    found = [sentence for sentence in sentences_of(text) if len(sentence) > 12]
    asked = [sentence for sentence in found if sentence.endswith(("?", "？"))]
    best = (asked or found or [""])[0]
    return best if len(best) <= 160 else best[:157].rsplit(" ", 1)[0] + "..."
