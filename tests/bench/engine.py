"""The engine against its peers: ratios in one run, same file, same threads.

    python tests/bench/engine.py --peers BUILD [--sizes 1,8,16,32] [--repeat 5] [--model GGUF]
        [--save FILE]

BUILD is a folder with llama.cpp's own programs in `bin/`; `tests/bench/build_peers` makes it from
the sources that llama-cpp-python's source distribution carries. Rounds alternate between engines,
so that a slow minute of the machine hits all of them. With --save, rounds are added to those that
the file has, and medians are over all. The last line printed is one line of JSON.
"""

import argparse
import contextlib
import http.client
import json
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import llama_cpp

from quietdesk import bench
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk_models.weights import find

Contender = contextlib.AbstractContextManager[bench.Target]


@contextlib.contextmanager
def quietdesk_engine(path: Path, n: int, n_ctx: int, **options: Any) -> Iterator[bench.Target]:
    """Our engine, in this process."""
    chosen = plan(read_header(path), machine(), n_ctx=n_ctx, n_seq=n)
    with Engine(lambda: LlamaRunner(path, chosen), **options) as engine:
        yield bench.engine_target(engine)
        m = engine.metrics()
        outside = 1 - m.decode_share
        print(
            f"    engine: {outside:.1%} outside decode, {m.steps} steps, "
            f"{m.evaluated_tokens} rows, {m.cached_tokens}/{m.prompt_tokens} cached",
            file=sys.stderr,
        )
        SHARES.append(outside)


SHARES: list[float] = []
"""Share of the engine's own time outside llama_decode, one per run."""


@contextlib.contextmanager
def llama_server(
    peers: Path, path: Path, n: int, n_ctx: int, threads: int
) -> Iterator[bench.Target]:
    """llama-server with one slot per conversation, over HTTP on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(peers / "bin" / "llama-server"), "-m", str(path), "--port", str(port),
        "--parallel", str(n), "-c", str(n_ctx * n), "-t", str(threads), "--no-webui",
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)

        def answer(turns: bench.Turns, n_tokens: int) -> Iterator[tuple[str, int]]:
            body = {
                "messages": [{"role": role, "content": said} for role, said in turns],
                "max_tokens": n_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "cache_prompt": True,
            }
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body),
                {"Content-Type": "application/json"},
            )  # fmt: skip
            told = 0
            for line in connection.getresponse():
                if not line.startswith(b"data: {"):
                    continue
                choice = json.loads(line[6:])["choices"]
                if choice and (text := choice[0]["delta"].get("content")):
                    told += 1
                    yield text, 1
            connection.close()
            yield "", n_tokens - told

        yield answer
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def llama_behind_a_lock(path: Path, n_ctx: int, threads: int) -> Iterator[bench.Target]:
    """llama-cpp-python's own `Llama`, which serves one conversation at a time."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False,
        flash_attn=True, logits_all=False,
    )  # fmt: skip
    lock = threading.Lock()
    end = llama.token_eos()

    def answer(turns: bench.Turns, n_tokens: int) -> Iterator[tuple[str, int]]:
        with lock:
            told = 0
            stream = llama.create_chat_completion(
                [{"role": role, "content": said} for role, said in turns],
                max_tokens=n_tokens, temperature=0.0, stream=True, logit_bias={end: -100.0},
            )  # fmt: skip
            for chunk in stream:
                text = chunk["choices"][0]["delta"].get("content")
                if text:
                    told += 1
                    yield text, 1
            yield "", n_tokens - told

    yield answer
    llama.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"llama-server ended with {server.returncode} before it was ready")
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit("llama-server was not ready within a minute")


def pure_decode(peers: Path, path: Path, n: int, context: int, threads: int) -> float:
    """llama-batched-bench's decode rate with n sequences at a context length, tokens/s."""
    command = [
        str(peers / "bin" / "llama-batched-bench"), "-m", str(path), "-c",
        str(n * (context + 64)), "-t", str(threads), "-npp", str(context), "-ntg", "32",
        "-npl", str(n), "-fa", "on", "--no-kv-unified", "--output-format", "jsonl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return float(json.loads(line)["speed_tg"])
    raise SystemExit(f"llama-batched-bench gave no result: {done.stderr[-500:]}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--peer-model", help="the peers' file, where it is another one")
    parser.add_argument("--sizes", default="1,8,16,32")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--only", default="quietdesk,llama-server,llama-lock,limit")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    path = find(arguments.model).path
    peer_path = find(arguments.peer_model).path if arguments.peer_model else path
    threads = machine().cores
    n_ctx = 1280
    only = arguments.only.split(",")
    here = {
        "bench": "engine", "model": path.name, "peer_model": peer_path.name,
        "cpu": machine().cpu, "cores": threads, "python": platform.python_version(),
        "turns": arguments.turns,
    }  # fmt: skip
    kept = _kept(arguments.save, here)
    for n in map(int, arguments.sizes.split(",")):
        work = bench.Workload(n, n_turns=arguments.turns)
        contenders: dict[str, Any] = {
            "quietdesk": lambda n=n: quietdesk_engine(path, n, n_ctx),
            "llama-server": lambda n=n: llama_server(arguments.peers, peer_path, n, n_ctx, threads),
            "llama-lock": lambda: llama_behind_a_lock(peer_path, n_ctx, threads),
        }
        rounds = kept.setdefault(str(n), {})
        for _ in range(arguments.repeat):
            for name, open_it in contenders.items():
                if name not in only:
                    continue
                SHARES.clear()
                with open_it() as target:
                    figures = bench.run(work, target).as_dict()
                if SHARES:
                    figures["outside_decode"] = round(SHARES[0], 4)
                rounds.setdefault(name, []).append(figures)
                print(f"  N={n} {name}: {figures}", file=sys.stderr)
            if "limit" in only:
                limit = pure_decode(arguments.peers, path, n, 640, threads)
                rounds.setdefault("limit", []).append({"tokens_per_s": limit})
        _print_row(n, {name: _medians(figures) for name, figures in rounds.items()})
    answer = here | {
        "date": date.today().isoformat(), "commit": _commit(),
        "medians": {
            n: {name: _medians(figures) for name, figures in rounds.items()}
            for n, rounds in kept.items()
        },
        "rounds": kept,
    }  # fmt: skip
    if arguments.save:
        arguments.save.write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps({key: value for key, value in answer.items() if key != "rounds"}))


def _kept(path: Path | None, here: dict[str, Any]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """The rounds of earlier calls in a file, by size and contender, where they are comparable."""
    if path is None or not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    other = [key for key, value in here.items() if earlier.get(key) != value]
    if other:
        raise SystemExit(f"{path} is about another {', '.join(other)}; name another file.")
    rounds: dict[str, dict[str, list[dict[str, float]]]] = earlier["rounds"]
    return rounds


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    medians = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
    return medians | {"rounds": len(rounds)}


def _print_row(n: int, row: dict[str, dict[str, float]]) -> None:
    ours = row.get("quietdesk")
    for name, figures in row.items():
        text = f"N={n:3} {name:14} {figures['tokens_per_s']:8.1f} tokens/s"
        if "first_token_p95_ms" in figures:
            text += f"  first token p50/p95 {figures['first_token_p50_ms']:7.0f}"
            text += f"/{figures['first_token_p95_ms']:7.0f} ms"
        if ours and name != "quietdesk":
            text += f"  ours: x{ours['tokens_per_s'] / figures['tokens_per_s']:.2f}"
            if "first_token_p95_ms" in figures:
                text += f", p95 x{ours['first_token_p95_ms'] / figures['first_token_p95_ms']:.2f}"
        print(text)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip()


if __name__ == "__main__":
    main()
