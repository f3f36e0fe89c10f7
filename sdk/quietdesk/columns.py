"""Transcripts as Arrow columns: one row per conversation, its messages as a list of structs.

What readers hand to scorers, and what a Parquet file of conversations holds. Nothing is lost on the
way there and back. `metadata` is kept as JSON text, since its shape is the user's own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from quietdesk.errors import UsageError
from quietdesk.types import Transcript

Labels = Mapping[str, Sequence[str]]
T = TypeVar("T")


class CallLike(Protocol):
    """What `ToolCall` says, in any class."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def arguments(self) -> str: ...  # noqa: D102


class PassageLike(Protocol):
    """What `Passage` says, in any class."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def line(self) -> int | None: ...  # noqa: D102
    @property
    def score(self) -> float | None: ...  # noqa: D102


class MessageLike(Protocol):
    """What `TranscriptMessage` says, in any class."""

    @property
    def author(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def created_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def references(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def passages(self) -> Sequence[PassageLike]: ...  # noqa: D102
    @property
    def labels(self) -> Labels: ...  # noqa: D102
    @property
    def predictions(self) -> Labels: ...  # noqa: D102
    @property
    def ratings(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def tool_calls(self) -> Sequence[CallLike]: ...  # noqa: D102


class TranscriptLike(Protocol):
    """What `Transcript` says, in any class: readers have a quicker one than Pydantic's."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def messages(self) -> Sequence[MessageLike]: ...  # noqa: D102
    @property
    def customer(self) -> str | None: ...  # noqa: D102
    @property
    def labels(self) -> Labels: ...  # noqa: D102
    @property
    def predictions(self) -> Labels: ...  # noqa: D102
    @property
    def ratings(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102


def _list(item: pa.DataType) -> pa.DataType:
    # The item is called `element` because Parquet calls it so; the schema survives a file.
    return pa.list_(pa.field("element", item, nullable=False))


def _struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=False) for name, kind in fields.items()])


_LABELS = _list(_struct(name=pa.string(), values=_list(pa.string())))
_CALL = _struct(id=pa.string(), name=pa.string(), arguments=pa.string())
_PASSAGE = pa.struct(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64()),
        pa.field("score", pa.float64()),
    ]
)
_MESSAGE = pa.struct(
    [
        pa.field("author", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC")),
        pa.field("references", _list(pa.string()), nullable=False),
        pa.field("passages", _list(_PASSAGE), nullable=False),
        pa.field("labels", _LABELS, nullable=False),
        pa.field("predictions", _LABELS, nullable=False),
        pa.field("ratings", _list(pa.float64()), nullable=False),
        pa.field("tool_calls", _list(_CALL), nullable=False),
    ]
)
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("customer", pa.string()),
        pa.field("messages", _list(_MESSAGE), nullable=False),
        pa.field("labels", _LABELS, nullable=False),
        pa.field("predictions", _LABELS, nullable=False),
        pa.field("ratings", _list(pa.float64()), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)


def schema() -> pa.Schema:
    """The columns of a batch of conversations.

    `id`, `customer` (may be null), `messages`, `labels`, `predictions`, `ratings`, `metadata` (JSON
    text of an object). A message has `author`, `text`, `id`, `created_at` (UTC, may be null),
    `references`, `passages`, `labels`, `predictions`, `ratings`, `tool_calls`. Labels are a list of
    (name, values). Nothing else may be null.
    """
    return _SCHEMA


def to_batch(transcripts: Iterable[TranscriptLike]) -> pa.RecordBatch:
    """The conversations as columns, in their order.

    Raises:
        UsageError: metadata that is no JSON, or a time without a zone.
    """
    rows = transcripts if isinstance(transcripts, Sequence) else list(transcripts)
    said = [message for row in rows for message in row.messages]
    arrays = [
        pa.array([row.id for row in rows], pa.string()),
        pa.array([row.customer for row in rows], pa.string()),
        _lists([len(row.messages) for row in rows], _message_array(said), _MESSAGE),
        _label_lists([row.labels for row in rows]),
        _label_lists([row.predictions for row in rows]),
        _rating_lists([row.ratings for row in rows]),
        pa.array([_json(row) for row in rows], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def from_batch(batch: pa.RecordBatch) -> list[Transcript]:
    """The conversations of a batch, in its order.

    Raises:
        UsageError: another schema than `schema()`, or an author that is none.
    """
    if not batch.schema.equals(_SCHEMA):
        raise UsageError(
            f"These columns are not conversations: {batch.schema.names!r}. They must have the "
            "schema of quietdesk.columns.schema(); `quietdesk convert` brings other files into it."
        )
    flat, _ = message_rows(batch)
    fields = {
        "id": batch["id"].to_pylist(),
        "customer": batch["customer"].to_pylist(),
        "messages": _cut(_messages(flat), batch["messages"]),
        "labels": _label_dicts(batch["labels"]),
        "predictions": _label_dicts(batch["predictions"]),
        "ratings": _tuples(batch["ratings"]),
        "metadata": [json.loads(text) for text in batch["metadata"].to_pylist()],
    }
    try:
        return [Transcript.model_validate(row) for row in _records(fields)]
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"Bad value {problem['input']!r} in {where}: {problem['msg']}.") from None


class MessageRows(NamedTuple):
    """The messages of a batch in one flat table."""

    rows: pa.RecordBatch
    """One row per message, in order, with the columns of a message."""
    offsets: npt.NDArray[np.int64]
    """Shape (n_conversations + 1,): conversation i has the rows offsets[i] to offsets[i + 1]."""


def message_rows(batch: pa.RecordBatch) -> MessageRows:
    """The messages of a batch, flat, without copying them; a sliced batch is welcome."""
    lists = batch["messages"]
    return MessageRows(pa.RecordBatch.from_struct_array(lists.flatten()), list_offsets(lists))


def list_offsets(lists: pa.Array) -> npt.NDArray[np.int64]:
    """Where each list of a list column begins in `lists.flatten()`, and where the last one ends."""
    offsets: npt.NDArray[np.int64] = np.zeros(len(lists) + 1, np.int64)
    if len(lists):
        raw = lists.offsets.to_numpy(zero_copy_only=False)
        np.subtract(raw, raw[0], out=offsets, casting="safe")
    return offsets


def _lists(lengths: Sequence[int], values: pa.Array, item: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, len(lengths)), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=_list(item))


def _message_array(said: Sequence[MessageLike]) -> pa.Array:
    passages = [passage for message in said for passage in message.passages]
    calls = [call for message in said for call in message.tool_calls]
    arrays = [
        pa.array([message.author for message in said], pa.string()),
        pa.array([message.text for message in said], pa.string()),
        pa.array([message.id for message in said], pa.string()),
        _times([message.created_at for message in said]),
        _string_lists([message.references for message in said]),
        _lists([len(message.passages) for message in said], _passage_array(passages), _PASSAGE),
        _label_lists([message.labels for message in said]),
        _label_lists([message.predictions for message in said]),
        _rating_lists([message.ratings for message in said]),
        _lists([len(message.tool_calls) for message in said], _call_array(calls), _CALL),
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(_MESSAGE))


def _passage_array(passages: Sequence[PassageLike]) -> pa.Array:
    arrays = [
        pa.array([passage.id for passage in passages], pa.string()),
        pa.array([passage.text for passage in passages], pa.string()),
        pa.array([passage.source for passage in passages], pa.string()),
        pa.array([passage.line for passage in passages], pa.int64()),
        pa.array([passage.score for passage in passages], pa.float64()),
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(_PASSAGE))


def _call_array(calls: Sequence[CallLike]) -> pa.Array:
    arrays = [
        pa.array([call.id for call in calls], pa.string()),
        pa.array([call.name for call in calls], pa.string()),
        pa.array([call.arguments for call in calls], pa.string()),
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(_CALL))


def _string_lists(lists: Sequence[Sequence[str]]) -> pa.Array:
    flat = [text for texts in lists for text in texts]
    return _lists([len(texts) for texts in lists], pa.array(flat, pa.string()), pa.string())


def _rating_lists(lists: Sequence[Sequence[float]]) -> pa.Array:
    flat = [rating for ratings in lists for rating in ratings]
    return _lists([len(ratings) for ratings in lists], pa.array(flat, pa.float64()), pa.float64())


def _label_lists(dicts: Sequence[Labels]) -> pa.Array:
    pairs = [pair for labels in dicts for pair in labels.items()]
    arrays = [
        pa.array([name for name, _ in pairs], pa.string()),
        _string_lists([values for _, values in pairs]),
    ]
    item = _LABELS.value_type
    values = pa.StructArray.from_arrays(arrays, fields=list(item))
    return _lists([len(labels) for labels in dicts], values, item)


def _times(times: Sequence[datetime | None]) -> pa.Array:
    for time in times:
        if time is not None and time.tzinfo is None:
            raise UsageError(
                f"The time {time.isoformat()!r} has no zone. Give it one, such as UTC, so that it "
                "means the same everywhere."
            )
    return pa.array(times, pa.timestamp("us", tz="UTC"))


def _json(row: TranscriptLike) -> str:
    if not row.metadata:
        return "{}"
    try:
        return json.dumps(row.metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"The metadata of conversation {row.id!r} is no JSON: {error}. Keep only texts, "
            "numbers, truth values, lists and objects there."
        ) from None


def _messages(flat: pa.RecordBatch) -> list[dict[str, Any]]:
    fields = {
        "author": flat["author"].to_pylist(),
        "text": flat["text"].to_pylist(),
        "id": flat["id"].to_pylist(),
        "created_at": _datetimes(flat["created_at"]),
        "references": _tuples(flat["references"]),
        "passages": _structs(flat["passages"]),
        "labels": _label_dicts(flat["labels"]),
        "predictions": _label_dicts(flat["predictions"]),
        "ratings": _tuples(flat["ratings"]),
        "tool_calls": _structs(flat["tool_calls"]),
    }
    return list(_records(fields))


def _records(fields: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*fields.values(), strict=True):
        yield dict(zip(fields, values, strict=True))


def _datetimes(column: pa.Array) -> list[datetime | None]:
    if column.null_count == len(column):
        return [None] * len(column)
    # `to_pylist` would build another zone object than the one that transcripts use.
    naive = column.cast(pa.timestamp("us")).to_pylist()
    return [None if time is None else time.replace(tzinfo=UTC) for time in naive]


def _tuples(column: pa.Array) -> list[tuple[Any, ...]]:
    return _cut(column.flatten().to_pylist(), column)


def _cut(flat: list[T], column: pa.Array) -> list[tuple[T, ...]]:
    if not flat:
        return [()] * len(column)
    bounds = list_offsets(column).tolist()
    return [tuple(flat[bounds[i] : bounds[i + 1]]) for i in range(len(column))]


def _label_dicts(column: pa.Array) -> list[dict[str, tuple[str, ...]]]:
    pairs = column.flatten()
    if not len(pairs):
        return [{} for _ in range(len(column))]
    names, values = pairs.flatten()
    entries = list(zip(names.to_pylist(), _tuples(values), strict=True))
    return [dict(pairs) for pairs in _cut(entries, column)]


def _structs(column: pa.Array) -> list[tuple[dict[str, Any], ...]]:
    structs = column.flatten()
    names = [field.name for field in structs.type]
    fields = dict(zip(names, (child.to_pylist() for child in structs.flatten()), strict=True))
    return _cut(list(_records(fields)), column)
