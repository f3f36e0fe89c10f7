"""Window: fits a conversation into the context, token by token, and reports what became of it.

What is counted is what the engine gets: the rendered prompt's own tokens. Choices are made with
remembered counts per message, then the prompt is rendered and tokenised once and checked; only when
the check fails is it done again.

Where the window begins is a function of the messages alone. Each reply's context report says where
its window began (`ContextReport.cursor`); the next prompt begins there again unless it overflows. A
conversation that carries no reports (imported, or another policy ran before) is replayed turn by
turn, which leads to the same place. So the beginning of the prompt stays the same until the next
overflow, also after a restart, a fork or on another machine, and nothing has to be remembered.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from quietdesk.errors import ContextError, TemplateError, UsageError
from quietdesk.prompt.entries import (
    SUMMARY,
    SYSTEM,
    TEMPLATE,
    TOOLS,
    Abilities,
    ChatDict,
    Entry,
    Owner,
    Part,
    ToolSchema,
    compose,
    passage_parts,
    shield_json,
)
from quietdesk.prompt.policies import Load, Policy, find_policy
from quietdesk.prompt.summary import Summariser, extract, rolling_summary
from quietdesk.prompt.tokens import PromptTokens, Shield, Tokenize
from quietdesk.prompt.turns import turns_of
from quietdesk.types import (
    Author,
    ContextItem,
    ContextOutcome,
    ContextReport,
    Message,
    Passage,
)

_LEAST_CUT = 32
"""Tokens: a passage is rather left out than cut down to fewer."""

_BASES = 64
"""System prompts whose size is remembered."""

_SOME_DAY = datetime(2000, 1, 1, 12, tzinfo=UTC)
"""A day for measuring; every day takes about as many tokens."""


class Template(Protocol):
    """What a window asks of a chat template; see `template.ChatTemplate`."""

    name: str
    abilities: Abilities
    stop: tuple[str, ...]
    notes: tuple[str, ...]
    marks: tuple[str, ...]
    bos_token: str

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
class Fitted:
    """A prompt that fits."""

    tokens: list[int]
    report: ContextReport
    stop: tuple[str, ...]
    """Strings that end the reply, besides the model's own end tokens."""
    text: str
    """The rendered prompt, for reading; what people wrote stands in it as they wrote it."""


class Window:
    """Fits one conversation's prompts. Not for several threads at once; cheap to make again.

    It remembers token counts and nothing else: two windows with the same arguments give the same
    prompt for the same messages.
    """

    def __init__(
        self,
        template: Template,
        tokenize: Tokenize,
        *,
        n_ctx: int,
        policy: str | Policy = "rolling-window",
        special_tokens: Sequence[str] = (),
        max_piece_bytes: int = 256,
        passage_share: float = 0.5,
        summary_share: float = 0.2,
        summarise: Summariser = extract,
    ) -> None:
        """A window for one model and context.

        Args:
            template: The model's chat template.
            tokenize: The model's tokeniser.
            n_ctx: Tokens of prompt and reply together.
            policy: What gives way: a name in `POLICIES`, or a policy of one's own.
            special_tokens: Texts of the control tokens; in people's words they stay words.
            max_piece_bytes: Bytes of the vocabulary's longest token, for refusing giant texts
                before they are tokenised.
            passage_share: Share of the free room that passages take at most, 0 to 1.
            summary_share: Share of the free room that a summary takes at most, 0 to 1.
            summarise: Writes the summary for policies that want one.

        Raises:
            UnknownNameError: no such policy.
        """
        self._template = template
        self._n_ctx = n_ctx
        self.policy = find_policy(policy) if isinstance(policy, str) else policy
        self._max_piece_bytes = max(1, max_piece_bytes)
        self._passage_share = passage_share
        self._summary_share = summary_share
        self._summarise = summarise
        self._tokens = PromptTokens(
            tokenize,
            special_tokens=special_tokens,
            bos_token=template.bos_token,
            marks=template.marks,
            sample=self._sample(),
        )
        self._overhead = self._measure_overhead()
        self._bases: dict[str, int] = {}
        self._summaries: dict[tuple[str, ...], str] = {}

    def _sample(self) -> str:
        """A short conversation as the template renders it; empty where it refuses one."""
        talk = [("user", " Hello,\n there. "), ("assistant", "Yes?\n"), ("user", "  1\n\n2")]
        try:
            return self._template.render([{"role": role, "content": text} for role, text in talk])
        except TemplateError:
            return ""

    def _measure_overhead(self) -> int:
        """Tokens that the template puts around a message, on average; for estimates only."""
        word = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}
        try:
            short = self._template.render([word[0]])
            long = self._template.render([word[0], word[1], word[0]])
        except TemplateError:
            return 4
        more = len(self._tokens.encode(long, {})[0]) - len(self._tokens.encode(short, {})[0])
        return max(0, -(-more // 2) - self._tokens.count("a"))

    def _least(self, text: str) -> int:
        """A number of tokens that the text takes at least, found without tokenising it."""
        if len(text) * 4 <= self._max_piece_bytes:
            return 0
        seen = text.strip() if self._template.abilities.trims else text
        return -(-len(seen.encode()) // self._max_piece_bytes)

    def _cost(self, text: str) -> int:
        """Tokens of a text; of one that can never fit, what it takes at least."""
        least = self._least(text)
        return least if least > self._n_ctx else self._tokens.count(text)

    def _message_cost(self, message: Message) -> int:
        """Tokens that a message takes, its frame included; an estimate, never far off."""
        if not message.text and not message.tool_calls:
            return 0
        calls = sum(
            self._tokens.count(call.name) + self._cost(call.arguments) + 2 * self._overhead
            for call in message.tool_calls
        )
        return self._cost(message.text) + calls + self._overhead

    def _base(self, system: Sequence[Part], tools: Sequence[ToolSchema]) -> int:
        """Tokens of a prompt without a conversation: template, system prompt, tools."""
        key = json.dumps([[part.text for part in system], list(tools)], default=dict)
        if key not in self._bases:
            tiny = Message(id="", author=Author.CUSTOMER, text="a", created_at=_SOME_DAY)
            tokens = len(self._render([tiny], system, (), tools, _SOME_DAY, False).tokens)
            if len(self._bases) >= _BASES:
                self._bases.clear()
            self._bases[key] = max(0, tokens - self._message_cost(tiny))
        return self._bases[key]

    def _render(
        self,
        messages: Sequence[Message],
        system: Sequence[Part],
        passages: Sequence[Part],
        tools: Sequence[ToolSchema],
        now: datetime,
        continues: bool,
    ) -> "_Rendered":
        abilities = self._template.abilities
        entries, schemas, notes = compose(
            messages, system=system, passages=passages, tools=tools, abilities=abilities
        )
        shield = self._tokens.shield(_Letters(entries, schemas))
        text = self._template.render(
            [entry.as_dict(shield, nine_letter_ids=abilities.nine_letter_ids) for entry in entries],
            tools=[shield_json(tool, shield) for tool in schemas],
            add_generation_prompt=not continues,
            now=now.astimezone().replace(tzinfo=None),
        )
        parts = [part for entry in entries for part in entry.parts]
        if continues:
            text = _until(text, shield(parts[-1].text) if parts else "")
        tokens, sizes = self._tokens.encode(text, shield.words)
        return _Rendered(text, tokens, sizes, parts, shield, tuple(notes))

    def fit(
        self,
        messages: Sequence[Message],
        system: str = "",
        max_tokens: int = 512,
        passages: Sequence[Passage] = (),
        tools: Sequence[ToolSchema] = (),
        *,
        continues: bool = False,
    ) -> Fitted:
        """The prompt for the next reply.

        Args:
            messages: The conversation, oldest first, with the message to answer at its end.
            system: The system prompt.
            max_tokens: Tokens to keep free for the reply.
            passages: What may support the reply, best first. They stand with the newest customer
                message and are not written back into history.
            tools: Functions that the model may call.
            continues: Go on with the last message, a reply that was cut, in the middle of its text.

        Raises:
            ContextError: what must stay does not fit; with the policy `stop`, anything does not.
            TemplateError: the template refuses the messages.
            UsageError: there is no message.
        """
        if not messages:
            raise UsageError("There is no message to answer: give at least one.")
        return _Fit(self, messages, system, max_tokens, passages, tools, continues).run()


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A prompt, before it is known whether it fits."""

    text: str
    tokens: list[int]
    sizes: list[tuple[int, int]]
    """Characters and tokens of each piece."""
    parts: list[Part]
    shield: Shield
    notes: tuple[str, ...]

    def shares(self, count: Callable[[str], int]) -> tuple[dict[Owner, int], list[Owner]]:
        """How the tokens divide among the owners of the parts, and whose text is not there.

        Tokens of a piece that holds text of one owner are that owner's. Where a piece holds
        several, each gets what its text takes by itself. The rest is the template's.
        """
        spans: list[tuple[int, int, Part]] = []
        missing: list[Owner] = []
        place = 0
        for part in self.parts:
            needle = self.shield(part.text).strip()
            found = self._find(needle, place)
            if found is None:
                missing.append(part.owner)
                continue
            start, end = found
            spans.append((start, end, part))
            place = max(place, end)
        spans.sort(key=lambda span: span[:2])
        shares: dict[Owner, int] = {}
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
                shares[TEMPLATE] = shares.get(TEMPLATE, 0) + left
            begin = finish
        return shares, missing

    def _find(self, needle: str, place: int) -> tuple[int, int] | None:
        for text in (needle, json.dumps(needle, ensure_ascii=False)[1:-1]):
            # Some templates put the system prompt elsewhere, so what is not ahead may be behind.
            for start in (place, 0):
                at = self.text.find(text, start)
                if at >= 0:
                    return at, at + len(text)
        return None

    def read(self) -> str:
        """The text with people's own words back in it."""
        text = self.text
        for letter, word in self.shield.words.items():
            text = text.replace(letter, word)
        return text


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


def _until(text: str, last: str) -> str:
    """The text up to the end of its last message's words."""
    said = last.rstrip()
    place = text.rfind(said)
    if not said or place < 0:
        raise UsageError("There is no cut reply to go on with: the last message has no text.")
    # White space that the reply ended with is kept where the template kept it.
    end = place + len(said)
    while end < len(text) and text[end : end + 1] == last[end - place : end - place + 1]:
        end += 1
    return text[:end]


class _Fit:
    """One prompt in the making."""

    def __init__(
        self,
        window: Window,
        messages: Sequence[Message],
        system: str,
        max_tokens: int,
        passages: Sequence[Passage],
        tools: Sequence[ToolSchema],
        continues: bool,
    ) -> None:
        self.window = window
        self.policy = window.policy
        self.reserve = max_tokens
        self.limit = window._n_ctx - max_tokens
        self.tools = tools
        self.continues = continues
        self.now = messages[-1].created_at
        count = 0
        while count < len(messages) - 1 and messages[count].author is Author.SYSTEM:
            count += 1
        self.leading = messages[:count]
        """System messages in front: they belong to the system prompt and stay with it."""
        self.messages = messages[count:]
        self.turns = turns_of(self.messages)
        self.held = [
            index == len(self.turns) - 1
            or any(message.pinned for message in self.messages[turn.start : turn.end])
            for index, turn in enumerate(self.turns)
        ]
        self.head_parts = [Part(SYSTEM, system)] if system else []
        self.head_parts += [
            Part(("message", message.id), message.text) for message in self.leading if message.text
        ]
        self._refuse_giants(system)
        self.costs = [window._message_cost(message) for message in self.messages]
        self.turn_costs = [sum(self.costs[turn.start : turn.end]) for turn in self.turns]
        self.base = window._base(self.head_parts, tools)
        self.summary_room = 0
        if self.policy.summarises:
            self.summary_room = max(0, int(window._summary_share * (self.limit - self.base)))
        self.given = passages
        self.passages, self.cut = self._choose_passages(passages)

    def run(self) -> Fitted:
        """Choose, render, check; again only where the check fails."""
        excess = 0
        load = self._load(excess)
        cursor = self._start(load)
        head = self.policy.head(load)
        while True:
            load = self._load(excess)
            cursor = self.policy.advance(load, cursor, head)
            gone = self._gone(cursor, head)
            summary, lost = self._summary(gone)
            rendered = self._render(gone, summary)
            over = len(rendered.tokens) - self.limit
            if over <= 0:
                return self._fitted(rendered, cursor, gone, summary, lost)
            if self.policy.drops and self._movable(max(cursor, head)):
                kept = sum(
                    tokens for index, tokens in enumerate(self.turn_costs) if index not in gone
                )
                counted = load.fixed + kept + (load.summary if gone else 0)
                excess += max(1, len(rendered.tokens) - counted)
            elif self.policy.drops and head > 0:
                cursor, head = max(cursor, head), head - 1
            elif self.policy.drops and self.passages:
                self.passages.pop()
            else:
                raise ContextError(self._what(gone), len(rendered.tokens), self.limit)

    def _refuse_giants(self, system: str) -> None:
        """Refuse, before anything is tokenised, what cannot fit by its mere length."""
        texts = [("The system prompt", system)]
        texts += [(f"The system message {message.id!r}", message.text) for message in self.leading]
        for turn, held in zip(self.turns, self.held, strict=True):
            if held or not self.policy.drops:
                for message in self.messages[turn.start : turn.end]:
                    newest = message is self.messages[-1]
                    what = "The newest message" if newest else f"The message {message.id!r}"
                    texts.append((what, message.text))
        for what, text in texts:
            least = self.window._least(text)
            if least > self.limit:
                raise ContextError(f"{what} is too long: it", least, max(0, self.limit))

    def _choose_passages(self, passages: Sequence[Passage]) -> tuple[list[Part], dict[str, str]]:
        """The passages that find room, best first, and why others were cut or left out."""
        parts = passage_parts(passages)
        if not self.policy.drops:
            return parts, {}
        held = sum(tokens for tokens, held in zip(self.turn_costs, self.held, strict=True) if held)
        room = int(self.window._passage_share * max(0, self.limit - self.base - held))
        kept: list[Part] = []
        why: dict[str, str] = {}
        for part in parts:
            cost = self.window._cost(part.text) + 2
            if cost <= room:
                kept.append(part)
                room -= cost
            elif room >= _LEAST_CUT and not why:
                short = self._cut(part.text, room - 2)
                kept.append(Part(part.owner, short))
                why[part.owner[1]] = "cut at its end: the passages' share of the context was full"
                room = 0
            else:
                why[part.owner[1]] = "left out: the passages' share of the context was full"
        return kept, why

    def _cut(self, text: str, room: int) -> str:
        """The beginning of a text, at a word's end, in at most so many tokens."""
        count = self.window._tokens.count
        # Longer than this it cannot be; so a giant is not tokenised in full.
        text = text[: room * self.window._max_piece_bytes]
        while (tokens := count(text)) > room:
            size = min(len(text) - 1, len(text) * room // tokens)
            space = text.rfind(" ", 0, size)
            text = text[: space if space > size // 2 else size]
        return text

    def _load(self, excess: int) -> Load:
        count = self.window._tokens.count
        passages = sum(count(part.text) + 2 for part in self.passages)
        if self.passages:
            passages += 2 * self.window._overhead
        return Load(
            turns=self.turn_costs,
            held=self.held,
            fixed=self.base + passages + excess,
            limit=self.limit,
            stable=self.base,
            summary=self.summary_room,
        )

    def _movable(self, start: int) -> int:
        """Tokens of the turns from start on that may still go."""
        return sum(
            tokens
            for tokens, held in zip(self.turn_costs[start:], self.held[start:], strict=True)
            if not held
        )

    def _gone(self, cursor: int, head: int) -> list[int]:
        """The turns that are not shown."""
        return [index for index in range(head, cursor) if not self.held[index]]

    def _newest_report(self) -> ContextReport | None:
        """What the newest reply's prompt held, if the same policy and context made it."""
        for message in reversed(self.messages):
            if message.author is Author.BOT and message.context is not None:
                report = message.context
                same = report.policy == self.policy.name and report.n_ctx == self.window._n_ctx
                return report if same else None
        return None

    def _start(self, load: Load) -> int:
        """Where the kept turns began at the last reply."""
        report = self._newest_report()
        if report is not None:
            if not report.cursor:
                return 0
            for index, turn in enumerate(self.turns):
                if self.messages[turn.start].id == report.cursor:
                    return index
        return self._replay(load)

    def _replay(self, load: Load) -> int:
        """Where the kept turns would begin if every earlier reply had been fitted here."""
        cursor = kept = 0
        for index, turn in enumerate(self.turns[:-1]):
            said = self.messages[turn.start : turn.end]
            asked = len(said)
            while asked and said[asked - 1].author in {Author.BOT, Author.HUMAN}:
                asked -= 1
            if any(message.author is Author.BOT for message in said):
                question = sum(self.costs[turn.start : turn.start + asked])
                then = replace(
                    load,
                    turns=[*self.turn_costs[:index], question],
                    held=[*self.held[:index], True],
                    fixed=self.base,
                )
                summary = load.summary if cursor else 0
                if self.base + kept + question + summary > self.limit:
                    head = self.policy.head(then)
                    cursor = self.policy.advance(then, cursor, head)
                    gone = set(self._gone(cursor, head))
                    kept = sum(
                        tokens
                        for place, tokens in enumerate(self.turn_costs[:index])
                        if place not in gone
                    )
            kept += self.turn_costs[index]
        return cursor

    def _summary(self, gone: Sequence[int]) -> tuple[str, int]:
        """What stands for the turns that are not shown, and how many facts it has no room for."""
        if not self.policy.summarises or not gone or self.summary_room < _LEAST_CUT:
            return "", 0
        messages = [
            message
            for index in gone
            for message in self.messages[self.turns[index].start : self.turns[index].end]
        ]
        report = self._newest_report()
        previous, new = "", messages
        if report is not None and report.summary:
            told = {i.id for i in report.items if i.outcome is ContextOutcome.SUMMARISED}
            previous = report.summary
            new = [message for message in messages if message.id not in told]
            if not new and len(told) == len(messages):
                return previous, 0
        return rolling_summary(
            previous,
            messages,
            new,
            room=self.summary_room,
            count=self.window._tokens.count,
            summarise=self.window._summarise,
        )

    def _render(self, gone: Sequence[int], summary: str) -> _Rendered:
        away = set(gone)
        shown = [
            message
            for index, turn in enumerate(self.turns)
            if index not in away
            for message in self.messages[turn.start : turn.end]
        ]
        system = [*self.head_parts, Part(SUMMARY, summary)] if summary else self.head_parts
        return self.window._render(
            shown, system, self.passages, self.tools, self.now, self.continues
        )

    def _what(self, gone: Sequence[int]) -> str:
        if not self.policy.drops:
            return f"The whole conversation, which the policy {self.policy.name!r} keeps,"
        pinned = sum(message.pinned for message in self.messages)
        parts = ["the system prompt"] if self.head_parts else []
        parts += ["the tools"] if self.tools else []
        parts += [f"the turns of {pinned} pinned messages"] if pinned else []
        return "What must stay (" + ", ".join([*parts, "the newest turn"]) + ")"

    def _fitted(
        self, rendered: _Rendered, cursor: int, gone: Sequence[int], summary: str, lost: int
    ) -> Fitted:
        shares, missing = rendered.shares(self.window._tokens.count)
        notes = [*self.window._template.notes, *rendered.notes]
        items = self._items(shares, gone, summary, set(missing))
        if gone:
            count = sum(self.turns[index].end - self.turns[index].start for index in gone)
            notes.append(f"{count} messages of {len(gone)} older turns did not fit.")
        if lost:
            notes.append(f"{lost} facts of older turns had no room in the summary.")
        report = ContextReport(
            n_ctx=self.window._n_ctx,
            prompt_tokens=len(rendered.tokens),
            reply_reserve=self.reserve,
            policy=self.policy.name,
            template=self.window._template.name,
            items=tuple(items),
            notes=tuple(notes),
            cursor=self.messages[self.turns[cursor].start].id if gone else "",
            summary=summary,
        )
        return Fitted(
            tokens=rendered.tokens,
            report=report,
            stop=self.window._template.stop,
            text=rendered.read(),
        )

    def _items(
        self,
        shares: dict[Owner, int],
        gone: Sequence[int],
        summary: str,
        missing: set[Owner],
    ) -> list[ContextItem]:
        """Every message and passage, and what surrounds them; shown ones sum to the prompt."""
        items: list[ContextItem] = []

        def add(owner: Owner, outcome: ContextOutcome, tokens: int, reason: str) -> None:
            kind, name = owner
            items.append(
                ContextItem(id=name, kind=kind, outcome=outcome, tokens=tokens, reason=reason)
            )

        pinned = ContextOutcome.PINNED
        if SYSTEM in shares or SYSTEM in missing:
            add(SYSTEM, pinned, shares.get(SYSTEM, 0), "the system prompt always stays")
        for message in self.leading:
            owner = ("message", message.id)
            add(owner, pinned, shares.get(owner, 0), "belongs to the system prompt")
        if summary:
            add(SUMMARY, ContextOutcome.KEPT, shares.get(SUMMARY, 0), "stands for older turns")
        if self.tools:
            add(TOOLS, pinned, shares.get(TOOLS, 0), "tools always stay")
        add(TEMPLATE, pinned, shares.get(TEMPLATE, 0), "marks that the template writes")
        away = {
            place
            for index in gone
            for place in range(self.turns[index].start, self.turns[index].end)
        }
        newest = len(self.messages) - 1
        for place, message in enumerate(self.messages):
            owner = ("message", message.id)
            tokens = shares.get(owner, 0)
            if place in away and summary:
                why = "older turns gave way; the summary stands for it"
                add(owner, ContextOutcome.SUMMARISED, self.costs[place], why)
            elif place in away:
                why = f"older turns gave way (policy {self.policy.name})"
                add(owner, ContextOutcome.EVICTED, self.costs[place], why)
            elif place == newest:
                add(owner, pinned, tokens, "the newest message always stays")
            elif message.pinned:
                add(owner, pinned, tokens, "pinned")
            elif owner in missing:
                add(owner, ContextOutcome.KEPT, tokens, "the template does not show it in full")
            elif not message.text and not message.tool_calls:
                add(owner, ContextOutcome.KEPT, 0, "has no text")
            else:
                add(owner, ContextOutcome.KEPT, tokens, "")
        kept = {part.owner[1] for part in self.passages}
        for part, passage in zip(passage_parts(self.given), self.given, strict=True):
            if passage.id in kept:
                outcome = (
                    ContextOutcome.TRUNCATED if passage.id in self.cut else (ContextOutcome.KEPT)
                )
                add(part.owner, outcome, shares.get(part.owner, 0), self.cut.get(passage.id, ""))
            else:
                why = self.cut.get(passage.id, "left out: there was no room for it")
                add(part.owner, ContextOutcome.EVICTED, self.window._cost(part.text), why)
        return items
