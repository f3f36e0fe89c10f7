"""Replay: a reply that was kept is made again, and compared with what was said then.

The prompt is made anew from the conversation and checked against what was recorded of it. The last
bits of what a model computes depend on how many rows are evaluated together, and a reply may have
been written in a batch with others, or on a prompt that was partly in the cache. Where two tokens
are nearly equally likely either may then come; so of the first token that differs it is told how
close the two were.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from quietdesk.conversation import FittedPrompt, PromptWindow
from quietdesk.engine.backend import Backend, ChatMessage
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import UsageError
from quietdesk.recipe import (
    Difference,
    differences,
    limits_of,
    recipe_of,
    sampling_of,
    tools_of,
)
from quietdesk.store.base import ROOT, Store
from quietdesk.types import Author, FinishReason, Frozen, Message, Recipe, ToolCall

NEAR_TIE = 0.35
"""Logits this close may change places. Repacked 4-bit kernels round activations to 8 bits, so that
a row evaluated in another shape of batch differs by some hundredths of a logit, and rounding errors
of the cache entries before it add up to a few tenths over a reply."""
_RAISES = (0.05, 0.1, 0.2, NEAR_TIE, 0.7, 1.4, 2.8, 5.6, 11.2)


class TokenDifference(Frozen):
    """The first token that came out differently."""

    position: int
    """Tokens of the reply before it, which are the same."""
    recorded: int | None
    """Its id then; None where the reply had ended there."""
    now: int | None
    gap_at_most: float | None = None
    """The recorded token comes when its logit is raised by this, and does not by the half; None
    where even a large raise does not bring it, and where tokens are drawn by chance."""

    @property
    def near_tie(self) -> bool:
        """Whether the two are so close that another batch may make them change places."""
        return self.gap_at_most is not None and self.gap_at_most <= NEAR_TIE


class Replay(Frozen):
    """What came of making a reply again."""

    reply_id: str
    conversation_id: str
    same: bool
    """Whether every byte is the same; of a reply that was cut, every byte up to there."""
    cut: bool
    """Whether the reply had not come to its own end: it was cancelled, or its process died."""
    greedy: bool
    """Whether always the likeliest token was taken; else they were drawn, from the same seed."""
    recorded: str
    """What was said then, after the text that it went on with, and what was called."""
    text: str
    """What is said now."""
    differences: tuple[Difference, ...] = ()
    """What is not as it was when it was written, whether it mattered or not."""
    first_byte: int | None = None
    """Bytes (UTF-8) before the first one that differs; None if none does."""
    first_token: TokenDifference | None = None
    """None if all are the same, and where the reply's tokens are not known."""


def replay(
    store: Store, engine: Backend, window: Callable[[int, str], PromptWindow], name: str
) -> Replay:
    """Make a reply again.

    Args:
        store: Where it was kept.
        engine: What it is made with now.
        window: Makes a window from a size in tokens and an overflow policy.
        name: The reply's id, or a beginning of it that fits only one.

    Raises:
        UnknownNameError: there is no such message, with the nearest ids.
        UsageError: it is no model's reply, or was kept without its recipe.
        ContextError: its prompt does not fit into this engine's context.
        EngineError: the engine could not make it.
    """
    conversation_id, reply = store.find_message(name)
    recipe = _recipe(reply)
    fitted, begun = _prompt(store, conversation_id, reply, recipe, window)
    sampling = sampling_of(recipe)
    whole = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)
    cut = reply.finish_reason not in whole
    limits = limits_of(recipe, len(recipe.tokens) if cut else None)
    now, tokens = _say(engine, fitted.tokens, sampling, limits, fitted.messages)
    said = reply.text.removeprefix(begun) + _written(sampling, reply.tool_calls)
    if cut:
        now = now[: len(said)]
    present = recipe_of(engine.model, fitted.tokens, sampling, limits_of(recipe))
    greedy = sampling.temperature == 0.0
    first_token = None
    if said != now and recipe.tokens and tokens:
        first_token = _first_token(engine, fitted.tokens, recipe.tokens, tokens, sampling)
    return Replay(
        reply_id=reply.id,
        conversation_id=conversation_id,
        same=said == now,
        cut=cut,
        greedy=greedy,
        recorded=said,
        text=now,
        differences=tuple(differences(recipe, present)),
        first_byte=None if said == now else _agreement(_bytes(said), _bytes(now)),
        first_token=first_token,
    )


def _recipe(reply: Message) -> Recipe:
    if reply.author is not Author.BOT:
        raise UsageError(
            f"The message {reply.id!r} was written by {reply.author}, not by a model. Name a reply."
        )
    if reply.finish_reason is None:
        raise UsageError(f"The reply {reply.id!r} is still being written. Replay it afterwards.")
    if reply.recipe is None:
        raise UsageError(
            f"The reply {reply.id!r} was kept without how it was made: by an earlier version, or "
            "imported. It cannot be replayed."
        )
    return reply.recipe


def _prompt(
    store: Store,
    conversation_id: str,
    reply: Message,
    recipe: Recipe,
    window: Callable[[int, str], PromptWindow],
) -> tuple[FittedPrompt, str]:
    """The prompt as it is made today, and the text of the cut reply that is gone on with."""
    report = reply.context
    assert report is not None, "a recipe is kept with a report"
    history = []
    if reply.parent_id not in (None, ROOT):
        history = store.messages(conversation_id, reply.parent_id, reports=False)
    begun = store.find_message(recipe.continues)[1] if recipe.continues else None
    fitted = window(report.n_ctx, report.policy).fit(
        [*history, *((begun,) if begun else ())],
        store.conversation(conversation_id).system,
        recipe.max_tokens,
        tools=tools_of(recipe),
        continues=begun is not None,
    )
    return fitted, begun.text if begun else ""


def _say(
    engine: Backend,
    prompt: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    messages: Sequence[ChatMessage] = (),
) -> tuple[str, list[int]]:
    stream = engine.submit(prompt, messages=messages, sampling=sampling, limits=limits)
    try:
        stream.wait()
    except BaseException:
        stream.cancel()
        raise
    if stream.error is not None:
        raise stream.error
    return stream.text + _written(sampling, stream.tool_calls), list(stream.tokens)


def _written(sampling: Sampling, calls: Sequence[ToolCall]) -> str:
    """Tool calls as text."""
    return sampling.calls.form.write(calls) if calls and sampling.calls is not None else ""


def _first_token(
    engine: Backend,
    prompt: Sequence[int],
    recorded: Sequence[int],
    now: Sequence[int],
    sampling: Sampling,
) -> TokenDifference:
    at = _agreement(recorded, now)
    old, new = (tokens[at] if at < len(tokens) else None for tokens in (recorded, now))
    gap = None
    if old is not None and new is not None and sampling.temperature == 0.0:
        before = [*prompt, *now[:at]]
        gap = next((by for by in _RAISES if _comes(engine, before, old, by, sampling)), None)
    return TokenDifference(position=at, recorded=old, now=new, gap_at_most=gap)


def _comes(
    engine: Backend, before: Sequence[int], token: int, by: float, sampling: Sampling
) -> bool:
    """Whether a token is the next one with its logit raised."""
    bias = dict(sampling.logit_bias)
    bias[token] = bias.get(token, 0.0) + by
    try:
        raised = replace(sampling, logit_bias=tuple(bias.items()))
    except UsageError:
        return False  # It cannot be raised further.
    return _say(engine, before, raised, Limits(1))[1] == [token]


def _agreement(left: Sequence[int], right: Sequence[int]) -> int:
    """How many items are the same from the beginning on."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
