"""What a format can say comes back as it was; what it cannot is named."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from quietdesk.errors import LogError, UnknownNameError, UsageError
from quietdesk.logs import native, table, text
from quietdesk.logs.detect import JSON_FORMATS
from quietdesk.logs.foreign import html, plain
from quietdesk.logs.format import ALL_FIELDS
from quietdesk.logs.reading import read
from quietdesk.logs.record import from_transcript
from quietdesk.logs.writing import WRITTEN, Writing, format_for
from quietdesk.types import Author, Transcript

START = datetime(2026, 3, 2, 9, tzinfo=UTC)


def keeps_of(name: str) -> frozenset[str]:
    if name in JSON_FORMATS:
        return JSON_FORMATS[name].keeps
    return {"csv": table.KEEPS, "text": text.KEEPS}.get(name, ALL_FIELDS)


def authors_of(name: str) -> frozenset[Author]:
    return JSON_FORMATS[name].authors if name in JSON_FORMATS else frozenset(Author)


def only_kept(transcript: Transcript, name: str) -> Transcript:
    """The part of a transcript that the format says it can say."""
    keeps = keeps_of(name)

    def kept(holder: str, field: str, value: object) -> object:
        key = f"{holder}{field}"
        if key in keeps:
            return value
        if f"{key}[1]" in keeps:
            if isinstance(value, dict):
                return {k: v[:1] for k, v in value.items() if k == "intent"}
            return value[:1]
        return None

    said = []
    for message in transcript.messages:
        if message.author in authors_of(name):
            fields = {
                k: kept("messages.", k, getattr(message, k)) for k in type(message).model_fields
            }
            said.append(type(message)(**{k: v for k, v in fields.items() if v is not None}))
    fields = {
        k: kept("", k, getattr(transcript, k))
        for k in Transcript.model_fields
        if k not in {"messages", "id"}
    }
    fields = {k: v for k, v in fields.items() if v is not None}
    return Transcript(id=transcript.id, messages=tuple(said), **fields)


def fitted(name: str, transcripts: list[Transcript]) -> list[Transcript]:
    """Transcripts as a program of that format could have them: ids, order, no empty ones."""
    found = []
    for i, transcript in enumerate(transcripts):
        said = []
        for j, message in enumerate(transcript.messages):
            change: dict[str, object] = {}
            if message.created_at is not None:
                change["created_at"] = START + timedelta(seconds=j, microseconds=j * 7)
            if name in {"chatwoot", "zendesk", "intercom", "rasa"} and message.id:
                change["id"] = f"m{j}"
            if name in {"langfuse", "langsmith"}:
                # The same words twice are taken for history there.
                change["text"] = f"{j} {message.text}"
            if name == "intercom":
                change["text"] = plain(html(message.text)) or "."
            if name == "rasa":
                change["predictions"] = {"intent": ("greet",)} if message.predictions else {}
            if name == "csv":
                change["references"] = tuple(r for r in message.references if r)
            if name == "text":
                change["text"] = message.text.replace("\r", "")
            said.append(message.model_copy(update=change))
        whole: dict[str, object] = {"messages": tuple(said)}
        if name not in {"native", "parquet"}:
            whole["id"] = f"{i} {transcript.id}".replace("\r", "").strip()
            whole["customer"] = transcript.customer or None
        if name == "rasa":
            whole["customer"] = whole["id"]
        if name in {"langfuse", "langsmith"}:
            whole["metadata"] = {f"own {k}": v for k, v in transcript.metadata.items()}
        kept = only_kept(transcript.model_copy(update=whole), name)
        if kept.messages or name in {"native", "parquet", "openai"}:
            found.append(kept)
    return found


@pytest.mark.parametrize("name", WRITTEN)
@given(data=st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_what_a_format_can_say_comes_back(
    name: str,
    data: st.DataObject,
    any_transcripts: SearchStrategy[list[Transcript]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    given_transcripts = fitted(name, data.draw(any_transcripts))
    path = str(tmp_path_factory.mktemp("trip") / "log")
    with Writing(path, name) as writing:
        for transcript in given_transcripts:
            writing.write(from_transcript(transcript))
    # A tracker goes by its sender alone.
    assert set(writing.lost) <= ({"id"} if name == "rasa" else set())
    reading = read([path], format=name)
    if given_transcripts:
        back = [only_kept(transcript, name) for transcript in reading]
        if "metadata" in keeps_of(name):
            back = [with_own_metadata(t, name) for t in back]
        if name in {"langfuse", "langsmith", "rasa", "chatwoot"}:
            back.sort(key=lambda t: int(t.id.split()[0]))
        assert back == given_transcripts
        assert reading.n_rejected == 0


def with_own_metadata(transcript: Transcript, name: str) -> Transcript:
    own = {k: v for k, v in transcript.metadata.items() if k != name}
    return transcript.model_copy(update={"metadata": own})


def missing(before: object, after: object, where: str = "") -> list[str]:
    """Where `after` does not say what `before` says."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            found
            for key, value in before.items()
            for found in missing(value, after.get(key), f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [found for i, (b, a) in pairs for found in missing(b, a, f"{where}[{i}]")]
    return [] if before == after else [f"{where}: {before!r} became {after!r}"]


FIXTURES = ("openai.jsonl", "rasa.json", "zendesk.json", "intercom.json", "chatwoot.json")


@pytest.mark.parametrize("name", FIXTURES)
def test_what_has_no_native_place_goes_back_into_the_same_format(
    logs_folder: Path, tmp_path: Path, name: str
) -> None:
    first = read([logs_folder / name])
    path = str(tmp_path / name)
    transcripts = list(first)
    [format_] = set(first.formats.values())
    with Writing(path, format_) as writing:
        for transcript in transcripts:
            writing.write(from_transcript(transcript))
    again = {t.id: t for t in read([path])}
    for transcript in transcripts:
        if name == "rasa.json":
            # Sessions of one sender are one tracker again.
            continue
        back = again[transcript.id]
        assert [(m.author, m.text) for m in back.messages] == [
            (m.author, m.text) for m in transcript.messages
        ]
        assert not missing(transcript.metadata.get(format_), back.metadata.get(format_))


def test_sessions_of_a_rasa_tracker_go_back_into_events(logs_folder: Path, tmp_path: Path) -> None:
    transcripts = list(read([logs_folder / "rasa.json"]))
    path = str(tmp_path / "x.jsonl")
    with Writing(path, "rasa") as writing:
        for transcript in transcripts:
            writing.write(from_transcript(transcript))
    assert [[m.text for m in t.messages] for t in read([path])] == [
        [m.text for m in t.messages] for t in transcripts
    ]


def test_what_would_be_lost_is_counted_by_conversation(logs_folder: Path, tmp_path: Path) -> None:
    with Writing(str(tmp_path / "x"), "sharegpt") as writing:
        for record in read([logs_folder / "native.jsonl"]).records():
            writing.write(record)
    assert writing.lost["messages.created_at"] == 1
    assert writing.lost["messages.tool_calls"] == 1
    assert writing.lost["customer"] == writing.lost["labels"] == 1
    assert "messages.text" not in writing.lost
    with Writing(str(tmp_path / "y"), "rasa") as writing:
        for record in read([logs_folder / "native.jsonl"]).records():
            writing.write(record)
    assert writing.lost["messages by tool"] == 1
    with Writing(str(tmp_path / "z"), "csv") as writing:
        for record in read([logs_folder / "native.jsonl"]).records():
            writing.write(record)
    assert writing.lost["messages.ratings after the first"] == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.jsonl", "native"),
        ("a.jsonl.gz", "native"),
        ("a.parquet", "parquet"),
        ("a.csv.zst", "csv"),
        ("a.txt", "text"),
        ("a", "native"),
    ],
)
def test_a_files_name_tells_what_is_written(path: str, name: str) -> None:
    assert format_for(path) == name


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
def test_what_is_written_compressed_is_read(logs_folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.jsonl{suffix}"
    transcripts = list(read([logs_folder / "native.jsonl"]))
    with Writing(str(path), "native") as writing:
        for transcript in transcripts:
            writing.write(from_transcript(transcript))
    assert list(read([path])) == transcripts
    magic = {"": b"{", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5", ".bz2": b"BZh"}[suffix]
    assert path.read_bytes().startswith(magic)


def test_a_file_appears_whole_or_not_at_all(logs_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    [record, _] = read([logs_folder / "native.jsonl"]).records()
    with pytest.raises(KeyboardInterrupt), Writing(str(path), "native") as writing:
        writing.write(record)
        assert not path.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        Writing(str(path), "native")
    with Writing(str(path), "native", force=True):
        assert path.read_text() == "mine"
    assert path.read_text() == ""


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(LogError, match="No such file"),
        Writing(str(tmp_path / "no" / "x.jsonl"), "native"),
    ):
        pass


def test_an_unknown_format_to_write_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'parquet'"):
        Writing(str(tmp_path / "x"), "parket")


def test_the_published_schema_describes_what_is_written(
    logs_folder: Path, write: Callable[[str, str | bytes], Path]
) -> None:
    schema = native.schema()
    assert set(schema["properties"]) == set(Transcript.model_fields)
    message = schema["$defs"]["TranscriptMessage"]
    assert set(message["required"]) == {"author", "text"}
    for line in (logs_folder / "native.jsonl").read_text().splitlines():
        assert Transcript.model_validate_json(line)
