"""The app in a real terminal: typed into, left, reopened, hung up."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

APP = """
import sys
from quietdesk.assistant import open_store
from quietdesk.config import Settings
from quietdesk.engine.engine import Engine
from quietdesk.testing import ScriptedRunner
from quietdesk_tui.app import run

settings = Settings(database=sys.argv[1])
answer = "We ship to **Norway**. " + "And more, much more. " * 400
sys.exit(run(
    settings,
    store_opener=lambda: open_store(None, settings),
    engine_opener=lambda tell: Engine(lambda: ScriptedRunner([answer], delay_s=0.01)),
))
"""


class Terminal:
    """A tmux session of its own that runs the app."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._socket = f"qd-{uuid.uuid4().hex[:8]}"
        self._script = folder / "app.py"
        self._script.write_text(APP)
        self._folder = folder
        self._size = ("-x", str(columns), "-y", str(rows))

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )
        return done.stdout

    def open(self) -> None:
        state = self._folder / "state"
        self.tmux(
            "new-session", "-d", *self._size,
            f"env XDG_STATE_HOME={state} XDG_CONFIG_HOME={self._folder} QUIETDESK_QUANTISE=false "
            f"{sys.executable} {self._script} {self._folder / 'desk.db'}; echo ended with $?; "
            "sleep 100",
        )  # fmt: skip

    def pid(self) -> int:
        pane = self.tmux("list-panes", "-F", "#{pane_pid}").strip()
        done = subprocess.run(["pgrep", "-P", pane], capture_output=True, text=True, check=False)
        return int(done.stdout.split()[0])

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def shows(self, words: str) -> None:
        self.wait(lambda: words in self.screen(), words)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait(self, true: Callable[[], bool], what: str) -> None:
        for _ in range(300):
            if true():
                return
            time.sleep(0.1)
        raise AssertionError(f"{what!r} never came:\n{self.screen()}")

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture(params=[(80, 24), (160, 48)], ids=["80x24", "160x48"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, *request.param)
    terminal.open()
    yield terminal
    terminal.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_was_said_is_there_again_after_quitting(terminal: Terminal) -> None:
    terminal.shows("● scripted")
    terminal.type("Do you ship to Norway?")
    terminal.shows("Do you ship to Norway?")
    terminal.type("Enter")
    terminal.shows("We ship to Norway")
    terminal.type("Escape")
    terminal.shows("Stopped")
    terminal.type("C-q")
    terminal.shows("ended with 0")
    terminal.close()
    terminal.open()
    terminal.shows("We ship to Norway")
    terminal.shows("Stopped")


def test_a_terminal_that_goes_away_ends_the_app_in_mid_reply(terminal: Terminal) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("processes are looked at through /proc")
    terminal.shows("● scripted")
    terminal.type("Do you ship to Norway?")
    terminal.shows("Do you ship to Norway?")
    terminal.type("Enter")
    terminal.shows("We ship to Norway")
    pid = terminal.pid()
    assert is_running(pid)
    terminal.close()
    terminal.wait(lambda: not is_running(pid), "the end of the app")
    terminal.open()
    terminal.shows("We ship to Norway")
