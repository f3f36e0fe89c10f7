"""kill -9 in mid-reply, and two processes on one database."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quietdesk.errors import ConversationBusyError
from quietdesk.testing import scripted_assistant
from quietdesk.types import FinishReason

WRITER = """
import sys
from quietdesk.testing import scripted_assistant
text = " ".join(f"word{i}" for i in range(5000))
assistant = scripted_assistant([text], delay_s=0.005, n_ctx=20000, database=sys.argv[1])
conversation = assistant.start()
reply = conversation.stream("Tell me everything.", max_tokens=5000)
print(conversation.id, flush=True)
for delta in reply:
    print(delta.text, end="", flush=True)
"""


def start_writer(database: Path) -> tuple["subprocess.Popen[str]", str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(database)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    return writer, writer.stdout.readline().strip()


def test_after_kill_9_everything_said_is_there_and_the_cut_reply_is_marked(tmp_path: Path) -> None:
    database = tmp_path / "killed.db"
    writer, conversation_id = start_writer(database)
    time.sleep(2.5)
    writer.send_signal(signal.SIGKILL)
    shown = writer.communicate()[0]
    with scripted_assistant(["Go on."], database=database) as assistant:
        conversation = assistant.resume(conversation_id)
        question, cut = conversation.messages
        assert question.text == "Tell me everything."
        assert cut.finish_reason is FinishReason.INTERRUPTED
        # Checkpoints come once a second: what was said before the last one is there.
        assert shown.startswith(cut.text)
        assert len(cut.text) > 200
        assert conversation.send("And?").text == "Go on."


def test_another_process_waits_for_a_live_reply_and_sees_it(tmp_path: Path) -> None:
    database = tmp_path / "two.db"
    writer, conversation_id = start_writer(database)
    try:
        with scripted_assistant(["Go on."], database=database) as assistant:
            conversation = assistant.resume(conversation_id)
            assert conversation.messages[1].finish_reason is None
            with pytest.raises(ConversationBusyError):
                conversation.send("And?")
            assert assistant.start().send("Meanwhile?").text == "Go on."
    finally:
        writer.kill()
        writer.communicate()
