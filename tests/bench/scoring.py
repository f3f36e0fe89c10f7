"""Scoring against sacrebleu, and the whole default score: rates, help, memory.

    python tests/bench/scoring.py [--conversations 49152] [--jobs 2] [--memory 10000,100000]

Rounds alternate between the kernels and sacrebleu, so that a slow minute of the machine hits both,
and each is given by its median. Rates of kernels are per second of one core's own time. The whole
score is read from a Parquet file under zstd that the generator makes; its rate is per second of
wall time, and beside it stands that per second of a core's own time, for busy machines.
The last line printed is one line of JSON; it is kept in tests/bench/results.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from generate_logs import ROW_GROUP, generate, pools
from sacrebleu import __version__ as sacrebleu_version
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from quietdesk.scoring.catalogue import default_metrics, find_metrics
from quietdesk.scoring.kernels import Segments, bleu_statistics, chrf_statistics
from quietdesk.scoring.reference import words_of
from quietdesk.scoring.scorer import Scorer, Tally

RESULTS = Path(__file__).parent / "results" / "scoring.json"
ROUNDS = 5
PEER_PAIRS = 2000
"""Pairs per round for sacrebleu, which are enough to time it."""


def timed(work: Any) -> float:
    """Seconds of this process's own time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def one_round(few: tuple[list[str], list[list[str]]], segments: Segments) -> dict[str, float]:
    """Seconds per pair. Tokenizers remember lines and words: each round begins with fresh ones."""
    bleu, chrf, words = BLEU(), CHRF(), words_of("13a")
    bleu.tokenizer.__class__.__call__.cache_clear()
    n = len(segments.hypotheses)
    return {
        "sacrebleu bleu": timed(lambda: bleu._extract_corpus_statistics(*few)) / PEER_PAIRS,
        "sacrebleu chrf": timed(lambda: chrf._extract_corpus_statistics(*few)) / PEER_PAIRS,
        "ours bleu": timed(lambda: bleu_statistics(segments, words)) / n,
        "ours chrf": timed(lambda: chrf_statistics(segments)) / n,
    }


def kernels() -> dict[str, Any]:
    """Pairs per second and core of sacrebleu and of the kernels, and the ratio."""
    pool = pools(7)
    said, meant = pool["said"], pool["meant"]
    few = said.slice(0, PEER_PAIRS).to_pylist(), [meant.slice(0, PEER_PAIRS).to_pylist()]
    segments = Segments.of(said, meant)
    rates: dict[str, list[float]] = {
        f"{who} {what}": [] for who in ("ours", "sacrebleu") for what in ("bleu", "chrf", "both")
    }
    for _ in range(ROUNDS):
        spent = one_round(few, segments)
        for name, seconds in spent.items():
            rates[name].append(1 / seconds)
        for who in ("ours", "sacrebleu"):
            rates[f"{who} both"].append(1 / (spent[f"{who} bleu"] + spent[f"{who} chrf"]))
    found: dict[str, Any] = {name: round(statistics.median(each)) for name, each in rates.items()}
    found["ratio both"] = round(
        statistics.median(
            o / s for o, s in zip(rates["ours both"], rates["sacrebleu both"], strict=True)
        ),
        1,
    )
    found["words per reply"] = round(statistics.mean(len(t.split()) for t in few[0]), 1)
    return found


SCORER: Scorer | None = None


def prepare(names: list[str]) -> None:
    """Make a worker's scorer, and warm it."""
    global SCORER
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    SCORER = Scorer(find_metrics(names), ["week"])


def work(path: str, group: int) -> tuple[bytes, float]:
    """Score one row group in a worker; the tally and the worker's own seconds."""
    assert SCORER is not None
    start = time.process_time()
    tally = Tally(SCORER.fingerprint)
    for batch in pq.ParquetFile(path).iter_batches(4096, row_groups=[group], use_threads=False):
        tally.add(SCORER.read(batch).tally)
    return tally.to_bytes(), time.process_time() - start


def whole(path: Path, n: int, jobs: int, names: list[str]) -> dict[str, Any]:
    """Conversations per second of the default score with so many processes, reading included."""
    groups = pq.ParquetFile(path).num_row_groups
    rates, core_rates = [], []
    with ProcessPoolExecutor(jobs, get_context("spawn"), prepare, (names,)) as pool:
        list(pool.map(work, [str(path)] * jobs, range(jobs)))
        for _ in range(3):
            start, own = time.perf_counter(), 0.0
            total: Tally | None = None
            for data, seconds in pool.map(work, [str(path)] * groups, range(groups)):
                own += seconds
                tally = Tally.from_bytes(data)
                if total is None:
                    total = tally
                else:
                    total.add(tally)
            rates.append(n / (time.perf_counter() - start))
            core_rates.append(n / own)
    assert total is not None
    assert total.n_conversations == n
    return {
        "conversations/s": round(statistics.median(rates)),
        "conversations/s/core": round(statistics.median(core_rates)),
        "digest": total.digest,
    }


def help_seconds() -> float:
    """Wall time of `quietdesk score --help`, the best of five."""
    command = [sys.executable, "-m", "quietdesk.cli", "score", "--help"]
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        spent.append(time.perf_counter() - start)
    return round(min(spent), 3)


def memory(n: int, turns: int) -> float:
    """Peak resident memory in MB of scoring n conversations in one process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logs.parquet"
        generate(path, n, turns=turns)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        command = [sys.executable, "-m", "quietdesk.cli", "score", str(path), "--jobs", "1"]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # The largest child so far; sizes are measured in ascending order.
    return round(max(before, after) / 1024, 1)


def commit() -> str:
    """The commit that this is run on."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    # Whole row groups, as many for either of two processes as for the other.
    parser.add_argument("--conversations", type=int, default=6 * ROW_GROUP)
    parser.add_argument("--turns", type=int, default=8, help="questions, each with a reply")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--metrics", default="default")
    parser.add_argument("--memory", default="", help="sizes to measure peak memory at")
    options = parser.parse_args()
    names = [name for name in options.metrics.split(",") if name]
    if names == ["default"]:
        names = [metric.name for metric in default_metrics()]
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "sacrebleu": sacrebleu_version,
        "kernels": kernels(),
        "help_s": help_seconds(),
        "whole": {},
    }
    for name, rate in found["kernels"].items():
        print(f"{name:20s} {rate:>12,}")
    print(f"{'help':20s} {found['help_s']:>12.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logs.parquet"
        for turns in sorted({options.turns // 2, options.turns}):
            generate(path, options.conversations, turns=turns)
            for jobs in sorted({1, options.jobs}):
                rate = whole(path, options.conversations, jobs, names)
                key = f"{2 * turns} messages, {jobs} processes"
                found["whole"][key] = rate
                print(
                    f"{key:30s} {rate['conversations/s']:>10,} conversations/s, "
                    f"{rate['conversations/s/core']:,} per core's own second"
                )
    for size in sorted(int(text) for text in options.memory.split(",") if text):
        found.setdefault("peak_mb", {})[str(size)] = memory(size, options.turns)
        print(f"{size:>12,} conversations: peak {found['peak_mb'][str(size)]:,} MB")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
