"""A log cut into parts is the same log, whatever the parts' size, and each part stands alone."""

import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietdesk import columns
from quietdesk.errors import LogError
from quietdesk.logs import parts as parts_module
from quietdesk.logs.parts import FilePart, HandedPart, Parts
from quietdesk.logs.reading import read
from quietdesk.types import Transcript

Write = Callable[[str, str | bytes], Path]


def through_parts(paths: list[Path], part_bytes: int) -> tuple[list[Transcript], int, list[str]]:
    """Conversations, how many records were rejected, and problems, each part in another place."""
    found: list[Transcript] = []
    rejected, problems = 0, []
    for part in Parts(paths, part_bytes=part_bytes):
        opened = pickle.loads(pickle.dumps(part)).open()
        found += [t for batch in opened.batches() for t in columns.from_batch(batch)]
        rejected += opened.report().n_rejected
        problems += opened.report().problems
    return found, rejected, problems


def whole(paths: list[Path]) -> tuple[list[Transcript], int, list[str]]:
    reading = read(paths)
    found = list(reading)
    return found, reading.n_rejected, [str(problem) for problem in reading.problems]


@given(
    rows=st.lists(
        st.sampled_from(["good", "bad", "", "long"]) | st.text(st.sampled_from("ab é"), max_size=4),
        min_size=1,
        max_size=30,
    ),
    part_bytes=st.integers(1, 400),
    crlf=st.booleans(),
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_lines_cut_anywhere_are_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], part_bytes: int, crlf: bool
) -> None:
    path = tmp_path_factory.mktemp("parts") / "x.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": "first"}]})]
    for row in rows:
        text = "x" * 300 if row == "long" else row
        line = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
        lines.append({"bad": "{", "": ""}.get(row, line))
    path.write_text(("\r\n" if crlf else "\n").join(lines))
    assert through_parts([path], part_bytes) == whole([path])


def test_parts_of_lines_are_of_about_the_size_that_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "x" * 50}]}) + "\n"
    path.write_text(line * 1000)
    found = [part for part in Parts([path], part_bytes=10_000) if isinstance(part, FilePart)]
    assert [part.span.start for part in found if part.span][1:] == [
        part.span.stop for part in found if part.span
    ][:-1]
    sizes = [part.size_bytes for part in found]
    assert all(10_000 <= size < 10_000 + len(line) for size in sizes[:-1])
    assert sum(sizes) == path.stat().st_size
    assert found[1].where == f"{path} from line {10_000 // len(line) + 2}"


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
@pytest.mark.parametrize("part_bytes", [1, 5_000, 1 << 30])
def test_parquet_is_cut_between_row_groups(
    logs_folder: Path, tmp_path: Path, row_group_size: int, part_bytes: int
) -> None:
    transcripts = list(read([logs_folder]))
    table = pa.Table.from_batches([columns.to_batch(transcripts)])
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=row_group_size)
    found, rejected, _ = through_parts([path], part_bytes)
    assert found == transcripts and rejected == 0
    n_parts = len(list(Parts([path], part_bytes=part_bytes)))
    n_groups = -(-len(transcripts) // row_group_size)
    assert n_parts == {1: n_groups, 1 << 30: 1}.get(part_bytes, n_parts)


@pytest.mark.parametrize(
    "name", ["sharegpt.json", "messages.csv", "langfuse.jsonl", "transcript.txt", "native.jsonl.gz"]
)
@pytest.mark.parametrize("rows", [1, 1000])
def test_what_cannot_be_cut_is_handed_on_in_the_same_parts(
    logs_folder: Path, tmp_path: Path, name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "HANDED_ROWS", rows)
    path = logs_folder / name
    if name.endswith(".gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress((logs_folder / "native.jsonl").read_bytes()))
    assert through_parts([path], part_bytes=10) == whole([path])
    parts = list(Parts([path], part_bytes=10))
    assert all(isinstance(part, HandedPart) for part in parts)
    assert [p.identity for p in parts] == [p.identity for p in Parts([path], part_bytes=10)]
    assert len({p.identity for p in parts}) == len(parts)


def test_small_files_are_parts_of_their_own(logs_folder: Path) -> None:
    files = [path for path in sorted(logs_folder.iterdir()) if path.is_file()]
    found = list(Parts([logs_folder]))
    assert [part.where for part in found] == [str(path) for path in files]
    assert through_parts([logs_folder], 1 << 20)[0] == whole([logs_folder])[0]


def test_problems_after_the_last_conversation_are_handed_on_too(write: Write) -> None:
    good = '{"id":"a","messages":[{"author":"bot","text":"x"}]}'
    path = write("x.gz", gzip.compress(f"{good}\nbroken\n".encode()))
    found, rejected, problems = through_parts([path], 1)
    assert len(found) == 1 and rejected == 1 and "x.gz:2" in problems[0]


def test_a_part_says_by_its_identity_what_it_holds(write: Write) -> None:
    line = '{"messages":[{"role":"user","content":"x"}]}\n'
    path = write("x.jsonl", line * 10)
    first = [part.identity for part in Parts([path], part_bytes=100)]
    assert len(set(first)) == len(first) > 2
    assert first == [part.identity for part in Parts([path], part_bytes=100)]
    os.utime(path, ns=(1, 1))
    assert not set(first) & {part.identity for part in Parts([path], part_bytes=100)}


def test_a_file_that_changed_after_it_was_cut_is_refused(write: Write) -> None:
    path = write("x.jsonl", '{"messages":[{"role":"user","content":"x"}]}\n' * 10)
    part = next(iter(Parts([path], part_bytes=100)))
    path.write_text("shorter")
    with pytest.raises(LogError, match="changed while it was read"):
        part.open()
