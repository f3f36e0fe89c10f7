"""`quietdesk sessions import`: what `sessions export` wrote comes back, or is refused whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from quietdesk.cli import main
from quietdesk.store.sql import open_store
from quietdesk.testing import scripted_assistant

START = "2020-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)


def document(name: str, **changes: Any) -> dict[str, Any]:
    """A conversation of a question with two answers, the first of which is active."""
    info = {"id": name, "title": "Old", "created_at": START, "updated_at": START}
    said = {"text": "Hello", "created_at": START, "finish_reason": "stop"}
    messages = [
        {"id": f"{name}-q", "author": "customer", **said},
        {"id": f"{name}-a", "author": "bot", "parent_id": f"{name}-q", **said},
        {"id": f"{name}-b", "author": "bot", "parent_id": f"{name}-q", **said},
    ]
    return {"conversation": info, "messages": messages, "leaf_id": f"{name}-a", **changes}


def run(*arguments: str, database: str) -> int:
    return main.run(["sessions", *arguments, "--database", database])


def kept(database: str) -> list[str]:
    store = open_store(database)
    try:
        return sorted(info.id for info in store.conversations())
    finally:
        store.close()


def test_what_was_exported_comes_back_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    with scripted_assistant(["Yes.", "No.", "Well."], database=Path("old.db")) as assistant:
        conversation = assistant.start(customer="k", system="Be brief.", title="Ünïcode \u2028")
        first = conversation.send("Really?")
        conversation.regenerate().wait()
        conversation.send("Surely?")
        assistant.store.select(conversation.id, first.id)
    name = conversation.id
    assert run("export", name, "-o", "one.json", database="old.db") == 0
    exported = json.loads(Path("one.json").read_text(encoding="utf-8"))
    assert exported["leaf_id"] == first.id
    Path("lines.jsonl").write_text(
        "\n".join(json.dumps(one) for one in (exported, document("c-1"))), encoding="utf-8"
    )
    assert run("import", "lines.jsonl", database="new.db") == 0
    assert run("export", name, "-o", "two.json", database="new.db") == 0
    assert json.loads(Path("two.json").read_text(encoding="utf-8")) == exported
    assert kept("new.db") == sorted(["c-1", name])
    assert "2 conversations with 8 messages imported." in capfd.readouterr().err


def test_a_dry_run_keeps_nothing_and_refuses_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text(json.dumps(document("c-1")))
    assert run("import", "a.json", "--dry-run", database="d.db") == 0
    assert not Path("d.db").exists()
    assert "nothing was" in capfd.readouterr().err
    assert run("import", "a.json", database="d.db") == 0
    assert run("import", "a.json", "--dry-run", database="d.db") == 2
    assert "a.json (conversation 'c-1'): the store has a conversation" in capfd.readouterr().err


def test_a_reply_that_was_being_written_is_an_interrupted_one() -> None:
    whole = document("c-1")
    whole["messages"][1]["finish_reason"] = None
    Path("a.json").write_text(json.dumps(whole))
    assert run("import", "a.json", database="d.db") == 0
    store = open_store("d.db")
    assert [m.finish_reason for m in store.messages("c-1")] == ["stop", "interrupted"]
    store.close()


def broken(**changes: Any) -> str:
    whole = document("c-9", leaf_id=None)
    whole["messages"][1] |= changes
    return json.dumps(whole)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (json.dumps(document("c-1")), "has the same id"),
        (broken(id="c-1-q"), "message 2 of 3 (id 'c-1-q')"),
        (broken(parent_id="gone"), "parent 'gone' is not among"),
        (broken(parent_id="c-9-b"), "does not come before it"),
        (broken(created_at="2999-01-01T00:00:00Z"), "in the future"),
        (broken(created_at="2020-01-01T00:00:00"), "no time zone"),
        (broken(author="robot"), "in messages.1.author: Input should be"),
        (broken(usage={"prompt_tokens": float("nan")}), "NaN"),
        (json.dumps(document("c-9", leaf_id="x")), "leaf_id 'x'"),
        ("{} {", "it is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("7", "in the whole"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_record_is_refused_with_its_place_and_nothing_is_kept(
    capfd: pytest.CaptureFixture[str], second: str, why: str
) -> None:
    Path("good.json").write_text(json.dumps(document("c-0"), indent=2))
    Path("bad.jsonl").write_text(f"{json.dumps(document('c-1'))}\n\n{second}\n")
    assert run("import", "good.json", "bad.jsonl", database="d.db") == 2
    told = capfd.readouterr().err
    assert "bad.jsonl, record 2 (line 3)" in told
    assert why in told
    assert "Nothing was imported." in told
    assert "Traceback" not in told
    assert kept("d.db") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it is empty"), (b"# Markdown\n\nYes.\n", "no JSON"), (b"\xff{}", "not UTF-8")],
)
def test_a_file_without_conversations_is_refused(
    capfd: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    Path("a.json").write_bytes(content)
    assert run("import", "a.json", database="d.db") == 2
    assert why in capfd.readouterr().err
    assert run("import", "none.json", database="d.db") == 2
    assert "none.json" in capfd.readouterr().err
