"""Recipe: what is noted of how a reply is made, and in what two recipes differ.

Of the prompt a digest of its token ids is kept and not the ids: the prompt is made again from the
conversation, which is in the store already. A second copy of every text would grow with the square
of the conversation, and would have to be encrypted, exported and erased like the first.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from quietdesk.engine.calls import Calls
from quietdesk.engine.runner import ModelInfo
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.types import Frozen, Recipe


class Difference(Frozen):
    """One thing that is not as it was."""

    what: str
    recorded: str
    now: str


def recipe_of(
    model: ModelInfo,
    prompt: Sequence[int],
    sampling: Sampling,
    limits: Limits,
    *,
    continues: str = "",
) -> Recipe:
    """How a reply is about to be made."""
    return Recipe(
        engine=model.engine,
        model_fingerprint=model.fingerprint,
        template_sha256=hashlib.sha256((model.chat_template or "").encode()).hexdigest()
        if model.chat_template
        else "",
        options=dict(model.options),
        sampling=_changed(sampling),
        max_tokens=limits.max_tokens,
        stop=limits.stop,
        stop_tokens=tuple(sorted(limits.stop_tokens)),
        ignore_end=limits.ignore_end,
        prompt_tokens=len(prompt),
        prompt_sha256=prompt_digest(prompt),
        continues=continues,
    )


def prompt_digest(tokens: Sequence[int]) -> str:
    """Hex sha256 of token ids, four bytes each, the lowest first."""
    packed = b"".join(token.to_bytes(4, "little", signed=True) for token in tokens)
    return hashlib.sha256(packed).hexdigest()


def sampling_of(recipe: Recipe) -> Sampling:
    """How tokens were chosen.

    Raises:
        UsageError: what was recorded is out of the ranges of today.
    """
    given: dict[str, Any] = dict(recipe.sampling)
    if "logit_bias" in given:
        given["logit_bias"] = tuple(
            (int(token), float(bias)) for token, bias in given["logit_bias"]
        )
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
    if "calls" in given:
        given["calls"] = Calls.from_json(given["calls"])
    return Sampling(**given)


def tools_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The tools that the model could call."""
    calls = sampling_of(recipe).calls
    return [] if calls is None else list(json.loads(calls.tools))


def limits_of(recipe: Recipe, max_tokens: int | None = None) -> Limits:
    """When it ended.

    Args:
        recipe: How it was made.
        max_tokens: Tokens at most; the recorded number if None.
    """
    return Limits(
        max_tokens or recipe.max_tokens,
        recipe.stop,
        frozenset(recipe.stop_tokens),
        recipe.ignore_end,
    )


def differences(recorded: Recipe, now: Recipe) -> list[Difference]:
    """In what two recipes for the same reply differ, the weightiest first."""
    found = [
        Difference(what=what, recorded=str(old) or "none", now=str(new) or "none")
        for what, old, new in (
            ("model", recorded.model_fingerprint, now.model_fingerprint),
            ("template", recorded.template_sha256, now.template_sha256),
            ("engine", recorded.engine, now.engine),
        )
        if old != new
    ]
    names = {**recorded.options, **now.options}
    found += [
        Difference(what=name, recorded=_told(recorded, name), now=_told(now, name))
        for name in names
        if recorded.options.get(name) != now.options.get(name)
    ]
    if recorded.prompt_sha256 != now.prompt_sha256:
        found.append(
            Difference(
                what="prompt",
                recorded=f"{recorded.prompt_tokens} tokens, {recorded.prompt_sha256[:12]}",
                now=f"{now.prompt_tokens} tokens, {now.prompt_sha256[:12]}",
            )
        )
    return found


def _told(recipe: Recipe, name: str) -> str:
    return str(recipe.options.get(name, "not recorded"))


def _changed(sampling: Sampling) -> dict[str, Any]:
    """The fields that are not neutral, as JSON."""
    found = {}
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        if isinstance(value, Calls):
            value = value.as_json()
        if field.default is MISSING or value != field.default:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    if sampling.logit_bias:
        found["logit_bias"] = [list(pair) for pair in sampling.logit_bias]
    return found
