"""How long the app's screen is held up while a reply of 20,000 tokens streams.

    python tests/bench/app.py [--tokens 20000] [--rate 400] [--kind mixed] [--save FILE]

The app runs in a pseudo-terminal of 120 columns and 36 rows, with a scripted model that says the
reply at a steady rate, ten times that of the bundled model. Measured are

- the lag of the event loop: how much later than asked for a sleep of 5 ms ends;
- the time from a key's arrival to its character standing in the composer;
- both for the first and the last tenth of the reply, which should be the same;
- the processor time that the whole process takes while the reply streams.

The last line printed is one line of JSON; `--save` keeps it.
"""

import argparse
import asyncio
import fcntl
import json
import os
import platform
import pty
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from datetime import date
from pathlib import Path
from typing import Any

from textual import on
from textual.events import Key
from textual.widgets import TextArea

from quietdesk import Settings
from quietdesk.engine.device import machine
from quietdesk.engine.engine import Engine
from quietdesk.store.memory import MemoryStore
from quietdesk.testing import ScriptedRunner
from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.keys import KeyMap
from quietdesk_tui.memory import Memory
from quietdesk_tui.session import Phase, Session
from quietdesk_tui.widgets.composer import Composer

SIZE = (36, 120)
WORDS = [
    "the", "a", "customer", "order", "bike", "ships", "from", "our", "warehouse", "within", "three",
    "days", "and", "you", "can", "return", "it", "when", "something", "is", "wrong", "please",
    "tell", "me", "**bold**", "`code`", "number",
]  # fmt: skip


def reply(kind: str, tokens: int) -> str:
    """Invented Markdown of about so many words: `mixed`, or one endless `list`, `text`, `code`."""
    rng = random.Random(1)

    def some(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    parts: list[str] = ["```python\n"] if kind == "code" else []
    said = 0
    while said < tokens:
        if kind == "list":
            part = f"- {some(12)}\n"
        elif kind == "text":
            part = some(40) + ". "
        elif kind == "code":
            part = f"def f{said}(x):\n    return x + {said}  # {some(4)}\n"
        else:
            items = "".join(f"- {some(12)}\n" for _ in range(6))
            code = "".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(10))
            rows = "".join(f"| {some(2)} | {some(3)} | {n} |\n" for n in range(5))
            table = f"| a | b | c |\n|---|---|---|\n{rows}"
            part = f"## {some(4)}\n\n{some(80)}\n\n{items}\n```python\n{code}```\n\n{table}\n"
        parts.append(part)
        said += len(part.split())
    return "".join(parts)


class ProbedApp(QuietdeskApp):
    """The app, with someone who types while the reply streams, and a clock beside the loop."""

    def __init__(self, session: Session, result: Path) -> None:
        super().__init__(session, Memory(None), KeyMap())
        self._result = result
        self._key_at = 0.0
        self.lags: list[tuple[int, float]] = []
        self.keys: list[tuple[int, float]] = []

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._probe())

    @on(TextArea.Changed)
    def _shown(self) -> None:
        if self._key_at:
            self.keys.append((self._said, time.perf_counter() - self._key_at))
            self._key_at = 0.0

    @property
    def _said(self) -> int:
        """How many pieces of the reply were said."""
        turn = self.session.turn
        return len(turn.parts) if turn is not None else 0

    async def _probe(self) -> None:
        while self.session.phase is not Phase.READY:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        composer = self.chat.query_one(Composer)
        composer.replace_text("Tell me everything.")
        composer.action_send()
        while (turn := self.session.turn) is None or not turn.parts:
            await asyncio.sleep(0.005)
        cpu, wall, typed = time.process_time(), time.perf_counter(), time.perf_counter()
        while self.session.turn is not None:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            self.lags.append((self._said, time.perf_counter() - before - 0.005))
            if before - typed > 0.25 and not self._key_at:
                typed = self._key_at = time.perf_counter()
                self.post_message(Key("x", "x"))
        took = time.perf_counter() - wall
        self._result.write_text(
            json.dumps(
                {
                    "tokens": len(turn.parts),
                    "seconds": took,
                    "cpu_share": (time.process_time() - cpu) / took,
                    "lags": [(said / len(turn.parts), lag) for said, lag in self.lags],
                    "keys": [(said / len(turn.parts), lag) for said, lag in self.keys],
                }
            )
        )
        self._end()


def child(kind: str, tokens: int, rate: float, result: Path) -> None:
    """Run the app in this terminal until the reply has ended."""
    text = reply(kind, tokens)
    runner = ScriptedRunner([text], n_ctx=4 * tokens, delay_s=1 / rate)
    session = Session(
        Settings(max_tokens=3 * tokens),
        store_opener=MemoryStore,
        engine_opener=lambda tell: Engine(lambda: runner),
    )
    ProbedApp(session, result).run()


def measure(kind: str, tokens: int, rate: float) -> dict[str, Any]:
    """Run the app in a pseudo-terminal of its own, and read what it draws."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            child(kind, tokens, rate, result)
            os._exit(0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        drawn, data = 0, b" "
        last = b""
        while data:
            try:
                data = os.read(terminal, 2**16)
            except OSError:
                # What Linux says once nobody holds the other end any more.
                break
            drawn += len(data)
            last = (last + data)[-4000:]
        os.waitpid(pid, 0)
        if not result.exists():
            sys.exit(f"The app ended early:\n{last.decode(errors='replace')}")
        raw = json.loads(result.read_text())
    return {
        "kind": kind,
        "tokens": raw["tokens"],
        "tokens_per_second": round(raw["tokens"] / raw["seconds"], 1),
        "cpu_share": round(raw["cpu_share"], 3),
        "drawn_bytes": drawn,
        "lag": quantiles(raw["lags"]),
        "key": quantiles(raw["keys"]),
    }


def quantiles(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Median, 99th percentile and maximum in ms, and the percentile at both ends of the reply."""
    values = sorted(value for _, value in pairs)
    first = sorted(value for share, value in pairs if share < 0.1)
    last = sorted(value for share, value in pairs if share >= 0.9)
    return {
        "count": len(values),
        "median_ms": _ms(statistics.median(values)),
        "p99_ms": _ms(_p99(values)),
        "max_ms": _ms(values[-1]),
        "p99_first_tenth_ms": _ms(_p99(first)),
        "p99_last_tenth_ms": _ms(_p99(last)),
    }


def _p99(values: list[float]) -> float:
    return values[min(int(len(values) * 0.99), len(values) - 1)] if values else 0.0


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip()


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=400.0, help="tokens per second")
    parser.add_argument("--kind", default="mixed", help="mixed, list, text or code; or all")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    kinds = ["mixed", "list", "text", "code"] if arguments.kind == "all" else [arguments.kind]
    runs = [measure(kind, arguments.tokens, arguments.rate) for kind in kinds]
    print("kind    tokens  tok/s  cpu   lag median  p99   max   first 1/10  last 1/10   key p99")
    for run in runs:
        lag = run["lag"]
        print(
            f"{run['kind']:<7} {run['tokens']:>6} {run['tokens_per_second']:>6.0f} "
            f"{run['cpu_share']:>5.0%} {lag['median_ms']:>9.2f} {lag['p99_ms']:>7.1f} "
            f"{lag['max_ms']:>5.0f} {lag['p99_first_tenth_ms']:>9.1f} "
            f"{lag['p99_last_tenth_ms']:>10.1f} {run['key']['p99_ms']:>10.1f}"
        )
    result = {
        "bench": "app",
        "date": date.today().isoformat(),
        "machine": f"{machine().cpu}, {machine().cores} cores",
        "python": platform.python_version(),
        "commit": commit(),
        "command": f"python tests/bench/app.py {' '.join(sys.argv[1:])}".strip(),
        "size": f"{SIZE[1]}x{SIZE[0]}",
        "runs": runs,
    }
    line = json.dumps(result)
    if arguments.save:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        arguments.save.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
