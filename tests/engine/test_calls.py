"""Tool calls: whole and valid whenever there are any, text as it would be without tools before."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietdesk.engine.calls import Calls, Watch, call_grammar, parse_calls
from quietdesk.engine.detokenize import Detokenizer
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.stream import Stream
from quietdesk.errors import SchemaError
from quietdesk.testing import ScriptedRunner
from quietdesk.types import HERMES, ID, CallForm, FinishReason, ToolCall

N_TOOLS = int(os.environ.get("TOOLS", "40"))
"""Fuzzed sets of tools; every tenth with the real model too."""

MISTRAL = CallForm(
    name="model",
    opening='[TOOL_CALLS][{"name": "',
    middle='", "arguments": ',
    closing=f', "id": "{ID}"}}]',
    following=f', "id": "{ID}"}}, {{"name": "',
)
LLAMA = CallForm(
    name="model", opening='{"name": "', middle='", "parameters": ', closing="}", following=""
)
TAGGED = CallForm(
    name="model",
    opening="<function=",
    middle=">",
    closing="</function>",
    following="</function>\n<function=",
)
FORMS = (HERMES, MISTRAL, LLAMA, TAGGED)


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": name, "description": f"Does {name}."}
    if parameters is not None:
        function |= {"parameters": parameters}
    return {"type": "function", "function": function}


ORDER = tool(
    "find_order",
    {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 999}},
        "required": ["number"],
        "additionalProperties": False,
    },
)
HOURS = tool("opening_hours")
BOTH = json.dumps([ORDER, HOURS])
QUESTION = "Where is order 123?"


@pytest.fixture(scope="module")
def engine(starter_path: Path) -> Iterator[Engine]:
    chosen = plan(read_header(starter_path), machine(), n_ctx=2048, n_seq=4, n_threads=1)
    with Engine(lambda: LlamaRunner(starter_path, chosen)) as engine:
        yield engine


def prompt(engine: Engine, text: str, begun: str = "") -> list[int]:
    text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{begun}"
    return engine.tokenize(text, special=True, begin=False)


def ask(
    engine: Engine, text: str, calls: Calls | None, *, begun: str = "", n: int = 160, **more: Any
) -> Stream:
    sampling = Sampling(calls=calls, **more)
    stream = engine.submit(prompt(engine, text, begun), sampling=sampling, limits=Limits(n))
    stream.wait()
    assert stream.error is None
    return stream


# With the real model.


class Fuzz:
    """Tools with schemas as people write them, at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def tools(self) -> list[dict[str, Any]]:
        names = self.random.sample(["find_order", "refund", "a", "get-weather", "X_1"], 3)
        return [tool(name, self.object(2)) for name in names]

    def object(self, depth: int) -> dict[str, Any]:
        names = self.random.sample(["number", "city", "when", "how many", 'q"uote', "ünïcode"], 3)
        properties = {name: self.value(depth - 1) for name in names}
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name in names if self.random.random() < 0.6],
            "additionalProperties": False,
        }

    def value(self, depth: int) -> dict[str, Any]:
        low = self.random.randint(-50, 50)
        flat: list[dict[str, Any]] = [
            {"type": "string", "maxLength": 8},
            {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
            {"type": "string", "enum": ["in", "out", "<|im_end|>", "</tool_call>"]},
            {"type": "string", "format": "date"},
            {"type": "integer", "minimum": low, "maximum": low + self.random.randint(0, 300)},
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "boolean"},
            {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
        ]
        if depth > 0 and self.random.random() < 0.4:
            items = {"type": "array", "items": self.value(depth - 1), "maxItems": 2}
            return self.random.choice([self.object(depth), items])
        return self.random.choice(flat)


@pytest.fixture(scope="module")
def knows_nothing(tiny_models: dict[str, Path]) -> Iterator[Engine]:
    path = tiny_models["llama"]
    chosen = plan(read_header(path), machine(), n_ctx=8192, n_seq=8, n_threads=1)
    with Engine(lambda: LlamaRunner(path, chosen)) as engine:
        yield engine


@pytest.mark.parametrize(("model", "step"), [("knows_nothing", 1), ("engine", 10)])
def test_forced_calls_of_any_tools_parse_and_validate(
    model: str, step: int, request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(model)
    asked = []
    for seed in range(0, N_TOOLS, step):
        tools = Fuzz(seed).tools()
        names = [one["function"]["name"] for one in tools]
        choice = ["required", names[seed % 3]][seed % 2]
        form = FORMS[seed // step % 4]
        if step > 1:
            form = form.model_copy(update={"following": ""})
        calls = Calls(json.dumps(tools), form, choice)
        sampling = Sampling(temperature=[0.0, 1.5][seed // 8 % 2], seed=seed, calls=calls)
        said = prompt(engine, "Where is order 17?")
        stream = engine.submit(said, sampling=sampling, limits=Limits(7000))
        asked.append((tools, choice, stream))
    for tools, choice, stream in asked:
        stream.wait()
        assert (stream.finish_reason, stream.text) == (FinishReason.TOOL_CALLS, "")
        schemas = {one["function"]["name"]: one["function"]["parameters"] for one in tools}
        assert stream.tool_calls
        for call in stream.tool_calls:
            assert choice in ("required", call.name)
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])


def test_text_is_the_same_with_tools_as_without_until_a_call_begins(engine: Engine) -> None:
    for question in (QUESTION, "Write some JSON."):
        free = ask(engine, question, None, n=24)
        with_tools = ask(engine, question, Calls(BOTH, HERMES), n=24)
        assert list(with_tools.tokens) == list(free.tokens)
        assert with_tools.text == free.text
        assert (with_tools.finish_reason, with_tools.tool_calls) == (free.finish_reason, ())


EXAMPLES = "".join(
    f"<|im_start|>user\nWhere is order {n}?<|im_end|>\n<|im_start|>assistant\nLet me look.\n"
    f'<tool_call>\n{{"name": "find_order", "arguments": {{"number": {n}}}}}\n</tool_call>'
    "<|im_end|>\n"
    for n in (417, 23, 880)
)


def with_examples(engine: Engine, question: str) -> list[int]:
    text = f"{EXAMPLES}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return engine.tokenize(text, special=True, begin=False)


def test_a_model_that_begins_a_call_by_itself_ends_it_and_its_text_is_the_same_until_there(
    engine: Engine,
) -> None:
    tokens = with_examples(engine, QUESTION)
    free = engine.submit(tokens, limits=Limits(60))
    calling = engine.submit(tokens, sampling=Sampling(calls=Calls(BOTH, HERMES)), limits=Limits(60))
    free.wait()
    assert calling.wait()
    assert calling.finish_reason is FinishReason.TOOL_CALLS
    before, trigger, _ = free.text.partition("<tool_call>")
    assert trigger and before.strip() and calling.text == before
    assert [call.name for call in calling.tool_calls] == ["find_order"]
    assert json.loads(calling.tool_calls[0].arguments).keys() == {"number"}
    # What streamed is what was kept.
    assert "".join(delta.text for delta in calling) == before


def test_a_model_that_must_not_call_writes_no_trigger(engine: Engine) -> None:
    tokens = with_examples(engine, QUESTION)
    calls = Calls(BOTH, HERMES, "none")
    stream = engine.submit(tokens, sampling=Sampling(calls=calls), limits=Limits(40))
    assert stream.wait() and stream.tool_calls == ()
    assert stream.text and "<tool_call>" not in stream.text


def test_guesses_change_nothing_where_a_grammar_binds(starter_path: Path) -> None:
    chosen = plan(read_header(starter_path), machine(), n_ctx=1024, n_seq=1, n_threads=1)
    said = {}
    for n_draft in (0, 12):
        with Engine(lambda: LlamaRunner(starter_path, chosen), n_draft=n_draft) as engine:
            tokens = with_examples(engine, "Where is order 417, and where is order 23?")
            calls = Calls(BOTH, HERMES)
            stream = engine.submit(tokens, sampling=Sampling(calls=calls), limits=Limits(200))
            assert stream.wait()
            metrics = engine.metrics()
            said[n_draft] = (
                list(stream.tokens),
                [(call.name, call.arguments) for call in stream.tool_calls],
            )
    assert said[0] == said[12]
    assert said[0][1]
    # Some guesses came true and some were refused.
    assert 0 < metrics.accepted_tokens < metrics.drafted_tokens


class WilfulRunner(LlamaRunner):
    """A model that wants certain tokens first."""

    wishes: list[int]

    def _scores(self, n_rows: int) -> Any:
        scores = super()._scores(n_rows).copy()
        if n_rows == 1 and self.wishes:
            scores[0, self.wishes.pop(0)] += 1000.0
        return scores


ONE_CALL = HERMES.model_copy(update={"following": ""})


@pytest.fixture(scope="module")
def wilful(starter_path: Path) -> Iterator[tuple[Engine, WilfulRunner]]:
    chosen = plan(read_header(starter_path), machine(), n_ctx=512, n_seq=1, n_threads=1)
    opened = []

    def open_runner() -> WilfulRunner:
        opened.append(WilfulRunner(starter_path, chosen))
        opened[0].wishes = []
        return opened[0]

    with Engine(open_runner, n_draft=0) as engine:
        yield engine, opened[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("behind", [b">", b"></", b'>"', b">)"])
def test_a_token_that_goes_on_behind_the_trigger_never_breaks_a_call(
    wilful: tuple[Engine, WilfulRunner], behind: bytes, temperature: float
) -> None:
    engine, runner = wilful
    token = next((n for n in range(runner.info.n_vocab) if runner.piece(n) == behind), None)
    if token is None:
        pytest.skip(f"the vocabulary has no token {behind!r}")
    said = engine.tokenize("Let me look. <tool_call", special=False, begin=False)
    runner.wishes = [*said, token]
    calls = Calls(json.dumps([HOURS]), ONE_CALL)
    stream = ask(engine, QUESTION, calls, n=80, temperature=temperature)
    assert runner.wishes == []
    assert (stream.finish_reason, stream.text) == (FinishReason.TOOL_CALLS, "Let me look. ")
    assert [(call.name, call.arguments) for call in stream.tool_calls] == [("opening_hours", "{}")]


@pytest.mark.parametrize("form", [MISTRAL, LLAMA, TAGGED], ids=["mistral", "llama", "tagged"])
def test_a_call_begins_with_the_forms_own_letters(
    wilful: tuple[Engine, WilfulRunner], form: CallForm
) -> None:
    engine, runner = wilful
    form = form.model_copy(update={"following": ""})
    calls = Calls(json.dumps([HOURS]), form)
    for before in ("", "Let me look.\n"):
        runner.wishes = engine.tokenize(before + form.trigger, special=False, begin=False)
        stream = ask(engine, QUESTION, calls, n=60)
        if before and form.at_start:
            # Bare JSON in the middle of a text is a part of the text.
            assert stream.text.startswith(before + form.trigger) and not stream.tool_calls
            continue
        assert (stream.finish_reason, stream.text) == (FinishReason.TOOL_CALLS, before)
        assert [call.name for call in stream.tool_calls] == ["opening_hours"]


def test_a_trigger_that_is_not_wanted_is_not_written(
    wilful: tuple[Engine, WilfulRunner],
) -> None:
    engine, runner = wilful
    runner.wishes = engine.tokenize("See <tool_call>", special=False, begin=False)
    stream = ask(engine, QUESTION, Calls(BOTH, HERMES, "none"), n=20)
    assert stream.text.startswith("See <tool_call") and "<tool_call>" not in stream.text


def test_control_tokens_stand_in_no_constrained_text(
    wilful: tuple[Engine, WilfulRunner],
) -> None:
    engine, runner = wilful
    (mark,) = engine.tokenize("<|im_start|>", special=True, begin=False)
    quote = engine.tokenize('"', special=False, begin=False)[0]
    runner.wishes = [quote, mark, mark]
    sampling = Sampling(grammar='root ::= "\\"" [^"]{4,20} "\\""')
    stream = engine.submit(prompt(engine, "Hi."), sampling=sampling, limits=Limits(60))
    assert stream.wait() and mark not in stream.tokens


def test_a_grammar_of_calls_that_cannot_be_kept_to_is_an_error_before_anything_starts() -> None:
    tools = json.dumps([tool("a", {"type": "object", "properties": {"b": {"not": {}}}})])
    with pytest.raises(SchemaError, match="not"):
        call_grammar(Calls(tools, HERMES))


# Exact cases, by a script.

CALL = '<tool_call>\n{"name": "find_order", "arguments": {"number": 7}}\n</tool_call>'
TWO = CALL + "\n" + CALL.replace("7", "8")


def scripted(said: str, calls: Calls | None = None, n: int = 100, **limits: Any) -> Stream:
    with Engine(lambda: ScriptedRunner([said])) as engine:
        sampling = Sampling(calls=calls or Calls(BOTH, HERMES))
        stream = engine.submit([5, 6], sampling=sampling, limits=Limits(n, **limits))
        stream.wait()
        return stream


def test_text_and_calls_come_apart() -> None:
    stream = scripted("I look.\n" + TWO)
    assert (stream.text, stream.finish_reason) == ("I look.\n", FinishReason.TOOL_CALLS)
    assert [call.arguments for call in stream.tool_calls] == ['{"number": 7}', '{"number": 8}']
    assert len({call.id for call in stream.tool_calls}) == 2
    assert stream.begun_call == ""


@pytest.mark.parametrize("n", range(1, 8))
def test_a_call_that_is_cut_is_text_and_no_call(n: int) -> None:
    stream = scripted("I look.\n" + CALL, n=n)
    assert stream.finish_reason is FinishReason.LENGTH
    assert stream.tool_calls == ()
    assert ("I look.\n" + CALL).startswith(stream.text.rstrip())
    assert ("<tool_call>" in stream.text) is (n > 2)


def test_a_second_call_that_is_cut_leaves_all_of_it_as_text() -> None:
    stream = scripted(TWO, n=9)
    assert (stream.finish_reason, stream.tool_calls) == (FinishReason.LENGTH, ())
    assert stream.text.count("<tool_call>") == 2


def test_a_call_that_is_cancelled_is_kept_as_text() -> None:
    with Engine(lambda: ScriptedRunner([CALL + " x" * 300], delay_s=0.01)) as engine:
        sampling = Sampling(calls=Calls(BOTH, HERMES))
        stream = engine.submit([5, 6], sampling=sampling, limits=Limits(400))
        while not stream.begun_call:
            assert stream.finish_reason is None
        assert stream.text == ""
        stream.cancel()
        assert stream.wait()
    assert stream.finish_reason is FinishReason.CANCELLED
    assert stream.text.startswith("<tool_call>") and stream.tool_calls == ()


def test_what_only_looks_like_a_call_is_text() -> None:
    for said in ("a <tool_cal x", "<tool_call> no JSON </tool_call>", CALL + " and more", "<tool"):
        stream = scripted(said)
        assert (stream.text, stream.finish_reason) == (said, FinishReason.STOP)


def test_stop_strings_mean_nothing_inside_a_call_and_all_in_front_of_it() -> None:
    assert len(scripted(CALL, stop=("number", "}")).tool_calls) == 1
    stream = scripted("No order. " + CALL, stop=("order",))
    assert (stream.text, stream.tool_calls) == ("No ", ())


# Parts.


@given(
    form=st.sampled_from(FORMS),
    named=st.lists(
        st.tuples(st.sampled_from(["a", "find_order", "x-1"]), st.integers()), min_size=1
    ),
)
def test_what_a_form_writes_is_read_again(form: CallForm, named: list[tuple[str, int]]) -> None:
    named = named if form.following else named[:1]
    calls = [
        ToolCall(id="", name=name, arguments=json.dumps({"text": f'"}}{value}</tool_call>'}))
        for name, value in named
    ]
    text = form.write(calls).replace('"id": ""', '"id": "abcdefghi"')
    found = parse_calls(form, text)
    assert [(call.name, call.arguments) for call in found] == [
        (call.name, call.arguments) for call in calls
    ]
    assert all(len(parse_calls(form, text[:cut])) < len(calls) for cut in range(len(text)))
    assert parse_calls(form, text + "x") == ()


@given(
    pieces=st.lists(
        st.sampled_from(["a", " ", "\n", "<tool_call", "<", ">", "tool_call>", "é", "{"])
    ),
    form=st.sampled_from([HERMES, LLAMA.model_copy(update={"opening": "{<a"})]),
)
def test_the_watch_and_the_text_agree_where_a_call_begins(
    pieces: list[str], form: CallForm
) -> None:
    watch = Watch(form)
    text = Detokenizer((), form.trigger, at_start=form.at_start)
    shown = ""
    for piece in pieces:
        more = watch.look(piece.encode())
        shown += text.push(piece.encode())
        assert bool(text.call) is (more is not None)
        if more is not None:
            assert text.call == form.trigger + more.decode()
            break
        watch.add(piece.encode())
    whole = "".join(pieces)
    assert whole.startswith(shown)
    if not text.call:
        assert shown + text.flush() == whole
