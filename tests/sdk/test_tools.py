"""Tools in a conversation: what is told of functions, calls, results, and going on from there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import Field

import quietdesk
from quietdesk.errors import ContextError, SchemaError, UnknownNameError, UsageError
from quietdesk.store.document import to_markdown
from quietdesk.testing import scripted_assistant
from quietdesk.tools import tool_schemas
from quietdesk.types import Author, FinishReason


def find_order(number: Annotated[int, Field(ge=1, le=9999)], fast: bool = False) -> str:
    """Where an order is.

    Args:
        number: As on the bill.
        fast: Whether to hurry.
    """
    return f"{number}{fast}"


def opening_hours(day: Literal["today", "tomorrow"]) -> str:
    """When the shop is open."""
    return day


TOOLS = [find_order, opening_hours]
CALL = '<tool_call>\n{"name": "find_order", "arguments": {"number": 123}}\n</tool_call>'
HOURS = CALL.replace("find_order", "opening_hours").replace('"number": 123', '"day": "today"')
TWO = f"{CALL}\n{HOURS}"


def test_a_function_is_told_by_its_name_its_docstring_and_its_annotations() -> None:
    (order, _) = tool_schemas(TOOLS)
    function = order["function"]
    assert (function["name"], order["type"]) == ("find_order", "function")
    assert "As on the bill." in function["description"]
    schema = function["parameters"]
    assert schema["required"] == ["number"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"number": 5, "fast": True}, schema)
    for wrong in ({}, {"number": 0}, {"number": 5, "more": 1}, {"number": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    assert tool_schemas([order]) == [order]


def without_annotation(number) -> None:  # type: ignore[no-untyped-def]
    del number


def with_any_number(*numbers: int) -> None:
    del numbers


def required() -> None:
    pass


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([without_annotation], "annotation"),
        ([with_any_number], "by their names"),
        ([required], "cannot be called 'required'"),
        ([find_order, find_order], "Two tools"),
        (find_order, "list of functions"),
        ([{"name": "bare"}], "as JSON"),
        ([{"type": "function", "function": {"name": "a b"}}], "cannot be called"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}],
            "no JSON",
        ),
    ],
)
def test_what_is_no_tool_is_refused_and_nothing_is_kept(tools: Any, words: str) -> None:
    with scripted_assistant() as assistant:
        conversation = assistant.start()
        with pytest.raises(UsageError, match=words):
            conversation.send("Hello.", tools=tools)
        assert conversation.messages == []


def test_what_makes_no_sense_with_tools_is_refused_and_nothing_is_kept() -> None:
    endless: dict[str, Any] = {"type": "object", "properties": {"a": {"not": {}}}}
    bad = {"type": "function", "function": {"name": "a", "parameters": endless}}
    with scripted_assistant() as assistant:
        conversation = assistant.start()
        with pytest.raises(UnknownNameError, match="find_order"):
            conversation.send("Hello.", tools=TOOLS, tool_choice="find_ordre")
        with pytest.raises(UsageError, match="no tools"):
            conversation.send("Hello.", tool_choice="required")
        with pytest.raises(UsageError, match="schema"):
            conversation.send("Hello.", tools=TOOLS, schema={"type": "string"})
        with pytest.raises(SchemaError, match="not"):
            conversation.send("Hello.", tools=[bad])
        assert conversation.messages == []


def test_a_call_is_kept_answered_and_gone_on_from() -> None:
    with scripted_assistant(["I look.\n" + CALL, "It is on its way."]) as assistant:
        conversation = assistant.start(system="Be kind.")
        reply = conversation.stream("Where is order 123?", tools=TOOLS)
        assert "".join(delta.text for delta in reply) == reply.text == "I look.\n"
        assert reply.finish_reason is FinishReason.TOOL_CALLS
        (call,) = reply.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("find_order", {"number": 123})
        assert conversation.messages[-1].tool_calls == (call,)
        answer = conversation.send_results({call.id: "sent on Monday"})
        assert answer.text == "It is on its way."
        kept = conversation.messages
        assert [m.author for m in kept] == ["customer", "bot", "tool", "bot"]
        assert (kept[2].text, kept[2].tool_call_id) == ("sent on Monday", call.id)
        # The tools are those of the reply that called: the model is told of them again.
        (tools,) = [item for item in answer.context.items if item.kind == "tools"]
        assert tools.tokens > 0 and "hermes" in tools.reason
        by_id = {item.id: item.tokens for item in answer.context.items}
        assert by_id[kept[1].id] > 2 and by_id[kept[2].id] > 0
        assert sum(by_id.values()) == answer.context.prompt_tokens
        assert "find_order" in to_markdown(conversation.info, kept)


async def test_async_callers_have_the_same() -> None:
    with scripted_assistant([CALL, "Here."]) as assistant:
        conversation = assistant.start()
        reply = await conversation.asend("Where?", tools=TOOLS)
        answer = await conversation.asend_results({reply.tool_calls[0].id: "gone"})
        assert answer.text == "Here."


def test_every_call_needs_its_result_and_only_these() -> None:
    with scripted_assistant([TWO, "Both."]) as assistant:
        conversation = assistant.start()
        with pytest.raises(UsageError, match="No tool call waits"):
            conversation.send_results({})
        one, two = conversation.send("Where, and when?", tools=TOOLS).tool_calls
        n = len(conversation.messages)
        with pytest.raises(UsageError, match="opening_hours"):
            conversation.send_results({one.id: "x"})
        with pytest.raises(UnknownNameError, match="call-0"):
            conversation.send_results({one.id: "x", two.id: "", "call-0": "z"})
        assert len(conversation.messages) == n
        assert conversation.send_results({two.id: "", one.id: "x"}).text == "Both."
        # In the order of the calls, an empty result too.
        assert [m.tool_call_id for m in conversation.messages[2:4]] == [one.id, two.id]
        with pytest.raises(UsageError, match="No tool call waits"):
            conversation.send_results({one.id: "x", two.id: "y"})


def test_a_customer_may_speak_before_the_result_comes() -> None:
    with scripted_assistant([CALL, "Wait.", "Here it is."]) as assistant:
        conversation = assistant.start()
        (call,) = conversation.send("Where?", tools=TOOLS).tool_calls
        assert conversation.send("Well?").text == "Wait."
        assert conversation.send_results({call.id: "sent"}).text == "Here it is."


def test_another_version_is_of_the_last_reply_with_its_tools() -> None:
    with scripted_assistant([CALL, "One.", "Two.", CALL]) as assistant:
        conversation = assistant.start()
        (call,) = conversation.send("Where?", tools=TOOLS).tool_calls
        conversation.send_results({call.id: "sent"})
        again = conversation.regenerate().wait()
        assert again.text == "Two."
        assert [m.text for m in conversation.versions(again.id)] == ["One.", "Two."]
        # Of a reply with a call that nobody has answered, the call is written again.
        conversation.send("And now?", tools=TOOLS, tool_choice="find_order")
        other = conversation.regenerate().wait()
        assert other.tool_calls and other.message.recipe is not None
        recorded: Any = other.message.recipe.sampling["calls"]
        assert recorded["choice"] == "find_order"


def test_a_fork_answers_the_calls_that_it_copied() -> None:
    with scripted_assistant([CALL, "Here."]) as assistant:
        conversation = assistant.start()
        (call,) = conversation.send("Where?", tools=TOOLS).tool_calls
        fork = conversation.fork()
        answer = fork.send_results({call.id: "sent"})
        assert answer.text == "Here."
        assert any(item.kind == "tools" for item in answer.context.items)
        assert len(conversation.messages) == 2


def test_a_reply_that_is_cut_within_a_call_is_text_and_not_gone_on_with() -> None:
    with scripted_assistant(["I look.\n" + CALL]) as assistant:
        conversation = assistant.start()
        reply = conversation.send("Where?", tools=TOOLS, max_tokens=4)
        assert (reply.finish_reason, reply.tool_calls) == (FinishReason.LENGTH, ())
        assert reply.text.startswith("I look.\n<tool_call>")
        assert conversation.messages[-1].text == reply.text
        with pytest.raises(UsageError, match="within a tool call"):
            conversation.proceed()
        conversation.regenerate(max_tokens=100).wait()
        assert conversation.messages[-1].tool_calls
        with pytest.raises(UsageError, match="not cut"):
            conversation.proceed()


def test_a_reply_that_is_cut_in_its_text_goes_on_with_its_tools() -> None:
    with scripted_assistant(["I look and look and look.", " more.\n" + CALL]) as assistant:
        conversation = assistant.start()
        conversation.send("Where?", tools=TOOLS, max_tokens=3)
        reply = conversation.proceed(max_tokens=100).wait()
        assert reply.text == "I look and more.\n"
        assert [call.name for call in reply.tool_calls] == ["find_order"]


def test_a_call_survives_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "desk.db"
    with scripted_assistant([CALL], database=database) as assistant:
        conversation = assistant.start()
        (call,) = conversation.send("Where?", tools=TOOLS).tool_calls
    with scripted_assistant(["Here."], database=database) as assistant:
        resumed = assistant.resume(conversation.id)
        answer = resumed.send_results({call.id: "sent"})
        assert answer.text == "Here." and resumed.messages[1].tool_calls == (call,)
        assert any(item.kind == "tools" for item in answer.context.items)


def test_tools_that_do_not_fit_are_an_error_and_nothing_is_kept() -> None:
    with scripted_assistant([CALL], n_ctx=256) as assistant:
        conversation = assistant.start()
        long = {"name": "a", "description": "word " * 300}
        with pytest.raises(ContextError, match="the tools"):
            conversation.send("?", tools=[{"type": "function", "function": long}], max_tokens=16)
        assert conversation.messages == []


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[quietdesk.Assistant]:
    settings = quietdesk.Settings(model=str(starter_path), n_ctx=1024, n_seq=1)
    with quietdesk.Assistant.open(database=":memory:", settings=settings) as assistant:
        yield assistant


def test_calls_of_a_real_model_validate_and_are_made_again(model: quietdesk.Assistant) -> None:
    conversation = model.start(system="You answer for a bicycle shop.")
    options: Any = {"max_tokens": 400, "temperature": 0.0}
    reply = conversation.send(
        "Where is order 123?", tools=TOOLS, tool_choice="find_order", **options
    )
    assert reply.finish_reason is FinishReason.TOOL_CALLS and reply.text == ""
    schema = tool_schemas(TOOLS)[0]["function"]["parameters"]
    for call in reply.tool_calls:
        assert call.name == "find_order"
        jsonschema.validate(json.loads(call.arguments), schema)
    answer = conversation.send_results(
        {call.id: "It left on Monday." for call in reply.tool_calls}, **options
    )
    assert sum(item.tokens for item in answer.context.items) == answer.usage.prompt_tokens
    for message in conversation.messages:
        if message.author is Author.BOT:
            found = model.replay(message.id)
            assert found.differences == ()
            assert found.same or (found.first_token is not None and found.first_token.near_tie)
    recorded = model.replay(reply.id).recorded
    assert recorded.count("<tool_call>") == len(reply.tool_calls)
