"""Entries: messages as chat roles, in the shape that the template at hand accepts.

An entry is one message of the template's: a role and the texts in it. One entry can hold several of
our own messages, since templates that demand alternating roles get neighbours merged, and since the
passages stand with the newest message. Each part remembers whose it is, for the report.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from quietdesk.types import HERMES, Author, CallForm, Message, Passage, ToolCall

Json: TypeAlias = Any
"""A value as JSON has it: dict, list, str, int, float, bool or None."""

ChatDict: TypeAlias = dict[str, Json]
"""A message as templates read it: JSON."""

ToolSchema: TypeAlias = Mapping[str, Json]
"""A function that the model may call, as JSON Schema in OpenAI's shape."""

Owner: TypeAlias = tuple[str, str]
"""Kind and id of what a text comes from: `("message", "m-17")`."""

SYSTEM: Owner = ("system", "system")
SUMMARY: Owner = ("summary", "summary")
TOOLS: Owner = ("tools", "tools")
TEMPLATE: Owner = ("template", "template")

JOINT = "\n\n"
"""Between the parts of an entry."""

OPENING = "(The conversation starts.)"
"""Stands where a template demands that the user speaks first and the assistant did."""

_NO_TEXT = "(empty)"
_NO_RESULT = "(no result)"
_BEFORE_PASSAGES = "Passages from the documents:"
_AFTER_PASSAGES = "The message to answer:"
_BEFORE_TOOLS = "Functions that can be called, as JSON Schema:"
_HOW_TO_CALL = "To call a function, end your reply with its name and its arguments in this form:"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template was found to take when it was tried out."""

    system: bool = True
    """A system message in front."""
    late_system: bool = True
    """System messages later on."""
    neighbours: bool = True
    """Two messages of one role after each other; else they are merged."""
    assistant_first: bool = True
    """A conversation that the assistant opens."""
    tools: bool = True
    """A list of tools."""
    tool_messages: bool = True
    """Tool calls and their results."""
    many_calls: bool = True
    """Several tool calls in one message."""
    typed_content: bool = False
    """Wants content as a list of typed parts."""
    trims: bool = False
    """Cuts white space from the ends of messages."""
    nine_letter_ids: bool = False
    """Wants tool call ids of exactly nine letters and digits."""


CAUTIOUS = Abilities(
    system=False,
    late_system=False,
    neighbours=False,
    assistant_first=False,
    tools=False,
    tool_messages=False,
)
"""What even the most demanding template takes."""


class Shielding(Protocol):
    """Makes control tokens' texts harmless; see `tokens.Shield`."""

    def __call__(self, text: str, *, own: bool = False) -> str:
        """The text without them."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A text and whose it is."""

    owner: Owner
    text: str
    own: bool = False
    """Whether the model itself said it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the template sees it."""

    role: str
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    """Of a tool's result: the function's name."""
    owner: Owner = TEMPLATE
    """Whose the tool calls are."""

    @property
    def shown(self) -> tuple[Part, ...]:
        """What can be found again in the rendered text: of a call, the function's name."""
        return (*self.parts, *(Part(self.owner, call.name) for call in self.tool_calls))

    def as_dict(self, shield: Shielding, *, nine_letter_ids: bool = False) -> ChatDict:
        """The entry for the template, every text of it shielded."""
        short = _nine_letters if nine_letter_ids else str
        out: ChatDict = {
            "role": self.role,
            "content": JOINT.join(shield(part.text, own=part.own) for part in self.parts),
        }
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    "id": short(call.id),
                    "type": "function",
                    "function": {
                        "name": shield(call.name),
                        "arguments": shield_json(_arguments(call), shield),
                    },
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            out["tool_call_id"] = short(self.tool_call_id)
        if self.name is not None:
            out["name"] = shield(self.name)
        return out


def compose(
    messages: Sequence[Message],
    *,
    system: Sequence[Part] = (),
    summary: str = "",
    passages: Sequence[Part] = (),
    tools: Sequence[ToolSchema] = (),
    abilities: Abilities = Abilities(),
    form: CallForm = HERMES,
) -> tuple[list[Entry], list[ToolSchema], list[str]]:
    """Messages as entries that the template accepts.

    Stable text comes first: the system prompt and what belongs to it, then the turns, then the
    passages with the newest customer message. So the beginning of the prompt stays the same from
    turn to turn and the engine need not read it again.

    Args:
        messages: What is to be shown, oldest first.
        system: Texts for the system message, in order.
        summary: What stands for older turns. It goes to the user's side, where the customer's words
            in it have no more weight than they had.
        passages: Texts for the newest customer message, best first.
        tools: Functions that the model may call.
        abilities: What the template takes.
        form: How the model writes calls.

    Returns:
        The entries, the tools to hand to the template, and notes on what was reshaped.
    """
    notes: list[str] = []
    head = list(system)
    if tools and not abilities.tools:
        schemas = "\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in tools)
        head.append(Part(TOOLS, f"{_BEFORE_TOOLS}\n{schemas}"))
        notes.append("The template knows no tools; they are listed in the system prompt.")
    if tools and form == HERMES:
        # A form that the template shows is one that the model knows.
        example = ToolCall(id="", name="NAME", arguments="{}")
        head.append(Part(TOOLS, f"{_HOW_TO_CALL}\n{form.write([example])}"))
    entries = _read(messages)
    while entries and entries[0].role == "system":
        head += entries.pop(0).parts
    if any(entry.tool_calls or entry.role == "tool" for entry in entries):
        entries = _results_after_calls(entries, notes)
        if not abilities.tool_messages:
            entries = [_without_tools(entry, form) for entry in entries]
            notes.append("The template knows no tool calls; they are written out as text.")
        elif not abilities.many_calls:
            entries = _one_call_each(entries)
    entries = _place_passages(entries, messages, passages)
    if summary:
        entries = _place_summary(entries, Part(SUMMARY, summary))
    if not abilities.late_system and any(entry.role == "system" for entry in entries):
        entries = _fold_late_system(entries)
        notes.append(
            "The template takes a system message only in front; later ones stand with the "
            "customer's next message."
        )
    if not abilities.assistant_first and (not entries or entries[0].role == "assistant"):
        entries.insert(0, Entry("user", (Part(TEMPLATE, OPENING),)))
        notes.append("The template wants the user to speak first; a line was put in front.")
    head = [part for part in head if part.text.strip()]
    if head and abilities.system:
        entries.insert(0, Entry("system", tuple(head)))
    elif head:
        entries = _fold_head(entries, head)
        notes.append(
            "The template refuses a system message; its text stands with the first customer "
            "message."
        )
    if not abilities.neighbours:
        merged = _merge_neighbours(entries)
        if len(merged) < len(entries):
            notes.append("The template wants alternating roles; neighbours of one role are merged.")
        entries = merged
    return entries, list(tools) if abilities.tools else [], notes


def passage_parts(passages: Sequence[Passage]) -> list[Part]:
    """Passages as texts, numbered from 1 in their order, for citing."""
    parts = []
    for number, passage in enumerate(passages, start=1):
        place = passage.source
        if place and passage.line is not None:
            place += f":{passage.line}"
        head = f"[{number}] ({place})" if place else f"[{number}]"
        parts.append(Part(("passage", passage.id), f"{head} {passage.text}"))
    return parts


def shield_json(value: Json, shield: Shielding) -> Json:
    """The same JSON with every text in it shielded."""
    if isinstance(value, str):
        return shield(value)
    if isinstance(value, Mapping):
        return {shield(str(key)): shield_json(item, shield) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shield_json(item, shield) for item in value]
    return value


def _read(messages: Sequence[Message]) -> list[Entry]:
    """One entry for each message that says or does something."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    entries = [_entry(message, names) for message in messages]
    return [entry for entry in entries if entry.parts or entry.tool_calls]


def _entry(message: Message, names: Mapping[str, str]) -> Entry:
    owner = ("message", message.id)
    own = message.author is Author.BOT
    parts = (Part(owner, message.text, own),) if message.text.strip() else ()
    match message.author:
        case Author.CUSTOMER:
            return Entry("user", parts)
        case Author.SYSTEM:
            return Entry("system", parts)
        case Author.TOOL:
            call_id = message.tool_call_id or ""
            # An empty result is a result: without it the call would stand unanswered.
            result = parts or (Part(owner, _NO_TEXT),)
            return Entry("tool", result, tool_call_id=call_id, name=names.get(call_id, "tool"))
        case Author.BOT | Author.HUMAN:
            return Entry("assistant", parts, tool_calls=message.tool_calls, owner=owner)


def _results_after_calls(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """Every call followed by its results, as templates expect; whoever spoke in between waits."""
    results: dict[str, list[Entry]] = {}
    called = {call.id for entry in entries for call in entry.tool_calls}
    for entry in entries:
        if entry.role == "tool" and entry.tool_call_id in called:
            results.setdefault(entry.tool_call_id, []).append(entry)
    ordered: list[Entry] = []
    for entry in entries:
        if entry.role == "tool" and entry.tool_call_id in called:
            continue
        ordered.append(entry)
        for call in entry.tool_calls:
            # A call that was cut short has no result; templates fail on a call without one.
            nothing = Entry("tool", (Part(TEMPLATE, _NO_RESULT),), (), call.id, call.name)
            ordered += results.pop(call.id, [nothing])
    if len(ordered) > len(entries):
        notes.append("A tool call has no result; the model is told so.")
    return ordered


def _one_call_each(entries: Sequence[Entry]) -> list[Entry]:
    """Several calls of one message as one message each, with their results between them."""
    apart: list[Entry] = []
    waiting: dict[str, Entry] = {}
    for entry in entries:
        if entry.tool_call_id is not None and entry.tool_call_id in waiting:
            apart.append(waiting.pop(entry.tool_call_id))
        if len(entry.tool_calls) < 2:
            apart.append(entry)
            continue
        first, *others = entry.tool_calls
        apart.append(replace(entry, tool_calls=(first,)))
        waiting = {call.id: Entry("assistant", (), (call,), owner=entry.owner) for call in others}
    return apart


def _without_tools(entry: Entry, form: CallForm) -> Entry:
    """Tool calls and results as words, for a template that knows neither."""
    if entry.role == "tool":
        first, *rest = entry.parts
        said = Part(first.owner, f"Result of {entry.name}: {first.text}")
        return Entry("user", (said, *rest))
    if not entry.tool_calls:
        return entry
    if form == HERMES:
        text = form.write(entry.tool_calls)
    else:
        # The marks of the template's own form would stand there as mere words.
        text = "\n".join(f"Call {call.name}: {call.arguments}" for call in entry.tool_calls)
    return Entry("assistant", (*entry.parts, Part(entry.owner, text)))


def _place_passages(
    entries: list[Entry], messages: Sequence[Message], passages: Sequence[Part]
) -> list[Entry]:
    if not passages:
        return entries
    block = (
        Part(TEMPLATE, _BEFORE_PASSAGES),
        *passages,
        Part(TEMPLATE, _AFTER_PASSAGES),
    )
    newest = next((m for m in reversed(messages) if m.author is Author.CUSTOMER and m.text), None)
    owner = ("message", newest.id) if newest else None
    for index in reversed(range(len(entries))):
        entry = entries[index]
        if owner and any(part.owner == owner for part in entry.parts):
            placed = replace(entry, parts=(*block, *entry.parts))
            return [*entries[:index], placed, *entries[index + 1 :]]
    return [*entries, Entry("user", block[:-1])]


def _place_summary(entries: list[Entry], summary: Part) -> list[Entry]:
    first = entries[0] if entries else None
    if first is not None and first.role == "user":
        return [replace(first, parts=(summary, *first.parts)), *entries[1:]]
    return [Entry("user", (summary,)), *entries]


def _fold_late_system(entries: list[Entry]) -> list[Entry]:
    folded: list[Entry] = []
    waiting: tuple[Part, ...] = ()
    for entry in entries:
        if entry.role == "system":
            waiting += entry.parts
        elif entry.role == "user" and waiting:
            folded.append(replace(entry, parts=waiting + entry.parts))
            waiting = ()
        else:
            folded.append(entry)
    if waiting:
        folded.append(Entry("user", waiting))
    return folded


def _fold_head(entries: list[Entry], head: Sequence[Part]) -> list[Entry]:
    for index, entry in enumerate(entries):
        if entry.role == "user":
            folded = replace(entry, parts=(*head, *entry.parts))
            return [*entries[:index], folded, *entries[index + 1 :]]
    return [Entry("user", tuple(head)), *entries]


def _merge_neighbours(entries: Sequence[Entry]) -> list[Entry]:
    merged: list[Entry] = []
    for entry in entries:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.role == entry.role
            and entry.role in {"user", "assistant", "system"}
            and not last.tool_calls
        ):
            merged[-1] = replace(last, parts=last.parts + entry.parts, tool_calls=entry.tool_calls)
        else:
            merged.append(entry)
    return merged


def _arguments(call: ToolCall) -> Json:
    """The arguments as an object, which is what templates expect; as text if they are none."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return call.arguments


def _nine_letters(call_id: str) -> str:
    if len(call_id) == 9 and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
