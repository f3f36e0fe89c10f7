"""Batches and transcripts are the same conversations; what is in columns stays in columns."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quietdesk import columns
from quietdesk.logs import parquet, reading
from quietdesk.logs.problem import Kind
from quietdesk.logs.reading import read
from quietdesk.types import Author, Transcript, TranscriptMessage

Write = Callable[[str, str | bytes], Path]


def transcripts(n: int) -> list[Transcript]:
    return [
        Transcript(
            id=f"c{i}",
            messages=(
                TranscriptMessage(author=Author.CUSTOMER, text="Hi", references=("a",)),
                TranscriptMessage(
                    author=Author.BOT, text="Yes?", created_at=datetime(2026, 3, 2, tzinfo=UTC)
                ),
            ),
            metadata={"n": i},
        )
        for i in range(n)
    ]


def ours(path: Path, batch: pa.RecordBatch | None = None, n: int = 10) -> Path:
    batch = columns.to_batch(transcripts(n)) if batch is None else batch
    pq.write_table(pa.Table.from_batches([batch]), path, row_group_size=4)
    return path


def test_batches_hold_what_iterating_gives(logs_folder: Path) -> None:
    files = sorted(logs_folder.iterdir())
    one, other = read(files), read(files)
    found = [t for batch in one.batches(rows=3) for t in columns.from_batch(batch)]
    assert found == list(other)
    assert one.n_read == other.n_read == len(found)
    assert one.problems == other.problems and one.formats == other.formats


def test_parquet_of_ours_is_never_taken_out_of_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ours(tmp_path / "x.parquet")
    expected = transcripts(10)
    monkeypatch.setattr(parquet, "_native_row", None)
    monkeypatch.setattr(reading, "_rows", None)
    batches = list(read([path]).batches(rows=3))
    assert [t for batch in batches for t in columns.from_batch(batch)] == expected
    assert max(batch.num_rows for batch in batches) <= 3


def test_parquet_with_other_types_of_the_same_columns_is_fitted(tmp_path: Path) -> None:
    table = pa.Table.from_batches([columns.to_batch(transcripts(5))])
    wide = table.set_column(0, "id", table["id"].cast(pa.large_string()))
    shuffled = wide.select(list(reversed(wide.column_names)))
    pq.write_table(shuffled, tmp_path / "x.parquet")
    assert list(read([tmp_path / "x.parquet"])) == transcripts(5)
    found = list(read([tmp_path / "x.parquet"]).batches())
    assert found[0].schema.equals(columns.schema())


def test_parquet_with_some_of_our_columns_and_others_is_read_by_rows(tmp_path: Path) -> None:
    rows = {
        "id": ["a"],
        "messages": [[{"author": "customer", "text": "Hi"}, {"author": "bot", "text": "Yes?"}]],
        "channel": ["web"],
        "labels": [[{"name": "resolved", "values": ["yes"]}]],
    }
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    [transcript] = read([tmp_path / "x.parquet"])
    assert transcript.metadata == {"channel": "web"}
    assert transcript.labels == {"resolved": ("yes",)}
    assert transcript.messages[1].author is Author.BOT


def test_parquet_of_chat_messages_turns_runs_and_tables_is_read(tmp_path: Path) -> None:
    tables = {
        "openai": {"messages": [[{"role": "user", "content": "Hi"}]]},
        "sharegpt": {"conversations": [[{"from": "human", "value": "Hi"}]]},
        "langsmith": {
            "id": ["r"],
            "run_type": ["chain"],
            "parent_run_id": pa.array([None], pa.string()),
            "inputs": ['{"input": "Hi"}'],
            "outputs": ['{"output": "Yes?"}'],
        },
        "table": {
            "conversation_id": ["c", "c"],
            "role": ["user", "assistant"],
            "text": ["Hi", "Yes?"],
            "time": [datetime(2026, 3, 2, 9, tzinfo=UTC), datetime(2026, 3, 2, 10, tzinfo=UTC)],
        },
    }
    for name, table in tables.items():
        pq.write_table(pa.table(table), tmp_path / name)
        [transcript] = read([tmp_path / name])
        assert transcript.messages[0].text == "Hi", name
    assert transcript.messages[1].created_at == datetime(2026, 3, 2, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"author": "robot"}, Kind.SHAPE),
        ({"metadata": "[1]"}, Kind.SHAPE),
        ({"metadata": "{"}, Kind.SHAPE),
    ],
)
def test_a_bad_row_of_ours_costs_only_itself(
    tmp_path: Path, change: dict[str, str], kind: Kind
) -> None:
    rows = pa.Table.from_batches([columns.to_batch(transcripts(6))]).to_pylist()
    if "author" in change:
        rows[2]["messages"][1]["author"] = change["author"]
    else:
        rows[2].update(change)
    bad = pa.RecordBatch.from_pylist(rows, schema=columns.schema())
    path = ours(tmp_path / "x.parquet", bad)
    read_ = read([path])
    found = [t for batch in read_.batches() for t in columns.from_batch(batch)]
    assert [t.id for t in found] == ["c0", "c1", "c3", "c4", "c5"]
    assert [(p.place.record, p.kind) for p in read_.problems] == [(3, kind)]


def test_a_null_where_none_may_be_costs_only_its_row(tmp_path: Path) -> None:
    schema = pa.schema([field.with_nullable(True) for field in columns.schema()])
    rows = pa.Table.from_batches([columns.to_batch(transcripts(3))]).to_pylist()
    rows[1]["metadata"] = None
    rows[2]["messages"] = None
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, tmp_path / "x.parquet")
    read_ = read([tmp_path / "x.parquet"])
    found = [t for batch in read_.batches() for t in columns.from_batch(batch)]
    assert [t.id for t in found] == ["c0", "c1"]
    assert [p.place.record for p in read_.problems] == [3]


def test_duplicates_are_noted_in_columns_too(tmp_path: Path) -> None:
    paths = [ours(tmp_path / "a.parquet", n=2), ours(tmp_path / "b.parquet", n=3)]
    read_ = read(paths)
    assert sum(batch.num_rows for batch in read_.batches()) == 5
    assert read_.kinds == {Kind.DUPLICATE: 2}


def test_a_parquet_address_is_opened_through_arrow(tmp_path: Path) -> None:
    path = ours(tmp_path / "x.parquet")
    assert list(read([f"file://{path}"])) == transcripts(10)


def test_how_far_reading_got_is_known(logs_folder: Path) -> None:
    read_ = read([logs_folder / "native.jsonl", logs_folder / "messages.csv"])
    sizes = [(logs_folder / name).stat().st_size for name in ("native.jsonl", "messages.csv")]
    assert read_.total_bytes == sum(sizes) and read_.done_bytes == 0
    iterator = iter(read_)
    next(iterator)
    assert read_.done_bytes == sizes[0]
    list(iterator)
    assert read_.done_bytes == sum(sizes)
