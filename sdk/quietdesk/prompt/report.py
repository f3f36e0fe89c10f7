"""Report: what became of each message and passage, in words for a reader.

The tokens of the items that are in the prompt sum to the prompt's.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from quietdesk.prompt.entries import SUMMARY, SYSTEM, TEMPLATE, TOOLS, Owner
from quietdesk.types import ContextItem, ContextOutcome, Message, Passage


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a report is made from."""

    shares: Mapping[Owner, int]
    """Tokens in the prompt."""
    missing: AbstractSet[Owner]
    """Whose text the template does not show in full."""
    leading: Sequence[Message]
    """System messages in front, which belong to the system prompt."""
    messages: Sequence[Message]
    """All others, oldest first; the last one is the newest."""
    costs: Sequence[int]
    """Tokens that each of these takes, shown or not."""
    gone: AbstractSet[int]
    """Places of those that are not shown."""
    policy: str
    summary: str
    tool_tokens: int
    """Of the tools where the template itself writes them, else 0."""
    call_form: str
    """Name of the form in which calls are asked for."""
    passages: Sequence[tuple[Passage, bool, str, int]]
    """Each with whether it is shown, why it was cut or left out, and what it takes."""


def items_of(outcome: Outcome) -> list[ContextItem]:
    """One item for each message and passage, and for what surrounds them."""
    shares, missing = outcome.shares, outcome.missing
    items: list[ContextItem] = []

    def add(owner: Owner, result: ContextOutcome, tokens: int, reason: str) -> None:
        kind, name = owner
        items.append(ContextItem(id=name, kind=kind, outcome=result, tokens=tokens, reason=reason))

    pinned, kept = ContextOutcome.PINNED, ContextOutcome.KEPT
    if SYSTEM in shares or SYSTEM in missing:
        add(SYSTEM, pinned, shares.get(SYSTEM, 0), "the system prompt always stays")
    for message in outcome.leading:
        owner = ("message", message.id)
        add(owner, pinned, shares.get(owner, 0), "belongs to the system prompt")
    if outcome.summary:
        add(SUMMARY, kept, shares.get(SUMMARY, 0), "stands for older turns")
    of_template = shares.get(TEMPLATE, 0)
    of_tools = min(outcome.tool_tokens, of_template)
    if of_tools or TOOLS in shares:
        form = "the template's own" if outcome.call_form == "model" else outcome.call_form
        why = f"tools always stay; calls are written in the form {form}"
        add(TOOLS, pinned, shares.get(TOOLS, 0) + of_tools, why)
    add(TEMPLATE, pinned, of_template - of_tools, "marks that the template writes")
    for place, message in enumerate(outcome.messages):
        owner = ("message", message.id)
        tokens = shares.get(owner, 0)
        if place in outcome.gone and outcome.summary:
            why = "older turns gave way; the summary stands for it"
            add(owner, ContextOutcome.SUMMARISED, outcome.costs[place], why)
        elif place in outcome.gone:
            why = f"older turns gave way (policy {outcome.policy})"
            add(owner, ContextOutcome.EVICTED, outcome.costs[place], why)
        elif owner in missing:
            why = "the template does not show it in full"
            add(owner, pinned if message.pinned else kept, tokens, why)
        elif place == len(outcome.messages) - 1:
            add(owner, pinned, tokens, "the newest message always stays")
        elif message.pinned:
            add(owner, pinned, tokens, "pinned")
        else:
            add(owner, kept, tokens, "" if message.text or message.tool_calls else "has no text")
    for passage, shown, why, takes in outcome.passages:
        owner = ("passage", passage.id)
        if shown:
            result = ContextOutcome.TRUNCATED if why else kept
            add(owner, result, shares.get(owner, 0), why)
        else:
            add(owner, ContextOutcome.EVICTED, takes, why)
    return items


def notes_of(outcome: Outcome, lost_facts: int) -> list[str]:
    """Sentences on what the model does not see."""
    notes = []
    if outcome.gone:
        stand_in = ", a summary stands for them" if outcome.summary else ""
        notes.append(f"{_number(len(outcome.gone), 'older message')} did not fit{stand_in}.")
    if lost_facts:
        notes.append(f"{_number(lost_facts, 'fact')} of older turns had no room in the summary.")
    hidden = sorted(name for kind, name in outcome.missing if kind == "message")
    if hidden:
        notes.append(f"The template does not show in full: message {', '.join(hidden)}.")
    if SYSTEM in outcome.missing:
        notes.append("The template does not show the system prompt in full.")
    cut = sum(bool(why) for _, _, why, _ in outcome.passages)
    if cut:
        notes.append(f"{_number(cut, 'passage')} did not fit whole.")
    return notes


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
