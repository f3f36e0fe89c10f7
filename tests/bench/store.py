"""How long the store takes: search, lists, turns, opening, on 10,000 conversations.

    python tests/bench/store.py                                  # an SQLite file of its own
    python tests/bench/store.py --database postgresql://...      # a server that is there
    python tests/bench/store.py --write                          # also into tests/bench/results

Prints a table of medians and, last, one line of JSON. Conversations have ten messages of some forty
words, drawn as in natural text: the commonest word stands in every conversation, most in few.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

RESULTS = Path(__file__).parent / "results" / "store.json"
START = datetime(2026, 1, 1, tzinfo=UTC)
OPENING = """
import time, sys
import quietdesk.types
started = time.perf_counter()
from quietdesk.store.sql import open_store
imported = time.perf_counter()
store = open_store(sys.argv[1])
opened = time.perf_counter()
store.conversations()
print(imported - started, opened - imported, time.perf_counter() - opened)
"""


def made(n_conversations: int, seed: int) -> Iterator[tuple[ConversationInfo, list[Message]]]:
    """Conversations with words of a Zipf distribution."""
    dice = random.Random(seed)
    starts = ("re", "un", "ba", "co", "di", "mo", "sta", "tri", "ver", "wa", "pla", "fo")
    ends = ("nt", "ting", "ly", "mer", "sion", "ve", "ck", "dle", "ness", "ra")
    vocabulary = [f"{a}{b}{n}" for n in range(100) for a in starts for b in ends]
    dice.shuffle(vocabulary)
    weights = [1 / (rank + 1) for rank in range(len(vocabulary))]
    cumulated = [sum(weights[:1])]
    for weight in weights[1:]:
        cumulated.append(cumulated[-1] + weight)
    vocabulary[0] = "the"
    for number in range(n_conversations):
        moment = START + timedelta(minutes=number)
        info = ConversationInfo(
            id=f"c-{dice.getrandbits(64):016x}",
            title=" ".join(dice.choices(vocabulary, cum_weights=cumulated, k=5)),
            customer=f"k-{number % (n_conversations // 4 + 1)}",
            created_at=moment,
            updated_at=moment,
            metadata={"tags": [dice.choice(("web", "mail", "phone"))], "status": "open"},
        )
        messages: list[Message] = []
        for place in range(10):
            author = (Author.CUSTOMER, Author.BOT)[place % 2]
            if place == 9 and number % 50 == 0:
                author = Author.HUMAN
            words = dice.choices(vocabulary, cum_weights=cumulated, k=dice.randrange(10, 70))
            messages.append(
                Message(
                    id=f"m-{dice.getrandbits(64):016x}",
                    author=author,
                    text=" ".join(words),
                    created_at=moment,
                    parent_id=messages[-1].id if messages else None,
                    finish_reason=FinishReason.STOP if author is Author.BOT else None,
                )
            )
        yield info, messages


def median_ms(work: Callable[[], object], repeat: int) -> float:
    """The median of some runs, in milliseconds, after one that does not count."""
    work()
    took = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def searches(store: SqlStore, repeat: int) -> dict[str, float]:
    """What a search box asks for."""
    rare = store.messages(store.conversations(limit=1)[0].id)[0].text.split()
    rare_word = max(rare, key=lambda word: int("".join(filter(str.isdigit, word)) or 0))
    asked: dict[str, dict[str, Any]] = {
        "the commonest word": {"query": "the"},
        "a rare word": {"query": rare_word},
        "two common words": {"query": f"the {rare[0]}"},
        "three words, one of them rare": {"query": f"the {rare[0]} {rare_word}"},
        "one letter": {"query": "r"},
        "two letters": {"query": "re"},
        "no such word": {"query": "qqqqq"},
        "a common word, customer and tag": {"query": "the", "customer": "k-7", "tag": "web"},
        "a common word, a person in it": {"query": "the", "author": Author.HUMAN},
        "a common word, the last day": {
            "query": "the",
            "since": START + timedelta(minutes=8560),
        },
        "the list, no query": {},
        "the list of a tag": {"tag": "web"},
        "the list, page 50": {"offset": 5000},
    }
    return {
        name: median_ms(lambda filters=filters: store.conversations(**filters), repeat)
        for name, filters in asked.items()
    }


def turns(store: SqlStore, n: int) -> dict[str, float]:
    """What a turn costs, step by step."""
    took: dict[str, list[float]] = {"begin a turn": [], "checkpoint": [], "finish": [], "read": []}
    now = datetime.now(UTC)
    mark = f"{time.time_ns()}"
    store.create(ConversationInfo(id=f"c{mark}", title="", created_at=now, updated_at=now))

    def timed(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        took[name].append(time.perf_counter() - started)

    text = "It is on its way and should be there tomorrow before noon. " * 5
    for number in range(n):
        question = Message(id=f"q{mark}-{number}", author=Author.CUSTOMER, text="Where is it? " * 5)
        reply = Message(id=f"r{mark}-{number}", author=Author.BOT, text="")
        whole = reply.model_copy(update={"text": text, "finish_reason": FinishReason.STOP})
        timed("begin a turn", lambda q=question, r=reply: store.begin_turn(f"c{mark}", (q,), r))
        timed("checkpoint", lambda r=reply: store.checkpoint(r.id, text[:100]))
        timed("finish", lambda w=whole: store.finish(w))
        timed("read", lambda: store.messages(f"c{mark}", reports=False))
    return {name: statistics.median(values) * 1000 for name, values in took.items()}


def turns_per_second(store: SqlStore, n_threads: int, n: int) -> float:
    """Turns of many conversations at the same time."""
    threads = [threading.Thread(target=turns, args=(store, n)) for _ in range(n_threads)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n_threads * n / (time.perf_counter() - started)


def fsync_ms(folder: str) -> float:
    """What the disk takes to keep eight kilobytes."""
    path = Path(folder) / "fsync"
    with path.open("wb") as file:

        def write() -> None:
            file.write(b"x" * 8192)
            file.flush()
            os.fsync(file.fileno())

        return median_ms(write, 30)


def opening(database: str) -> dict[str, float]:
    """A fresh process: importing, opening, the first list."""
    rows = [
        [
            float(part) * 1000
            for part in subprocess.run(
                [sys.executable, "-c", OPENING, database],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
        ]
        for _ in range(5)
    ]
    names = ("import the store", "open it", "the first list")
    return dict(zip(names, map(statistics.median, zip(*rows, strict=True)), strict=True))


@contextmanager
def some_database(named: str) -> Iterator[tuple[str, str]]:
    """The database, and a folder on its disk."""
    with tempfile.TemporaryDirectory() as folder:
        yield named or str(Path(folder) / "quietdesk.db"), folder


def _commit() -> str:
    """The commit that this is run on."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--database", default="", help="a path or a URL; default: one of its own")
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--write", action="store_true", help=f"add to {RESULTS.name}")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with some_database(options.database) as (database, folder):
        store = open_sql_store(database)
        pairs = list(made(options.conversations, 1))
        started = time.perf_counter()
        for first in range(0, len(pairs), 500):
            store.import_conversations(pairs[first : first + 500])
        took = time.perf_counter() - started
        figures["import, conversations/s"] = len(pairs) / took
        figures |= {f"{name}, ms": value for name, value in searches(store, options.repeat).items()}
        figures |= {f"{name}, ms": value for name, value in turns(store, 100).items()}
        figures["turns/s, 8 threads"] = turns_per_second(store, 8, 25)
        if store.database.path is not None:
            figures["fsync of the disk, ms"] = fsync_ms(folder)
        status = store.status()
        figures["size, MiB"] = int(status["size_bytes"]) / 2**20
        started = time.perf_counter()
        store.erase_customer("k-1")
        figures["erase a customer, ms"] = (time.perf_counter() - started) * 1000
        started = time.perf_counter()
        problems = store.integrity_check()
        figures["integrity check, ms"] = (time.perf_counter() - started) * 1000
        assert problems == [], problems
        store.close()
        figures |= {f"{name}, ms": value for name, value in opening(database).items()}
    figures = {name: round(value, 2) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:<40}{value:>12,.2f}")
    line = {
        "bench": "store",
        "engine": status["engine"],
        "conversations": options.conversations,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        **figures,
    }
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[str(status["engine"]).split(" ")[0]] = line
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
