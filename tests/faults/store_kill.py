"""Kill -9 processes that write conversations, at random moments, and look what is left.

    python tests/faults/store_kill.py --kills 1000                 # an SQLite file of its own
    python tests/faults/store_kill.py --kills 1000 --postgresql    # a server of its own
    python tests/faults/store_kill.py --database postgresql://...  # a server that is there

Each round starts several processes with several threads each, all writing turns into the same
conversations: questions, checkpoints, ends, turns taken back, remarks by a person. After a random
time, from before the database is open, every process is killed. Then everything that a store call
had acknowledged must be there, once and whole; what was not acknowledged must be there wholly or
not at all; replies that were cut must read as interrupted; no branch may have come about; and the
database's own integrity check must pass. With PostgreSQL connections are cut too, at random, while
the writers live, who must not notice.

Prints a table, and last one line of JSON, which `--write` keeps in tests/bench/results with the
machine and the commit. Ends with 1 if anything is wrong.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import alembic.migration  # noqa: F401 -- loaded before the fork, so that writers start at once

from quietdesk.errors import ConversationBusyError, UsageError
from quietdesk.store.sql import SqlStore, open_sql_store
from quietdesk.types import Author, ConversationInfo, FinishReason, Message

SERVER = Path(__file__).parent.parent / "store" / "postgres_server.py"
RESULTS = Path(__file__).parent.parent / "bench" / "results" / "store_kill.json"


def whole_text(id_: str) -> str:
    """What a message says, from its id alone."""
    dice = random.Random(id_)
    return " ".join(f"{id_}w{number}" for number in range(dice.randrange(3, 60)))


# The writers


class Diary:
    """Tells the parent what is tried and what was acknowledged; a line is written whole."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def write(self, event: str, id_: str, detail: Any = None) -> None:
        os.write(self._pipe, (json.dumps([event, id_, detail]) + "\n").encode())


def write_turns(store: SqlStore, conversations: list[str], diary: Diary, name: str) -> None:
    """One thread of a writer: turns in random conversations until it is killed."""
    dice = random.Random(name)
    for number in range(1_000_000):
        conversation = dice.choice(conversations)
        id_ = f"{name}n{number}"
        if dice.random() < 0.1:
            diary.write("try add", f"h{id_}", conversation)
            remark = Message(id=f"h{id_}", author=Author.HUMAN, text=whole_text(f"h{id_}"))
            store.add(conversation, remark)
            diary.write("add", f"h{id_}")
            continue
        asked = [f"q{id_}{letter}" for letter in "ab"[: dice.choice((1, 1, 2))]]
        said = tuple(Message(id=q, author=Author.CUSTOMER, text=whole_text(q)) for q in asked)
        reply = Message(id=f"r{id_}", author=Author.BOT, text="")
        diary.write("try begin", reply.id, [conversation, asked])
        try:
            store.begin_turn(conversation, said, reply)
        except ConversationBusyError:
            diary.write("refused", reply.id)
            continue
        diary.write("begin", reply.id)
        text = whole_text(reply.id)
        for part in range(dice.randrange(4)):
            cut = len(text) * (part + 1) // 5
            diary.write("try checkpoint", reply.id, cut)
            store.checkpoint(reply.id, text[:cut])
            diary.write("checkpoint", reply.id, cut)
        if dice.random() < 0.1:
            diary.write("try undo", reply.id)
            try:
                store.undo_turn(reply.id, tuple(asked))
            except UsageError:  # somebody has spoken after it
                diary.write("not undone", reply.id)
            else:
                diary.write("undo", reply.id)
                continue
        diary.write("try finish", reply.id)
        store.finish(reply.model_copy(update={"text": text, "finish_reason": FinishReason.STOP}))
        diary.write("finish", reply.id)


def be_a_writer(
    database: str, conversations: list[str], pipe: int, name: str, n_threads: int
) -> None:
    """What a forked process does until it is killed."""
    diary = Diary(pipe)
    try:
        store = open_sql_store(database)
        diary.write("up", name)
        threads = []
        for number in range(n_threads):
            work = (store, conversations, diary, f"{name}t{number}")
            thread = threading.Thread(target=guarded, args=(*work,), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    except BaseException as error:
        diary.write("error", name, f"{type(error).__name__}: {error}")


def guarded(store: SqlStore, conversations: list[str], diary: Diary, name: str) -> None:
    """A thread that tells its error instead of dying silently."""
    try:
        write_turns(store, conversations, diary, name)
    except BaseException as error:
        diary.write("error", name, f"{type(error).__name__}: {error}")


# What must be left


@dataclass
class Told:
    """What the writers of one round told."""

    turns: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def hear(self, event: str, id_: str, detail: Any) -> None:
        """Take one line of a diary."""
        self.counts[event] += 1
        if event == "error":
            self.errors.append(f"{id_}: {detail}")
        elif event in {"try add", "add"}:
            self.remarks.setdefault(id_, {})[event] = detail or True
        elif event != "up":
            self.turns.setdefault(id_, {})[event] = detail or True


def check(store: SqlStore, conversations: list[str], told: Told) -> list[str]:
    """What of a round is not as it must be."""
    wrong = list(told.errors)
    kept: dict[str, Message] = {}
    owner: dict[str, str] = {}
    for conversation in conversations:
        tree = store.tree(conversation)
        if [m.id for m in store.messages(conversation)] != [m.id for m in tree]:
            wrong.append(f"{conversation} has branches, so a turn is out of sight")
        for m in tree:
            if m.id in kept:
                wrong.append(f"{m.id} is there twice")
            kept[m.id], owner[m.id] = m, conversation
    expected = set()
    for id_, events in told.remarks.items():
        expected.add(id_)
        if "add" in events and id_ not in kept:
            wrong.append(f"{id_} was acknowledged and is gone")
        if id_ in kept and kept[id_].text != whole_text(id_):
            wrong.append(f"{id_} has another text")
    for id_, events in told.turns.items():
        conversation, asked = events["try begin"]
        expected.update((id_, *asked))
        there = [one in kept for one in (id_, *asked)]
        if any(there) != all(there):
            wrong.append(f"of the turn {id_} a part is there")
        if "refused" in events or "undo" in events:
            if any(there):
                wrong.append(f"{id_} was refused or taken back, and is there")
            continue
        if not all(there):
            if "begin" in events and "try undo" not in events:
                wrong.append(f"{id_} was acknowledged and is gone")
            continue
        wrong += [f"{q} has another text" for q in asked if kept[q].text != whole_text(q)]
        if owner[id_] != conversation:
            wrong.append(f"{id_} is in another conversation")
        reply, text = kept[id_], whole_text(id_)
        if reply.finish_reason is FinishReason.STOP:
            if "try finish" not in events or reply.text != text:
                wrong.append(f"{id_} is finished and not whole")
        elif reply.finish_reason is not FinishReason.INTERRUPTED:
            wrong.append(f"{id_} is cut, and reads as {reply.finish_reason}")
        elif "finish" in events:
            wrong.append(f"{id_} was finished, and reads as interrupted")
        else:
            said = len(reply.text)
            least, most = events.get("checkpoint", 0), events.get("try checkpoint", 0)
            if not least <= said <= most or not text.startswith(reply.text):
                wrong.append(f"{id_} says {said} characters, acknowledged were {least}")
            told.counts["interrupted"] += 1
    wrong += [f"{id_} was never written" for id_ in kept.keys() - expected]
    for id_ in random.Random(0).sample(sorted(kept), min(5, len(kept))):
        word = kept[id_].text.split(" ")[-1]
        if word and owner[id_] not in [c.id for c in store.conversations(word, limit=1_000_000)]:
            wrong.append(f"{word} of {id_} is not found")
    return wrong


# The rounds


def one_round(database: str, name: str, options: argparse.Namespace, dice: random.Random) -> Told:
    """Start writers, kill them, and give what they told."""
    store = open_sql_store(database)
    now = datetime.now(UTC)
    conversations = [f"c{name}-{number}" for number in range(options.conversations)]
    for id_ in conversations:
        store.create(ConversationInfo(id=id_, title="", created_at=now, updated_at=now))
    store.close()
    told = Told()
    fork = multiprocessing.get_context("fork")
    pipes, writers = [], []
    for number in range(options.workers):
        reading, writing = os.pipe()
        worker = f"{name}p{number}"
        arguments = (database, conversations, writing, worker, options.threads)
        process = fork.Process(target=be_a_writer, args=arguments, daemon=True)
        process.start()
        os.close(writing)
        pipes.append(reading)
        writers.append((time.monotonic() + dice.uniform(0, options.longest_s), process))
    ends = sorted(writers, key=lambda pair: pair[0])
    rest = dict.fromkeys(pipes, b"")
    cuts = [time.monotonic() + dice.uniform(0, options.longest_s) for _ in range(2)]
    while rest:
        while ends and ends[0][0] <= time.monotonic():
            process = ends.pop(0)[1]
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            told.counts["kills"] += 1
        if "://" in database and cuts and min(cuts) <= time.monotonic():
            cuts.remove(min(cuts))
            told.counts["connections cut"] += cut_connections(database, dice)
        ready, _, _ = select.select(list(rest), [], [], 0.002)
        for pipe in ready:
            chunk = os.read(pipe, 1 << 16)
            *lines, rest[pipe] = (rest[pipe] + chunk).split(b"\n")
            for line in lines:
                told.hear(*json.loads(line))
            if not chunk:
                os.close(pipe)
                del rest[pipe]
    return told


def cut_connections(database: str, dice: random.Random) -> int:
    """End some of the server's connections, as a network would."""
    import psycopg  # noqa: PLC0415 -- only where a server is

    with psycopg.connect(database, autocommit=True) as connection:
        pids = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'quietdesk'"
        ).fetchall()
        for (pid,) in dice.sample(pids, len(pids) // 2):
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        return len(pids) // 2


def wait_for_the_dead(database: str) -> None:
    """Wait until the server has noticed who is gone: what was on its way may still be committed."""
    import psycopg  # noqa: PLC0415 -- only where a server is

    with psycopg.connect(database, autocommit=True) as connection:
        for _ in range(1000):
            there = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'quietdesk'"
            ).fetchone()
            if there == (0,):
                return
            time.sleep(0.01)
    raise RuntimeError("connections of killed processes do not end")


@contextlib.contextmanager
def some_database(options: argparse.Namespace) -> Iterator[str]:
    """The database that was named, or one of our own."""
    if options.database:
        yield options.database
    elif options.postgresql:
        with subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin and server.stdout
            url = server.stdout.readline().strip()
            if not url:
                sys.exit("There is no PostgreSQL to test with.")
            try:
                yield url
            finally:
                server.stdin.close()
                server.wait()
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            yield str(Path(folder) / "quietdesk.db")


def _commit() -> str:
    """The commit that this is run on, marked where files were changed since."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip() or "unknown"


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how many processes to kill")
    parser.add_argument("--database", default="", help="a path or a URL; default: one of its own")
    parser.add_argument("--postgresql", action="store_true", help="start a server of its own")
    parser.add_argument("--folder", default=None, help="where its own SQLite file lies")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--threads", type=int, default=4, help="threads of each")
    parser.add_argument("--conversations", type=int, default=6, help="shared by all of a round")
    parser.add_argument("--longest-s", type=float, default=0.6, help="a process's longest life")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so end the writers too
    dice = random.Random(options.seed)
    total: Counter[str] = Counter()
    wrong: list[str] = []
    started = time.monotonic()
    with some_database(options) as database:
        run = f"{options.seed}x{os.getpid()}"
        rounds: list[tuple[list[str], Told]] = []
        while total["kills"] < options.kills:
            name = f"{run}r{len(rounds)}"
            told = one_round(database, name, options, dice)
            if "://" in database:
                wait_for_the_dead(database)
            conversations = [f"c{name}-{number}" for number in range(options.conversations)]
            store = open_sql_store(database)
            found = check(store, conversations, told)
            if store.status()["open_replies"]:
                found.append("a reply of a dead process is still open")
            if len(rounds) % 10 == 0:
                found += store.integrity_check()
            store.close()
            wrong += [f"round {len(rounds)}: {one}" for one in found]
            total += told.counts
            rounds.append((conversations, told))
        # All of it once more: a later round must not have harmed an earlier one.
        store = open_sql_store(database)
        for number, (conversations, told) in enumerate(rounds):
            again = Told(told.turns, told.remarks)
            harm = check(store, conversations, again)
            wrong += [f"round {number}, at the end: {one}" for one in harm]
        wrong += store.integrity_check()
        engine = store.status()["engine"]
        store.close()
    figures: dict[str, Any] = {
        "engine": engine,
        "kills": total["kills"],
        "connections_cut": total["connections cut"],
        "turns_acknowledged": total["begin"],
        "replies_finished": total["finish"],
        "replies_interrupted": total["interrupted"],
        "turns_taken_back": total["undo"],
        "turns_refused_as_busy": total["refused"],
        "checkpoints": total["checkpoint"],
        "remarks": total["add"],
        "seconds": round(time.monotonic() - started, 1),
        "wrong": len(wrong),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }
    for key, value in figures.items():
        print(f"{key.replace('_', ' '):<24}{value}")
    for line in wrong[:50]:
        print(f"WRONG: {line}")
    if options.write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[str(engine).split(" ")[0]] = figures
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
