"""Templates render as in Hugging Face transformers, sandboxed, and say what they take."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quietdesk.errors import TemplateError
from quietdesk.prompt.template import CHATML, PLAIN, ChatTemplate
from quietdesk.prompt.window import Window
from quietdesk.types import HERMES, Author, Message, Passage, ToolCall

FOLDER = Path(__file__).parents[1] / "data" / "templates"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
FILES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def opened(family):
    entry = INDEX[family]
    return ChatTemplate(
        (FOLDER / f"{family}.jinja").read_text(encoding="utf-8"),
        bos_token=entry["bos"],
        eos_token=entry["eos"],
        special_tokens=entry["marks"],
    )


def message(name, author, text, **fields):
    return Message(id=name, author=author, text=text, created_at=NOON, **fields)


@pytest.mark.parametrize("family", FILES)
def test_renders_and_refuses_as_transformers_does(family):
    template = opened(family)
    records = [record for record in EXPECTED["records"] if record["template"] == family]
    assert len(records) == 36
    for record in records:
        options = {
            "tools": [EXPECTED["tool"]] if record["tools"] else [],
            "add_generation_prompt": record["add_generation_prompt"],
            "now": datetime.fromisoformat(EXPECTED["moment"]),
        }
        messages = EXPECTED["conversations"][record["conversation"]]
        if record["refusal"] is None:
            assert template.render(messages, **options) == record["text"]
        else:
            with pytest.raises(TemplateError) as caught:
                template.render(messages, **options)
            assert record["refusal"].rstrip(".") in str(caught.value)


def test_the_bundled_models_template_is_the_recorded_one(starter):
    assert starter.source == (FOLDER / "smollm2.jinja").read_text(encoding="utf-8")


def test_abilities_are_those_that_the_sources_show():
    found = {family: opened(family).abilities for family in FILES}

    def having(ability):
        return {family for family in FILES if getattr(found[family], ability)}

    everyone = set(FILES)
    strict = {"gemma2", "mistral-v0.2", "mistral-nemo"}
    assert having("system") == everyone - {"gemma2", "mistral-v0.2"}
    assert having("neighbours") == everyone - strict
    assert having("assistant_first") == everyone - strict
    assert having("late_system") == everyone - strict
    assert having("tools") == {"qwen2.5", "qwen3", "mistral-nemo", "granite-3.3"}
    assert having("tool_messages") == {"qwen2.5", "qwen3", "mistral-nemo"}
    assert having("nine_letter_ids") == {"mistral-nemo"}
    assert having("trims") == {"llama3", "gemma2"}
    assert having("typed_content") == set()


def test_replies_end_with_a_control_token_so_no_stop_string_is_needed():
    assert {opened(family).stop for family in FILES} == {()}


def test_model_without_a_template_gets_the_fallback_that_its_vocabulary_allows():
    chatml = ChatTemplate(None, special_tokens=["<|im_start|>", "<|im_end|>"])
    plain = ChatTemplate("  \n", special_tokens=["<|endoftext|>"])
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    assert (chatml.name, plain.name) == ("chatml", "plain")
    assert (chatml.source, plain.source) == (CHATML, PLAIN)
    assert "carries no chat template" in chatml.notes[0]
    assert "carries no chat template" in plain.notes[0]
    assert chatml.render(talk) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert plain.render(talk) == ("Be kind.\n\nUser: Hi\nAssistant: Hello!\nUser: Bye\nAssistant:")
    assert chatml.stop == ()
    assert plain.stop == ("\nUser:", "\nAssistant:")


def test_model_with_a_template_says_so():
    assert opened("smollm2").name == "model"
    assert opened("smollm2").notes == ()


@pytest.mark.parametrize(
    ("source", "stop"),
    [
        ("{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}bot> ", "\nuser>"),
        (
            "{% for m in messages %}{{ '### ' + m.role + '\n' + m.content + '\n\n' }}{% endfor %}",
            "\n### user",
        ),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}", "<|end|>"),
    ],
)
def test_template_without_control_tokens_gives_stop_strings(source, stop):
    assert ChatTemplate(source).stop[0].startswith(stop)


def test_invalid_source_is_an_error_that_names_the_line():
    with pytest.raises(TemplateError, match=r"line 2"):
        ChatTemplate("{{ bos_token }}\n{% for m in messages %}{{ m.content }")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].update({'content': 'other'}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].system('id') }}",
        "{% include '/etc/passwd' %}",
        "{% for x in range(10 ** 9) %}x{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "{{ messages.missing.deeper }}",
        "{{ 'x' + 1 }}",
    ],
)
def test_template_cannot_do_harm_and_its_failures_are_named(source):
    talk = [{"role": "user", "content": "Hi"}]
    with pytest.raises(TemplateError):
        ChatTemplate(source).render(talk)
    assert talk == [{"role": "user", "content": "Hi"}]


def test_generation_marks_and_loop_controls_are_understood():
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% if loop.index > 1 %}{% break %}"
        "{% endif %}{% endfor %}"
    )
    talk = [{"role": role, "content": text} for role, text in (("system", "s"), ("user", "a"))]
    assert ChatTemplate(source).render(talk) == "a"


def test_lines_of_blocks_leave_no_white_space():
    source = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    )
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert ChatTemplate(source).render(talk) == "a\nb\n"


def test_content_as_typed_parts_is_given_to_templates_that_want_it():
    source = (
        "{% for m in messages %}{{ m.role }}:{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    )
    template = ChatTemplate(source)
    assert template.abilities.typed_content
    assert template.render([{"role": "user", "content": "Hi"}]) == "user:Hi"


def test_one_template_renders_in_many_threads_at_once():
    template = opened("qwen2.5")
    wrong = []

    def render(name):
        for i in range(50):
            word = f"{name}-{i}"
            if word not in template.render([{"role": "user", "content": word}]):
                wrong.append(word)

    threads = [threading.Thread(target=render, args=(f"t{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# What the window makes of awkward conversations


def test_system_text_is_folded_into_the_first_customer_message_where_it_is_refused(model_of):
    for family in ("gemma2", "mistral-v0.2"):
        fitted = model_of(family).window().fit([message("1", Author.CUSTOMER, "Hi")], "Be kind.")
        assert "Be kind.\n\nHi" in fitted.text
        assert any("refuses a system message" in note for note in fitted.report.notes)
        kinds = {item.kind: item.tokens for item in fitted.report.items}
        assert kinds["system"] > 0


def awkward_talk():
    call = ToolCall(id="call-1", name="find_order", arguments='{"number": "17"}')
    other = ToolCall(id="call-2", name="weather", arguments="no JSON")
    return [
        message("0", Author.SYSTEM, "Opened by e-mail."),
        message("1", Author.BOT, "Welcome to the shop!"),
        message("2", Author.CUSTOMER, "Hi."),
        message("3", Author.CUSTOMER, "Where is order 17?"),
        message("4", Author.BOT, "", tool_calls=(call, other)),
        message("5", Author.CUSTOMER, "Are you there?"),
        message("6", Author.TOOL, '{"state": "sent"}', tool_call_id="call-1"),
        message("7", Author.TOOL, "rain", tool_call_id="call-2"),
        message("8", Author.BOT, "It was sent."),
        message("9", Author.SYSTEM, "Anna takes over."),
        message("10", Author.HUMAN, "Anna here."),
        message("11", Author.HUMAN, "It comes tomorrow."),
        message("12", Author.BOT, ""),
        message("13", Author.CUSTOMER, "Thanks! And the other one?"),
    ]


def test_every_template_takes_an_awkward_conversation_whole(model):
    talk = awkward_talk()
    tools = [EXPECTED["tool"]]
    fitted = model.window().fit(talk, "Be kind.", 200, [Passage(id="p", text="Sent daily.")], tools)
    for said in talk:
        assert said.text in fitted.text or json.dumps(said.text)[1:-1] in fitted.text
    assert "Be kind." in fitted.text
    assert "Sent daily." in fitted.text
    assert "find_order" in fitted.text
    assert fitted.tokens == model.whole(fitted.text)
    order = ["Welcome", "Hi.", "Where is order", "It was sent.", "Anna here.", "Thanks!"]
    places = [fitted.text.index(words) for words in order]
    assert places == sorted(places)
    assert not [note for note in fitted.report.notes if "in full" in note]


def test_results_stand_right_after_their_calls(model_of):
    fitted = model_of("qwen2.5").window().fit(awkward_talk())
    assert fitted.text.index('{"state": "sent"}') < fitted.text.index("Are you there?")
    assert fitted.text.index('"name": "weather"') < fitted.text.index("rain")


def test_call_without_a_result_gets_a_stand_in(model_of):
    call = ToolCall(id="c", name="find_order", arguments="{}")
    talk = [
        message("1", Author.CUSTOMER, "Where?"),
        message("2", Author.BOT, "", tool_calls=(call,)),
        message("3", Author.CUSTOMER, "Well?"),
    ]
    fitted = model_of("qwen2.5").window().fit(talk)
    assert "<tool_response>\n(no result)\n</tool_response>" in fitted.text
    assert any("has no result" in note for note in fitted.report.notes)


def test_calls_are_given_one_by_one_to_a_template_that_takes_no_more():
    source = (
        "{% for m in messages %}{% if m.tool_calls %}"
        "{% if m.tool_calls|length != 1 %}{{ raise_exception('only one') }}{% endif %}"
        "CALL {{ m.tool_calls[0].function.name }} {{ m.tool_calls[0].function.arguments|tojson }}\n"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
        "{% if tools %}{{ tools|tojson }}{% endif %}"
    )
    template = ChatTemplate(source)
    assert template.abilities.tool_messages and not template.abilities.many_calls

    def letters(text, *, special, begin):
        return list(map(ord, text))

    fitted = Window(template, letters, n_ctx=4096, max_piece_bytes=4).fit(awkward_talk()[1:])
    lines = fitted.text.splitlines()
    first = lines.index('CALL find_order {"number": "17"}')
    assert lines[first + 1] == 'tool: {"state": "sent"}'
    assert lines[first + 2] == 'CALL weather "no JSON"'
    assert lines[first + 3] == "tool: rain"


def test_template_that_drops_a_message_is_found_out():
    source = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"

    def letters(text, *, special, begin):
        return list(map(ord, text))

    talk = [
        message("first", Author.CUSTOMER, "Where is it?"),
        message("second", Author.BOT, "Sent."),
        message("third", Author.CUSTOMER, "Thanks."),
    ]
    window = Window(ChatTemplate(source), letters, n_ctx=4096, max_piece_bytes=4)
    report = window.fit(talk, "Be kind.").report
    notes = " ".join(report.notes)
    assert "does not show in full: message first, second." in notes
    assert "does not show the system prompt" in notes
    reasons = {item.id: item.reason for item in report.items}
    assert reasons["first"] == "the template does not show it in full"


def test_thoughts_of_older_replies_are_left_out_by_templates_that_cut_them(model_of):
    talk = [
        message("1", Author.CUSTOMER, "Hi"),
        message("2", Author.BOT, "<think>They greet.</think>Hello!"),
        message("3", Author.CUSTOMER, "I wrote </think> myself."),
    ]
    fitted = model_of("qwen3").window().fit(talk)
    assert "They greet." not in fitted.text
    assert "Hello!" in fitted.text
    assert "I wrote </think> myself." in fitted.text
    assert any("message 2" in note for note in fitted.report.notes)


def test_date_is_that_of_the_newest_message(model_of):
    window = model_of("granite-3.3").window()
    said = message("1", Author.CUSTOMER, "What day is it?")
    fitted = window.fit([said])
    assert "Today's Date: March 14, 2026" in fitted.text
    assert window.fit([said]).tokens == fitted.tokens


def test_cut_reply_goes_on_in_the_middle_of_its_text(model):
    talk = [message("1", Author.CUSTOMER, "Tell me."), message("2", Author.BOT, "The parcel is ")]
    fitted = model.window().fit(talk, continues=True)
    assert fitted.text.rstrip().endswith("The parcel is")
    assert fitted.tokens == model.whole(fitted.text)
    assert fitted.text.count("The parcel is") == 1


LLAMA_31 = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n{{ m.content }}"
    "<|eot_id|>{% elif m.tool_calls %}"
    "{% if m.tool_calls|length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|eot_id|>'
    "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if tools and loop.last %}{{ tools | tojson }}\n{% endif %}{{ m.content }}<|eot_id|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Bare JSON, one call at a time, as Llama 3.1 writes it."""
TAGGED = LLAMA_31.replace('{"name": "', "<function=").replace('", "parameters": ', ">")
TAGGED = TAGGED.replace("| tojson }}}<", "| tojson }}</function><")
EOT = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.mark.parametrize(
    ("source", "opening", "middle", "closing", "trigger", "at_start"),
    [
        (LLAMA_31, '{"name": "', '", "parameters": ', "}", '{"name":', True),
        (TAGGED, "<function=", ">", "</function>", "<function=", False),
    ],
)
def test_the_form_of_calls_is_the_one_that_the_template_shows(
    source, opening, middle, closing, trigger, at_start
):
    form = ChatTemplate(source, eos_token="<|eot_id|>", special_tokens=EOT).call_form
    assert form.name == "model"
    assert (form.opening, form.middle, form.closing) == (opening, middle, closing)
    assert (form.trigger, form.at_start, form.following) == (trigger, at_start, "")


def test_the_forms_of_real_templates_write_calls_as_the_templates_do():
    calls = [
        ToolCall(id=id_, name="find_order", arguments=json.dumps({"number": n}))
        for id_, n in (("abcdefghi", "17"), ("jklmnopqr", "18"))
    ]
    shown = {}
    for family in FILES:
        template = opened(family)
        shown[family] = template.call_form.name
        if shown[family] != "model":
            assert template.call_form == HERMES
            continue
        said = [
            {"role": "user", "content": "Where?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": json.loads(call.arguments)},
                    }
                    for call in calls
                ],
            },
            *({"role": "tool", "content": "sent", "tool_call_id": call.id} for call in calls),
        ]
        text = template.render(said)
        for call in calls:
            text = text.replace(f'"id": "{call.id}"', '"id": ""')
        assert template.call_form.write(calls) in text
    assert {family for family, name in shown.items() if name == "model"} == {
        "qwen2.5",
        "qwen3",
        "mistral-nemo",
    }


def test_a_form_that_the_template_does_not_show_is_told_to_the_model_and_in_the_report(model_of):
    talk = [message("1", Author.CUSTOMER, "Where is order 17?")]
    for family, told in (("smollm2", True), ("granite-3.3", True), ("qwen2.5", False)):
        fitted = model_of(family).window().fit(talk, "Be kind.", 200, tools=[EXPECTED["tool"]])
        assert ("in this form:\n<tool_call>" in fitted.text) is told
        (tools,) = [item for item in fitted.report.items if item.kind == "tools"]
        assert ("hermes" in tools.reason) is told
        assert sum(item.tokens for item in fitted.report.items) == len(fitted.tokens)


def test_the_tokens_of_a_call_are_its_messages(model_of):
    call = ToolCall(id="c", name="find_order", arguments='{"number": "17"}')
    talk = [
        message("1", Author.CUSTOMER, "Where?"),
        message("2", Author.BOT, "", tool_calls=(call,)),
        message("3", Author.TOOL, "sent", tool_call_id="c"),
    ]
    for family in ("smollm2", "qwen2.5", "mistral-nemo"):
        model = model_of(family)
        fitted = model.window().fit(talk)
        takes = {item.id: item.tokens for item in fitted.report.items}
        said = call.name + call.arguments
        assert takes["2"] >= len(model.tokenize(said, special=False, begin=False))
