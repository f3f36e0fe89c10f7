"""JSON schemas as grammars: fuzzed with a real sampler, and what has to be refused."""

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.schema.digits import integers
from quietdesk.engine.schema.grammar import Bounds, schema_grammar
from quietdesk.errors import SchemaError
from quietdesk.types import FinishReason

N_SCHEMAS = int(os.environ.get("SCHEMAS", "100"))
"""Fuzzed schemas; 1,000 take about a minute."""
SMALL = Bounds(string=12, items=3, recursion=2, any_depth=1)


@pytest.fixture(scope="module")
def engine(tiny_models: dict[str, Path]) -> Iterator[Engine]:
    path = tiny_models["llama"]
    chosen = plan(read_header(path), machine(), n_ctx=2048, n_seq=8, n_threads=1)
    with Engine(lambda: LlamaRunner(path, chosen)) as engine:
        yield engine


class Fuzz:
    """Schemas of everything that is supported, at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.definitions: dict[str, Any] = {}

    def schema(self) -> dict[str, Any]:
        root = self.any(3)
        return {**root, "$defs": self.definitions} if self.definitions else root

    def any(self, depth: int) -> dict[str, Any]:
        flat = [self.string, self.integer, self.number, self.literals, self.simple]
        deep = [self.object, self.object, self.array, self.either, self.map, self.reference]
        made = self.random.choice(flat + deep * 2 if depth else flat)(depth - 1)
        if self.random.random() < 0.1:
            made["description"] = 'What it "is".'
        if self.random.random() < 0.1:
            made["nullable"] = False
        return made

    def string(self, _depth: int) -> dict[str, Any]:
        low = self.random.randint(0, 5)
        formats = ["date", "date-time", "time", "uuid"]
        patterns = [
            "^[A-Z]{2}-\\d{3,5}$",
            "^(yes|no|\\w+@x\\.de)$",
            'a[^b"]c?',
            "^\\s*\\S+$",
            "[ä-ü]+",
        ]
        return {"type": "string"} | self.random.choice(
            [
                {},
                {"minLength": low, "maxLength": low + self.random.randint(0, 8)},
                {"maxLength": low},
                {"format": self.random.choice(formats)},
                {"pattern": self.random.choice(patterns)},
            ]
        )

    def integer(self, _depth: int) -> dict[str, Any]:
        low = self.random.randint(-2000, 2000)
        bounds = [{}, {"minimum": low}, {"exclusiveMaximum": low}]
        high = low + self.random.randint(0, 10 ** self.random.randint(0, 5))
        bounds += [{"minimum": low, "maximum": high}] * 3
        bounds += [{"minimum": low, "maximum": low + 50, "multipleOf": 7}]
        return {"type": "integer"} | self.random.choice(bounds)

    def number(self, _depth: int) -> dict[str, Any]:
        low = round(self.random.uniform(-50, 50), self.random.randint(0, 4))
        high = round(low + self.random.choice([0.001, 0.5, 3, 1000]), 6)
        bounds = [{}, {"minimum": low}, {"minimum": low, "maximum": high}]
        bounds += [{"exclusiveMinimum": low, "exclusiveMaximum": high}, {"maximum": low}]
        return {"type": "number"} | self.random.choice(bounds)

    def literals(self, _depth: int) -> dict[str, Any]:
        values = ["red", "grün", 'say "no"\n', 3, -2.5, None, True, [1, "x"], {"a": [1]}, "\\", ""]
        if self.random.random() < 0.3:
            return {"const": self.random.choice(values)}
        return {"enum": self.random.sample(values, self.random.randint(1, 5))}

    def simple(self, _depth: int) -> dict[str, Any]:
        return {
            "type": self.random.choice(
                ["boolean", "null", ["string", "null"], ["integer", "boolean"]]
            )
        }

    def object(self, depth: int) -> dict[str, Any]:
        names = ["name", "Größe", "a b", 'q"', "n", "sum/of~x"]
        names = self.random.sample(names, self.random.randint(1, 5))
        made: dict[str, Any] = {
            "type": "object",
            "properties": {name: self.any(depth) for name in names},
            "required": [name for name in names if self.random.random() < 0.5],
        }
        if self.random.random() < 0.5:
            made["additionalProperties"] = False
        return made

    def map(self, depth: int) -> dict[str, Any]:
        made = {"type": "object", "additionalProperties": self.any(depth)}
        return made | self.random.choice([{}, {"maxProperties": 2}, {"minProperties": 1}])

    def array(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "array"}
        low = self.random.randint(0, 3)
        if self.random.random() < 0.3:
            made["prefixItems"] = [self.any(depth) for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.8:
            made["items"] = self.any(depth)
            made |= {"minItems": low, "maxItems": low + self.random.randint(0, 2) + 3}
        return made

    def either(self, depth: int) -> dict[str, Any]:
        if self.random.random() < 0.3:
            kinds = ["a", "b", "c"][: self.random.randint(1, 3)]
            return {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": kind}, "value": self.any(depth)},
                        "required": ["kind"],
                    }
                    for kind in kinds
                ]
            }
        return {"anyOf": [self.any(depth) for _ in range(self.random.randint(1, 3))]}

    def reference(self, depth: int) -> dict[str, Any]:
        name = f"d{len(self.definitions)}"
        self.definitions[name] = True
        child = {"$ref": f"#/$defs/{name}"}
        self.definitions[name] = {
            "type": "object",
            "properties": {
                "value": self.any(min(depth, 1)),
                "next": {"anyOf": [child, {"type": "null"}]},
                "children": {"type": "array", "items": child, "maxItems": 2},
            },
            "required": ["value", self.random.choice(["next", "children"])],
        }
        return child


def check(schema: Any, text: str) -> Any:
    value = json.loads(text)
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)
    return value


def write(engine: Engine, schema: Any, *, seed: int = 0, bounds: Bounds = SMALL) -> Any:
    return engine.submit(
        [5 + seed % 400, 7, 9],
        sampling=Sampling(temperature=3.0, seed=seed, grammar=schema_grammar(schema, bounds)),
        limits=Limits(max_tokens=2000),
    )


def test_what_a_model_that_knows_nothing_writes_validates_for_any_schema(engine: Engine) -> None:
    cut = 0
    for start in range(0, N_SCHEMAS, 8):
        schemas = [Fuzz(seed).schema() for seed in range(start, min(start + 8, N_SCHEMAS))]
        streams = [write(engine, schema, seed=start + i) for i, schema in enumerate(schemas)]
        for schema, stream in zip(schemas, streams, strict=True):
            stream.wait()
            assert stream.error is None, schema
            if stream.finish_reason is FinishReason.LENGTH:
                cut += 1  # Longer than the context: incomplete, and told so.
                continue
            check(schema, stream.text)
    print(f"{N_SCHEMAS} schemas, {cut} replies cut at 2,000 tokens")
    assert cut <= N_SCHEMAS // 50


class Item(BaseModel):
    sku: Annotated[str, Field(pattern=r"^[A-Z]{3}-\\d{4}$")]
    count: Annotated[int, Field(ge=1, le=99)]
    price: Annotated[float, Field(gt=0, lt=10)]


class Order(BaseModel):
    kind: Literal["order"]
    items: Annotated[list[Item], Field(min_length=1, max_length=3)]
    note: Annotated[str, Field(max_length=10)] | None = None
    parent: "Order | None" = None


def test_pydantic_models_validate_what_is_written(engine: Engine) -> None:
    for seed in range(8):
        stream = write(engine, Order.model_json_schema(), seed=seed)
        stream.wait()
        assert stream.finish_reason is FinishReason.STOP
        assert Order.model_validate_json(stream.text).items


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**5))
def test_integers_of_a_range_are_exactly_those(low: int, width: int) -> None:
    body = integers(low, low + width)
    pattern = re.compile(body.replace('"', "").replace(" ", ""))
    high = low + width
    for value in {low - 1, low, low + 1, (low + high) // 2, high - 1, high, high + 1, 0, -low}:
        assert bool(pattern.fullmatch(str(value))) == (low <= value <= high), (value, body)


@pytest.mark.parametrize(
    ("schema", "path", "keyword"),
    [
        ({"type": "string", "format": "email"}, "#", "format"),
        ({"type": "string", "pattern": "(?=a)b"}, "#", "pattern"),
        ({"properties": {"a": {"not": {}}}}, "#/properties/a", "not"),
        (
            {"type": "array", "items": {"type": "array", "uniqueItems": True}},
            "#/items",
            "uniqueItems",
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#", "oneOf"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "#", "minimum"),
        ({"enum": ["a"], "type": "integer"}, "#", "enum"),
        ({"$ref": "#/$defs/a"}, "#", "$ref"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#", "$ref"),
        ({"type": "object", "patternProperties": {}}, "#", "patternProperties"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_with_its_place(
    schema: dict[str, Any], path: str, keyword: str
) -> None:
    with pytest.raises(SchemaError) as refused:
        schema_grammar(schema)
    assert (refused.value.path, refused.value.keyword) == (path, keyword)
