"""JSON schema to grammar: what the model may write, so that it parses and validates.

The grammar allows a part of what the schema allows, never more: what cannot be kept to exactly is
refused with its place. Everything ends: white space is one blank at most, and what the schema
leaves open has the bounds of `Bounds`. A reply can still be cut by `max_tokens`; no grammar knows
how many tokens are left.

Source: JSON Schema, draft 2020-12; of drafts 4 to 7 what means the same.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from typing import Any

from pydantic import BaseModel

from quietdesk.engine.schema.digits import decimals, integers, scaled
from quietdesk.engine.schema.patterns import PatternError, pattern_grammar
from quietdesk.errors import SchemaError

Schema = Mapping[str, Any] | bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far what a schema leaves open may go."""

    string: int = 500
    """Characters of a string without `maxLength`, or more where `minLength` asks for more."""
    items: int = 32
    """Items of an array without `maxItems`, and extra properties of an object."""
    recursion: int = 4
    """How often a definition may stand inside itself."""
    any_depth: int = 2
    """Arrays and objects inside each other where any value is allowed."""


MOST_REPEATS = 2000
"""llama.cpp refuses more repetitions of anything."""
_KEY_LENGTH = 40
_ONE = Decimal(1)
_WIDEST = Decimal(10**15)
"""Numbers without a bound are smaller: with all their digits they are exact as doubles."""
_MOST_MULTIPLES = 512

_ANNOTATIONS = frozenset(
    ["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"]
) | frozenset(["$schema", "$id", "$comment", "$defs", "definitions", "discriminator"])
_BY_TYPE = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "boolean": (),
    "null": (),
}
_MONTH_DAY = (
    '("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
)
_LEAP = '[1-9] [0-9] ("0" [48] | [2468] [048] | [13579] [26]) | ([2468] [048] | [13579] [26]) "00"'
_DATE = f'([1-9] [0-9] [0-9] [0-9] "-" ({_MONTH_DAY}) | ({_LEAP}) "-02-29")'
_HOUR_MINUTE = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_HOUR_MINUTE} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_HOUR_MINUTE})'
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}


def schema_grammar(schema: Schema, bounds: Bounds | None = None, *, root: str = "root") -> str:
    """GBNF whose `root` writes JSON that validates against schema.

    Properties come in the order in which the schema names them.

    Args:
        schema: A JSON schema, as `json.loads` or `BaseModel.model_json_schema()` gives it.
        bounds: For what the schema leaves open; `Bounds()` if None.
        root: The name of the rule; those of all others begin with it, but for `root` itself.

    Raises:
        SchemaError: something cannot be kept to, or nothing could ever validate; with its place.
    """
    return _Writer(schema, bounds or Bounds(), root).whole()


def as_json_schema(schema: type[BaseModel] | Mapping[str, Any]) -> Schema:
    """The JSON schema of a Pydantic model's JSON; a schema itself stays as it is."""
    return schema if isinstance(schema, Mapping) else schema.model_json_schema()


class _EndlessError(Exception):
    """A definition that is inside itself too often here; another alternative is taken."""


class _Writer:
    def __init__(self, schema: Schema, bounds: Bounds, root: str) -> None:
        self._schema = schema
        self._root, self._prefix = root, "r" if root == "root" else f"{root}-"
        self._bounds = bounds
        self._rules: dict[str, str] = {}
        self._inside: list[str] = []
        """The references that lead to where the writer is."""
        self._lead: dict[tuple[str, tuple[tuple[str, int], ...]], str] = {}

    def whole(self) -> str:
        self._char = self._rule(
            '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" (["\\\\/bfnrt]'
            ' | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))'
        )
        self._colon, self._comma = self._rule('":" " "?'), self._rule('"," " "?')
        try:
            root = self._value(self._schema, "#")
        except _EndlessError:
            raise SchemaError("#", "$ref", "it can never end: it always needs itself") from None
        lines = [
            f"{self._root} ::= {root}",
            *(f"{name} ::= {body}" for body, name in self._rules.items()),
        ]
        return "\n".join(lines) + "\n"

    def _rule(self, body: str) -> str:
        """The name of the rule with this body."""
        return self._rules.setdefault(body, f"{self._prefix}{len(self._rules)}")

    # Any schema.

    def _value(self, schema: Schema, path: str) -> str:
        if schema is True or schema == {}:
            return self._anything(self._bounds.any_depth)
        if schema is False:
            raise SchemaError(path, "false", "nothing can ever validate")
        if not isinstance(schema, Mapping):
            raise SchemaError(path, "", f"{schema!r} is no schema")
        keys = set(schema) - _ANNOTATIONS
        for keyword in ("$ref", "anyOf", "oneOf", "allOf"):
            if keyword in keys:
                extra = sorted(keys - {keyword, "nullable"})
                if extra == ["type"] and keyword in ("anyOf", "oneOf"):
                    schema = _with_type(schema, keyword)
                elif extra:
                    raise SchemaError(
                        path, extra[0], f"it stands beside {keyword!r}, which is not supported"
                    )
                body = {"$ref": self._reference, "allOf": self._all}.get(keyword, self._any)(
                    schema, keyword, path
                )
                return self._nullable(schema, body)
        if "const" in keys or "enum" in keys:
            return self._nullable(schema, self._literals(schema, keys, path))
        return self._nullable(schema, self._typed(schema, keys - {"nullable"}, path))

    def _nullable(self, schema: Mapping[str, Any], body: str) -> str:
        return self._rule(f'{body} | "null"') if schema.get("nullable") is True else body

    def _reference(self, schema: Mapping[str, Any], keyword: str, path: str) -> str:
        reference = schema[keyword]
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise SchemaError(path, keyword, f"{reference!r} is not in this schema")
        if self._inside.count(reference) > self._bounds.recursion:
            raise _EndlessError
        counts = tuple(sorted((name, self._inside.count(name)) for name in set(self._inside)))
        key = (reference, counts)
        if key not in self._lead:
            target = _look_up(self._schema, reference, path)
            self._inside.append(reference)
            try:
                self._lead[key] = self._rule(self._value(target, reference))
            finally:
                self._inside.pop()
        return self._lead[key]

    def _all(self, schema: Mapping[str, Any], keyword: str, path: str) -> str:
        parts = _list(schema, keyword, path)
        if len(parts) != 1:
            raise SchemaError(path, keyword, "only one schema in it is supported")
        return self._value(parts[0], f"{path}/{keyword}/0")

    def _any(self, schema: Mapping[str, Any], keyword: str, path: str) -> str:
        parts = _list(schema, keyword, path)
        if keyword == "oneOf":
            whole = [self._resolved(part, path) for part in parts]
            for (i, left), (j, right) in combinations(enumerate(whole), 2):
                if not self._apart(left, right, path):
                    reason = (
                        f"number {i} and number {j} may both validate; use anyOf if that is meant"
                    )
                    raise SchemaError(path, keyword, reason)
        found, endless = [], False
        for number, part in enumerate(parts):
            if part is False:
                continue
            try:
                found.append(self._value(part, f"{path}/{keyword}/{number}"))
            except _EndlessError:
                endless = True
        if not found:
            if endless:
                raise _EndlessError
            raise SchemaError(path, keyword, "nothing can ever validate")
        return self._rule(" | ".join(dict.fromkeys(found)))

    def _resolved(self, schema: Schema, path: str) -> Schema:
        seen = set()
        while isinstance(schema, Mapping) and "$ref" in schema and schema["$ref"] not in seen:
            seen.add(schema["$ref"])
            schema = _look_up(self._schema, schema["$ref"], path)
        return schema

    def _apart(self, left: Schema, right: Schema, path: str) -> bool:
        """Whether nothing can validate against both, as far as that is easily seen."""
        if not isinstance(left, Mapping) or not isinstance(right, Mapping):
            return left is False or right is False
        ours, theirs = _literals_of(left), _literals_of(right)
        if ours is not None and theirs is not None:
            return not ours & theirs
        if (mine := _types_of(left)) and (others := _types_of(right)) and not mine & others:
            return True
        shared = set(left.get("required", ())) & set(right.get("required", ()))
        return any(
            name in left.get("properties", {})
            and name in right.get("properties", {})
            and self._apart(
                self._resolved(left["properties"][name], path),
                self._resolved(right["properties"][name], path),
                path,
            )
            for name in shared
        )

    def _literals(self, schema: Mapping[str, Any], keys: set[str], path: str) -> str:
        keyword = "const" if "const" in keys else "enum"
        extra = sorted(keys - {keyword, "type", "nullable"})
        if extra:
            raise SchemaError(path, extra[0], f"it stands beside {keyword!r}")
        values = [schema["const"]] if keyword == "const" else _list(schema, keyword, path)
        if "type" in schema:
            kinds = _types(schema, path)
            values = [value for value in values if any(_is_of(value, kind) for kind in kinds)]
        if not values:
            raise SchemaError(path, keyword, "nothing can ever validate")
        return self._rule(" | ".join(dict.fromkeys(map(_json, values))))

    def _typed(self, schema: Mapping[str, Any], keys: set[str], path: str) -> str:
        known = {"type"}.union(*_BY_TYPE.values())
        for keyword in sorted(keys - known):
            raise SchemaError(path, keyword, "it is not supported")
        if "type" in schema:
            kinds = _types(schema, path)
        else:
            # Without a type, a keyword binds values of its own type only; one of these is written.
            kinds = [kind for kind, own in _BY_TYPE.items() if keys & set(own)][:1]
        for keyword in sorted(keys - {"type"}.union(*(_BY_TYPE[kind] for kind in kinds))):
            raise SchemaError(path, keyword, f"it means nothing for {' and '.join(kinds)}")
        write = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
            "boolean": lambda *_: '("true" | "false")',
            "null": lambda *_: '"null"',
        }
        found, endless = [], False
        for kind in kinds:
            try:
                found.append(write[kind](schema, kind, path))
            except _EndlessError:
                endless = True
        if not found and endless:
            raise _EndlessError
        return self._rule(" | ".join(found))

    def _anything(self, depth: int) -> str:
        text = f'"\\"" {self._char}{{0,{self._bounds.string}}} "\\""'
        number = '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,6})?'
        parts = [f'"true" | "false" | "null" | {text} | {number}']
        if depth:
            inner = self._anything(depth - 1)
            most = self._bounds.items - 1
            key = f'"\\"" {self._char}{{1,{_KEY_LENGTH}}} "\\"" {self._colon}'
            parts += [
                f'"[" ({inner} ({self._comma} {inner}){{0,{most}}})? "]"',
                f'"{{" ({key} {inner} ({self._comma} {key} {inner}){{0,{most}}})? "}}"',
            ]
        return self._rule(" | ".join(parts))

    # Each type.

    def _object(self, schema: Mapping[str, Any], kind: str, path: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        others = schema.get("additionalProperties", True)
        least = _count(schema, "minProperties", path) or 0
        most = _count(schema, "maxProperties", path)
        if not isinstance(properties, Mapping):
            raise SchemaError(path, "properties", f"{properties!r} is no object")
        for name in required:
            if name not in properties:
                if others is False:
                    raise SchemaError(path, "required", f"{name!r} is required and not allowed")
                properties = {**properties, name: others}
        if not properties:
            return self._map(others, least, most, path)
        if least > len(required):
            raise SchemaError(path, "minProperties", "more than what is required is not supported")
        pairs = []
        for name, value in properties.items():
            place = f"{path}/properties/{_pointer(name)}"
            if value is False and name not in required:
                continue
            try:
                pair = f"{_json(name)} {self._colon} {self._value(value, place)}"
            except _EndlessError:
                if name in required:
                    raise
                continue
            pairs.append((self._rule(pair), name in required))
        if most is not None and most < len(pairs):
            raise SchemaError(path, "maxProperties", "fewer than are named is not supported")
        # What may follow when something stands before it, and when nothing does; from the end.
        more, first = '""', '""'
        for pair, needed in reversed(pairs):
            more, first = (
                self._rule(f"{self._comma} {pair} {more}" + ("" if needed else f" | {more}")),
                self._rule(f"{pair} {more}" + ("" if needed else f" | {first}")),
            )
        return self._rule(f'"{{" {first} "}}"')

    def _map(self, value: Schema, least: int, most: int | None, path: str) -> str:
        """An object whose properties have no names yet."""
        if least > 1:
            reason = "names of one's own could be the same; more than 1 is not supported"
            raise SchemaError(path, "minProperties", reason)
        if value is False or most == 0:
            if least:
                raise SchemaError(path, "minProperties", "nothing can ever validate")
            return '"{}"'
        most = self._bounds.items if most is None else most
        self._check(most, path, "maxProperties")
        try:
            inner = self._value(value, f"{path}/additionalProperties")
        except _EndlessError:
            if least:
                raise
            return '"{}"'
        key = f'"\\"" {self._char}{{1,{_KEY_LENGTH}}} "\\"" {self._colon}'
        pair = self._rule(f"{key} {inner}")
        body = f"{pair} ({self._comma} {pair}){{0,{most - 1}}}" if most > 1 else pair
        return self._rule(f'"{{" {body} "}}"' if least else f'"{{" ({body})? "}}"')

    def _array(self, schema: Mapping[str, Any], kind: str, path: str) -> str:
        least = _count(schema, "minItems", path) or 0
        most = _count(schema, "maxItems", path)
        head = _list(schema, "prefixItems", path) if "prefixItems" in schema else []
        rest = schema.get("items", True)
        if isinstance(rest, list):  # As drafts before 2020-12 have it.
            head, rest = rest, schema.get("additionalItems", True)
        if schema.get("uniqueItems") and (most is None or most > 1):
            raise SchemaError(path, "uniqueItems", "more than one item is not supported with it")
        if rest is False:
            most = len(head) if most is None else min(most, len(head))
        if most is None:
            most = max(least, len(head)) if head else max(least, self._bounds.items)
        if least > most:
            raise SchemaError(path, "minItems", f"{least} is more than there can be: {most}")
        self._check(most, path, "maxItems")
        items: list[str] = []
        tail: str | None = None
        try:
            for number, item in enumerate(head[:most]):
                items.append(self._value(item, f"{path}/prefixItems/{number}"))
            if most > len(head):
                tail = self._value(rest, f"{path}/items")
        except _EndlessError:
            if least > len(items):
                raise
            most = len(items)
        body = self._tail(tail, least - len(items), most - len(items), bool(items))
        for number in range(len(items) - 1, -1, -1):
            own = f"{self._comma} {items[number]}" if number else items[number]
            body = self._rule(f"{own} {body}" + ("" if number < least else ' | ""'))
        return self._rule(f'"[" {body} "]"')

    def _tail(self, item: str | None, least: int, most: int, follows: bool) -> str:
        """The items of an array that are all alike."""
        if item is None or most <= 0:
            return '""'
        least = max(0, least)
        if follows:
            return self._rule(f"({self._comma} {item}){{{least},{most}}}")
        more = f"{item} ({self._comma} {item}){{{max(0, least - 1)},{most - 1}}}"
        more = more if most > 1 else item
        return self._rule(more if least else f"({more})?")

    def _string(self, schema: Mapping[str, Any], kind: str, path: str) -> str:
        least = _count(schema, "minLength", path) or 0
        most = _count(schema, "maxLength", path)
        for keyword in ("pattern", "format"):
            if keyword in schema and ("minLength" in schema or "maxLength" in schema):
                raise SchemaError(path, keyword, "together with a length it is not supported")
        if "pattern" in schema and "format" in schema:
            raise SchemaError(path, "pattern", "together with a format it is not supported")
        if "format" in schema:
            body = _FORMATS.get(schema["format"])
            if body is None:
                known = ", ".join(_FORMATS)
                raise SchemaError(path, "format", f"{schema['format']!r} is none of {known}")
            return self._rule(f'"\\"" {body} "\\""')
        if "pattern" in schema:
            try:
                body = pattern_grammar(schema["pattern"], self._char)
            except PatternError as error:
                reason = f"{schema['pattern']!r}: {error}"
                raise SchemaError(path, "pattern", reason) from None
            return self._rule(f'"\\"" {body} "\\""')
        most = max(least, self._bounds.string) if most is None else most
        if least > most:
            raise SchemaError(path, "minLength", f"{least} is more than maxLength, {most}")
        self._check(most, path, "maxLength" if "maxLength" in schema else "minLength")
        return self._rule(f'"\\"" {self._char}{{{least},{most}}} "\\""' if most else '"\\"\\""')

    def _number(self, schema: Mapping[str, Any], kind: str, path: str) -> str:
        whole = kind == "integer"
        low, open_low = _bound(schema, "minimum", "exclusiveMinimum", max, path)
        high, open_high = _bound(schema, "maximum", "exclusiveMaximum", min, path)
        if "multipleOf" in schema:
            step = _decimal(schema["multipleOf"], "multipleOf", path)
            if not whole or step != int(step) or step < 1:
                raise SchemaError(path, "multipleOf", "only whole ones of integers are supported")
            if step != 1:
                return self._multiples(low, high, open_low, open_high, int(step), path)
        if low is None and high is None and not whole:
            return self._rule('"-"? ("0" | [1-9] [0-9]{0,11}) ("." [0-9]{1,3})?')
        given = max(-int(bound.as_tuple().exponent) for bound in (low, high, _ONE) if bound)
        widest = _WIDEST - 1 if whole else _ONE.scaleb(min(9, 14 - given))
        low = (-widest if high is None else min(-widest, high - 1)) if low is None else low
        high = max(widest, low + 1) if high is None else high
        if whole:
            among = scaled(low, high, 0, open_low=open_low, open_high=open_high)
            if not among:
                raise SchemaError(path, "minimum", "no integer lies between the bounds")
            return self._rule(integers(among[0], among[-1]))
        for places in range(max(1, given), max(1, given) + 4):
            among = scaled(low, high, places, open_low=open_low, open_high=open_high)
            if among and max(abs(among[0]), abs(among[-1])) < 10**15:
                parts = [decimals(among[0], among[-1], places)]
                if whole_ones := scaled(low, high, 0, open_low=open_low, open_high=open_high):
                    parts.append(integers(whole_ones[0], whole_ones[-1]))
                return self._rule(" | ".join(parts))
        raise SchemaError(path, "minimum", f"no decimal lies between {low} and {high}")

    def _multiples(
        self,
        low: Decimal | None,
        high: Decimal | None,
        open_low: bool,
        open_high: bool,
        step: int,
        path: str,
    ) -> str:
        if low is None or high is None:
            raise SchemaError(path, "multipleOf", "it needs a minimum and a maximum")
        among = scaled(low, high, 0, open_low=open_low, open_high=open_high)
        first = -(-among.start // step) * step
        values = range(first, among.stop, step)
        if not 0 < len(values) <= _MOST_MULTIPLES:
            reason = f"{len(values)} values are allowed; 1 to {_MOST_MULTIPLES} are supported"
            raise SchemaError(path, "multipleOf", reason)
        return self._rule(" | ".join(f'"{value}"' for value in values))

    def _check(self, times: int, path: str, keyword: str) -> None:
        if times > MOST_REPEATS:
            raise SchemaError(path, keyword, f"{times} is more than {MOST_REPEATS}")


def _json(value: object) -> str:
    """A JSON value as a grammar's literal."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return literal(text)


def literal(text: str) -> str:
    """A text as a grammar writes it."""
    return '"' + "".join(_plain(character) for character in text) + '"'


def _plain(character: str) -> str:
    if character.isalnum() and character.isascii():
        return character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x80 else f"\\U{code:08X}"


def _look_up(schema: Schema, reference: str, path: str) -> Schema:
    found: Any = schema
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise SchemaError(path, "$ref", f"{reference!r} leads nowhere")
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(path, "$ref", f"{reference!r} is no path in this schema")
    value: Schema = found
    return value


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _with_type(schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
    """`type` beside anyOf put into each of its schemas that names none."""
    parts = [
        {"type": schema["type"], **part}
        if isinstance(part, Mapping) and not {"type", "$ref", "anyOf", "oneOf", "allOf"} & set(part)
        else part
        for part in schema[keyword]
    ]
    return {**schema, keyword: parts}


def _list(schema: Mapping[str, Any], keyword: str, path: str) -> list[Any]:
    value = schema[keyword]
    if not isinstance(value, list) or not value:
        raise SchemaError(path, keyword, f"{value!r} is no list with something in it")
    return value


def _types(schema: Mapping[str, Any], path: str) -> list[str]:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in kinds:
        if kind not in _BY_TYPE:
            raise SchemaError(path, "type", f"{kind!r} is no type")
    return [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]


def _types_of(schema: Mapping[str, Any]) -> set[str]:
    """The types that validate, an integer being a number too; empty: not known."""
    if (literals := _literals_of(schema)) is not None:
        return {kind for text in literals for kind in _BY_TYPE if _is_of(json.loads(text), kind)}
    kinds = schema.get("type", ())
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | {"number"} if "integer" in found else found


def _literals_of(schema: Mapping[str, Any]) -> set[str] | None:
    if "const" not in schema and "enum" not in schema:
        return None
    values = [schema["const"]] if "const" in schema else schema["enum"]
    # 1.0 and 1 are the same number.
    same = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return {json.dumps(value, sort_keys=True) for value in same}


def _is_of(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "null": type(None),
        "boolean": bool,
    }
    whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, kinds[kind])


def _count(schema: Mapping[str, Any], keyword: str, path: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise SchemaError(path, keyword, f"{value!r} is no whole number from 0 on")
    return int(value)


def _decimal(value: object, keyword: str, path: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError(path, keyword, f"{value!r} is no number")
    number = Decimal(str(value))
    if not number.is_finite() or abs(number) > 10**15 or int(number.as_tuple().exponent) < -9:
        raise SchemaError(path, keyword, f"{value!r} has more digits than are supported")
    return number


def _bound(
    schema: Mapping[str, Any],
    closed: str,
    opened: str,
    stricter: Callable[[Iterable[Decimal]], Decimal],
    path: str,
) -> tuple[Decimal | None, bool]:
    """The bound in force, and whether it is left out itself."""
    found: list[tuple[Decimal, bool]] = []
    for keyword in (closed, opened):
        if isinstance(schema.get(keyword), bool):
            raise SchemaError(path, keyword, "a truth value, as in draft 4, is not supported")
        if keyword in schema:
            found.append((_decimal(schema[keyword], keyword, path), keyword == opened))
    if not found:
        return None, False
    value = stricter(bound for bound, _ in found)
    return value, any(is_open for bound, is_open in found if bound == value)
