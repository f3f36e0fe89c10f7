"""Replies of logged conversations on real models, against llama-cpp-python, one text at a time."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.config import Settings
from quietdesk.engine.backend import Backend
from quietdesk.engine.engine import Engine
from quietdesk.errors import UsageError
from quietdesk.reply_reader import SYSTEM_PROMPT, ReplyReader
from quietdesk.scored import reply_reader
from quietdesk.testing import ScriptedRunner
from quietdesk.types import Author, ToolCall, Transcript, TranscriptMessage

SAID = (
    ("customer", "Where is my parcel? I ordered shoes on Monday."),
    ("bot", "I am sorry to hear that. What is your order number?"),
    ("customer", "It is 4711. Thanks"),
    ("bot", "Your order 4711 left our warehouse on Tuesday and takes two days."),
    ("bot", "  Is there anything else?\n"),
    ("customer", "No."),
    ("human", "Goodbye, and thank you for your patience."),
)


def talk(*said: tuple[str, str]) -> Transcript:
    messages = tuple(TranscriptMessage(author=author, text=text) for author, text in said)
    return Transcript(id="1", messages=messages)


@contextmanager
def alone(path: Path) -> Iterator[Callable[[list[int], int], float]]:
    """The log-probability of the last tokens of a text, by llama-cpp-python's own class."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=512, n_threads=1, logits_all=True, flash_attn=True, verbose=False
    )

    def read(tokens: list[int], n_reply: int) -> float:
        llama.reset()
        llama.eval(tokens)
        wide = np.array(llama.scores[len(tokens) - n_reply - 1 : len(tokens) - 1], np.float64)
        highest = wide.max(1, keepdims=True)
        logs = wide - highest - np.log(np.exp(wide - highest).sum(1, keepdims=True))
        return float(logs[np.arange(n_reply), tokens[-n_reply:]].sum())

    yield read
    llama.close()


@pytest.fixture(scope="module")
def starter(starter_path: Path) -> Iterator[ReplyReader]:
    options = Settings(n_ctx=1024, n_threads=1)
    with reply_reader(starter_path, ("bot", "human"), options) as reader:
        yield reader


def test_figures_equal_llama_cpp_pythons_on_every_kind_of_model(
    tiny_models: dict[str, Path],
) -> None:
    for kind, path in tiny_models.items():
        with reply_reader(path, ("bot", "human"), Settings(n_ctx=1024, n_threads=1)) as reader:
            found = reader(talk(*SAID))
            texts = reader.texts(talk(*SAID))
        assert [one.place for one in found] == [1, 3, 4, 6]
        with alone(path) as read:
            for one, (whole, without) in zip(found, texts, strict=True):
                assert without is not None
                expected = read(whole, one.n_tokens), read(without, one.n_tokens)
                # Weights and cache have 16 bits: some thousandths of a nat for a token.
                bound = 0.01 * one.n_tokens
                assert (one.logprob, one.without) == pytest.approx(expected, abs=bound), kind


def test_figures_equal_llama_cpp_pythons_within_what_4_bit_kernels_round(
    starter: ReplyReader, starter_path: Path
) -> None:
    one, *_ = starter(talk(*SAID[2:4]))
    ((whole, without),) = starter.texts(talk(*SAID[2:4]))
    assert without is not None
    with alone(starter_path) as read:
        # As for a single token: at most .08 on average.
        bound = 0.08 * one.n_tokens
        assert abs(one.logprob - read(whole, one.n_tokens)) < bound
        assert abs(one.without - read(without, one.n_tokens)) < bound


def test_the_texts_are_the_models_own_template_with_the_replys_tokens_behind_it(
    starter: ReplyReader,
) -> None:
    def read(*turns: str) -> list[int]:
        """Turns of ChatML, of which the last one, the reply, has no end yet."""
        found = []
        for turn in turns:
            role, _, text = turn.partition(" ")
            found += [*tokenize("<|im_start|>", True), *tokenize(f"{role}\n", False)]
            found += [*tokenize(text, False), *tokenize("<|im_end|>", True), *tokenize("\n", False)]
        return found[: -len([*tokenize("<|im_end|>", True), *tokenize("\n", False)])]

    def tokenize(text: str, special: bool) -> list[int]:
        return starter._engine.tokenize(text, special=special, begin=False)

    system = f"system {SYSTEM_PROMPT}"
    asked, answer, again, reply, more = (text.strip() for _, text in SAID[:5])
    start = (system, f"user {asked}", f"assistant {answer}")
    texts = starter.texts(talk(*SAID))
    assert texts[0] == (read(*start), read(system, f"assistant {answer}"))
    assert texts[1] == (
        read(*start, f"user {again}", f"assistant {reply}"),
        read(*start, f"assistant {reply}"),
    )
    assert texts[2][1] == read(*start, f"assistant {reply}", f"assistant {more}")


def test_the_logs_own_system_prompt_stands_in_front(starter: ReplyReader) -> None:
    said = (("system", "Sell shoes."), ("customer", "Hello?"), ("bot", "Hello! Need shoes?"))
    ((whole, without),) = starter.texts(talk(*said))
    assert without is not None
    for text in (whole, without):
        shown = b"".join(starter._reader.piece(token) for token in text).decode()
        assert "Sell shoes." in shown and SYSTEM_PROMPT not in shown


words = st.lists(st.sampled_from(["my", "order", "is", "late", "and", "blue"]), min_size=1)
said = st.lists(
    st.tuples(st.sampled_from(["customer", "bot", "human", "system", "tool"]), words), max_size=8
)


@given(said, st.booleans(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_one_pass_gives_what_each_text_gives_by_itself(
    said: list[tuple[str, list[str]]], can_trim: bool, n_seq: int
) -> None:
    one = talk(*((author, " ".join(text)) for author, text in said))
    with (
        Engine(lambda: ScriptedRunner(n_seq=n_seq, can_trim=can_trim)) as engine,
        Engine(lambda: ScriptedRunner(n_seq=1)) as apart,
        reply_reader(engine, ("bot", "human")) as reader,
    ):
        found, texts = reader(one), reader.texts(one)
        again = reader(one)
        for reply, (whole, without) in zip(found, texts, strict=True):
            start = len(whole) - reply.n_tokens
            assert reply.logprob == math.fsum(apart.read_logprobs(whole, start).logprobs().tolist())
            assert (without is None) == (not reply.answers) == math.isnan(reply.without)
            if without is not None:
                start = len(without) - reply.n_tokens
                told = apart.read_logprobs(without, start).logprobs().tolist()
                assert reply.without == math.fsum(told)
        assert repr(again) == repr(found)


def test_a_conversation_costs_one_pass_and_its_replies_once_more(starter: ReplyReader) -> None:
    one = talk(*SAID)
    texts, found = starter.texts(one), starter(one)
    before = starter.n_tokens
    starter(one)
    evaluated = starter.n_tokens - before
    n_replies = sum(reply.n_tokens for reply in found)
    by_itself = sum(len(whole) + len(without or []) for whole, without in texts)
    # Where two replies follow each other, the first is read again before the second one; around
    # each there are some tokens of the template's.
    assert evaluated <= len(texts[-1][0]) + n_replies + found[1].n_tokens + 8 * len(found)
    assert evaluated < by_itself / 3


def test_what_is_too_long_is_cut_at_the_front_and_counted(tiny_models: dict[str, Path]) -> None:
    with reply_reader(tiny_models["llama"], settings=Settings(n_ctx=256)) as reader:
        long = [("customer", "my order is late " * 3), ("bot", "The order is on its way. " * 3)]
        found = reader(talk(*(long * 20)))
        assert len(found) == 20
        assert not any(math.isnan(one.logprob) or math.isnan(one.without) for one in found)
        assert found[0].n_cut == 0 < found[10].n_cut < found[19].n_cut
        assert all(len(whole) <= 256 for whole, _ in reader.texts(talk(*(long * 20))))

        giant = [("customer", "late " * 2000), ("bot", "Yes."), ("customer", "?"), ("bot", "No.")]
        no_room, fine = reader(talk(*giant))
        assert math.isnan(no_room.logprob) and "does not fit" in no_room.reason
        assert not math.isnan(fine.logprob) and fine.n_cut == 2 and not fine.reason

        (too_long,) = reader(talk(("customer", "Hello?"), ("bot", "late " * 2000)))
        assert math.isnan(too_long.logprob) and "longer than half" in too_long.reason


def test_tools_and_bare_calls_are_part_of_the_conversation_and_no_replies(
    starter: ReplyReader,
) -> None:
    call = ToolCall(id="a", name="find_order", arguments='{"number": 4711}')
    messages = (
        TranscriptMessage(author=Author.CUSTOMER, text="Where is order 4711?"),
        TranscriptMessage(author=Author.BOT, text="", tool_calls=(call,)),
        TranscriptMessage(author=Author.TOOL, text='{"state": "sent on Tuesday"}'),
        TranscriptMessage(author=Author.BOT, text="It was sent on Tuesday."),
    )
    (found,) = starter(Transcript(id="1", messages=messages))
    assert found.place == 3 and found.answers and not found.reason
    without_result = talk((messages[0].author, messages[0].text), ("bot", messages[3].text))
    assert found.logprob > starter(without_result)[0].logprob


def test_only_the_replies_that_are_asked_about_are_read(tiny_models: dict[str, Path]) -> None:
    for whose, places in ((("bot",), [1, 3, 4]), (("human",), [6]), (("human", "bot"), None)):
        with reply_reader(tiny_models["llama"], whose) as reader:
            assert [one.place for one in reader(talk(*SAID))] == (places or [1, 3, 4, 6])
            assert reader.terms.replies in {"bot", "human", "bot,human"}
    for wrong in ((), ("customer",), ("bots",)):
        refused = pytest.raises(UsageError, match="cannot be read: bot, human or both")
        with refused, reply_reader(tiny_models["llama"], wrong):
            pass


def test_a_model_elsewhere_is_refused() -> None:
    elsewhere: Any = SimpleNamespace(model=SimpleNamespace(name="far"))
    with pytest.raises(UsageError, match="'far' runs elsewhere"):
        ReplyReader(cast(Backend, elsewhere), cast(Any, None))
