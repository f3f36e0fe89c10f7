"""What the app remembers survives, and a broken file costs nothing but what stood in it."""

import json
import stat
from pathlib import Path

import pytest

from quietdesk_tui.memory import HISTORY_LIMIT, Memory


def test_state_and_history_are_there_again(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "state")
    memory.state.conversation_id = "c-1"
    memory.state.drafts = {"c-1": "half a\nmessage 中文", "": "new", "c-2": ""}
    memory.save()
    memory.add_to_history("first\nline")
    memory.add_to_history("second")
    again = Memory(tmp_path / "state")
    assert again.state.conversation_id == "c-1"
    assert again.state.drafts == {"c-1": "half a\nmessage 中文", "": "new"}
    assert again.history == ["first\nline", "second"]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "state")
    memory.save()
    memory.add_to_history("secret")
    for name in ("app.json", "history.jsonl"):
        assert stat.S_IMODE((tmp_path / "state" / name).stat().st_mode) == 0o600


def test_the_same_message_again_is_remembered_once() -> None:
    memory = Memory(None)
    for text in ("a", "a", "b", "a"):
        memory.add_to_history(text)
    assert memory.history == ["a", "b", "a"]


def test_history_does_not_grow_without_bound(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for number in range(HISTORY_LIMIT + 5):
        memory.add_to_history(str(number))
    assert Memory(tmp_path).history == [str(number) for number in range(5, HISTORY_LIMIT + 5)]


@pytest.mark.parametrize("text", ["", "{", '{"drafts": 3}', "\x00", '{"new_field": 1}'])
def test_a_broken_state_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "app.json").write_text(text)
    assert Memory(tmp_path).state.conversation_id == ""


def test_broken_lines_of_history_are_passed_over(tmp_path: Path) -> None:
    lines = [json.dumps("good"), "{broken", "17", json.dumps("also good")]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    assert Memory(tmp_path).history == ["good", "also good"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    memory = Memory(tmp_path / "state")
    memory.save()
    memory.add_to_history("kept in memory")
    assert memory.history == ["kept in memory"]
