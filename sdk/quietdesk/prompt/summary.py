"""Summaries: what stands for turns that no longer fit, with the facts that must not be lost.

A summary has two parts. The facts (order numbers, names, promises) are read from every message that
went, each time anew and by fixed rules, so no number of compactions can wear them away. The story
is a rolling one: the previous story and the messages that went since go in, a new one comes out. It
is written by a callable, a model's or the extractive default, which needs none.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from quietdesk.prompt.facts import facts_of, sentences_of
from quietdesk.types import Author, Message

_TITLE = "Summary of the conversation until here:"
_FACTS = "Facts to keep:"
_END = "(The conversation goes on.)"
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
    told = Counter(fact for message in gone for fact in facts_of(message))
    facts = list(told)
    # What is told often weighs more, and what was told late more than what was told early.
    order = sorted(range(len(facts)), key=lambda at: (_RANK[facts[at].kind], -told[facts[at]], -at))
    kept = set(order)
    costs = [count(f"- {fact}\n") + 1 for fact in facts]
    used = sum(costs)
    for at in reversed(order):
        if used <= _FACTS_SHARE * room:
            break
        kept.discard(at)
        used -= costs[at]
    lines = [f"- {fact}" for at, fact in enumerate(facts) if at in kept]
    listed = [_FACTS, *lines] if lines else []
    left = room - count("\n".join([_TITLE, *listed, _END])) - 2
    story = _shorten(summarise(_story_of(previous), new, max(0, left)), left, count)
    text = "\n".join([_TITLE, *story, *listed, _END])
    if not (story or listed) or count(text) > room:
        return "", len(facts)
    return text, len(facts) - len(kept)


def lost_facts(summary: str, gone: Sequence[Message]) -> int:
    """How many facts of the messages that went a summary has no room for."""
    lines = set(summary.splitlines())
    return sum(f"- {fact}" not in lines for fact in {f for m in gone for f in facts_of(m)})


def _shorten(story: str, room: int, count: Callable[[str], int]) -> list[str]:
    """The lines of a story that find room; the first one tells what it was all about."""
    lines = [line for line in story.splitlines() if line.strip()]
    while len(lines) > 1 and count("\n".join(lines)) > room:
        del lines[1]
    while lines and (tokens := count(lines[0])) > room:
        lines[0] = lines[0][: len(lines[0]) * max(0, room) // tokens].rpartition(" ")[0]
        if not lines[0]:
            lines.clear()
    return lines


_RANK = {"name": 0, "number": 1, "promise": 2, "contact": 3}
"""What is kept first when there is no room for all facts."""


def _story_of(summary: str) -> str:
    """The story in a summary, without its title and its facts."""
    body = summary.removeprefix(_TITLE).removesuffix(_END)
    return body.partition(f"\n{_FACTS}\n")[0].strip()


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
