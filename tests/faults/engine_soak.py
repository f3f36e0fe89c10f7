"""Mixed load on the engine for a set time; then the books have to balance.

    python tests/faults/engine_soak.py --seconds 3600 --result soak.json   # the bundled model
    python tests/faults/engine_soak.py --seconds 15 --model tiny.gguf

Conversations of several customers share system prompts and outnumber the engine's sequences, so
that states are parked and brought back all the time. Requests arrive at random (Poisson), now and
then in a burst that overfills the queue. Among them are ordinary greedy turns, seeded sampling,
grammars, prompts that are too long or fill the context, deadlines that pass, replies that are
cancelled, and readers that go away. With `--faults` the runner fails too: before and after it has
evaluated, with errors of its own and with ones that nobody expects.

After each phase of load everything has to end, and then:
- every request is accounted for, no slot is busy, no sampler is open;
- each sequence of llama.cpp holds exactly the positions that the engine believes it holds;
- every greedy reply, whole or cut, is what the model says to the same prompt alone. Arithmetic
  depends on a batch's shape, so a difference counts as right when it begins at a near-tie: the
  token of the crowd is within NEAR_TIE of the likeliest logit alone. How often is told;
- memory is flat: what the process holds at the end is what it held after the first phases.

Figures are written to the result file after every phase. Prints one line of JSON at the end, and
ends with 1 if anything is wrong.
"""

import argparse
import json
import platform
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.sequence import Sequence
from quietdesk.engine.stream import Stream
from quietdesk.errors import ContextError, DeadlineError, DecodeError, EngineError, QueueFullError
from quietdesk.types import FinishReason
from quietdesk_models.weights import find

N_CTX, N_SEQ = 768, 4
NEAR_TIE = 0.6
"""Logits. llama.cpp by itself moves as far: the widest of 3,072 tokens was 0.53 where no engine of
ours took part (near_ties.py). The engine's own tests allow 0.35 for the first difference of a short
reply. A memory that is wrong anywhere shows as 1 to 17 logits."""
FLAT_MIB = 48
"""Growth of the process that still counts as none: allocators keep and return memory in lumps."""
GRAMMAR = 'root ::= ("yes" | "no" | "maybe") ". " [a-z]{3,6}'
GRAMMAR_TEXT = re.compile(r"(yes|no|maybe)\. [a-z]{3,6}")
WORDS = re.findall(
    r"\S+",
    "order parcel helmet refund bicycle late broken invoice address colour size return Monday "
    "label guarantee price please when where why thank you cannot find my the a is and with for",
)


class WatchedEngine(Engine):
    """An engine that tells which tokens a stream was made of, cut ones too."""

    def __init__(self, open_runner: Callable[[], LlamaRunner], **options: int) -> None:
        """As `Engine`."""
        self.told: dict[Stream, list[int]] = {}
        super().__init__(open_runner, **options)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, error: EngineError | None = None
    ) -> None:
        self.told[sequence.stream] = sequence.tokens[sequence.n_prompt :]
        super()._finish(sequence, reason, error)


class FailingRunner(LlamaRunner):
    """llama.cpp with faults: a decode that fails before, after, or in a way nobody expects."""

    rate = 0.0
    dice = random.Random(5)
    failed = 0

    def decode(self, batch: Batch) -> list[list[int]]:
        """Evaluate, or fail."""
        if self.dice.random() >= self.rate:
            return super().decode(batch)
        FailingRunner.failed += 1
        match self.dice.randrange(3):
            case 0:
                raise DecodeError("llama_decode returned -3: injected.")
            case 1:
                super().decode(batch)
                raise MemoryError("injected")
            case _:
                raise RuntimeError("injected")


@dataclass
class Asked:
    """A request and what is expected of it."""

    kind: str
    prompt: list[int]
    limits: Limits
    stream: Stream
    greedy: bool


@dataclass
class Customer:
    """A conversation that goes on."""

    tokens: list[int]
    latest: Asked | None = None


@dataclass
class Figures:
    """What is counted over all phases."""

    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    equal: int = 0
    compared_tokens: int = 0
    gaps: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    phases: int = 0


def rss_mib() -> float:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Load:
    """Asks the engine for all kinds of things."""

    def __init__(self, engine: Engine, figures: Figures, seed: int, rate: float) -> None:
        """Customers with four different system prompts.

        Args:
            engine: Asked.
            figures: Counted into.
            seed: Of all chance.
            rate: Requests per second on average.
        """
        self._engine, self._figures, self._rate = engine, figures, rate
        self._dice = random.Random(seed)
        self._systems = [self._text(80, f"You are desk {i}.") for i in range(4)]
        self._customers = [self._customer(i) for i in range(4 * N_SEQ)]
        self._readers: list[threading.Thread] = []

    def _customer(self, number: int) -> Customer:
        return Customer(list(self._systems[number % len(self._systems)]))

    def _text(self, n_words: int, start: str = "") -> list[int]:
        words = " ".join([start, *self._dice.choices(WORDS, k=n_words)])
        return self._engine.tokenize(words, special=False, begin=False)

    def phase(self, seconds: float) -> list[Asked]:
        """Requests for some time; returned when all have ended."""
        asked: list[Asked] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            crowd = N_SEQ * 4 if self._dice.random() < 0.02 else 1
            for _ in range(crowd):
                if (one := self._ask()) is not None:
                    asked.append(one)
            time.sleep(self._dice.expovariate(self._rate))
        for one in asked:
            if not one.stream.wait(300):
                self._figures.wrong.append(f"a {one.kind} request never ended")
        for reader in self._readers:
            reader.join(60)
        self._readers = [reader for reader in self._readers if reader.is_alive()]
        if self._readers:
            self._figures.wrong.append("a reader never came to its end")
        return asked

    def _ask(self) -> Asked | None:
        kind = self._dice.choices(
            ("turn", "sampled", "grammar", "too long", "fills", "deadline", "cancel", "leaves"),
            (50, 8, 10, 3, 2, 9, 10, 8),
        )[0]
        self._figures.kinds[kind] += 1
        number = self._dice.randrange(len(self._customers))
        customer = self._customers[number]
        if customer.latest is not None:
            if customer.latest.stream.finish_reason is None:
                kind = "turn"  # Somebody who writes twice: two replies at the same time.
            else:
                said = customer.latest.stream.text
                said_tokens = self._engine.tokenize(said, special=False, begin=False)
                customer.tokens = [*customer.tokens, *said_tokens]
        prompt = customer.tokens = customer.tokens + self._text(self._dice.randrange(2, 30))
        if len(prompt) > N_CTX - 120:
            customer = self._customers[number] = self._customer(number)
            prompt = customer.tokens = customer.tokens + self._text(10)
        limits = Limits(max_tokens=self._dice.randrange(1, 40), ignore_end=True)
        sampling = Sampling()
        deadline_s = None
        if kind == "too long":
            prompt = self._text(3 * N_CTX)
        elif kind == "fills":
            prompt = (prompt + self._text(N_CTX))[: N_CTX - self._dice.randrange(1, 6)]
        elif kind == "sampled":
            sampling = Sampling(temperature=0.9, top_k=40, seed=self._dice.randrange(1000))
        elif kind == "grammar":
            sampling, limits = Sampling(grammar=GRAMMAR), Limits(max_tokens=40)
        elif kind == "deadline":
            deadline_s = self._dice.uniform(0.001, 2.0)
        try:
            stream = self._engine.submit(
                prompt,
                sampling=sampling,
                limits=limits,
                priority=self._dice.choice((0, 0, 0, 1, 2)),
                deadline_s=deadline_s,
            )
        except ContextError:
            self._figures.ends["refused: too long"] += 1
            if kind != "too long":
                self._figures.wrong.append(f"{len(prompt)} tokens were refused as too long")
            return None
        except QueueFullError:
            self._figures.ends["refused: queue full"] += 1
            return None
        one = Asked(kind, prompt, limits, stream, greedy=kind not in ("sampled", "grammar"))
        if kind == "turn":
            customer.latest = one
        if kind in ("cancel", "leaves"):
            self._give_up(one)
        return one

    def _give_up(self, one: Asked) -> None:
        after = self._dice.choice((0, 0, 1, 3, 10))
        pause = self._dice.uniform(0, 0.5)

        def read() -> None:
            if one.kind == "cancel" and not after:
                time.sleep(pause)
            else:
                for number, _ in enumerate(one.stream):
                    if number >= after:
                        break
            one.stream.cancel()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        self._readers.append(reader)


class Alone:
    """The same model with one sequence and nobody else, as the truth about greedy replies."""

    def __init__(self, path: Path) -> None:
        """Load it."""
        chosen = plan(read_header(path), machine(), n_ctx=N_CTX, n_seq=1)
        self._runner = LlamaRunner(path, chosen)
        self._n_vocab = self._runner.info.n_vocab

    def judge(self, one: Asked, told: Seq[int]) -> float:
        """How far the least likely token of a greedy reply was from the likeliest one, in logits.

        0 where it is what the model says alone. From a difference on it is asked what the model
        would say alone after the crowd's words, so that every token is looked at.
        """
        self._runner.remove(0, 0)
        tokens: Seq[int] = one.prompt
        at = 0
        worst = 0.0
        sampler = self._runner.open_sampler(Sampling(), [])
        for token in told:
            for start in range(0, len(tokens), self._runner.n_batch):
                chunk = tuple(tokens[start : start + self._runner.n_batch])
                last = start + len(chunk) == len(tokens)
                segment = Segment(0, at, chunk, sample=last, sampler=sampler)
                sampled = self._runner.decode(Batch(prefill=(segment,)))[0]
                at += len(chunk)
            if sampled[0] != token:
                pointer = llama_cpp.llama_get_logits(self._runner._ctx)
                scores = np.ctypeslib.as_array(pointer, (self._n_vocab,))
                worst = max(worst, float(scores[sampled[0]] - scores[token]))
            tokens = (token,)
        self._runner.close_sampler(sampler)
        return worst

    def close(self) -> None:
        """Free it."""
        self._runner.close()


def check_books(engine: Engine, figures: Figures, asked: list[Asked], *, faults: bool) -> None:
    """No request, slot, sampler or position is lost."""

    def check(true: bool, what: str) -> None:
        if not true:
            figures.wrong.append(what)

    metrics = engine.metrics()
    ended = metrics.requests_finished + metrics.requests_cancelled + metrics.requests_failed
    check(ended == metrics.requests_total, f"{ended} of {metrics.requests_total} requests ended")
    check(metrics.n_running == metrics.n_waiting == 0, "requests are left over")
    runner = engine._runner
    assert isinstance(runner, LlamaRunner)
    check(not runner._samplers, f"{len(runner._samplers)} samplers are left over")
    for slot in engine._cache.slots:
        check(not slot.busy, f"slot {slot.id} is still busy")
        held = llama_cpp.llama_memory_seq_pos_max(runner._memory, slot.id) + 1
        check(held == len(slot.tokens), f"slot {slot.id} holds {held} positions, not {slot.tokens}")
    for one in asked:
        error = one.stream.error
        reason = one.stream.finish_reason
        figures.ends[type(error).__name__ if error else str(reason)] += 1
        if error is not None:
            typed = isinstance(error, DeadlineError) and one.kind == "deadline"
            check(typed or (faults and isinstance(error, DecodeError)), f"{one.kind}: {error}")
        elif reason is FinishReason.CANCELLED:
            check(one.kind in ("cancel", "leaves"), f"a {one.kind} request was cancelled")
        elif one.kind == "grammar" and reason is FinishReason.STOP:
            text = one.stream.text
            check(bool(GRAMMAR_TEXT.fullmatch(text)), f"{text!r} is not in the grammar")


def compare(
    alone: Alone, engine: WatchedEngine, figures: Figures, asked: list[Asked], until: float
) -> None:
    """Judge greedy replies in random order until the time is up; at least a few."""
    greedy = [one for one in asked if one.greedy and engine.told.get(one.stream)]
    random.Random(figures.phases).shuffle(greedy)
    for number, one in enumerate(greedy):
        if number >= 5 and time.monotonic() > until:
            break
        told = engine.told[one.stream]
        gap = alone.judge(one, told)
        figures.compared += 1
        figures.compared_tokens += len(told)
        figures.equal += gap == 0
        if gap:
            figures.gaps.append(gap)
        if gap > NEAR_TIE:
            figures.wrong.append(f"a {one.kind} request was told a token {gap:.2f} logits off")
    engine.told.clear()


def summary(figures: Figures, engine: Engine, began: float) -> dict[str, Any]:
    """Everything counted so far."""
    metrics = engine.metrics()
    settled = figures.rss_mib[len(figures.rss_mib) // 4 :]
    half = max(1, len(settled) // 2)
    growth = statistics.median(settled[-half:]) - statistics.median(settled[:half])
    return {
        "seconds": round(time.monotonic() - began, 1),
        "phases": figures.phases,
        "requests": metrics.requests_total,
        "kinds": dict(sorted(figures.kinds.items())),
        "ends": dict(sorted(figures.ends.items())),
        "injected_faults": FailingRunner.failed,
        "compared_with_alone": figures.compared,
        "equal": figures.equal,
        "near_ties": figures.compared - figures.equal,
        "compared_tokens": figures.compared_tokens,
        "widest_gaps_logits": [round(gap, 3) for gap in sorted(figures.gaps)[-10:]],
        "prompt_tokens": metrics.prompt_tokens,
        "cached_tokens": metrics.cached_tokens,
        "generated_tokens": metrics.generated_tokens,
        "preemptions": metrics.preemptions,
        "rss_mib_first": round(settled[0], 1),
        "rss_mib_last": round(settled[-1], 1),
        "rss_growth_mib": round(growth, 1),
        "threads": threading.active_count(),
        "wrong": figures.wrong[:20],
    }


def about() -> dict[str, str]:
    """Where and on what this was run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    here = machine()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": here.cpu,
        "cores": str(here.cores),
        "system": platform.system(),
        "llama_cpp_python": llama_cpp.__version__,
    }


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Phases of load and judgement until the time is up."""
    path = options.model or find("smollm2-135m").path
    chosen = plan(read_header(path), machine(), n_ctx=N_CTX, n_seq=N_SEQ)
    FailingRunner.rate = 0.003 if options.faults else 0.0
    figures = Figures()
    here = about()
    began = time.monotonic()
    alone = Alone(path)
    with WatchedEngine(
        lambda: FailingRunner(path, chosen),
        queue_limit=3 * N_SEQ,
        parked_bytes=options.parked_mib * 2**20,
    ) as engine:
        load = Load(engine, figures, options.seed, options.rate)
        while (left := options.seconds - (time.monotonic() - began)) > 0:
            asked = load.phase(min(options.phase_s, left / 2))
            check_books(engine, figures, asked, faults=options.faults)
            compare(
                alone, engine, figures, asked, time.monotonic() + min(options.phase_s, left / 2)
            )
            figures.phases += 1
            figures.rss_mib.append(rss_mib())
            found = {**here, "model": path.name, **summary(figures, engine, began)}
            if options.result is not None:
                aside = options.result.with_suffix(".part")
                aside.write_text(json.dumps(found, indent=1) + "\n")
                aside.replace(options.result)
    alone.close()
    if found["rss_growth_mib"] > FLAT_MIB:
        figures.wrong.append(f"memory grew by {found['rss_growth_mib']} MiB")
    if left := [t.name for t in threading.enumerate() if t.name == "quietdesk-engine"]:
        figures.wrong.append(f"threads are left over: {left}")
    return {**found, "wrong": figures.wrong[:20]}


def main() -> int:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, about")
    parser.add_argument("--phase-s", type=float, default=45.0, help="load between two judgements")
    parser.add_argument("--rate", type=float, default=6.0, help="requests per second on average")
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model if left out")
    parser.add_argument("--faults", action="store_true", help="have the runner fail at random")
    parser.add_argument("--parked-mib", type=int, default=64, help="memory for parked states")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--result", type=Path, help="figures are written here after every phase")
    found = soak(parser.parse_args())
    print(json.dumps(found))
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
