"""The app as `quietdesk` starts it, but with a scripted model: for the tests in a real terminal."""

import sys
import time
from collections.abc import Callable

from quietdesk import Settings
from quietdesk.engine.backend import Backend
from quietdesk.engine.engine import Engine
from quietdesk.testing import ScriptedRunner
from quietdesk_tui.app import run


def reply(prompt: str) -> str:
    """A long answer to a question with `long` in it, else a short one."""
    question = prompt.rpartition("User:")[2] or prompt
    if "long" in question.rsplit("\n", 2)[0] + question:
        return "A long story: " + " ".join(f"word{number}" for number in range(400))
    return "We **ship** to Norway 你好 🙂."


def open_engine(tell: Callable[[float], bool]) -> Backend:
    """A scripted engine, after as many seconds as the first argument says."""
    wanted = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < wanted:
        tell(0.5)
        time.sleep(0.01)
    return Engine(lambda: ScriptedRunner(reply, delay_s=0.02))


if __name__ == "__main__":
    sys.exit(run(Settings(), engine_opener=open_engine))
