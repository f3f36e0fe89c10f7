"""A disk that is really full, in mid-reply."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quietdesk.errors import StoreWriteError
from quietdesk.store.sql import open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two mebibytes."""
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root; a limit on files is tested elsewhere")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_in_mid_reply_is_an_error_and_the_conversation_opens(small_disk: Path) -> None:
    database = str(small_disk / "q.db")
    now = datetime.now(UTC)
    store = open_sql_store(database)
    store.create(ConversationInfo(id="c", title="", created_at=now, updated_at=now))
    question = Message(id="q", author=Author.CUSTOMER, text="Where?")
    store.begin_turn("c", (question,), Message(id="r", author=Author.BOT, text=""))
    store.checkpoint("r", "Half")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    said = "Half"
    with pytest.raises(StoreWriteError, match="disk") as caught:
        for number in range(10_000):
            text = f"Half of the reply, piece {number} " * 50
            store.checkpoint("r", text)
            said = text
    assert database in str(caught.value)
    with pytest.raises(StoreWriteError):
        store.finish(
            Message(id="r", author=Author.BOT, text="y" * 500_000, finish_reason=FinishReason.STOP)
        )
    assert [m.text for m in store.messages("c")] == ["Where?", said]
    other = open_sql_store(database)  # as after a restart, with the disk still full
    assert [m.text for m in other.messages("c")] == ["Where?", said]
    other.close()
    ballast.unlink()
    whole = Message(id="r", author=Author.BOT, text="Whole", finish_reason=FinishReason.STOP)
    store.finish(whole)
    assert store.messages("c")[-1].text == "Whole"
    assert store.integrity_check() == []
    store.close()


def test_closing_on_a_full_disk_says_so_and_the_reply_is_interrupted_later(
    small_disk: Path,
) -> None:
    database = str(small_disk / "q.db")
    now = datetime.now(UTC)
    store = open_sql_store(database)
    store.create(ConversationInfo(id="c", title="", created_at=now, updated_at=now))
    store.begin_turn("c", (), Message(id="r", author=Author.BOT, text=""))
    store.checkpoint("r", "Half")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(StoreWriteError):
        for number in range(10_000):
            store.checkpoint("r", f"Half of the reply, piece {number} " * 50)
    said = store.messages("c")[-1].text
    with pytest.raises(StoreWriteError):
        store.close()
    ballast.unlink()
    again = open_sql_store(database)  # this process lives, but the store that wrote does not
    reply = again.messages("c")[-1]
    assert (reply.text, reply.finish_reason) == (said, FinishReason.INTERRUPTED)
    again.close()
