"""Tools: typed Python functions, and JSON of functions, as what a model is told of them.

Nothing is executed here: a reply names its calls, and whoever asked answers them.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from quietdesk.errors import UnknownNameError, UsageError

Tool: TypeAlias = Callable[..., object] | Mapping[str, Any]
"""A function with annotated parameters and a docstring, or a function in OpenAI's JSON shape."""

CHOICES = ("auto", "required", "none")
"""What `tool_choice` may be besides a function's name."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def tool_schemas(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Functions in OpenAI's JSON shape: name, description, and a JSON schema of the parameters.

    Of a Python function the name, the docstring and the annotations are taken; what
    `pydantic.Field` says of a parameter in an `Annotated` is part of it.

    Raises:
        UsageError: one is no function, has a name that models cannot write, or that of another.
    """
    if isinstance(tools, str | Mapping) or callable(tools):
        raise UsageError(f"tools is a list of functions; got {tools!r}.")
    made = [_checked(dict(tool)) if isinstance(tool, Mapping) else _read(tool) for tool in tools]
    names = [tool["function"]["name"] for tool in made]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two tools are called {name!r}. Give them different names.")
    return made


def check_choice(choice: str, tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a `tool_choice` that means nothing with these tools.

    Raises:
        UsageError: there are no tools.
        UnknownNameError: it is neither one of `CHOICES` nor the name of a tool.
    """
    if not tools:
        raise UsageError(f"tool_choice is {choice!r}, and there are no tools. Give tools too.")
    names = [tool["function"]["name"] for tool in tools]
    if choice not in (*CHOICES, *names):
        raise UnknownNameError("tool choice", choice, (*CHOICES, *names))


def _read(function: Callable[..., object]) -> dict[str, Any]:
    name = getattr(function, "__name__", "")
    if not callable(function) or not name:
        raise UsageError(f"A tool is a function or JSON of one; got {function!r}.")
    kinds = inspect.Parameter
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            raise UsageError(
                f"The tool {name!r} takes {parameter}: a model gives arguments by their names."
            )
        if parameter.annotation is kinds.empty:
            raise UsageError(
                f"The parameter {parameter.name!r} of the tool {name!r} has no annotation. "
                "Write what it is, as in number: int."
            )
    try:
        arguments: TypeAdapter[Any] = TypeAdapter(cast("Any", function))
        schema = arguments.json_schema()
    except PydanticUserError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"The tool {name!r} takes what is no JSON: {reason}.") from None
    told = {"name": name, "description": inspect.getdoc(function) or "", "parameters": schema}
    return _checked({"type": "function", "function": told})


def _checked(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise UsageError(
            f'A tool as JSON is {{"type": "function", "function": {{"name": ...}}}}; got {tool!r}.'
        )
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in CHOICES:
        raise UsageError(
            f"A tool cannot be called {name!r}: at most 64 letters, digits, _ and -, and none of "
            f"{', '.join(CHOICES)}."
        )
    parameters = function.get("parameters", {})
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise UsageError(f"The parameters of the tool {name!r} are no JSON schema of an object.")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(tool, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"The tool {name!r} is no JSON: {error}.") from None
    return copied
