"""What the tests of logs share: small logs of every format, and a strategy for transcripts."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from quietdesk.types import Author, Passage, ToolCall, Transcript, TranscriptMessage

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
labels = st.dictionaries(texts, st.lists(texts, max_size=2).map(tuple), max_size=2)
numbers = st.floats(allow_nan=False, allow_infinity=False)
ratings = st.lists(numbers, max_size=3).map(tuple)
zones = st.just(UTC) | st.integers(-600, 600).map(lambda m: timezone(timedelta(minutes=m)))
times = st.datetimes(datetime(1975, 1, 1), datetime(2200, 1, 1), timezones=zones)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.builds(
    TranscriptMessage,
    author=st.sampled_from(Author),
    text=texts,
    id=texts,
    created_at=st.none() | times,
    references=st.lists(texts, max_size=2).map(tuple),
    passages=st.lists(
        st.builds(
            Passage,
            id=texts,
            text=texts,
            source=texts,
            line=st.none() | st.integers(0, 2**40),
            score=st.none() | numbers,
        ),
        max_size=2,
    ).map(tuple),
    labels=labels,
    predictions=labels,
    ratings=ratings,
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=2).map(
        tuple
    ),
)
transcripts = st.builds(
    Transcript,
    id=texts,
    messages=st.lists(messages, max_size=4).map(tuple),
    customer=st.none() | texts,
    labels=labels,
    predictions=labels,
    ratings=ratings,
    metadata=st.dictionaries(texts, json_values, max_size=2),
)


@pytest.fixture(scope="session")
def logs_folder() -> Path:
    """The hand-written logs of every format."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def any_transcripts() -> SearchStrategy[list[Transcript]]:
    """Lists of transcripts of any content."""
    return st.lists(transcripts, max_size=4)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, where it is."""
    named = os.environ.get("QUIETDESK_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder} (QUIETDESK_TEST_DATA names another folder)")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Puts content into a new file."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
