"""`quietdesk convert` as it is typed."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quietdesk.cli.main import run
from quietdesk.store.sql import open_store
from quietdesk.types import Author, ConversationInfo, Message

LOG = '{"id":"a","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes?"}]}'


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_text(f"{LOG}\nbroken\n")
    return path


def test_a_log_is_converted_by_the_results_name(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "log.jsonl", "out.parquet"]) == 0
    told = capsys.readouterr().err
    assert "log.jsonl:2: It is no JSON" in told and "1 records were left out." in told
    assert run(["convert", "out.parquet", "out.txt"]) == 0
    assert Path("out.txt").read_text() == "=== a ===\ncustomer: Hi\nbot: Yes?\n"


def test_what_was_done_is_told_in_one_json_object(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "log.jsonl", "out.csv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["conversations"], told["rejected"], told["format"]) == (1, 1, "csv")
    assert told["kinds"] == {"not-json": 1} and told["inputs"] == {"log.jsonl": "openai"}


def test_a_file_that_is_there_stays_unless_it_is_forced(log: Path) -> None:
    Path("out.txt").write_text("mine")
    assert run(["convert", "log.jsonl", "out.txt"]) == 2
    assert Path("out.txt").read_text() == "mine"
    assert run(["convert", "log.jsonl", "out.txt", "--force"]) == 0
    assert Path("out.txt").read_text().startswith("=== a")


def test_strict_conversion_fails_and_leaves_no_file(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "log.jsonl", "out.txt", "--strict"]) == 1
    assert "log.jsonl:2" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["log.jsonl"], "last, the file to write"),
        (["log.jsonl", "out", "--to", "parket"], "'parquet'"),
        (["log.jsonl", "out", "--format", "opnai"], "'openai'"),
        (["log.jsonl", "out", "--author", "anna"], "NAME=VALUE"),
        (["log.jsonl", "out", "--author", "anna=boss"], "'boss' is none of"),
        (["log.jsonl", "out.parquet", "--column"], "requires an argument"),
    ],
)
def test_wrong_use_is_told_and_ends_with_two(
    log: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(["convert", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_names_and_columns_are_taken_from_the_command_line(log: Path) -> None:
    Path("t.csv").write_text("Fall,Wer,Was\n1,Anna,Hallo\n")
    arguments = ["--column", "id=Fall", "--column", "author=Wer", "--column", "text=Was"]
    assert run(["convert", "t.csv", "t.txt", *arguments, "--author", "Anna=human"]) == 0
    assert Path("t.txt").read_text() == "=== 1 ===\nagent: Hallo\n"


def test_a_pipe_is_read_and_written(log: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quietdesk.cli", "convert", "-", "-", "--to", "sharegpt"],
        input=LOG.encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "HOME": str(log.parent)},
    )
    written = json.loads(done.stdout)
    assert [turn["value"] for turn in written["conversations"]] == ["Hi", "Yes?"]


def test_an_own_database_is_converted(log: Path) -> None:
    database = str(log.parent / "desk.db")
    now = datetime(2026, 3, 2, 9, tzinfo=UTC)
    store = open_store(database)
    info = ConversationInfo(
        id="c-1", title="Ship", customer="k", system="Acme.", created_at=now, updated_at=now,
        metadata={"channel": "web"},
    )  # fmt: skip
    store.create(info)
    store.add("c-1", Message(id="m1", author=Author.CUSTOMER, text="Norway?", created_at=now))
    store.add("c-1", Message(id="m2", author=Author.BOT, text="Yes.", model="tiny", created_at=now))
    store.close()
    assert run(["convert", database, "out.jsonl"]) == 0
    [found] = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(m["author"], m["text"]) for m in found["messages"]] == [
        ("system", "Acme."),
        ("customer", "Norway?"),
        ("bot", "Yes."),
    ]
    assert found["customer"] == "k" and found["messages"][1]["id"] == "m1"
    assert found["metadata"]["channel"] == "web" and found["metadata"]["model"] == "tiny"
    assert found["metadata"]["store"]["title"] == "Ship"


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Transcript"


def test_the_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--formats"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("openai", "langfuse", "chatwoot", "parquet", "store"))
