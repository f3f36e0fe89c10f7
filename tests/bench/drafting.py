"""A draft model: replies with it and without, for several customers at once, in turn.

    python tests/bench/drafting.py --model LARGE.gguf --draft SMALL.gguf [--repeat 5] [--save FILE]

Look-up is off, so that only the draft model guesses. Each engine first answers once for the
measuring of its steps; that reply counts too in `first`, and not in the medians. The same greedy
text is expected, up to near-ties of rows in batches of another shape; how many texts differ is
told. The last line printed is one line of JSON.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

from quietdesk.bench import SYSTEM
from quietdesk.engine.device import machine, plan
from quietdesk.engine.draft_model import GUESSED_SEQUENCES, READ_ROWS, DraftModel
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits
from quietdesk_models.weights import find

ASKED = (
    "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
QUESTIONS = (
    "Do you ship to Norway, and what does it cost?",
    "I bought a helmet two weeks ago and do not like it. What can I do?",
    "The chain of my bicycle broke after a year. Is that covered?",
    "I lost the key of my lock. What do you need from me?",
    "How long does a repair take, and how do I get an appointment?",
    "Can my company pay by invoice?",
)


class Run:
    """One engine, and what it took."""

    def __init__(self, path: Path, draft: Path | None, n: int, n_tokens: int) -> None:
        """Open it."""
        here = machine()
        chosen = plan(read_header(path), here, n_ctx=1024, n_seq=GUESSED_SEQUENCES)

        def open_draft(target: object) -> DraftModel:
            assert draft is not None and isinstance(target, LlamaRunner)
            own = plan(
                read_header(draft), here, n_ctx=1024, n_seq=GUESSED_SEQUENCES, n_batch=READ_ROWS
            )
            return DraftModel(LlamaRunner(draft, own), target)

        self.engine = Engine(
            lambda: LlamaRunner(path, chosen),
            n_draft=0,
            open_draft=None if draft is None else open_draft,
        )
        self.n, self.n_tokens = n, n_tokens
        self.rates: list[float] = []
        self.texts: list[str] = []

    def answer(self, number: int) -> None:
        """Have a few questions answered together; prompts are read before the clock starts."""
        streams = []
        asked = [QUESTIONS[(number + i) % len(QUESTIONS)] for i in range(self.n)]
        started = time.perf_counter()
        for question in asked:
            text = ASKED.format(system=SYSTEM, question=question)
            tokens = self.engine.tokenize(text, special=True, begin=False)
            limits = Limits(max_tokens=self.n_tokens, ignore_end=True)
            streams.append(self.engine.submit(tokens, limits=limits))
        for stream in streams:
            stream.wait()
        said = sum(stream.usage.completion_tokens for stream in streams)
        self.rates.append(said / (time.perf_counter() - started))
        self.texts += [stream.text for stream in streams]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft", required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--customers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    path, draft = find(arguments.model).path, find(arguments.draft).path
    runs = [Run(path, which, arguments.customers, arguments.tokens) for which in (None, draft)]
    for number in range(arguments.repeat + 1):
        for run in runs if number % 2 else runs[::-1]:
            run.answer(number)
    plain, drafted = (statistics.median(run.rates[1:]) for run in runs)
    ratios = [on / off for off, on in zip(runs[0].rates[1:], runs[1].rates[1:], strict=True)]
    counts = runs[1].engine.metrics()
    answer = {
        "bench": "drafting", "model": path.name, "draft": draft.name, "cpu": machine().cpu,
        "cores": machine().cores, "python": platform.python_version(),
        "customers": arguments.customers, "tokens": arguments.tokens,
        "repeat": arguments.repeat, "off_tokens_per_s": round(plain, 1),
        "on_tokens_per_s": round(drafted, 1), "ratio": round(statistics.median(ratios), 3),
        "ratio_first": round(runs[1].rates[0] / runs[0].rates[0], 3),
        "drafted": counts.drafted_by_model,
        "accepted_share": round(counts.accepted_by_model / max(counts.drafted_by_model, 1), 2),
        "draft_model_s": round(counts.draft_model_s, 2), "busy_s": round(counts.busy_s, 2),
        "texts": len(runs[0].texts),
        "texts_that_differ": sum(a != b for a, b in zip(*(r.texts for r in runs), strict=True)),
    }  # fmt: skip
    for run in runs:
        run.engine.close()
    if arguments.save:
        arguments.save.write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
