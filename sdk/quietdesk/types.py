"""The nouns that rooms share and users see: messages, passages, deltas, usage, the context report.

Frozen Pydantic models, equal by value, each with a JSON schema. They know nothing of storage, of
the engine or of the screen.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue


class Frozen(BaseModel):
    """A value: equal by its fields, never changed after it was made, unknown fields refused."""

    # Built when first used: an import that only names the types stays quick.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Author(StrEnum):
    """Who speaks in a message."""

    CUSTOMER = "customer"
    BOT = "bot"
    HUMAN = "human"
    """A person of the support team."""
    SYSTEM = "system"
    TOOL = "tool"
    """The result of a tool call."""


class FinishReason(StrEnum):
    """Why a reply ended. None is an error but FAILED, and INTERRUPTED where the cause is known."""

    STOP = "stop"
    """The model ended its turn, or a stop string was met."""
    LENGTH = "length"
    """The reply's token limit, or the end of the context, was met."""
    TOOL_CALLS = "tool_calls"
    """The model ended its turn by calling tools; it goes on when it is told their results."""
    CANCELLED = "cancelled"
    """Someone cancelled; what was said until then is kept."""
    INTERRUPTED = "interrupted"
    """The process died, or the connection to the model's server broke, in mid-reply; what was
    said until then is kept, of a process that died up to the last checkpoint."""
    FAILED = "failed"
    """The engine raised; what was said until then is kept."""


class ToolCall(Frozen):
    """A call that the model asks for."""

    id: str
    name: str
    arguments: str
    """JSON text of an object, as the model wrote it."""


_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z][A-Z_]*\]")
"""What models are trained to write around calls: `<tool_call>`, `[TOOL_CALLS]`."""


class CallForm(Frozen):
    """How a model writes calls: what stands around the names and the JSON of the arguments.

    The first call begins with `opening`, every other one with `following`. Where an id stands,
    which the model writes at will, the texts have `ID`.
    """

    name: str
    """`model` where the chat template shows it, else the name of what is asked for in its stead."""
    opening: str
    middle: str
    """Between a name and its arguments."""
    closing: str
    following: str = ""
    """Between one call's arguments and the next one's name; empty: one call and no more."""

    @property
    def trigger(self) -> str:
        """The text with which a call has begun."""
        mark = _MARK.match(self.opening)
        return mark[0] if mark else self.opening.rstrip().removesuffix('"').rstrip()

    @property
    def at_start(self) -> bool:
        """Whether only a reply that begins with it is a call: bare JSON may stand in any text."""
        return self.opening[:1] in ("{", "[") and not _MARK.match(self.opening)

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that are control tokens in some vocabularies."""
        texts = (self.opening, self.middle, self.closing, self.following)
        return tuple(dict.fromkeys(mark for text in texts for mark in _MARK.findall(text)))

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model writes them, all in one, with their ids left out."""
        bodies = (call.name + self.middle + call.arguments for call in calls)
        return (self.opening + self.following.join(bodies) + self.closing).replace(ID, "")


ID = "\ufffc"
"""Stands for a call's id in the texts of a `CallForm`."""

HERMES = CallForm(
    name="hermes",
    opening='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    closing="}\n</tool_call>",
    following='}\n</tool_call>\n<tool_call>\n{"name": "',
)
"""What is asked for where a template does not show a form: many models were trained on it."""


class Passage(Frozen):
    """A piece of a document that may support a reply."""

    id: str
    text: str
    source: str = ""
    """File or address that it comes from."""
    line: int | None = None
    """First line in the source, from 1."""
    score: float | None = None
    """The retriever's score; its scale is the retriever's own."""


class Usage(Frozen):
    """What a reply cost. Durations are seconds of wall time; zero until known."""

    prompt_tokens: int = 0
    """Tokens of the whole prompt, cached ones included."""
    cached_tokens: int = 0
    """Prompt tokens that did not have to be evaluated for this reply."""
    completion_tokens: int = 0
    """Tokens generated, the ones of the end marker included."""
    queue_s: float = 0.0
    """From submission until the engine first worked on it."""
    first_token_s: float = 0.0
    """From submission until the first token."""
    decode_s: float = 0.0
    """From the first token until the last."""
    estimated: bool = False
    """Whether the tokens are estimates, since the model's server did not count them."""

    @property
    def evaluated_tokens(self) -> int:
        """Prompt tokens that the engine read for this reply."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second after the first token; 0 with fewer than two tokens."""
        if self.completion_tokens < 2 or self.decode_s <= 0:
            return 0.0
        return (self.completion_tokens - 1) / self.decode_s


class ContextOutcome(StrEnum):
    """What became of one message or passage when the prompt was fitted."""

    KEPT = "kept"
    PINNED = "pinned"
    """Kept whatever happens: the system prompt, a pinned message, the newest message."""
    TRUNCATED = "truncated"
    EVICTED = "evicted"
    SUMMARISED = "summarised"


class ContextItem(Frozen):
    """One message or passage, and what became of it."""

    id: str
    kind: str
    """`message` or `passage`; for what surrounds them `system`, `summary`, `tools`, `template`."""
    outcome: ContextOutcome
    tokens: int
    """Tokens that it takes in the prompt; of an evicted one, the tokens it would take."""
    reason: str = ""
    """Why, in words for a reader; empty when it was simply kept."""


class ContextReport(Frozen):
    """What the model saw for one reply, and what it did not see."""

    n_ctx: int
    """The context's size in tokens, prompt and reply together."""
    prompt_tokens: int
    """Tokens counted for the prompt; unless estimated, what the engine evaluates or has cached."""
    reply_reserve: int
    """Tokens kept free for the reply."""
    cached_tokens: int = 0
    policy: str
    """The overflow policy's name."""
    template: str
    """`model` for the model's own chat template, `server` where the model's server renders, else
    the name of the fallback."""
    estimated: bool = False
    """Whether tokens are estimates, since the model's server neither counts nor tells how."""
    items: tuple[ContextItem, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for a reader about anything that was not done as asked."""
    cursor: str = ""
    """Id of the message that the kept turns begin with after those that went; empty: none went."""
    summary: str = ""
    """What stands for the turns that went, where the policy writes one."""

    @property
    def evicted(self) -> tuple[ContextItem, ...]:
        """The items that the model did not see in their own words."""
        gone = (ContextOutcome.EVICTED, ContextOutcome.SUMMARISED, ContextOutcome.TRUNCATED)
        return tuple(item for item in self.items if item.outcome in gone)

    @property
    def fill(self) -> float:
        """Share of the context that the prompt takes, 0 to 1."""
        return self.prompt_tokens / self.n_ctx


class Delta(Frozen):
    """The next piece of a reply while it streams: whole characters, never a part of one."""

    text: str
    tokens: int = 1
    """Generated tokens that this piece took."""


GivenText = str | tuple[str | Sequence[int], str]
"""A text, or a context, as text or as token ids, with what goes on from it."""


class ScoredText(Frozen):
    """How likely the model finds a given text, token by token."""

    tokens: tuple[int, ...]
    """The ids of the text's tokens, without what stood before it."""
    pieces: tuple[str, ...]
    """Their texts; a character of several tokens stands with the last of them."""
    logprobs: tuple[float, ...]
    """Natural logarithm of each token's probability after everything before it, at most 0."""

    @property
    def logprob(self) -> float:
        """Of the whole text: the sum, in nats."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """By how many equally likely tokens it was surprised: exp of minus the mean, at least 1."""
        return math.exp(-self.logprob / len(self.logprobs))


class Recipe(Frozen):
    """How a reply was made: with the conversation before it, enough to make it again."""

    engine: str
    """What evaluated the model, with its version."""
    model_fingerprint: str
    """Changes with the weights."""
    template_sha256: str
    """Of the chat template's source; empty where the model carries none."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """How the model was run: context, KV cache, threads, what the processor can do."""
    sampling: dict[str, JsonValue] = Field(default_factory=dict)
    """How tokens were chosen, the seed among it; what is left out was neutral."""
    max_tokens: int
    stop: tuple[str, ...] = ()
    """Strings that ended it."""
    stop_tokens: tuple[int, ...] = ()
    """Ids of tokens that ended it, ascending, besides the model's own end token."""
    ignore_end: bool = False
    """Whether it went on after the model's own end token."""
    prompt_tokens: int
    prompt_sha256: str
    """Of the prompt's token ids, four bytes each, the lowest first."""
    continues: str = ""
    """Id of the cut reply that it goes on with; empty: none."""
    tokens: tuple[int, ...] = ()
    """Ids that were generated, the end marker's included; empty until it is finished."""


def _now() -> datetime:
    return datetime.now(UTC)


class Message(Frozen):
    """What one author said, at one place in a conversation's tree."""

    id: str
    author: Author
    text: str
    created_at: datetime = Field(default_factory=_now)
    parent_id: str | None = None
    """The message before it; None for the first one. Siblings are other versions."""
    finish_reason: FinishReason | None = None
    """Of a bot's message: why it ended; None while it is still being written."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    usage: Usage | None = None
    """Of a bot's message: what it cost."""
    context: ContextReport | None = None
    """Of a bot's message: what the model saw."""
    model: str | None = None
    """Of a bot's message: the model's name."""
    pinned: bool = False
    """Never evicted from the context."""
    recipe: Recipe | None = None
    """Of a bot's message: how it was made."""


class ConversationInfo(Frozen):
    """A conversation as a list shows it."""

    id: str
    title: str
    customer: str | None = None
    system: str = ""
    """The system prompt, as given at the start."""
    created_at: datetime
    updated_at: datetime
    message_count: int = 0
    """Messages on the active branch."""
    last_text: str = ""
    """Beginning of the newest message, at most 200 characters."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The user's own JSON: channel, tags, what they like."""


class KeptScore(Frozen):
    """What a scorer found, as the store keeps it beside a conversation or a message."""

    metric: str
    """The metric's name, or `badness`: how bad the conversation is, 0 to 1."""
    message_id: str | None = None
    """The message that it is about; None for the whole conversation."""
    value: FiniteFloat | None = None
    """In the metric's own unit; None where the message has none and is only a cause."""
    cause: bool = False
    """The message is why the conversation's value is as bad as it is."""
    at: datetime
    """When it was found."""
    fingerprint: str = ""
    """The scorer's: scores of two fingerprints are not to be compared."""


class TranscriptMessage(Frozen):
    """One message of a logged conversation, with what the log knows about it."""

    author: Author
    text: str
    id: str = ""
    created_at: datetime | None = None
    references: tuple[str, ...] = ()
    """Replies that would have been right here, for reference metrics."""
    passages: tuple[Passage, ...] = ()
    """What the bot was shown before it said this."""
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """True labels by name (`intent`, ...); several for multi-label."""
    predictions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Predicted labels by the same names."""
    ratings: tuple[float, ...] = ()
    """Human ratings of this message, one per rater, on the set's own scale."""
    tool_calls: tuple[ToolCall, ...] = ()


class Transcript(Frozen):
    """A conversation as a log holds it: the native form that scoring reads."""

    id: str
    messages: tuple[TranscriptMessage, ...]
    customer: str | None = None
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """True labels of the whole conversation (`resolved`, `escalated`, ...)."""
    predictions: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    ratings: tuple[float, ...] = ()
    """Human ratings of the whole conversation, one per rater."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything to slice by: channel, language, model, week."""
