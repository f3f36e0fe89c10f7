"""A bad record is reported with its place and reason, counted, and never stops the reading."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quietdesk.errors import LogError, LogFormatError, LogRecordError
from quietdesk.logs.format import Options
from quietdesk.logs.problem import Kind, Noted, Rejected
from quietdesk.logs.reading import Reading, read

Write = Callable[[str, str | bytes], Path]
GOOD = '{"id":"good","messages":[{"author":"bot","text":"hi"}]}'


def lines_of(reading: Reading) -> list[tuple[int | None, Kind]]:
    return [(p.place.line, p.kind) for p in reading.problems]


def first(reading: Reading, kind: type[Rejected] | type[Noted] = Rejected) -> str:
    return next(problem.reason for problem in reading.problems if isinstance(problem, kind))


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ('{"id":"x","messages":[', Kind.NOT_JSON, "no JSON"),
        ("null", Kind.SHAPE, "In the whole"),
        ('{"messages":[]}', Kind.SHAPE, "In id: Field required"),
        ('{"id":"x"}', Kind.SHAPE, "In messages: Field required"),
        ('{"id":"x","messages":[{"text":"a"}]}', Kind.SHAPE, "In messages.0.author"),
        (
            '{"id":"x","messages":[{"author":"robot","text":"a"}]}',
            Kind.SHAPE,
            "there stands 'robot'",
        ),
        ('{"id":"x","messages":[],"chanel":"web"}', Kind.SHAPE, "In chanel: Extra"),
        ('{"id":"x","messages":[],"metadata":' + "[" * 500 + "]" * 500 + "}", Kind.SHAPE, "deep"),
        (
            '{"id":"x","messages":[],"metadata":{"a":' + "[" * 500 + "]" * 500 + "}}",
            Kind.SHAPE,
            "deep",
        ),
        ('{"id":"x","messages":[],"ratings":["NaN"]}', Kind.SHAPE, "Expected"),
    ],
)
def test_a_bad_line_is_rejected_with_its_reason(
    write: Write, line: str, kind: Kind, reason: str
) -> None:
    reading = read([write("x.jsonl", f"{GOOD}\n{line}\n\n{GOOD.replace('good', 'last')}\n")])
    assert [t.id for t in reading] == ["good", "last"]
    assert lines_of(reading) == [(2, kind)]
    assert reason in first(reading)
    assert reading.n_rejected == 1 and reading.kinds[kind] == 1


def test_a_problem_says_file_line_reason_and_shows_the_record(write: Write) -> None:
    path = write("x.jsonl", f"{GOOD}\n[1, 2\n")
    reading = read([path])
    list(reading)
    [problem] = reading.problems
    assert isinstance(problem, Rejected)
    assert str(problem).startswith(f"{path}:2: It is no JSON")
    assert problem.excerpt == "[1, 2"


def test_strict_reading_stops_at_the_first_bad_record(write: Write) -> None:
    path = write("x.jsonl", f"{GOOD}\n{{}}\n{GOOD}\n")
    reading = iter(read([path], strict=True))
    assert next(reading).id == "good"
    with pytest.raises(LogRecordError, match=r"x.jsonl:2: In id: Field required.*Strict"):
        next(reading)


def test_what_the_public_form_takes_is_taken_though_it_is_not_spelt_strictly(write: Write) -> None:
    line = (
        '{"id":"x","ratings":["4"],"messages":[{"author":"bot","text":"a",'
        '"created_at":"2026-03-02T09:00:00"}]}'
    )
    reading = read([write("x.jsonl", line)])
    [transcript] = reading
    assert transcript.ratings == (4.0,)
    assert transcript.messages[0].created_at is not None
    assert transcript.messages[0].created_at.isoformat() == "2026-03-02T09:00:00+00:00"
    assert "taken as UTC" in first(reading, Noted)


@pytest.mark.parametrize("name", ["native", "openai", "csv", "text"])
def test_lines_in_another_encoding_are_read_and_noted(write: Write, name: str) -> None:
    content = {
        "native": '{"id":"ok","messages":[{"author":"bot","text":"é"}]}\n',
        "openai": '{"id":"ok","messages":[{"role":"assistant","content":"é"}]}\n',
        "csv": "conversation_id,author,text\nok,bot,é\n",
        "text": "=== ok ===\nbot: é\n",
    }[name]
    other = content.replace("ok", "old").split("\n", 1)[1] if name == "csv" else content
    mixed = content.encode() + other.replace("ok", "old").encode("cp1252")
    reading = read([write("x", mixed)])
    assert {t.id: t.messages[0].text for t in reading} == {"ok": "é", "old": "é"}
    assert reading.kinds == {Kind.ENCODING: 1} and reading.n_rejected == 0
    assert reading.problems[0].place.line is not None and reading.problems[0].place.line > 1


def test_a_giant_line_is_rejected_in_bounded_memory(write: Write) -> None:
    giant = '{"id":"x","messages":[{"author":"bot","text":"' + "x" * 100_000 + '"}]}'
    path = write("x.jsonl", f"{GOOD}\n{giant}\n{GOOD.replace('good', 'last')}\n")
    reading = read([path], options=Options(limit=10_000))
    assert [t.id for t in reading] == ["good", "last"]
    assert lines_of(reading) == [(2, Kind.TOO_LONG)]


def test_a_file_of_one_giant_line_says_so(write: Write) -> None:
    path = write("x.jsonl", '{"id":"' + "x" * 40_000_000)
    with pytest.raises(LogFormatError, match="no records"):
        list(read([path]))
    reading = read([path], format="native")
    assert list(reading) == []
    assert lines_of(reading) == [(1, Kind.TOO_LONG)]


def test_a_table_of_ten_thousand_columns_is_read(write: Write) -> None:
    header = ",".join(["conversation_id", "author", "text", *(f"c{i}" for i in range(10_000))])
    row = ",".join(["1", "bot", "hi", *("v" for _ in range(10_000))])
    [transcript] = read([write("x.csv", f"{header}\n{row}\n")])
    assert len(transcript.metadata) == 10_000 and transcript.metadata["c9999"] == "v"


def test_rows_that_are_not_of_the_table_are_rejected_with_their_line(write: Write) -> None:
    path = write(
        "x.csv",
        "conversation_id,author,text\n"
        '1,bot,"two\nlines"\n'
        "1,bot,a,b,c\n"
        ",bot,whose\n"
        "2,nobody,hi\n"
        "3,bot\n",
    )
    reading = read([path])
    assert {t.id: t.messages[0].text for t in reading} == {"1": "two\nlines", "3": ""}
    assert sorted(lines_of(reading), key=str) == [
        (4, Kind.SHAPE),
        (5, Kind.SHAPE),
        (6, Kind.AUTHOR),
    ]


def test_a_quote_that_is_never_closed_costs_what_it_swallows_and_is_reported(
    write: Write,
) -> None:
    path = write("x.csv", 'conversation_id,author,text\n1,bot,fine\n2,bot,"open\n3,bot,x\n')
    reading = read([path])
    found = {t.id: t.messages[0].text for t in reading}
    assert found["1"] == "fine"
    assert found["2"].startswith("open")


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"messages": [{"content": "who?"}]}, Kind.AUTHOR),
        ({"messages": [{"role": "", "content": "who?"}]}, Kind.AUTHOR),
        ({"messages": [{"role": "wizard", "content": "x"}]}, Kind.AUTHOR),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, Kind.SHAPE),
        ({"messages": ["hello"]}, Kind.SHAPE),
        ({"messages": "hello"}, Kind.SHAPE),
        ({"other": 1}, Kind.SHAPE),
    ],
)
def test_messages_without_a_role_or_text_are_rejected(
    write: Write, record: object, kind: Kind
) -> None:
    good = {"id": "good", "messages": [{"role": "user", "content": "hi"}]}
    path = write("x.jsonl", f"{json.dumps(good)}\n{json.dumps(record)}\n")
    reading = read([path])
    assert [t.id for t in reading] == ["good"]
    assert lines_of(reading) == [(2, kind)]


def test_an_unknown_role_tells_how_to_name_it(write: Write) -> None:
    good = '{"messages":[{"role":"user","content":"x"}]}'
    path = write("x.jsonl", f"{good}\n{good.replace('user', 'Wizard')}\n")
    reading = read([path])
    list(reading)
    assert "--author 'Wizard'=customer" in first(reading)


def test_an_id_that_comes_twice_is_noted_and_both_count(write: Write) -> None:
    reading = read([write("x.jsonl", f"{GOOD}\n{GOOD}\n")])
    assert len(list(reading)) == 2
    assert reading.kinds == {Kind.DUPLICATE: 1}
    assert "'good'" in first(reading, Noted)


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
def test_a_file_that_was_cut_short_gives_what_came_before(write: Write, name: str) -> None:
    import pyarrow as pa  # noqa: PLC0415

    content = "".join(GOOD.replace("good", f"c{i}") + "\n" for i in range(20_000)).encode()
    packed = (
        gzip.compress(content) if name == "x.gz" else pa.compress(content, "zstd", asbytes=True)
    )
    reading = read([write(name, packed[: len(packed) * 9 // 10])])
    found = [t.id for t in reading]
    assert 10_000 < len(found) < 20_000
    assert found == [f"c{i}" for i in range(len(found))]
    assert any(p.kind is Kind.CUT_SHORT for p in reading.problems)


def test_crlf_and_blank_lines_make_no_difference(write: Write) -> None:
    reading = read([write("x.jsonl", f"{GOOD}\r\n\r\n{GOOD.replace('good', 'b')}\r\n")])
    assert [t.id for t in reading] == ["good", "b"]
    assert not reading.problems


def test_times_that_cannot_be_read_are_left_out_and_noted(write: Write) -> None:
    path = write(
        "x.csv",
        "conversation_id,author,text,timestamp\n"
        "1,bot,a,yesterday\n"
        "2,bot,b,1772442000\n"
        "3,bot,c,1772442000123\n"
        "4,bot,d,2026-03-02T09:00:00Z\n"
        "5,bot,e,2026-03-02 09:00:00 UTC\n",
    )
    reading = read([path])
    times = [t.messages[0].created_at for t in reading]
    assert times[0] is None
    assert [time.isoformat() for time in times if time] == [
        "2026-03-02T09:00:00+00:00",
        "2026-03-02T09:00:00.123000+00:00",
        "2026-03-02T09:00:00+00:00",
        "2026-03-02T09:00:00+00:00",
    ]
    assert lines_of(reading) == [(2, Kind.TIME)]
    assert "'yesterday'" in first(reading, Noted)


def test_runs_without_their_root_are_reported(write: Write) -> None:
    run = {"id": "a", "run_type": "llm", "trace_id": "t", "parent_run_id": "p", "inputs": {}}
    reading = read([write("x.jsonl", json.dumps(run))])
    assert list(reading) == []
    assert "root run" in first(reading)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no.jsonl.*No such file"):
        read([tmp_path / "no.jsonl"])


def test_a_folder_is_read_file_by_file_and_hidden_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_text('{"messages":[{"role":"user","content":"two"}]}')
    (tmp_path / "1.jsonl").write_text(GOOD)
    (tmp_path / ".hidden").write_text("nothing")
    assert [t.id for t in read([tmp_path])] == ["good", "b/2.jsonl:1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogError, match="no file in it"):
        read([tmp_path / "empty"])


def test_a_database_asks_for_its_store(write: Write) -> None:
    with pytest.raises(LogFormatError, match="quietdesk convert"):
        list(read([write("x.db", b"SQLite format 3\x00" + bytes(100))]))


def test_an_only_array_item_that_is_a_number_is_reported(write: Write) -> None:
    good = '{"messages":[{"role":"user","content":"x"}]}'
    reading = read([write("x.json", f"[\n{good},\n17,\n{good}\n]")])
    assert len(list(reading)) == 2
    assert lines_of(reading)[0][1] is Kind.SHAPE
