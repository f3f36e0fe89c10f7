"""Renderer: messages to a prompt's text and tokens, and what each of them takes.

Estimates are for choosing what fits, before anything is rendered. They come from counts that are
remembered by text. The rendered prompt's own tokens are what counts in the end.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from quietdesk.errors import TemplateError, UsageError
from quietdesk.prompt.entries import (
    CAUTIOUS,
    TEMPLATE,
    Abilities,
    ChatDict,
    Entry,
    Owner,
    Part,
    ToolSchema,
    compose,
    shield_json,
)
from quietdesk.prompt.tokens import PromptTokens, Shield, Tokenize
from quietdesk.types import Author, CallForm, Message

_BASES = 256
"""System prompts whose size is remembered."""

_SOME_DAY = datetime(2000, 1, 1, 12, tzinfo=UTC)
"""A day for measuring; every day takes about as many tokens."""


class Template(Protocol):
    """What a window asks of a chat template; see `template.ChatTemplate`."""

    name: str
    abilities: Abilities
    call_form: CallForm
    stop: tuple[str, ...]
    notes: tuple[str, ...]
    marks: tuple[str, ...]
    bos_token: str
    source: str

    def render(
        self,
        messages: Sequence[ChatDict],
        *,
        tools: Sequence[ToolSchema] = (),
        add_generation_prompt: bool = True,
        now: datetime | None = None,
    ) -> str:
        """The text that a model reads for these messages."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """What a prompt is made of."""

    messages: Sequence[Message]
    """Oldest first."""
    system: Sequence[Part]
    summary: str = ""
    passages: Sequence[Part] = ()
    tools: Sequence[ToolSchema] = ()
    now: datetime = _SOME_DAY
    """What the template is told when it asks for the date."""
    continues: bool = False
    """Whether the prompt ends in the middle of the last message."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt."""

    text: str
    """With placeholders for control tokens' texts in people's words."""
    tokens: list[int]
    sizes: list[tuple[int, int]]
    """Characters and tokens of each piece."""
    parts: list[Part]
    n_system: int
    """How many of the parts belong to the system message, if there is one."""
    shield: Shield
    notes: tuple[str, ...]
    messages: tuple[ChatDict, ...]
    """What was rendered, with people's own words in it."""

    def shares(self, count: Callable[[str], int]) -> tuple[dict[Owner, int], set[Owner]]:
        """How the tokens divide among the owners of the parts, and whose text is not there.

        Tokens of a piece that holds text of one owner are that owner's. Where a piece holds
        several, each gets what its text takes by itself. The rest is the template's.
        """
        in_front, missing = self._spans(self.parts[: self.n_system], 0)
        after = max((end for _, end, _ in in_front), default=0)
        behind = self._spans(self.parts[self.n_system :], after)
        if behind[1] and in_front:
            # Some templates put the system prompt elsewhere, with the newest message even.
            anywhere = self._spans(self.parts[self.n_system :], 0)
            behind = min(behind, anywhere, key=lambda found: len(found[1]))
        spans = sorted(in_front + behind[0], key=lambda span: span[:2])
        missing = missing | behind[1]
        shares = {TEMPLATE: 0}
        begin = first = 0
        for characters, tokens in self.sizes:
            finish = begin + characters
            while first < len(spans) and spans[first][1] <= begin:
                first += 1
            inside = []
            for start, _, part in spans[first:]:
                if start >= finish:
                    break
                inside.append(part)
            if len({part.owner for part in inside}) == 1:
                owner = inside[0].owner
                shares[owner] = shares.get(owner, 0) + tokens
            else:
                left = tokens
                for part in inside:
                    own = min(left, count(part.text))
                    shares[part.owner] = shares.get(part.owner, 0) + own
                    left -= own
                shares[TEMPLATE] += left
            begin = finish
        return shares, missing

    def _spans(
        self, parts: Sequence[Part], place: int
    ) -> tuple[list[tuple[int, int, Part]], set[Owner]]:
        """Where the parts stand, one after the other from a place on, and whose do not."""
        spans: list[tuple[int, int, Part]] = []
        missing: set[Owner] = set()
        for part in parts:
            needle = self.shield(part.text, own=part.own).strip()
            at = self.text.find(needle, place)
            if at < 0:
                # Some templates write tools' results as JSON.
                needle = json.dumps(needle, ensure_ascii=False)[1:-1]
                at = self.text.find(needle, place)
            if at < 0:
                missing.add(part.owner)
            else:
                place = at + len(needle)
                spans.append((at, place, part))
        return spans, missing

    def read(self) -> str:
        """The text with people's own words back in it."""
        return self.shield.undo(self.text)


class Renderer:
    """Renders and counts for one model; any thread may use it."""

    def __init__(
        self,
        template: Template,
        tokenize: Tokenize,
        *,
        special_tokens: Sequence[str],
        max_piece_bytes: int,
    ) -> None:
        """Get ready for a model; see `window.Window` for the arguments."""
        self.template = template
        self.max_piece_bytes = max(1, max_piece_bytes)
        self._tokens = PromptTokens(
            tokenize,
            special_tokens=special_tokens,
            bos_token=template.bos_token,
            marks=template.marks,
            source=template.source,
            sample=self._sample(),
        )
        self.overhead = self._measure_overhead()
        self._bases: dict[str, int] = {}

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return self._tokens.count(text)

    def least(self, text: str) -> int:
        """A number of tokens that the text takes at least, found without tokenising it."""
        if len(text) * 4 <= self.max_piece_bytes:
            return 0
        seen = text.strip() if self.template.abilities.trims else text
        return -(-len(seen.encode()) // self.max_piece_bytes)

    def cost(self, text: str, limit: int) -> int:
        """Tokens of a text; of one that takes more than `limit` for sure, what it takes at least.

        So a giant in the history is never tokenised.
        """
        least = self.least(text)
        return least if least > limit else self.count(text)

    def message_cost(self, message: Message, limit: int) -> int:
        """Tokens that a message takes, its frame included; an estimate, never far off."""
        if not message.text and not message.tool_calls:
            return 0
        calls = sum(
            self.count(call.name) + self.cost(call.arguments, limit) + 2 * self.overhead
            for call in message.tool_calls
        )
        return self.cost(message.text, limit) + calls + self.overhead

    def base(self, system: Sequence[Part], tools: Sequence[ToolSchema]) -> int:
        """Tokens of a prompt without a conversation: template, system prompt, tools."""
        key = json.dumps([[part.text for part in system], [dict(tool) for tool in tools]])
        if key not in self._bases:
            tiny = Message(id="", author=Author.CUSTOMER, text="a", created_at=_SOME_DAY)
            tokens = len(self.render(Content([tiny], system, tools=tools)).tokens)
            if len(self._bases) >= _BASES:
                self._bases.clear()
            self._bases[key] = max(0, tokens - self.message_cost(tiny, tokens))
        return self._bases[key]

    def render(self, content: Content) -> Prompt:
        """The prompt's text and tokens.

        A template that refuses the messages as they stand gets them once more as nothing but
        alternating text, which the most demanding ones take.

        Raises:
            TemplateError: it refuses these too.
            UsageError: there is no cut reply to go on with.
        """
        try:
            return self._render(content, self.template.abilities)
        except TemplateError as error:
            try:
                cautious = replace(CAUTIOUS, system=self.template.abilities.system)
                prompt = self._render(content, cautious)
            except TemplateError:
                raise error from None
            note = f"{error} They are given as alternating text without tools."
            return replace(prompt, notes=(note,))

    def _render(self, content: Content, abilities: Abilities) -> Prompt:
        entries, tools, notes = compose(
            content.messages,
            system=content.system,
            summary=content.summary,
            passages=content.passages,
            tools=content.tools,
            abilities=abilities,
            form=self.template.call_form,
        )
        shield = self._tokens.shield(_Letters(entries, tools))
        text = self.template.render(
            [entry.as_dict(shield, nine_letter_ids=abilities.nine_letter_ids) for entry in entries],
            tools=[shield_json(tool, shield) for tool in tools],
            add_generation_prompt=not content.continues,
            now=content.now.astimezone().replace(tzinfo=None),
        )
        parts = [part for entry in entries for part in entry.shown]
        if content.continues:
            last = parts[-1]
            text = _until(text, shield(last.text, own=last.own))
        tokens, sizes = self._tokens.encode(text, shield.words)
        n_system = len(entries[0].shown) if entries and entries[0].role == "system" else 0
        own = tuple(
            entry.as_dict(_as_written, nine_letter_ids=abilities.nine_letter_ids)
            for entry in entries
        )
        return Prompt(text, tokens, sizes, parts, n_system, shield, tuple(notes), own)

    def _sample(self) -> str:
        """A short conversation as the template renders it; empty where it refuses one."""
        talk = [("user", " Hello,\n there. "), ("assistant", "Yes?\n"), ("user", "  1\n\n2")]
        try:
            return self.template.render([{"role": role, "content": text} for role, text in talk])
        except TemplateError:
            return ""

    def _measure_overhead(self) -> int:
        """Tokens that the template puts around a message, on average; for estimates only."""
        user, answer = ({"role": role, "content": "a"} for role in ("user", "assistant"))
        try:
            short = self.template.render([user])
            long = self.template.render([user, answer, user])
        except TemplateError:
            return 4
        more = len(self._tokens.encode(long, {})[0]) - len(self._tokens.encode(short, {})[0])
        return max(0, -(-more // 2) - self.count("a"))


class _Letters:
    """Whether a letter occurs in any text of a prompt; joins the texts only when asked."""

    def __init__(self, entries: Sequence[Entry], tools: Sequence[ToolSchema]) -> None:
        self._entries = entries
        self._tools = tools
        self._text: str | None = None

    def __call__(self, letter: str) -> bool:
        if self._text is None:
            texts = [part.text for entry in self._entries for part in entry.parts]
            texts += [
                call.name + call.arguments for entry in self._entries for call in entry.tool_calls
            ]
            texts += [json.dumps(dict(tool), ensure_ascii=False) for tool in self._tools]
            self._text = "\n".join(texts)
        return letter in self._text


def _as_written(text: str, *, own: bool = False) -> str:
    """Shields nothing."""
    del own
    return text


def _until(text: str, last: str) -> str:
    """The text up to the end of its last message's words."""
    said = last.rstrip()
    place = text.rfind(said)
    if not said or place < 0:
        raise UsageError("There is no cut reply to go on with: the last message has no text.")
    # White space that the reply ended with is kept where the template kept it.
    end = place + len(said)
    while end - place < len(last) and text[end : end + 1] == last[end - place]:
        end += 1
    return text[:end]
