"""ChatTemplate: a model's own chat template, rendered in a sandbox, and what it can take.

The template is the model's: Jinja2 source that came with the weights. It runs in Jinja2's immutable
sandbox with the names and filters that Hugging Face transformers gives it, so that it renders here
what it rendered when the model was trained. A model that carries none gets a named fallback.

Templates differ in what they accept. Some refuse a system role, some demand that user and assistant
alternate, some know no tools, some want content as a list of parts. Nothing of that is written
down, so it is tried out once, when the template is opened, on a few words: see
`entries.Abilities`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quietdesk.errors import TemplateError
from quietdesk.prompt.entries import Abilities, ChatDict
from quietdesk.types import HERMES, ID, CallForm

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Fallback where the vocabulary has ChatML's control tokens."""

PLAIN = (
    "{% for message in messages %}"
    "{% set words = message['content'] | trim %}"
    "{% if message['role'] == 'system' %}{{ words + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + words + '\\n' }}"
    "{% else %}{{ 'User: ' + words + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Fallback for a model that knows no chat at all, such as GPT-2."""

SERVED = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system messages later on') }}{% endif %}"
    "{% if loop.previtem is defined and loop.previtem['role'] == message['role'] %}"
    "{{ raise_exception('two messages of one role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Stands for the template of a server that renders messages itself: its frames are about as long as
most templates', and it takes only what every server's template takes."""

_PLAIN_STOP = ("\nUser:", "\nAssistant:")


class ChatTemplate:
    """A compiled chat template. Opened once per model; any thread may render with it.

    Attributes:
        name: `model` for the model's own, `server` where a server renders and this only serves to
            estimate, else the fallback's name: `chatml` or `plain`.
        abilities: What it takes.
        stop: Strings that end a reply where no control token of the model does.
        notes: Sentences for a reader on what is special about it.
        marks: Control tokens that it writes itself.
        call_form: How the model writes calls of tools: as the template writes those of older
            messages, where it does and that can be told apart, else `types.HERMES`.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        bos_token: str = "",
        eos_token: str = "",
        special_tokens: Sequence[str] = (),
        served: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Compile a template and try it out.

        Args:
            source: Jinja source; None or blank where the model carries none.
            bos_token: Text of the begin token, which many templates write.
            eos_token: Text of the end token.
            special_tokens: Texts of the vocabulary's control tokens.
            served: Whether the model's server renders messages itself, by a template of its own.
            notes: Sentences for a reader that hold for every prompt.

        Raises:
            TemplateError: the source is no valid Jinja.
        """
        told = list(notes)
        if served:
            self.name, source = "server", SERVED
        elif source is not None and source.strip():
            self.name = "model"
        elif {"<|im_start|>", "<|im_end|>"} <= set(special_tokens):
            self.name, source = "chatml", CHATML
            told.append("The model carries no chat template; ChatML is used.")
        else:
            self.name, source = "plain", PLAIN
            told.append("The model carries no chat template; plain 'User:' lines are used.")
        self.source: str = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"The model's chat template is no valid Jinja: line {error.lineno}: "
                f"{error.message}. Choose another model, or give a template of your own."
            ) from None
        self.abilities = self._try_out()
        self.marks, self.stop = self._read_marks(special_tokens)
        self.call_form = self._read_call_form() or HERMES
        self.notes: tuple[str, ...] = tuple(told)

    def render(
        self,
        messages: Sequence[ChatDict],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        documents: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **variables: Any,
    ) -> str:
        """The text that a model reads for these messages.

        Args:
            messages: As transformers takes them: `role`, `content`, and of tool calls more.
            tools: JSON schemas of functions.
            documents: Passages, for templates that place them themselves.
            add_generation_prompt: Whether the text ends where the assistant's words begin.
            now: The time that `strftime_now` tells; the clock's if None.
            variables: Further variables of the template's own, such as `enable_thinking`.

        Raises:
            TemplateError: with the template's own words.
        """
        moment = now or datetime.now()
        if self.abilities.typed_content:
            messages = [_typed(message) for message in messages]
        try:
            return self._compiled.render(
                {
                    "messages": messages,
                    "tools": list(tools) or None,
                    "documents": list(documents) or None,
                    "add_generation_prompt": add_generation_prompt,
                    "bos_token": self.bos_token,
                    "eos_token": self.eos_token,
                    "strftime_now": moment.strftime,
                    **variables,
                }
            )
        except Exception as error:
            # A template is a program that came with the weights: it can fail in any way.
            why = str(error).rstrip(".") or type(error).__name__
            raise TemplateError(
                f"The model's chat template refuses these messages: {why}."
            ) from None

    def _renders(self, messages: Sequence[ChatDict], *needles: str, **options: Any) -> bool:
        """Whether it renders these messages with all the needles in it."""
        try:
            text = self.render(messages, **options)
        except TemplateError:
            return False
        return all(needle in text for needle in needles)

    def _try_out(self) -> Abilities:
        self.abilities = Abilities()
        user, answer, second, system = map(_said, ("user", "assistant", "user", "system"), _WORDS)
        one, two, three, four = _WORDS
        typed = False
        if not self._renders([user], one):
            self.abilities = Abilities(typed_content=True)
            typed = self._renders([user], one)
            self.abilities = Abilities(typed_content=typed)
        late = _said("system", "quietdesk-late")
        padded = {"role": "user", "content": f"\n {one} \n"}
        calls = [_call(_FIRST_ID, two), _call(_SECOND_ID, three)]
        results = [_result(_FIRST_ID, "quietdesk-result"), _result(_SECOND_ID, "quietdesk-other")]
        asks = {"role": "assistant", "content": "", "tool_calls": calls[:1]}
        asks_twice = asks | {"tool_calls": calls}
        return Abilities(
            typed_content=typed,
            system=self._renders([system, user], four, one),
            late_system=self._renders(
                [system, user, answer, late, second], four, two, three, "quietdesk-late"
            ),
            neighbours=self._renders([user, second], one, three)
            and self._renders([user, answer, answer, second], three),
            assistant_first=self._renders([answer, user], two, one),
            tools=self._renders([user], _PROBE, tools=[_PROBE_TOOL]),
            tool_messages=self._renders(
                [user, asks, results[0]], _PROBE, two, "quietdesk-result", tools=[_PROBE_TOOL]
            ),
            many_calls=self._renders(
                [user, asks_twice, *results], two, three, "quietdesk-other", tools=[_PROBE_TOOL]
            ),
            trims=self._renders([padded], one) and not self._renders([padded], padded["content"]),
            nine_letter_ids=re.search(r"length\s*!=\s*9", self.source) is not None,
        )

    def _read_marks(self, special_tokens: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The control tokens that it writes, and the strings that end a reply in their stead."""
        if self.name == "server":
            return (), ()
        if self.name == "plain":
            return (), _PLAIN_STOP
        user, answer, second, _ = map(_said, ("user", "assistant", "user", "system"), _WORDS)
        _, two, three, _ = _WORDS
        try:
            text = self.render([user, answer, second])
        except TemplateError:
            return (), ()
        known = [token for token in special_tokens if token]
        marks = tuple(sorted((t for t in known if t in text), key=len, reverse=True))
        between = text.partition(two)[2].partition(three)[0]
        if not between.strip() or any(mark in between for mark in marks):
            return marks, ()
        # No control token ends the reply, so the model writes the next speaker's mark as text.
        stop = between.strip().splitlines()[0]
        if self.eos_token and self.eos_token in between:
            stop = self.eos_token
        return marks, (("\n" + stop) if between[0] == "\n" else stop,)

    def _read_call_form(self) -> CallForm | None:
        """What the template writes around the name and the arguments of a call; None: unknown.

        The model was trained on replies of the same form.
        """
        if not self.abilities.tool_messages or self.name == "server":
            return None
        one, two, three, _ = _WORDS
        user, answer, second = map(_said, ("user", "assistant", "user"), _WORDS)
        calls = [_call(_FIRST_ID, two), _call(_SECOND_ID, three)]
        results = [_result(_FIRST_ID, "quietdesk-result"), _result(_SECOND_ID, "quietdesk-other")]
        n_calls = 2 if self.abilities.many_calls else 1
        try:
            talk = self.render([user, answer, second]).partition(one)[2]
            asked = []
            for n in range(1, n_calls + 1):
                asks = {"role": "assistant", "content": "", "tool_calls": calls[:n]}
                text = self.render([user, asks, *results[:n]], tools=[_PROBE_TOOL])
                asked.append(text.rpartition(one)[2])
        except TemplateError:
            return None
        header, _, rest = talk.partition(two)
        ends = sorted((rest.index(mark), mark) for mark in self.marks if mark in rest)
        if not ends or not all(text.startswith(header.rstrip()) for text in asked):
            return None
        pieces = [_around_calls(text[len(header.rstrip()) :], ends[0][1]) for text in asked]
        if not all(pieces) or len(pieces[-1]) != 2 * n_calls + 1:
            return None
        opening, middle, closing = pieces[0]
        form = CallForm(
            name="model",
            opening=opening.lstrip(),
            middle=middle,
            closing=closing.rstrip(),
            following=pieces[1][2] if n_calls > 1 else "",
        )
        return form if len(form.trigger) >= _LEAST_TRIGGER else None


_LEAST_TRIGGER = 4
"""Letters: what is shorter stands in any text."""


def _around_calls(text: str, end: str) -> list[str]:
    """What stands in front of, between and behind names and arguments; empty if they are not there.

    Args:
        text: From the assistant's first letter on.
        end: The control token that ends its turn.
    """
    name = re.escape(_PROBE)
    arguments = r'\{\s*"a":\s*"(?:' + "|".join(_WORDS) + r')"\s*\}'
    found = re.split(f"({name}|{arguments})", text.partition(end)[0])
    names, values = found[1::4], found[3::4]
    if len(names) != len(values) or not names or set(names) != {_PROBE} or _PROBE in values:
        return []
    return [re.sub(f"{_FIRST_ID}|{_SECOND_ID}", ID, piece) for piece in found[::2]]


_WORDS = ("quietdesk-first", "quietdesk-second", "quietdesk-third", "quietdesk-fourth")
"""Words that no template has of its own."""


_PROBE = "quietdesk_probe"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "Tries it out.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "A word."}},
            "required": ["a"],
        },
    },
}
_FIRST_ID = "abcdefghi"
_SECOND_ID = "jklmnopqr"


def _call(call_id: str, word: str) -> ChatDict:
    function = {"name": _PROBE, "arguments": {"a": word}}
    return {"id": call_id, "type": "function", "function": function}


def _result(call_id: str, text: str) -> ChatDict:
    return {"role": "tool", "content": text, "tool_call_id": call_id, "name": _PROBE}


def _said(role: str, text: str) -> ChatDict:
    return {"role": role, "content": text}


def _typed(message: ChatDict) -> ChatDict:
    if not isinstance(message.get("content"), str):
        return message
    return message | {"content": [{"type": "text", "text": message["content"]}]}


class _Generation(Extension):
    """`{% generation %}`, which marks the assistant's words for training: here it does nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2's own way to declare it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that transformers renders chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja2's escaping of HTML, as transformers has it."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
