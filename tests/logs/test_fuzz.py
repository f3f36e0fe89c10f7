"""Whatever stands in a log, reading it ends, reports, and loses nothing without a word."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietdesk import columns
from quietdesk.errors import LogError
from quietdesk.logs.reading import Reading, read

JSON = [
    "native.jsonl",
    "openai.jsonl",
    "sharegpt.json",
    "langfuse.jsonl",
    "langsmith.jsonl",
    "rasa.json",
    "rasa_broker.jsonl",
    "zendesk.json",
    "zendesk_chat.jsonl",
    "intercom.json",
    "chatwoot.json",
    "chatwoot_webhook.jsonl",
]
FORMATS = {
    "rasa_broker.jsonl": "rasa",
    "zendesk_chat.jsonl": "zendesk",
    "chatwoot_webhook.jsonl": "chatwoot",
}

ENVELOPES = ("data", "tickets", "conversations")
REMOVED = object()

odd = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(
        [[], {}, [[]], [{}], {"a": {}}, [None], "2026-03-02T09:00:00", "[1", "{}", "-1"]
    )
)


def values_of(path: Path) -> list[Any]:
    content = path.read_text()
    try:
        return [json.loads(content)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in content.splitlines()]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every place inside a JSON value."""
    found = [at] if at else []
    steps = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in steps:
        found += places(inner, (*at, key))
    return found


def read_all(path: Path, name: str) -> Reading:
    """Everything that users do with a log."""
    reading = read([path], format=name)
    for transcript in reading:
        assert transcript.model_dump_json()
    batches = list(read([path], format=name).batches())
    back = [transcript for batch in batches for transcript in columns.from_batch(batch)]
    assert len(back) == reading.n_read
    return reading


def put(values: list[Any], way: tuple[Any, ...], value: Any) -> list[Any]:
    """The values with another one at one place; REMOVED takes the place's key away."""
    values = deepcopy(values)
    holder: Any = values
    for key in way[:-1]:
        holder = holder[key]
    if value is REMOVED and isinstance(holder, dict):
        del holder[way[-1]]
    else:
        holder[way[-1]] = None if value is REMOVED else deepcopy(value)
    return values


def has_no_records(values: list[Any]) -> bool:
    """Whether the log's own list of records is there and empty."""
    lists = [values[0], *(values[0].get(k) for k in ENVELOPES if isinstance(values[0], dict))]
    return any(value in ([], [[]]) for value in lists)


def check(values: list[Any], path: Path) -> None:
    path.write_text("\n".join(json.dumps(value) for value in values))
    reading = read_all(path, FORMATS.get(path.name, path.name.split(".")[0]))
    assert reading.n_read + reading.n_rejected > 0 or has_no_records(values)


@pytest.mark.parametrize("name", JSON)
def test_a_log_with_an_odd_value_at_any_one_place_is_read_or_rejected(
    logs_folder: Path, tmp_path: Path, name: str
) -> None:
    values = values_of(logs_folder / name)
    for way in places(values):
        for value in (REMOVED, True, 10**30, "x", [], {"a": {}}, [{}]):
            check(put(values, way, value), tmp_path / name)


@pytest.mark.parametrize("name", JSON)
@given(data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_log_with_odd_values_at_several_places_is_read_or_rejected(
    logs_folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    values = values_of(logs_folder / name)
    for _ in range(data.draw(st.integers(2, 3))):
        way = data.draw(st.sampled_from(places(values) or [(0,)]))
        values = put(values, way, data.draw(odd | st.just(REMOVED)))
    check(values, tmp_path_factory.mktemp("fuzz") / name)


@pytest.mark.parametrize("name", [*JSON, "messages.csv", "pairs.tsv", "transcript.txt"])
@given(data=st.data())
@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
def test_a_log_with_damaged_bytes_is_read_or_refused(
    logs_folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray((logs_folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.binary(max_size=3))
        content[at : at + data.draw(st.integers(0, 3))] = change
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    try:
        found = list(read([path]).records())
    except LogError:
        return
    assert all(record.id for record in found)
