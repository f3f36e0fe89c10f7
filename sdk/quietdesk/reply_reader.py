"""Reply reader: how likely a model finds a conversation's replies, with and without the question.

A conversation is read once, from its beginning to its last reply, and what the model held for each
reply is taken from that one pass wherever the shorter prompt is the longer one's beginning, which
is tried token by token. Then, from the last reply to the first, the customer's message is left out:
what stands before it is in the engine's memory still, so only the reply is evaluated again.

What comes out depends on nothing but the conversation, if nobody else uses the engine meanwhile.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from quietdesk.engine.backend import Backend
from quietdesk.engine.reading import Reader
from quietdesk.errors import ContextError, TemplateError, UsageError
from quietdesk.prompt.entries import JOINT, SYSTEM, Part
from quietdesk.prompt.renderer import Content
from quietdesk.prompt.window import Window
from quietdesk.scoring.surprisal import Likelihood, Terms
from quietdesk.types import Author, Message, Transcript

POLICY = "rolling-window"
"""How a conversation is cut that is longer than the context."""
SYSTEM_PROMPT = "A customer writes to customer service, and customer service answers."
"""Where the log has no system prompt. Without one, many templates put in their own as soon as there
is a message, and what the message changes could not be told from what that changes."""
_AGENTS = (Author.BOT, Author.HUMAN)
_MIDDAY = datetime(2000, 1, 1, 12, tzinfo=UTC)
"""For messages without a time, and for templates that ask for the date."""

_TOO_LONG = "the reply is longer than half the model's context"
_NO_ROOM = "the message that it answers does not fit into the model's context"
_REFUSED = "the model's template refuses the conversation"


@dataclass(frozen=True, slots=True)
class _Text:
    """A prompt and the reply that follows it, in tokens."""

    prompt: list[int]
    reply: list[int]

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.reply


@dataclass(frozen=True, slots=True)
class _Pair:
    """One reply after the conversation so far, and without the customer's last message."""

    whole: _Text
    without: _Text | None
    n_cut: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """One reply that is asked about."""

    reply: list[int]
    answers: bool
    pair: _Pair | None
    reason: str
    """Why a text is not there that should be."""


class ReplyReader:
    """Reads replies; a `ReadReplies`.

    Args:
        engine: The model, in this process.
        window: Fits conversations into its context.
        replies: Whose replies are asked about, of the bot and human agents.

    Raises:
        UsageError: the model runs elsewhere, or the authors are none of those.
    """

    def __init__(
        self, engine: Backend, window: Window, replies: Sequence[Author | str] = (Author.BOT,)
    ) -> None:
        if not isinstance(engine, Reader):
            raise UsageError(
                f"The model {engine.model.name!r} runs elsewhere, where texts cannot be read "
                "without an answer. Name a GGUF file or a model in the catalogue."
            )
        wrong = [str(one) for one in replies if one not in _AGENTS]
        if wrong or not replies:
            raise UsageError(
                f"Replies of {', '.join(wrong) or 'nobody'} cannot be read: bot, human or both."
            )
        self._engine: Backend = engine
        self._reader: Reader = engine
        self._window = window
        self._authors = tuple(author for author in _AGENTS if author in replies)

    @property
    def terms(self) -> Terms:
        """What the figures depend on."""
        info = self._engine.model
        source = f"{SYSTEM_PROMPT}\0{POLICY}"
        return Terms(
            model=info.name,
            weights=info.fingerprint,
            context=self._window.n_ctx,
            prompt=hashlib.blake2b(source.encode(), digest_size=4).hexdigest(),
            replies=",".join(self._authors),
        )

    @property
    def n_tokens(self) -> int:
        """Tokens that the engine has evaluated so far."""
        return self._engine.metrics().evaluated_tokens

    def __call__(self, conversation: Transcript) -> list[Likelihood]:
        """One for each reply that has a text.

        Raises:
            EngineError: the engine could not finish.
        """
        asked = self._asked(_as_messages(conversation))
        found = self._read_all({place: one.pair for place, one in asked.items() if one.pair})
        return [
            Likelihood(
                place,
                len(one.reply),
                *found.get(place, (math.nan, math.nan)),
                answers=one.answers,
                n_cut=one.pair.n_cut if one.pair else 0,
                reason=one.reason,
            )
            for place, one in asked.items()
        ]

    def texts(self, conversation: Transcript) -> list[tuple[list[int], list[int] | None]]:
        """What is read of a conversation: of each reply both texts, in tokens.

        The conversation up to the reply and with it, and the same without the customer's last
        message; None where there is none. Replies that cannot be read are left out.
        """
        asked = self._asked(_as_messages(conversation)).values()
        pairs = (one.pair for one in asked if one.pair)
        return [
            (pair.whole.tokens, None if pair.without is None else pair.without.tokens)
            for pair in pairs
        ]

    def _asked(self, messages: Sequence[Message]) -> dict[int, _Asked]:
        """Place to what is asked about a reply."""
        cut = {
            place: self._engine.tokenize(message.text, special=False, begin=False)
            for place, message in enumerate(messages)
            if message.author in self._authors and message.text
        }
        longest = self._window.n_ctx // 2
        reserve = max((len(reply) for reply in cut.values() if len(reply) <= longest), default=0)
        asked: dict[int, _Asked] = {}
        for place, reply in cut.items():
            answers = any(message.author is Author.CUSTOMER for message in messages[:place])
            pair, reason = None, _TOO_LONG
            if len(reply) <= longest:
                try:
                    pair = self._pair(messages[:place], reply, reserve)
                    reason = _REFUSED if answers and pair.without is None else ""
                except ContextError:
                    reason = _NO_ROOM
                except TemplateError:
                    reason = _REFUSED
            asked[place] = _Asked(reply, answers, pair, reason)
        return asked

    def _pair(self, before: Sequence[Message], reply: list[int], reserve: int) -> _Pair:
        first = 0
        while first < len(before) and before[first].author is Author.SYSTEM:
            first += 1
        given = JOINT.join(message.text for message in before[:first] if message.text.strip())
        system = given or SYSTEM_PROMPT
        shown = list(before[first:])
        if shown:
            fitted = self._window.fit(shown, system, reserve)
            gone = {item.id for item in fitted.report.evicted if item.kind == "message"}
            shown = [message for message in shown if message.id not in gone]
            whole, n_cut = _Text(fitted.tokens, reply), len(gone)
        else:
            whole, n_cut = self._render([], system, reply), 0
        asked = [place for place, message in enumerate(shown) if message.author is Author.CUSTOMER]
        if not asked:
            return _Pair(whole, None, n_cut)
        try:
            without = self._render(shown[: asked[-1]] + shown[asked[-1] + 1 :], system, reply)
        except TemplateError:
            return _Pair(whole, None, n_cut)
        return _Pair(whole, without, n_cut)

    def _render(self, messages: Sequence[Message], system: str, reply: list[int]) -> _Text:
        content = Content(messages, [Part(SYSTEM, system)], now=_MIDDAY)
        prompt = self._window.renderer.render(content).tokens
        if len(prompt) + len(reply) > self._window.n_ctx:
            raise ContextError("The conversation", len(prompt) + len(reply), self._window.n_ctx)
        return _Text(prompt, reply)

    def _read_all(self, pairs: dict[int, _Pair]) -> dict[int, tuple[float, float]]:
        """Log-probabilities of each reply with and without the customer's last message."""
        found: dict[int, tuple[float, float]] = {}
        left = sorted(pairs, key=lambda place: len(pairs[place].whole.tokens), reverse=True)
        while left:
            text = pairs[left[0]].whole.tokens
            told = self._reader.read_logprobs(text, 1, keeps=True).logprobs().tolist()
            read = [place for place in left if _begins(text, pairs[place].whole.tokens)]
            for place in read:
                whole, without = pairs[place].whole, pairs[place].without
                n_prompt, n_tokens = len(whole.prompt), len(whole.tokens)
                logprob = math.fsum(told[n_prompt - 1 : n_tokens - 1])
                other = math.nan if without is None else self._read_beside(text, without)
                found[place] = logprob, other
            left = [place for place in left if place not in found]
        return found

    def _read_beside(self, text: list[int], other: _Text) -> float:
        """The log-probability of a reply whose prompt begins as a text that was just read does."""
        tokens = other.tokens
        pairs = zip(text, tokens, strict=False)
        shared = next((at for at, (a, b) in enumerate(pairs) if a != b), len(tokens))
        # From where they part; the row of the first token that differs is evaluated anyway.
        start = max(1, min(shared + 1, len(other.prompt)))
        told = self._reader.read_logprobs(tokens, start).logprobs().tolist()
        return math.fsum(told[len(other.prompt) - start :])


def _begins(text: Sequence[int], beginning: Sequence[int]) -> bool:
    return text[: len(beginning)] == beginning


def _as_messages(conversation: Transcript) -> list[Message]:
    """The messages for a window; a tool's result answers the oldest call that has none."""
    messages: list[Message] = []
    waiting: list[str] = []
    for place, said in enumerate(conversation.messages):
        waiting += [call.id for call in said.tool_calls]
        answers = waiting.pop(0) if said.author is Author.TOOL and waiting else None
        messages.append(
            Message(
                id=str(place),
                author=said.author,
                # The space around a reply is the log's more often than the bot's.
                text=said.text.strip() if said.author in _AGENTS else said.text,
                # The same prompt for the same words, whatever day it was.
                created_at=_MIDDAY,
                tool_calls=said.tool_calls,
                tool_call_id=answers,
            )
        )
    return messages
