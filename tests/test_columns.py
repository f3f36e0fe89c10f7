"""Arrow columns hold transcripts without a loss."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk import columns
from quietdesk.errors import UsageError
from quietdesk.types import Author, Passage, ToolCall, Transcript, TranscriptMessage

texts = st.text(max_size=12)
labels = st.dictionaries(texts, st.lists(texts, max_size=3).map(tuple), max_size=3)
numbers = st.floats(allow_nan=False)
ratings = st.lists(numbers, max_size=3).map(tuple)
zones = st.just(UTC) | st.integers(-600, 600).map(lambda m: timezone(timedelta(minutes=m)))
times = st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1), timezones=zones)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers.filter(lambda x: abs(x) < 1e300) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
passages = st.builds(
    Passage,
    id=texts,
    text=texts,
    source=texts,
    line=st.none() | st.integers(0, 2**40),
    score=st.none() | numbers,
)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts)
messages = st.builds(
    TranscriptMessage,
    author=st.sampled_from(Author),
    text=texts,
    id=texts,
    created_at=st.none() | times,
    references=st.lists(texts, max_size=3).map(tuple),
    passages=st.lists(passages, max_size=2).map(tuple),
    labels=labels,
    predictions=labels,
    ratings=ratings,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
)
transcripts = st.builds(
    Transcript,
    id=texts,
    messages=st.lists(messages, max_size=5).map(tuple),
    customer=st.none() | texts,
    labels=labels,
    predictions=labels,
    ratings=ratings,
    metadata=st.dictionaries(texts, json_values, max_size=3),
)


@given(st.lists(transcripts, max_size=6))
@settings(deadline=None)
def test_what_goes_in_comes_out(given_transcripts: list[Transcript]) -> None:
    batch = columns.to_batch(given_transcripts)
    batch.validate(full=True)
    assert batch.schema.equals(columns.schema())
    assert columns.from_batch(batch) == given_transcripts


@given(st.lists(transcripts, max_size=6), st.integers(0, 6), st.integers(0, 6))
@settings(deadline=None)
def test_a_slice_of_a_batch_is_the_slice_of_the_transcripts(
    given_transcripts: list[Transcript], start: int, length: int
) -> None:
    part = columns.to_batch(given_transcripts).slice(start, length)
    expected = given_transcripts[start : start + length]
    assert columns.from_batch(part) == expected
    rows, offsets = columns.message_rows(part)
    assert rows["text"].to_pylist() == [m.text for t in expected for m in t.messages]
    assert offsets.tolist()[-1] == rows.num_rows
    assert [b - a for a, b in pairwise(offsets)] == [len(t.messages) for t in expected]


@given(st.lists(transcripts, max_size=6))
@settings(deadline=None, max_examples=30)
def test_a_parquet_file_keeps_the_schema_and_the_content(
    given_transcripts: list[Transcript],
) -> None:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches([columns.to_batch(given_transcripts)])
    pq.write_table(table, sink, compression="zstd")
    read = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    assert read.schema_arrow.equals(columns.schema())
    back = [t for batch in read.iter_batches() for t in columns.from_batch(batch)]
    assert back == given_transcripts


def test_a_transcript_that_came_back_passes_validation() -> None:
    transcript = Transcript(
        id="a",
        messages=(
            TranscriptMessage(
                author=Author.BOT,
                text="Hi",
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                passages=(Passage(id="p", text="t", line=3),),
                tool_calls=(ToolCall(id="c", name="n", arguments="{}"),),
                labels={"intent": ("greet",)},
            ),
        ),
    )
    [back] = columns.from_batch(columns.to_batch([transcript]))
    assert Transcript.model_validate_json(back.model_dump_json()) == transcript
    assert back.messages[0].author is Author.BOT


def test_a_time_without_a_zone_is_refused() -> None:
    message = TranscriptMessage(author=Author.BOT, text="", created_at=datetime(2026, 1, 1))
    with pytest.raises(UsageError, match="'2026-01-01T00:00:00' has no zone"):
        columns.to_batch([Transcript(id="a", messages=(message,))])


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_metadata_that_is_no_json_is_refused_with_the_conversation(value: object) -> None:
    with pytest.raises(UsageError, match="conversation 'a' is no JSON"):
        columns.to_batch([Transcript(id="a", messages=(), metadata={"x": value})])


def test_foreign_columns_are_refused() -> None:
    with pytest.raises(UsageError, match="not conversations"):
        columns.from_batch(pa.RecordBatch.from_pydict({"text": ["a"]}))


def test_an_unknown_author_in_a_file_is_refused() -> None:
    class Said:
        author = "robot"
        text = id = ""
        created_at = None
        references = passages = ratings = tool_calls = ()
        labels: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
        predictions = labels

    class Talk:
        id = "a"
        customer = None
        messages = (Said(),)
        labels: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
        predictions = labels
        ratings = ()
        metadata: dict[str, object] = {}  # noqa: RUF012

    with pytest.raises(UsageError, match=r"'robot' in messages\.0\.author"):
        columns.from_batch(columns.to_batch([Talk()]))
