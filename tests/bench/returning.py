"""More conversations than sequences, each coming back after all the others.

    python tests/bench/returning.py [--conversations 64] [--sequences 16] [--turns 4] [--model GGUF]

Conversations share a system prompt of about 300 tokens. In each turn every one of them asks a
question of about 30 tokens and gets a reply of 16, one after the other, so that each comes back
when its sequence was long given to somebody else: its state comes from memory, or from disk once
memory (`--parked-mib`) is full. Told are:

- evaluated prompt tokens over those of the new suffixes alone, from the second turn on;
- a new customer's time to the first token, who shares the system prompt, over that of a customer
  who returns, both with the same number of new tokens; medians.

The last line printed is one line of JSON; `--result` writes it with machine and commit.
"""

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import llama_cpp

from quietdesk.bench import SYSTEM, question
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits
from quietdesk.engine.states.files import StateFolder
from quietdesk.engine.states.keeper import StateKeeper
from quietdesk.types import Usage
from quietdesk_models.weights import find

REPLY_TOKENS = 16


class Desk:
    """Conversations on one engine, one request at a time."""

    def __init__(self, engine: Engine) -> None:
        """Nobody is there yet."""
        self._engine = engine
        self._dice = random.Random(1)
        self._system = self._tokens(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")
        self._said: dict[int, list[int]] = {}

    def _tokens(self, text: str) -> list[int]:
        return self._engine.tokenize(text, special=True, begin=False)

    def ask(self, number: int) -> tuple[int, Usage]:
        """The next turn of a conversation: new tokens in its prompt, and what it cost."""
        asked = question(self._dice)
        before = self._said.get(number, self._system)
        frame = "\n" if number in self._said else ""
        new = self._tokens(f"{frame}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n")
        stream = self._engine.submit(
            [*before, *new],
            limits=Limits(max_tokens=REPLY_TOKENS, ignore_end=True),
            owner=f"c-{number}",
        )
        stream.wait()
        if stream.error is not None:
            raise stream.error
        self._said[number] = [*before, *new, *stream.tokens, *self._tokens("<|im_end|>")]
        # The end token was not evaluated yet, nor was the last token said.
        return len(new) + (2 if frame else 0), stream.usage


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Hold the conversations."""
    path = options.model or find("smollm2-135m").path
    n_ctx = 512 + 96 * options.turns
    chosen = plan(read_header(path), machine(), n_ctx=n_ctx, n_seq=options.sequences)
    keeper = StateKeeper(StateFolder(folder, limit_bytes=options.disk_mib * 2**20))
    with Engine(
        lambda: LlamaRunner(path, chosen),
        parked_bytes=options.parked_mib * 2**20,
        states=keeper,
    ) as engine:
        desk = Desk(engine)
        evaluated = new = 0
        fresh, returning = [], []
        began = time.perf_counter()
        for turn in range(options.turns):
            for number in range(options.conversations):
                suffix, usage = desk.ask(number)
                if turn:
                    evaluated += usage.evaluated_tokens
                    new += suffix
                    returning.append(usage.first_token_s)
                if turn and number % 4 == 0:
                    newcomer = options.conversations * (turn + 1) + number
                    fresh.append(desk.ask(newcomer)[1].first_token_s)
        seconds = time.perf_counter() - began
        metrics = engine.metrics()
    return {
        "evaluated_tokens": evaluated,
        "new_tokens": new,
        "evaluated_over_new": round(evaluated / new, 4),
        "returning_first_token_ms": round(1000 * statistics.median(returning), 1),
        "new_customer_first_token_ms": round(1000 * statistics.median(fresh), 1),
        "new_over_returning": round(statistics.median(fresh) / statistics.median(returning), 3),
        "states_written": metrics.states_written,
        "states_loaded_from_disk": metrics.states_loaded,
        "states_skipped": metrics.states_skipped,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--parked-mib", type=int, default=512, help="memory for parked states")
    parser.add_argument("--disk-mib", type=int, default=4096, help="disk for states")
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model if left out")
    parser.add_argument("--result", type=Path, help="written here too")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    here = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    figures = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": here.cpu,
        "cores": here.cores,
        "llama_cpp_python": llama_cpp.__version__,
        "conversations": options.conversations,
        "sequences": options.sequences,
        "turns": options.turns,
        "parked_mib": options.parked_mib,
        **found,
    }
    if options.result is not None:
        options.result.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
