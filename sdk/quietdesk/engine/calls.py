"""Calls: tools that a model may call, and what it is held to once it has begun to write a call.

The text is free until the form's trigger has come; from there on a grammar allows nothing but whole
calls with arguments that validate, and then the end of the turn. llama.cpp has such lazy grammars
too, and is not asked for them: a token that completes the trigger may carry letters that the
grammar does not allow after it, upon which its C++ exception ends the process (release 0.3.36 of
llama-cpp-python, `llama_grammar_accept_token`).
"""

import functools
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quietdesk.engine.schema.grammar import literal, schema_grammar
from quietdesk.types import ID, CallForm, ToolCall

MOST_CALLS = 8
"""Calls of one reply; small models do not stop by themselves."""
_FREE_CHOICES = ("auto", "none")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Calls:
    """What may be called, and whether it has to be."""

    tools: str
    """JSON of a list of functions, in OpenAI's shape."""
    form: CallForm
    choice: str = "auto"
    """`auto`: the model decides; `none`: it cannot; `required`: it has to; or a function's name."""

    @property
    def forced(self) -> bool:
        """Whether the reply is calls and nothing else."""
        return self.choice not in _FREE_CHOICES

    @property
    def trigger(self) -> str:
        """The text with which a call begins that is to be watched for; empty: no call is wanted."""
        return "" if self.choice == "none" else self.form.trigger

    def as_json(self) -> dict[str, Any]:
        """For keeping."""
        form = self.form.model_dump()
        return {"tools": json.loads(self.tools), "form": form, "choice": self.choice}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Calls":
        """The calls of which `as_json` gave the value."""
        tools = json.dumps(value["tools"], ensure_ascii=False)
        return cls(tools, CallForm.model_validate(value["form"]), str(value["choice"]))


@functools.lru_cache(maxsize=64)
def call_grammar(calls: Calls, *, begun: bool = False) -> str:
    """GBNF whose `root` writes whole calls in the form, and nothing after them.

    Args:
        calls: With tools whose names are made of letters, digits, `_` and `-`.
        begun: Whether the trigger is written already.

    Raises:
        SchemaError: a function's parameters cannot be kept to; with the place.
    """
    form = calls.form
    rules: list[str] = []
    alternatives: list[str] = []
    for number, tool in enumerate(json.loads(calls.tools)):
        function = tool["function"]
        name = str(function["name"])
        if calls.forced and calls.choice not in ("required", name):
            continue
        root = f"tool{number}"
        rules.append(schema_grammar(_closed(function.get("parameters")), root=root))
        alternatives.append(f"{_literal(name + form.middle)} {root}")
    opening = form.opening.removeprefix(form.trigger) if begun else form.opening
    more = ""
    if form.following:
        more = f"({_literal(form.following)} call){{0,{MOST_CALLS - 1}}} "
    head = [
        f"root ::= {_literal(opening)} call {more}{_literal(form.closing)}",
        f"call ::= {' | '.join(alternatives)}",
    ]
    return "\n".join(head) + "\n" + "".join(rules)


def _closed(parameters: Any) -> dict[str, Any]:
    """The schema of a function's parameters; without properties it takes none."""
    schema = dict(parameters or {})
    if not schema.keys() & {"properties", "additionalProperties", "$ref", "anyOf", "oneOf"}:
        schema["additionalProperties"] = False
    return {"type": "object"} | schema if "type" not in schema and "$ref" not in schema else schema


def _literal(text: str) -> str:
    """A text as a grammar has it, with nine letters or digits where an id stands."""
    return " [a-zA-Z0-9]{9} ".join(literal(part) for part in text.split(ID))


def parse_calls(form: CallForm, text: str) -> tuple[ToolCall, ...]:
    """The calls of a text in the form, from the first one's opening to the last one's closing.

    White space around the form's own letters may differ.

    Returns:
        Each with an id of its own; none if the text is anything else, as half a call is.
    """
    found: list[ToolCall] = []
    at = _passed(form.opening, text, 0)
    while at is not None:
        middle = _pattern(form.middle).search(text, at)
        if middle is None:
            return ()
        name = text[at : middle.start()]
        start = middle.end()
        while text[start : start + 1].isspace():
            start += 1
        end = _object_end(text, start)
        if end is None or not re.fullmatch(r"[\w.-]+", name):
            return ()
        found.append(
            ToolCall(id=f"call-{secrets.token_hex(8)}", name=name, arguments=text[start:end])
        )
        closed = _passed(form.closing, text, end)
        if closed is not None and not text[closed:].strip():
            return tuple(found)
        at = _passed(form.following, text, end) if form.following else None
    return ()


def is_object(text: str) -> bool:
    """Whether a text is JSON of an object."""
    start = len(text) - len(text.lstrip())
    end = _object_end(text, start)
    return end is not None and not text[end:].strip()


def _object_end(text: str, start: int) -> int | None:
    """Where the JSON object that begins there ends; None if there is none."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return end if isinstance(value, dict) else None


def _passed(literal: str, text: str, at: int) -> int | None:
    """The place behind a literal that stands there; None if it does not."""
    found = _pattern(literal).match(text, at)
    return None if found is None else found.end()


@functools.lru_cache(maxsize=64)
def _pattern(literal: str) -> re.Pattern[str]:
    words = (re.escape(word).replace(re.escape(ID), "[a-zA-Z0-9]+") for word in literal.split())
    return re.compile(r"\s*" + r"\s*".join(words))


class Watch:
    """Watches a reply's bytes for the text with which a call begins."""

    def __init__(self, form: CallForm) -> None:
        """A watch at the beginning of a reply."""
        self._trigger = form.trigger.encode()
        self._at_start = form.at_start
        self._seen = b""
        """The end of what was said, as far as the trigger may begin in it."""
        self._over = False

    def look(self, piece: bytes) -> bytes | None:
        """What stands behind the trigger once piece has come; None where it is not complete."""
        if self._over:
            return None
        text = self._seen + piece
        if self._at_start:
            text = text.lstrip()
            return text[len(self._trigger) :] if text.startswith(self._trigger) else None
        at = text.find(self._trigger)
        return None if at < 0 else text[at + len(self._trigger) :]

    def missing(self) -> tuple[bytes, ...]:
        """Pieces that complete the trigger and end with it."""
        return tuple(
            self._trigger[length:]
            for length in range(len(self._trigger))
            if self._seen.endswith(self._trigger[:length])
            and (not self._at_start or self._seen.lstrip() == self._trigger[:length])
        )

    def add(self, piece: bytes) -> None:
        """Take notice of what was said."""
        text = self._seen + piece
        if self._at_start:
            text = text.lstrip()
            self._over = not self._trigger.startswith(text)
            self._seen = text
        else:
            self._seen = text[-(len(self._trigger) - 1) :]


def control_tokens(
    form: CallForm, tokenize: Callable[..., list[int]], piece: Callable[[int], bytes]
) -> dict[int, bytes]:
    """The form's marks that are control tokens, which have no bytes of their own: id and text.

    Args:
        form: Of the calls.
        tokenize: See `Runner.tokenize`.
        piece: See `Runner.piece`.
    """
    found = {}
    for mark in form.marks:
        tokens = tokenize(mark, special=True, begin=False)
        if len(tokens) == 1 and not piece(tokens[0]):
            found[tokens[0]] = mark.encode()
    return found
