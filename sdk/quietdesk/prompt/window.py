"""Window: fits a conversation into the context, token by token, and reports what became of it.

What is counted is what the engine gets: the rendered prompt's own tokens. Choices are made with
remembered counts per message, then the prompt is rendered and tokenised once and checked; only when
the check fails is it done again.

Where the window begins is a function of the messages alone. Each reply's context report says where
its window began (`ContextReport.cursor`), and the next prompt begins there again unless it
overflows. Without a report (an imported conversation, another policy before) the conversation is
replayed turn by turn, which leads to the same place. So the beginning of the prompt stays the same
until the next overflow, also after a restart, in a fork or on another machine, and nothing but the
messages has to be kept.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from quietdesk.errors import ContextError, UsageError
from quietdesk.prompt.entries import SYSTEM, TOOLS, ChatDict, Part, ToolSchema, passage_parts
from quietdesk.prompt.policies import Load, Policy, find_policy
from quietdesk.prompt.renderer import Content, Prompt, Renderer, Template
from quietdesk.prompt.report import Outcome, items_of, notes_of
from quietdesk.prompt.summary import Summariser, extract, lost_facts, rolling_summary
from quietdesk.prompt.tokens import Tokenize
from quietdesk.prompt.turns import turns_of
from quietdesk.types import Author, CallForm, ContextOutcome, ContextReport, Message, Passage

_LEAST_CUT = 32
"""Tokens: a passage is rather left out than cut down to fewer, a summary rather not written."""

_SUMMARIES = 256
"""Summaries that are remembered, of all conversations together."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits."""

    tokens: list[int]
    report: ContextReport
    stop: tuple[str, ...]
    """Strings that end the reply, besides the model's own end tokens."""
    text: str
    """The rendered prompt, for reading; what people wrote stands in it as they wrote it."""
    messages: tuple[ChatDict, ...]
    """What it was rendered from, for servers that render themselves."""
    call_form: CallForm
    """How the model writes calls of tools."""


class Window:
    """Fits prompts for one model and context. Any thread may use it, for any conversation.

    It remembers counts and summaries, which only makes it quicker: two windows with the same
    arguments give the same prompt for the same messages.
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
        estimated: bool = False,
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
            estimated: Whether `tokenize` or the template only estimates; reports say so.

        Raises:
            UnknownNameError: no such policy.
        """
        self.n_ctx = n_ctx
        self.policy = find_policy(policy) if isinstance(policy, str) else policy
        self.passage_share = passage_share
        self.summary_share = summary_share
        self.renderer = Renderer(
            template, tokenize, special_tokens=special_tokens, max_piece_bytes=max_piece_bytes
        )
        self.estimated = estimated
        self._summarise = summarise
        self._summaries: dict[bytes, tuple[str, int]] = {}

    def fit(
        self,
        messages: Sequence[Message],
        system: str = "",
        max_tokens: int = 512,
        passages: Sequence[Passage] = (),
        tools: Sequence[ToolSchema] = (),
        *,
        previous: ContextReport | None = None,
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
            previous: The newest reply's report, where `messages` do not carry it themselves.
            continues: Go on with the last message, a reply that was cut, in the middle of its text.

        Raises:
            ContextError: what must stay does not fit; with the policy `stop`, anything does not.
            TemplateError: the template refuses the messages.
            UsageError: there is no message.
        """
        if not messages:
            raise UsageError("There is no message to answer: give at least one.")
        if previous is None:
            reports = (message.context for message in reversed(messages))
            previous = next((report for report in reports if report is not None), None)
        if previous is not None and (
            previous.policy != self.policy.name or previous.n_ctx != self.n_ctx
        ):
            previous = None
        return _Fit(self, messages, system, max_tokens, passages, tools, previous, continues).run()

    def summary(
        self, gone: Sequence[Message], room: int, previous: ContextReport | None
    ) -> tuple[str, int]:
        """What stands for messages that are not shown, and how many facts had no room in it."""
        story, new, goes_on = "", gone, False
        if previous is not None and previous.summary:
            told = {i.id for i in previous.items if i.outcome is ContextOutcome.SUMMARISED}
            story = previous.summary
            new = [message for message in gone if message.id not in told]
            goes_on = not new and len(told) == len(gone)
        key = _digest(story, str(room), *(part for m in gone for part in (m.author, m.text)))
        known = self._summaries.get(key)
        if known is None:
            if goes_on:
                known = story, lost_facts(story, gone)
            else:
                known = rolling_summary(
                    story,
                    gone,
                    new,
                    room=room,
                    count=self.renderer.count,
                    summarise=self._summarise,
                )
            if len(self._summaries) >= _SUMMARIES:
                self._summaries.clear()
            self._summaries[key] = known
        return known


def _digest(*texts: str) -> bytes:
    """A short name for some texts."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()


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
        previous: ContextReport | None,
        continues: bool,
    ) -> None:
        self.window = window
        self.policy = window.policy
        self.renderer = window.renderer
        self.reserve = max_tokens
        self.limit = window.n_ctx - max_tokens
        self.tools = tools
        self.previous = previous
        self.continues = continues
        first = 0
        while first < len(messages) - 1 and messages[first].author is Author.SYSTEM:
            first += 1
        self.leading = messages[:first]
        """System messages in front: they belong to the system prompt and stay with it."""
        self.messages = messages[first:]
        self.turns = turns_of(self.messages)
        self.held = [
            turn.end == len(self.messages)
            or any(message.pinned for message in self.messages[turn.start : turn.end])
            for turn in self.turns
        ]
        self.system = [Part(SYSTEM, system)] if system.strip() else []
        self.system += [Part(("message", message.id), message.text) for message in self.leading]
        self.given = passages
        self._refuse_giants(system)
        cost = self.renderer.message_cost
        self.costs = [cost(message, window.n_ctx) for message in self.messages]
        self.turn_costs = [sum(self.costs[turn.start : turn.end]) for turn in self.turns]
        self.base = self.renderer.base(self.system, tools)
        self.free = max(0, self.limit - self.base)
        self.summary_room = int(window.summary_share * self.free) if self.policy.summarises else 0
        if self.summary_room < _LEAST_CUT:
            self.summary_room = 0
        self.passages, self.why = self._choose_passages()

    def run(self) -> Fitted:
        """Choose, render, check; again only where the check fails."""
        excess = 0
        load = self._load(excess)
        head = self.policy.head(load)
        cursor = self._start(load)
        while True:
            load = self._load(excess)
            cursor = self.policy.advance(load, cursor, head)
            gone = self._gone(cursor, head)
            summary, lost = self._summary(gone)
            prompt = self._render(gone, summary)
            if len(prompt.tokens) <= self.limit:
                return self._fitted(prompt, cursor, gone, summary, lost)
            movable = self._movable(max(cursor, head))
            if not self.policy.drops:
                movable = head = 0
            if movable:
                shown = sum(t for index, t in enumerate(self.turn_costs) if index not in gone)
                counted = load.fixed + shown + (load.summary if gone else 0)
                # What the estimate missed is missed again; so at least one more turn goes.
                excess += max(1, len(prompt.tokens) - counted)
            elif head > 0:
                cursor, head = max(cursor, head), head - 1
            elif self.policy.drops and self.passages:
                left_out = self.passages.pop()
                self.why[id(left_out)] = "left out: there was no room for it"
            elif summary:
                self.summary_room = 0
            else:
                raise ContextError(self._what(), len(prompt.tokens), self.limit)

    def _refuse_giants(self, system: str) -> None:
        """Refuse, before anything is tokenised, what cannot fit by its mere length."""
        if self.limit <= 0:
            what = f"A reply of up to {self.reserve} tokens, with any prompt at all,"
            raise ContextError(what, self.reserve + 1, self.window.n_ctx)
        texts = [("The system prompt", system)]
        texts += [(f"The system message {message.id!r}", message.text) for message in self.leading]
        for turn, held in zip(self.turns, self.held, strict=True):
            if held or not self.policy.drops:
                for message in self.messages[turn.start : turn.end]:
                    newest = message is self.messages[-1]
                    what = "The newest message" if newest else f"The message {message.id!r}"
                    texts.append((what, message.text))
        for what, text in texts:
            least = self.renderer.least(text)
            if least > self.limit:
                raise ContextError(f"{what} is too long: it", least, self.limit, at_least=True)

    def _choose_passages(self) -> tuple[list[Part], dict[int, str]]:
        """The passages that find room, best first, and why others were cut or left out."""
        parts = passage_parts(self.given)
        self.passage_parts = list(parts)
        if not self.policy.drops:
            return parts, {}
        held = sum(t for t, held in zip(self.turn_costs, self.held, strict=True) if held)
        room = int(self.window.passage_share * max(0, self.free - held))
        kept: list[Part] = []
        why: dict[int, str] = {}
        for place, part in enumerate(parts):
            cost = self._passage_cost(part)
            if cost <= room:
                kept.append(part)
                room -= cost
            elif room >= _LEAST_CUT and not why:
                short = Part(part.owner, self._cut(part.text, room - 2))
                self.passage_parts[place] = short
                kept.append(short)
                why[id(short)] = "cut at its end: the passages' share of the context was full"
                room = 0
            else:
                why[id(part)] = "left out: the passages' share of the context was full"
        return kept, why

    def _passage_cost(self, part: Part) -> int:
        return self.renderer.cost(part.text, self.window.n_ctx) + 2

    def _cut(self, text: str, room: int) -> str:
        """The beginning of a text, at a word's end, in at most so many tokens."""
        # Longer than this it cannot be; so a giant is not tokenised in full.
        text = text[: room * self.renderer.max_piece_bytes]
        while (tokens := self.renderer.count(text)) > room:
            size = min(len(text) - 1, len(text) * room // tokens)
            space = text.rfind(" ", 0, size)
            text = text[: space if space > size // 2 else size]
        return text

    def _load(self, excess: int) -> Load:
        passages = sum(self._passage_cost(part) for part in self.passages)
        if self.passages:
            passages += 2 * self.renderer.overhead + 8  # the lines around them
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
        rest = zip(self.turn_costs[start:], self.held[start:], strict=True)
        return sum(tokens for tokens, held in rest if not held)

    def _gone(self, cursor: int, head: int) -> list[int]:
        """The turns that are not shown."""
        return [index for index in range(head, cursor) if not self.held[index]]

    def _start(self, load: Load) -> int:
        """Where the kept turns began at the last reply."""
        if self.previous is not None:
            if not self.previous.cursor:
                return 0
            for index, turn in enumerate(self.turns):
                if self.messages[turn.start].id == self.previous.cursor:
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
            question = sum(self.costs[turn.start : turn.start + asked])
            summary = load.summary if cursor else 0
            answered = any(message.author is Author.BOT for message in said)
            if answered and self.base + kept + question + summary > self.limit:
                then = replace(
                    load,
                    turns=[*self.turn_costs[:index], question],
                    held=[*self.held[:index], True],
                    fixed=self.base,
                )
                head = self.policy.head(then)
                cursor = self.policy.advance(then, cursor, head)
                gone = set(self._gone(cursor, head))
                kept = sum(t for at, t in enumerate(self.turn_costs[:index]) if at not in gone)
            kept += self.turn_costs[index]
        return cursor

    def _of_turns(self, indices: Sequence[int]) -> list[int]:
        """Places of the messages of some turns."""
        turns = (self.turns[index] for index in indices)
        return [place for turn in turns for place in range(turn.start, turn.end)]

    def _summary(self, gone: Sequence[int]) -> tuple[str, int]:
        if not gone or not self.summary_room:
            return "", 0
        messages = [self.messages[place] for place in self._of_turns(gone)]
        return self.window.summary(messages, self.summary_room, self.previous)

    def _render(self, gone: Sequence[int], summary: str) -> Prompt:
        away = set(self._of_turns(gone))
        content = Content(
            messages=[m for place, m in enumerate(self.messages) if place not in away],
            system=self.system,
            summary=summary,
            passages=self.passages,
            tools=self.tools,
            # The newest message's own time: so the prompt can be made again at any time.
            now=self.messages[-1].created_at,
            continues=self.continues,
        )
        return self.renderer.render(content)

    def _what(self) -> str:
        if not self.policy.drops:
            return f"The whole conversation, which the policy {self.policy.name!r} keeps,"
        pinned = sum(message.pinned for message in self.messages)
        parts = ["the system prompt"] if self.system else []
        parts += ["the tools"] if self.tools else []
        parts += [f"the turns of pinned messages ({pinned})"] if pinned else []
        return "What must stay (" + ", ".join([*parts, "the newest turn"]) + ")"

    def _fitted(
        self, prompt: Prompt, cursor: int, gone: Sequence[int], summary: str, lost: int
    ) -> Fitted:
        shares, missing = prompt.shares(self.renderer.count)
        tool_tokens = 0
        if self.tools and self.renderer.template.abilities.tools:
            of_template = self.base - self.renderer.base(self.system, ())
            tool_tokens = max(0, of_template - shares.get(TOOLS, 0))
        shown = {id(part) for part in self.passages}
        outcome = Outcome(
            shares=shares,
            missing=missing,
            leading=self.leading,
            messages=self.messages,
            costs=self.costs,
            gone=set(self._of_turns(gone)),
            policy=self.policy.name,
            summary=summary,
            tool_tokens=tool_tokens,
            call_form=self.renderer.template.call_form.name,
            passages=[
                (passage, id(part) in shown, self.why.get(id(part), ""), self._passage_cost(part))
                for passage, part in zip(self.given, self.passage_parts, strict=True)
            ],
        )
        report = ContextReport(
            n_ctx=self.window.n_ctx,
            prompt_tokens=len(prompt.tokens),
            reply_reserve=self.reserve,
            policy=self.policy.name,
            template=self.renderer.template.name,
            estimated=self.window.estimated,
            items=tuple(items_of(outcome)),
            notes=(
                *self.renderer.template.notes,
                *prompt.notes,
                *notes_of(outcome, lost),
            ),
            cursor=self.messages[self.turns[cursor].start].id if gone else "",
            summary=summary,
        )
        return Fitted(
            tokens=prompt.tokens,
            report=report,
            stop=self.renderer.template.stop,
            text=prompt.read(),
            messages=prompt.messages,
            call_form=self.renderer.template.call_form,
        )
