"""A stored reply is made again byte for byte, or the first thing that differs is named."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quietdesk
from quietdesk.cli import main
from quietdesk.conversation import new_id
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.replay import NEAR_TIE, Replay
from quietdesk.testing import scripted_assistant
from quietdesk.types import FinishReason

SHORT = {"max_tokens": 24}


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[quietdesk.Assistant]:
    settings = quietdesk.Settings(model=str(starter_path), n_ctx=1024, n_seq=2)
    with quietdesk.Assistant.open(database=":memory:", settings=settings) as assistant:
        yield assistant


def agrees(found: Replay) -> bool:
    """Whether it is the same, or a near-tie fell the other way."""
    return found.same or (found.first_token is not None and found.first_token.near_tie)


def test_a_greedy_conversation_is_made_again(model: quietdesk.Assistant) -> None:
    conversation = model.start(system="You answer for a bicycle shop, in one sentence.")
    for question in ("Do you ship to Norway?", "And to Chile?", "How long does it take?"):
        conversation.send(question, temperature=0.0, repeat_penalty=1.1, **SHORT)
    found = [model.replay(m.id) for m in conversation.messages[1::2]]
    assert all(agrees(one) and one.differences == () for one in found)
    assert [one.recorded for one in found] == [m.text for m in conversation.messages[1::2]]
    assert all(one.greedy and not one.cut for one in found)
    assert len(conversation.messages) == 6


def test_a_seeded_reply_is_made_again(model: quietdesk.Assistant) -> None:
    reply = model.start().send("Tell me about bicycles.", temperature=1.2, seed=7, **SHORT)
    found = model.replay(reply.id)
    assert found.same and not found.greedy
    other = model.start().send("Tell me about bicycles.", temperature=1.2, seed=8, **SHORT)
    assert other.text != reply.text
    unseeded = model.start().send("Tell me about bicycles.", temperature=1.2, **SHORT)
    assert model.replay(unseeded.id).same


def test_a_reply_that_was_gone_on_with_is_made_again(model: quietdesk.Assistant) -> None:
    conversation = model.start()
    first = conversation.send("Count from one to twenty.", temperature=0.0, max_tokens=8)
    assert first.finish_reason is FinishReason.LENGTH
    longer = conversation.proceed(temperature=0.0, max_tokens=12).wait()
    found = model.replay(longer.id)
    assert agrees(found)
    assert first.text + found.recorded == longer.text
    assert agrees(model.replay(first.id))


def test_stop_strings_are_part_of_the_recipe(model: quietdesk.Assistant) -> None:
    reply = model.start().send("Count from one to ten.", temperature=0.0, stop=["3"], **SHORT)
    assert reply.finish_reason is FinishReason.STOP
    assert agrees(model.replay(reply.id))


def test_a_cancelled_reply_is_made_again_up_to_there(model: quietdesk.Assistant) -> None:
    conversation = model.start()
    reply = conversation.stream("Tell me a long story.", temperature=0.0, max_tokens=400)
    for _ in zip(range(5), reply, strict=False):
        pass
    reply.cancel()
    reply.wait()
    assert reply.finish_reason is FinishReason.CANCELLED
    found = model.replay(reply.id)
    assert found.cut and agrees(found) and found.recorded == reply.text


def keep_as(model: quietdesk.Assistant, reply: quietdesk.Reply, **changes: object) -> str:
    """A copy of a conversation in which its reply is said to have been made otherwise; its id."""
    conversation_id, kept = model.store.find_message(reply.id)
    assert kept.recipe is not None
    history = model.store.messages(conversation_id, kept.id)
    told = {"recipe": kept.recipe.model_copy(update=changes.pop("recipe", {}))}  # type: ignore[call-overload]
    history[-1] = kept.model_copy(update=told | changes)
    parent, copies = None, []
    for message in history:
        own = message.model_copy(update={"id": f"{new_id('m')}", "parent_id": parent})
        copies.append(own)
        parent = own.id
    info = model.store.conversation(conversation_id).model_copy(update={"id": new_id("c")})
    model.store.import_conversations([(info, copies)])
    return copies[-1].id


def test_the_first_token_that_differs_is_told_with_how_close_it_was(
    model: quietdesk.Assistant, starter_path: Path
) -> None:
    """As if greedy replies had come out as drawn ones; the truth is llama-cpp-python's own."""
    llama = llama_cpp.Llama(str(starter_path), n_ctx=512, verbose=False)
    told = []
    for seed in range(4):
        conversation = model.start(system="Be brief.")
        reply = conversation.send("Name a colour.", temperature=2.0, top_k=8, seed=seed, **SHORT)
        found = model.replay(keep_as(model, reply, recipe={"sampling": {}}))
        if found.same:
            continue
        token = found.first_token
        assert token is not None and token.recorded is not None and token.now is not None
        assert found.first_byte is not None
        then, now = (text.encode() for text in (found.recorded, found.text))
        assert then[: found.first_byte] == now[: found.first_byte]
        assert then[: found.first_byte + 1] != now[: found.first_byte + 1]
        rendered = (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        prompt = llama.tokenize(rendered.encode(), add_bos=False, special=True)
        assert reply.message.recipe is not None
        digest = hashlib.sha256(np.array(prompt, "<i4").tobytes()).hexdigest()
        assert digest == reply.message.recipe.prompt_sha256
        said = list(reply.stream.tokens)[: token.position]
        llama.reset()
        llama.eval([*prompt, *said])
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), (llama.n_vocab(),))
        gap = float(logits[token.now] - logits[token.recorded])
        assert token.gap_at_most is not None
        assert token.gap_at_most / 2 - NEAR_TIE < gap < token.gap_at_most + NEAR_TIE
        assert token.near_tie == (token.gap_at_most <= NEAR_TIE)
        told.append(token)
    llama.close()
    assert told


def test_what_is_not_as_it_was_is_named(model: quietdesk.Assistant) -> None:
    reply = model.start().send("Say hello.", temperature=0.0, **SHORT)
    recipe = model.store.find_message(reply.id)[1].recipe
    assert recipe is not None and recipe.engine.startswith("llama-cpp-python ")
    old = {
        "model_fingerprint": "f" * 64,
        "template_sha256": "e" * 64,
        "engine": "llama-cpp-python 0.0.1, llama.cpp b1",
        "options": recipe.options | {"kv_type": "q8_0"},
        "prompt_sha256": "d" * 64,
    }
    found = model.replay(keep_as(model, reply, recipe=old))
    assert [one.what for one in found.differences] == [
        "model",
        "template",
        "engine",
        "kv_type",
        "prompt",
    ]
    assert [one.recorded for one in found.differences[2:4]] == [old["engine"], "q8_0"]
    assert found.differences[3].now == "f16"
    assert found.same
    changed = model.replay(keep_as(model, reply, text=reply.text + "!"))
    assert (changed.same, changed.first_byte) == (False, len(reply.text.encode()))


def test_only_replies_with_a_recipe_can_be_replayed(model: quietdesk.Assistant) -> None:
    conversation = model.start()
    reply = conversation.send("Say hello.", temperature=0.0, **SHORT)
    with pytest.raises(UsageError, match="was written by customer"):
        model.replay(conversation.messages[0].id)
    kept = model.store.find_message(reply.id)[1]
    assert kept.recipe is not None
    old = keep_as(model, reply)
    model.store.import_conversations(
        [
            (
                conversation.info.model_copy(update={"id": new_id("c")}),
                [kept.model_copy(update={"id": "m-old", "parent_id": None, "recipe": None})],
            )
        ]
    )
    with pytest.raises(UsageError, match="kept without how it was made"):
        model.replay("m-old")
    with pytest.raises(UnknownNameError) as unknown:
        model.replay(reply.id[:-1] + "x")
    assert reply.id in unknown.value.nearest
    assert model.replay(old[:-2]).same


@given(
    turns=st.lists(st.sampled_from(["say", "again", "edit", "cut", "on"]), min_size=1, max_size=8),
    policy=st.sampled_from(["rolling-window", "truncate-middle", "summary"]),
)
def test_whatever_happened_in_a_conversation_every_reply_is_made_again(
    turns: list[str], policy: str
) -> None:
    """The scripted runner's words depend on every token before them."""
    settings = quietdesk.Settings(overflow=policy, max_tokens=20)
    with scripted_assistant(None, settings=settings, n_ctx=120) as assistant:
        conversation = assistant.start(system="Be kind.")
        conversation.send("Where is my parcel?")
        for number, turn in enumerate(turns):
            history = conversation.messages
            if turn == "say":
                conversation.send(f"And number {number}, the one that came back twice?")
            elif turn == "again":
                conversation.regenerate().wait()
            elif turn == "edit":
                said = [m for m in history if m.author is quietdesk.Author.CUSTOMER]
                conversation.edit(said[-1].id, f"Rather {number}").wait()
            elif turn == "cut":
                conversation.send("Short.", max_tokens=3)
            elif history[-1].finish_reason is FinishReason.LENGTH:
                conversation.proceed().wait()
        tree = assistant.store.tree(conversation.id)
        replies = [m for m in tree if m.author is quietdesk.Author.BOT]
        found = [assistant.replay(m.id) for m in replies]
        assert [one.same for one in found] == [True] * len(replies)
        assert [one.differences for one in found] == [()] * len(replies)


def test_the_verb_tells_it_and_its_exit_code_does_too(
    starter_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("QUIETDESK_DATABASE", str(tmp_path / "q.db"))
    monkeypatch.setenv("QUIETDESK_MODEL", str(starter_path))
    monkeypatch.setenv("QUIETDESK_N_CTX", "512")
    asked = ["ask", "Say hello.", "--temperature", "0", "--max-tokens", "12", "--json"]
    assert main.run(asked) == 0
    reply = json.loads(capsys.readouterr().out)
    assert main.run(["replay", reply["conversation"]]) == 0
    assert "The same, " in capsys.readouterr().out
    assert main.run(["replay", reply["id"][:12], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reply_id"], told["same"], told["differences"]) == (reply["id"], True, [])
    assert main.run(["replay", "m-nothing"]) == 2
    assert "There is no message 'm-nothing'" in capsys.readouterr().err
