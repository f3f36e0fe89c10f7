"""Conversations with the bundled model resume from disk, also after kill -9; erasing reaches it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quietdesk import Assistant, Settings, kept_states

pytestmark = pytest.mark.usefixtures("starter_path")

TURN = "My order 4711 has not arrived and I moved to another street last week. " * 8

CHILD = """
import sys, time
from pathlib import Path
from quietdesk import Assistant, Settings, kept_states

kept_states.cache_folder = lambda: Path(sys.argv[2])
settings = Settings(quantise=False, n_seq=1, n_ctx=1024, temperature=0, max_tokens=12)
with Assistant.open(database=sys.argv[1], settings=settings) as assistant:
    conversation = assistant.start(customer="anna")
    reply = conversation.send(sys.argv[3])
    while not assistant.engine.metrics().states_written:
        time.sleep(0.05)
    print(conversation.id, reply.usage.prompt_tokens, flush=True)
    time.sleep(600)
"""


def opened(database: Path, **changed: object) -> Assistant:
    values = {"quantise": False, "n_seq": 1, "n_ctx": 1024, "temperature": 0, "max_tokens": 12}
    return Assistant.open(database=database, settings=Settings.model_validate(values | changed))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_states, "cache_folder", lambda: tmp_path)
    return tmp_path / "states"


def test_after_kill_9_a_conversation_goes_on_without_being_read_again(
    tmp_path: Path, folder: Path
) -> None:
    database = tmp_path / "desk.db"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, database, tmp_path, TURN], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    conversation_id, n_read = child.stdout.readline().split()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with opened(database) as assistant:
        reply = assistant.resume(conversation_id).send("And now?")
        assert reply.usage.cached_tokens >= int(n_read)
        # The reply's last token, the template's frame and two words.
        assert reply.usage.evaluated_tokens < 30
        assert assistant.engine.metrics().states_loaded == 1
        resumed = reply.text
    for file in folder.iterdir():
        file.unlink()
    with opened(database) as assistant:
        again = assistant.resume(conversation_id).regenerate().wait()
        assert again.usage.cached_tokens == 0
        assert again.text == resumed
    # Another number format of the cache: refused, and read again.
    with opened(database, kv_type="q8_0") as assistant:
        assert assistant.resume(conversation_id).send("Hello?").usage.cached_tokens == 0
    with opened(database) as assistant:
        assert len(list(folder.iterdir())) == 2
        assistant.delete(conversation_id)
        assert list(folder.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_switched_off_or_encrypted_nothing_is_kept_and_what_was_kept_goes(
    tmp_path: Path, folder: Path
) -> None:
    with opened(tmp_path / "desk.db") as assistant:
        assistant.start().send(TURN)
    assert len(list(folder.iterdir())) == 1
    with opened(tmp_path / "other.db", state_disk_mb=0) as assistant:
        assistant.start().send(TURN)
    assert list(folder.iterdir()) == []
    with opened(tmp_path / "secret.db", database_key="a long passphrase") as assistant:
        assistant.start().send(TURN)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_states_of_conversations_that_are_gone_go_at_the_next_start(
    tmp_path: Path, folder: Path
) -> None:
    with opened(tmp_path / "desk.db") as assistant:
        conversation = assistant.start(customer="anna")
        conversation.send(TURN)
    with opened(tmp_path / "desk.db") as assistant:
        assistant.store.erase_customer("anna")
        place = str(tmp_path / "desk.db")
        assert kept_states.sweep(place, assistant.settings, assistant.store) == 1
    assert list(folder.iterdir()) == []
