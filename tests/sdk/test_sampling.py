"""Every way of asking takes every sampler, and each reply is made again from its recipe."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import quietdesk
from quietdesk.config import Generation
from quietdesk.conversation import ReplyOptions
from quietdesk.errors import ConfigError, UsageError
from quietdesk.recipe import limits_of, sampling_of
from quietdesk.testing import scripted_assistant
from quietdesk.types import FinishReason, Recipe

QUESTION = "the red bell and the blue bell: the red bell and the blue bell, the red bell"
LENGTH = {"max_tokens": 24}
HOT: dict[str, Any] = {"temperature": 0.9, "seed": 5}
OPTIONS: dict[str, dict[str, Any]] = {
    "temperature": HOT,
    "top_k": HOT | {"top_k": 7},
    "top_p": HOT | {"top_p": 0.6},
    "min_p": HOT | {"min_p": 0.3},
    "typical_p": HOT | {"typical_p": 0.4},
    "repeat_penalty": {"temperature": 0.0, "repeat_penalty": 1.8},
    "presence_penalty": {"temperature": 0.0, "presence_penalty": 2.0},
    "frequency_penalty": {"temperature": 0.0, "frequency_penalty": 2.0},
    "penalty_last_n": {"temperature": 0.0, "repeat_penalty": 1.8, "penalty_last_n": 3},
    "dry": {
        "temperature": 0.0,
        "dry_multiplier": 9.0,
        "dry_base": 2.0,
        "dry_allowed_length": 1,
        "dry_penalty_last_n": -1,
        "dry_sequence_breakers": ["\n", "."],
    },
    "mirostat": {"temperature": 1.2, "mirostat_tau": 3.0, "mirostat_eta": 0.3, "seed": 5},
    "logit_bias": {"temperature": 0.0, "logit_bias": {40: 30.0, 41: -100.0}},
    "grammar": {"temperature": 0.0, "grammar": 'root ::= [a-z]+ "."'},
    "stop_tokens": {"temperature": 0.0, "logit_bias": {40: 100.0}, "stop_tokens": {40, 41}},
    "stop": {"temperature": 0.0, "stop": ["e", "a", "i"]},
    "ignore_end": {"temperature": 0.0, "logit_bias": {2: 100.0}, "ignore_end": True},
}


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Path]) -> Iterator[quietdesk.Assistant]:
    settings = quietdesk.Settings(model=str(tiny_models["llama"]), n_ctx=512, n_seq=1)
    with quietdesk.Assistant.open(database=":memory:", settings=settings) as assistant:
        yield assistant


def tokens(reply: quietdesk.Reply) -> list[int]:
    return list(reply.stream.tokens)


@pytest.mark.parametrize("name", OPTIONS)
async def test_every_way_of_asking_takes_it_and_a_replay_says_the_same(
    model: quietdesk.Assistant, name: str
) -> None:
    options: Any = OPTIONS[name] | LENGTH
    conversation = model.start()
    first = conversation.send(QUESTION, **options)
    assert tokens(first) != tokens(model.start().send(QUESTION, temperature=0.0, **LENGTH))
    others = [
        model.start().stream(QUESTION, **options).wait(),
        await model.start().asend(QUESTION, **options),
        await model.start().astream(QUESTION, **options).await_(),
        await asyncio.to_thread(lambda: conversation.regenerate(**options).wait()),
    ]
    assert [tokens(other) for other in others] == [tokens(first)] * len(others)
    found = [model.replay(reply.id) for reply in (first, *others)]
    assert all(one.same and one.differences == () for one in found)
    assert first.finish_reason is (
        FinishReason.STOP if name in ("stop", "stop_tokens") else FinishReason.LENGTH
    )


def test_what_is_set_for_all_replies_is_what_is_asked_for_one(
    model: quietdesk.Assistant, tiny_models: dict[str, Path]
) -> None:
    options: Any = OPTIONS["dry"] | OPTIONS["logit_bias"] | {"presence_penalty": 1.0} | LENGTH
    settings = quietdesk.Settings(model=str(tiny_models["llama"]), n_ctx=512, n_seq=1, **options)
    with quietdesk.Assistant.open(database=":memory:", settings=settings) as assistant:
        by_settings = assistant.start().send(QUESTION)
        assert tokens(by_settings) == tokens(model.start().send(QUESTION, **options))
        without = assistant.start().send(QUESTION, dry_multiplier=0.0, logit_bias={})
        assert tokens(without) != tokens(by_settings)


def test_every_parameter_can_be_asked_for_one_reply() -> None:
    more = {"schema", "tools", "tool_choice", "priority", "deadline_s"}
    assert set(get_type_hints(ReplyOptions)) == set(Generation.model_fields) | more


def test_mirostat_is_refused_where_it_would_have_no_effect_and_nothing_is_kept() -> None:
    with scripted_assistant() as assistant:
        conversation = assistant.start()
        for options in ({"temperature": 0.0}, {"top_k": 5}):
            with pytest.raises(UsageError, match="mirostat"):
                conversation.send("Do you?", mirostat_tau=5.0, **options)  # type: ignore[arg-type]
        assert conversation.messages == []
        kept = conversation.send("Do you?", mirostat_tau=5.0).message.recipe
        assert kept is not None
        assert kept.sampling.keys() == {"temperature", "mirostat_tau", "seed"}
    with pytest.raises(ConfigError, match="'top_k' is 5 and 'mirostat_tau' is 3"):
        quietdesk.Settings.load({"top_k": 5, "mirostat_tau": 3.0}, environ={})
    always = quietdesk.Settings(mirostat_tau=3.0)
    with scripted_assistant(settings=always) as assistant:
        with pytest.raises(UsageError, match="set 'mirostat_tau' to 0"):
            assistant.start().send("Do you?", temperature=0.0)
        assert assistant.start().send("Do you?", temperature=0.0, mirostat_tau=0.0).text
        other = quietdesk.Settings(top_k=7)
    with scripted_assistant(settings=other) as assistant:
        kept = assistant.start().send("Do you?", mirostat_tau=5.0).message.recipe
        assert kept is not None and "top_k" not in kept.sampling


def test_a_token_that_is_not_there_is_refused_and_nothing_is_kept(
    model: quietdesk.Assistant,
) -> None:
    conversation = model.start()
    with pytest.raises(UsageError, match="no token 512 for 'logit_bias': the model's are 0 to 511"):
        conversation.send(QUESTION, logit_bias={512: 1.0}, **LENGTH)
    with pytest.raises(UsageError, match="no token 9999 for 'stop_tokens'"):
        conversation.send(QUESTION, stop_tokens=[9999], **LENGTH)
    assert conversation.messages == []


def test_a_grammar_that_does_not_compile_is_refused_and_nothing_is_kept(
    model: quietdesk.Assistant,
) -> None:
    conversation = model.start()
    for grammar in ('root ::= "a', 'other ::= "a"', "root ::= missing"):
        with pytest.raises(UsageError, match="no GBNF with a rule named 'root'"):
            conversation.send(QUESTION, grammar=grammar, max_tokens=24)
    assert conversation.messages == []


def test_a_schema_goes_before_a_grammar_of_the_settings_and_not_beside_one() -> None:
    settings = quietdesk.Settings(grammar='root ::= "no"')
    with scripted_assistant(['{"a": 1}'], settings=settings) as assistant:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        reply = assistant.start().send("Do you?", schema=schema)
        assert reply.parsed == {"a": 1}
        with pytest.raises(UsageError, match="to a schema or to a grammar"):
            assistant.start().send("Do you?", schema=schema, grammar='root ::= "yes"')
        cut = assistant.start()
        cut.send("Do you?", max_tokens=1)
        with pytest.raises(UsageError, match="gone on with by a grammar"):
            cut.proceed()
        assert cut.proceed(grammar="").wait().text


def test_a_recipe_of_before_is_read_and_means_what_it_meant() -> None:
    """As version 0.1 kept it, before stop tokens and going on after the end were noted."""
    old = Recipe.model_validate_json(
        """{"engine": "llama-cpp-python 0.3.36", "model_fingerprint": "f", "template_sha256": "t",
        "options": {"n_ctx": 512}, "sampling": {"temperature": 0.7, "top_k": 40, "top_p": 0.95,
        "min_p": 0.05, "repeat_penalty": 1.1, "seed": 12}, "max_tokens": 9, "stop": ["x"],
        "prompt_tokens": 3, "prompt_sha256": "d", "continues": "", "tokens": [1, 2]}"""
    )
    limits = limits_of(old)
    assert (limits.max_tokens, limits.stop) == (9, ("x",))
    assert (limits.stop_tokens, limits.ignore_end) == (frozenset(), False)
    sampling = sampling_of(old)
    assert (sampling.repeat_penalty, sampling.penalty_last_n, sampling.seed) == (1.1, 256, 12)
