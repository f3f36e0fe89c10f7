"""Parquet: conversations in our columns, which stay in Arrow; or those of other programs, by rows.

Our columns are those of `quietdesk.columns.schema()`. Others are read as what their rows are: chat
messages, ShareGPT turns, runs of a bulk export, or a table of messages.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from quietdesk import columns
from quietdesk.errors import LogError
from quietdesk.logs import native
from quietdesk.logs.foreign import Object
from quietdesk.logs.format import ALL_FIELDS, Context, Options
from quietdesk.logs.json_values import check_depth
from quietdesk.logs.problem import BadRecordError, Kind, Noted, Place, Rejected, excerpt
from quietdesk.logs.record import Record
from quietdesk.types import Author

NAME = "parquet"
TITLE = "Parquet: conversations in columns"
KEEPS = ALL_FIELDS
BATCH_ROWS = 2048

_OURS = frozenset(columns.schema().names)
_metadata = msgspec.json.Decoder(dict[str, Any])
_AUTHORS = pa.array([author.value for author in Author])


def opened(path: str) -> pq.ParquetFile:
    """A Parquet file: a path, or an address that Arrow knows (`s3://`, `gs://`).

    Raises:
        LogError: it cannot be read, or is no Parquet.
    """
    try:
        if "://" in path:
            filesystem, inner = pafs.FileSystem.from_uri(path)
            return pq.ParquetFile(filesystem.open_input_file(inner), pre_buffer=True)
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise LogError(f"Cannot read {path!r} as Parquet: {error}") from None


def stat(address: str) -> tuple[int, int]:
    """Size in bytes, and time of the last change in nanoseconds, of the file at an address.

    Raises:
        LogError: there is none.
    """
    [found] = _found(address, lambda inner: [inner])
    if found.type is not pafs.FileType.File:
        raise LogError(f"There is no file at {address!r}.")
    return found.size, found.mtime_ns or 0


def inside(address: str) -> list[tuple[str, int]]:
    """The Parquet files below an address that names a folder, else the one that it names.

    Returns:
        Addresses, in their order, each with the file's size in bytes.

    Raises:
        LogError: nothing is there, or the folder has no Parquet file in it.
    """
    [found] = _found(address, lambda inner: [inner])
    if found.type is not pafs.FileType.Directory:
        return [(address, stat(address)[0])]
    place, mark, query = address.partition("?")
    files = _found(address, lambda inner: pafs.FileSelector(inner, recursive=True))
    sizes = {
        file.path.removeprefix(found.path).lstrip("/"): file.size
        for file in files
        if file.type is pafs.FileType.File and file.extension in {"parquet", "pq"}
    }
    # What begins so are traces of programs that write such folders.
    shown = [n for n in sorted(sizes) if not any(p.startswith((".", "_")) for p in n.split("/"))]
    if not shown:
        raise LogError(f"The folder {address!r} has no Parquet file in it.")
    return [(f"{place.rstrip('/')}/{quote(name)}{mark}{query}", sizes[name]) for name in shown]


def _found(address: str, choose: Callable[[str], Any]) -> list[pafs.FileInfo]:
    try:
        filesystem, inner = pafs.FileSystem.from_uri(address)
        return list(filesystem.get_file_info(choose(inner)))
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise LogError(f"Cannot look at {address!r}: {error}") from None


def is_ours(schema: pa.Schema) -> bool:
    """Whether a file's columns are ours, or can be made so without looking at rows."""
    if set(columns.schema().names) != set(schema.names):
        return False
    try:
        _fitted(schema.empty_table()).to_batches()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return False
    return True


def _fitted(table: pa.Table) -> pa.Table:
    return table.select(columns.schema().names).cast(columns.schema(), safe=True)


def batches(
    file: pq.ParquetFile,
    name: str,
    options: Options,
    row_groups: Sequence[int] | None = None,
    rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch | Rejected | Noted]:
    """The conversations of a file in our columns, without a Python object for any message.

    Args:
        file: The file.
        name: As it is shown in places.
        options: How to read rows that are not as they should be.
        row_groups: Which, one after the other; all if None.
        rows: Conversations in a batch at most.
    """
    same = file.schema_arrow.equals(columns.schema())
    groups = list(range(file.num_row_groups) if row_groups is None else row_groups)
    before = range(groups[0] if groups else 0)
    done = sum(file.metadata.row_group(group).num_rows for group in before)
    for raw in file.iter_batches(batch_size=rows, row_groups=groups, use_threads=False):
        batch = raw.replace_schema_metadata(None) if same else _fitted_batch(raw)
        if batch is not None and _is_sound(batch):
            yield batch
        else:
            yield from _by_rows(raw, name, done, options)
        done += raw.num_rows


def _fitted_batch(raw: pa.RecordBatch) -> pa.RecordBatch | None:
    """The batch with our types; None where a value has to be there and is not."""
    try:
        [batch] = _fitted(pa.Table.from_batches([raw])).combine_chunks().to_batches()
    except (pa.ArrowInvalid, ValueError):
        return None
    return batch


def _is_sound(batch: pa.RecordBatch) -> bool:
    """Whether every author is one, and all metadata are JSON objects."""
    authors = columns.message_rows(batch).rows["author"]
    if pc.all(pc.is_in(authors, value_set=_AUTHORS)).as_py() is False:
        return False
    try:
        for text in pc.unique(batch["metadata"]).to_pylist():
            check_depth(_metadata.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _by_rows(
    batch: pa.RecordBatch, name: str, done: int, options: Options
) -> Iterator[pa.RecordBatch | Rejected | Noted]:
    """What can be read of a batch that has something wrong, and what is wrong."""
    good: list[Record] = []
    for i, row in enumerate(batch.to_pylist(maps_as_pydicts="lossy")):
        context = Context(Place(name, None, done + i + 1), options)
        try:
            good.append(_native_row(_plain(row), context))
            yield from context.notes
        except BadRecordError as error:
            yield Rejected(context.place, error.kind, error.reason, excerpt(str(row.get("id"))))
    yield columns.to_batch(good)


def rows(file: pq.ParquetFile) -> Iterator[Object]:
    """The rows of a file of any columns, as JSON has them: times are text, bytes are text."""
    for batch in file.iter_batches(batch_size=256, use_threads=False):
        for row in batch.to_pylist(maps_as_pydicts="lossy"):
            yield {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def sparse(row: Object) -> Object:
    """A row without the fields that say nothing: a column must be there for every row."""
    return {key: _sparse(value) for key, value in row.items() if value is not None}


def _sparse(value: Any) -> Any:
    if isinstance(value, dict):
        return sparse(value)
    return [_sparse(item) for item in value] if isinstance(value, list) else value


def native_rows(
    file: pq.ParquetFile, name: str, options: Options
) -> Iterator[Record | Rejected | Noted]:
    """The conversations of a file that has some of our columns, and perhaps others."""
    for i, row in enumerate(rows(file)):
        context = Context(Place(name, None, i + 1), options)
        try:
            record = _native_row(row, context)
        except BadRecordError as error:
            yield Rejected(context.place, error.kind, error.reason, excerpt(str(row.get("id"))))
        else:
            yield from context.notes
            yield record


def _native_row(row: Object, context: Context) -> Record:
    value = sparse({key: inner for key, inner in row.items() if key in _OURS})
    value.setdefault("id", context.id)
    metadata = value.get("metadata")
    if isinstance(metadata, str):
        try:
            value["metadata"] = _metadata.decode(metadata)
        except (msgspec.DecodeError, RecursionError):
            raise BadRecordError(Kind.SHAPE, "Its metadata is no JSON object.") from None
    for holder in (value, *(m for m in value.get("messages", []) if isinstance(m, dict))):
        for field in ("labels", "predictions"):
            if isinstance(holder.get(field), list):
                holder[field] = {
                    pair["name"]: pair["values"]
                    for pair in holder[field]
                    if isinstance(pair, dict) and {"name", "values"} <= pair.keys()
                }
    record = native.decode(msgspec.json.encode(value), context)
    for key, inner in row.items():
        if key not in _OURS and inner is not None:
            record.metadata.setdefault(key, inner)
    return record
