"""JSON is cut into its records wherever the chunks fall, and a broken one costs only itself."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.logs import json_values
from quietdesk.logs.json_values import Layout, layout_of, parse, records, split
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.source import Bytes, lines

tricky = st.text(st.sampled_from('ab"\\{}[],: \né🙂'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | tricky,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(tricky, values, max_size=3)
indents = st.none() | st.integers(0, 3)


def in_pieces(content: bytes, size: int) -> Bytes:
    stream = io.BytesIO(content)
    return Bytes(lambda _: stream.read(size))


def cut(content: bytes, size: int, level: int, **more: Any) -> Iterator[Any]:
    for raw in split(in_pieces(content, size), level, **more):
        yield raw.problem.kind if raw.problem else json.loads(raw.content)


@given(st.lists(objects, max_size=5), indents, st.integers(1, 40), st.booleans())
@settings(deadline=None, max_examples=80)
def test_an_array_is_cut_into_its_items(
    items: list[Any], indent: int | None, size: int, ascii_only: bool
) -> None:
    content = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()
    assert list(cut(content, size, 1)) == items


@given(st.lists(objects, max_size=5), indents, st.integers(1, 40), st.sampled_from([" ", "\n", ""]))
@settings(deadline=None, max_examples=80)
def test_values_one_after_another_are_cut(
    items: list[Any], indent: int | None, size: int, between: str
) -> None:
    content = between.join(json.dumps(item, indent=indent) for item in items).encode()
    assert list(cut(content, size, 0)) == items


@given(st.lists(objects, min_size=1, max_size=5), indents, st.integers(1, 40))
@settings(deadline=None)
def test_every_line_is_told_where_a_record_begins(
    items: list[Any], indent: int | None, size: int
) -> None:
    content = json.dumps(items, indent=indent).encode()
    rows = content.split(b"\n")
    for raw in split(in_pieces(content, size), 1):
        assert raw.content.split(b"\n")[0] in rows[raw.line - 1]


@given(st.lists(objects, min_size=2, max_size=4), st.data())
@settings(deadline=None)
def test_a_bad_item_costs_only_itself(items: list[Any], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(items)))
    texts = [json.dumps(item) for item in items]
    texts.insert(at, '{"a": tru, "b": [1,]}')
    found: list[Any] = []
    for raw in split(in_pieces(f"[{','.join(texts)}]".encode(), 7), 1):
        try:
            found.append(parse(raw.content)[0])
        except BadRecordError as error:
            found.append(error.kind)
    assert found == [*items[:at], Kind.NOT_JSON, *items[at:]]


def test_what_stands_between_records_is_reported() -> None:
    content = b'[{"a":1}, null, 3,\n {"b":2}]'
    raws = list(split(in_pieces(content, 5), 1))
    assert [raw.content for raw in raws] == [b'{"a":1}', b"null, 3", b'{"b":2}']
    assert raws[1].problem is not None and raws[1].problem.kind is Kind.SHAPE
    assert [raw.line for raw in raws] == [1, 1, 2]


def test_an_end_in_the_middle_is_reported() -> None:
    assert list(cut(b'[{"a":1},{"b":', 4, 1)) == [{"a": 1}, Kind.CUT_SHORT]
    assert list(cut(b'[{"a":1},', 4, 1)) == [{"a": 1}, Kind.CUT_SHORT]


def test_a_giant_record_is_rejected_and_the_next_one_read() -> None:
    giant = b'{"a":"' + b"x" * 5000 + b'"}'
    raws = list(split(in_pieces(b"[" + giant + b',{"b":2}]', 64), 1, limit=1000))
    assert raws[0].problem is not None and raws[0].problem.kind is Kind.TOO_LONG
    assert len(raws[0].content) == 1000
    assert raws[1].content == b'{"b":2}'


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=6),
    st.integers(1, 9),
)
def test_lines_are_what_stands_between_line_feeds(rows: list[bytes], size: int) -> None:
    content = b"\n".join(rows)
    found = list(lines(in_pieces(content, size)))
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line.raw for line in found] == expected
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    for line in found:
        assert content[line.offset :].startswith(line.raw)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 9))
def test_a_giant_line_is_cut_and_counted(length: int, size: int, limit: int) -> None:
    content = b"ab\n" + b"x" * length + b"\nc"
    found = list(lines(in_pieces(content, size), limit))
    assert [line.number for line in found] == [1, 2, 3]
    assert found[1].raw == b"x" * min(length, limit)
    assert found[1].too_long == (length > limit)
    assert found[2].raw == b"c" and found[2].offset == 4 + length


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ('{"a":1}\n{"b":2}\n', Layout.LINES),
        ('{"a":1}', Layout.LINES),
        ('{"a": 1, "messag\n{"b":2}\n', Layout.LINES),
        ('[{"role":"user"}]\n[{"role":"user"}]\n', Layout.LINES),
        ('[{"a":1},\n{"b":2}]', Layout.ARRAY),
        ("[\n  {}\n]", Layout.ARRAY),
        ('[{"a":1}]', Layout.ARRAY),
        ('{\n  "a": [\n    {"b": 1}\n  ]\n}\n{\n "a": 2\n}\n', Layout.VALUES),
        ("not json\n", Layout.LINES),
    ],
)
def test_how_records_follow_each_other_is_told_by_the_beginning(
    content: str, layout: Layout
) -> None:
    assert layout_of(content.encode()) is layout


def test_a_large_envelope_is_read_without_holding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "CHUNK_BYTES", 100)
    items = [{"id": i, "text": "x" * 50} for i in range(100)]
    content = json.dumps({"meta": {"page": 1}, "runs": items, "next": None}, indent=1).encode()
    found = list(records(in_pieces(content, 64), ("runs",), limit=1000))
    assert [json.loads(raw.content) for raw in found] == items
    assert found[0].line == content[: content.index(b'"id": 0')].count(b"\n")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"[" * 100_000, Kind.SHAPE),
        (b'{"a":' * 300 + b"1" + b"}" * 300, Kind.SHAPE),
        (b'{"a": NaN}', Kind.NOT_JSON),
        (b'{"a": 1', Kind.NOT_JSON),
        (b'{"a": "\\ud800"}', Kind.NOT_JSON),
        (b'{"a": 1e999}', Kind.NOT_JSON),
    ],
)
def test_what_is_no_json_is_said_to_be_none(content: bytes, kind: Kind) -> None:
    with pytest.raises(BadRecordError) as caught:
        parse(content)
    assert caught.value.kind is kind


def test_windows_text_in_json_is_read_and_told() -> None:
    assert parse('{"a": "Zürich"}'.encode("cp1252")) == ({"a": "Zürich"}, False)
    assert parse('{"a": "Zürich"}'.encode()) == ({"a": "Zürich"}, True)
