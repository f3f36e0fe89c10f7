"""The app in a real terminal, under tmux: typing, quitting, coming back, being killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parent / "terminal_app.py"
WAIT_S = 90.0
"""How long something may take on a busy machine before the test fails."""

WHOLE = (160, 48)
"""A terminal in which the whole of the long story can be seen, however far it has come."""


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._environment = {
            **os.environ,
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "LC_ALL": "C.UTF-8",
            "QUIETDESK_QUANTISE": "false",
        }
        # Where these are set, the app takes them for the terminal's size and never asks again.
        for name in ("COLUMNS", "LINES"):
            self._environment.pop(name, None)

    @property
    def _tmux(self) -> list[str]:
        """Each start has a server of its own: a killed one may still hold its socket."""
        return ["tmux", "-S", str(self._folder / f"tmux-{self._starts}"), "-f", os.devnull]

    def start(self, *command: str, size: tuple[int, int] = (80, 24)) -> None:
        """Run a command in a new window; its exit code is shown after it."""
        self.kill()
        self._starts += 1
        line = " ".join(f"'{word}'" for word in command)
        width, height = map(str, size)
        shell = f"{line}; echo EXIT=$?; sleep 600"
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", width, "-y", height, shell],
            env=self._environment,
            check=True,
        )

    def type(self, text: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True)

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def resize(self, width: int, height: int) -> None:
        size = ["-x", str(width), "-y", str(height)]
        subprocess.run([*self._tmux, "resize-window", *size], check=True)

    @property
    def screen(self) -> str:
        done = subprocess.run(
            [*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True
        )
        return done.stdout

    @property
    def pid(self) -> int:
        """Of the program in the window."""
        done = subprocess.run(
            [*self._tmux, "display-message", "-p", "#{pane_pid}"],
            capture_output=True,
            text=True,
            check=True,
        )
        children = Path(f"/proc/{done.stdout.strip()}/task/{done.stdout.strip()}/children")
        return int(children.read_text().split()[0])

    def wait_for(self, *words: str) -> str:
        """Until all the words are on the screen; the screen."""
        deadline = time.monotonic() + WAIT_S
        while True:
            screen = self.screen
            if all(word in screen for word in words):
                return screen
            assert time.monotonic() < deadline, f"no {words} in:\n{screen}\n{self.log}"
            time.sleep(0.05)

    @property
    def log(self) -> str:
        file = self._folder / "state" / "quietdesk" / "app.log"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def kill(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.kill()


def scripted(load_s: float = 0.0) -> tuple[str, ...]:
    return (sys.executable, str(APP), str(load_s))


def test_what_was_said_is_there_after_quitting_and_coming_back(terminal: Terminal) -> None:
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("Write a message", "Try one of these")
    terminal.type("Do you ship to Norway?")
    terminal.press("Enter")
    screen = terminal.wait_for("We ship to Norway 你好 🙂.")
    assert "**" not in screen and "Do you ship to Norway?" in screen
    terminal.type("Tell me a long one")
    # The last words of a reply stand there a moment before it has ended, and Enter waits for that.
    for _ in range(60):
        terminal.press("Enter")
        time.sleep(0.5)
        if "A long story:" in terminal.screen:
            break
    terminal.wait_for("A long story:", "word3")
    terminal.press("Escape")
    terminal.wait_for("Stopped here. Ctrl+G goes on")
    terminal.type("not sent yet")
    terminal.wait_for("not sent yet")
    terminal.press("C-q")
    assert "Traceback" not in terminal.wait_for("EXIT=0")
    terminal.start(*scripted(), size=WHOLE)
    screen = terminal.wait_for("Tell me a long one", "Stopped here", "not sent yet")
    assert "word399" not in screen
    terminal.press("C-c")
    terminal.wait_for("EXIT=0")
    assert "ERROR" not in terminal.log and "CRITICAL" not in terminal.log


def test_a_message_typed_while_the_model_loads_is_sent(terminal: Terminal) -> None:
    terminal.start(*scripted(load_s=3.0))
    terminal.wait_for("Write already")
    terminal.type("Early bird")
    terminal.press("Enter")
    terminal.wait_for("Early bird", "We ship to Norway")
    terminal.press("C-q")
    terminal.wait_for("EXIT=0")


def test_quitting_while_the_model_loads_takes_no_time(terminal: Terminal) -> None:
    terminal.start(*scripted(load_s=3600.0))
    terminal.wait_for("Loading")
    terminal.press("C-q")
    terminal.wait_for("EXIT=0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_reply_keeps_it(
    terminal: Terminal, number: signal.Signals
) -> None:
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("Write a message")
    terminal.type("A long one")
    terminal.press("Enter")
    terminal.wait_for("A long story:", "word3")
    os.kill(terminal.pid, number)
    terminal.wait_for("EXIT=0")
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("A long one", "A long story:", "word3", "Stopped here")


def test_a_killed_app_leaves_what_was_said_marked_as_cut_off(terminal: Terminal) -> None:
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("Write a message")
    terminal.type("A long one")
    terminal.press("Enter")
    # A reply is kept at most a second behind what was said.
    terminal.wait_for("A long story:", "word99")
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.wait_for("EXIT=137")
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("A long one", "A long story:", "Cut off: the app ended")


def test_a_terminal_that_goes_away_ends_the_app_and_keeps_the_reply(terminal: Terminal) -> None:
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("Write a message")
    terminal.type("A long one")
    terminal.press("Enter")
    terminal.wait_for("A long story:", "word3")
    app = Path(f"/proc/{terminal.pid}/stat")
    terminal.kill()
    deadline = time.monotonic() + WAIT_S
    while app.exists() and app.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the app went on without a terminal"
        time.sleep(0.05)
    terminal.start(*scripted(), size=WHOLE)
    terminal.wait_for("A long one", "A long story:", "word3", "Stopped here")


def test_the_window_can_be_made_too_small_and_large_again(terminal: Terminal) -> None:
    terminal.start(*scripted())
    terminal.wait_for("Write a message")
    terminal.resize(30, 8)
    terminal.wait_for("30×8 is too small.")
    terminal.resize(160, 48)
    terminal.wait_for("Write a message", "Search", "No conversations yet.")


def test_ctrl_j_begins_a_new_line(terminal: Terminal) -> None:
    terminal.start(*scripted())
    terminal.wait_for("Write a message")
    terminal.type("first")
    terminal.press("C-j")
    terminal.type("second")
    lines = terminal.wait_for("│ first", "│ second").splitlines()
    first = next(number for number, line in enumerate(lines) if "│ first" in line)
    assert "│ second" in lines[first + 1]


def test_the_real_model_answers(terminal: Terminal, starter_path: Path) -> None:
    environment = ["env", "QUIETDESK_N_SEQ=1", "QUIETDESK_N_CTX=512", "QUIETDESK_MAX_TOKENS=6"]
    command = [*environment, "QUIETDESK_SEED=1", sys.executable, "-m", "quietdesk.cli"]
    terminal.start(*command, "--model", str(starter_path))
    terminal.wait_for("Write a message")
    terminal.type("Say hello.")
    terminal.press("Enter")
    terminal.wait_for("Say hello.", "Assistant", "tok/s", "context", "●")
    terminal.press("C-q")
    terminal.wait_for("EXIT=0")


@pytest.mark.parametrize("command", [scripted(), (sys.executable, "-m", "quietdesk.cli")])
def test_without_a_terminal_the_app_says_what_to_use(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "quietdesk chat" in done.stderr and "Traceback" not in done.stderr


def test_a_bad_key_in_the_settings_is_told_before_the_screen(terminal: Terminal) -> None:
    folder = Path(terminal._environment["XDG_CONFIG_HOME"]) / "quietdesk"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[app.keys]\nnew = "ctrl+r"\n')
    terminal.start(sys.executable, "-m", "quietdesk.cli")
    screen = terminal.wait_for("EXIT=2")
    assert "is taken by 'regenerate'" in " ".join(screen.split())
