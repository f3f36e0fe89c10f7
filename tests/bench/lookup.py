"""Prompt look-up: one customer whose answer copies from a passage, with and without guesses.

    python tests/bench/lookup.py [--model NAME] [--repeat 5] [--save FILE]

The same greedy text is asserted. The last line printed is one line of JSON.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

from quietdesk.bench import SYSTEM
from quietdesk.engine.device import machine, plan
from quietdesk.engine.engine import Engine
from quietdesk.engine.llama.runner import LlamaRunner, read_header
from quietdesk.engine.sampling import Limits
from quietdesk_models.weights import find

PASSAGE = SYSTEM.split("Orders placed")[1].split("We take cards")[0]
ASKED = (
    "<|im_start|>user\nHere is our policy:\nOrders placed{passage}\n\n"
    "Repeat the policy word for word.<|im_end|>\n<|im_start|>assistant\nOrders placed"
)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    path = find(arguments.model).path
    chosen = plan(read_header(path), machine(), n_ctx=1024, n_seq=1)
    rates: dict[int, list[float]] = {0: [], 12: []}
    texts: set[str] = set()
    accepted = 0.0
    for _ in range(arguments.repeat):
        for n_draft, into in rates.items():
            with Engine(lambda: LlamaRunner(path, chosen), n_draft=n_draft) as engine:
                prompt = engine.tokenize(ASKED.format(passage=PASSAGE), special=True, begin=False)
                stream = engine.submit(prompt, limits=Limits(max_tokens=200))
                stream.wait()
                texts.add(stream.text)
                into.append(stream.usage.tokens_per_second)
                counts = engine.metrics()
                if n_draft:
                    accepted = counts.accepted_tokens / max(counts.drafted_tokens, 1)
    off, on = (statistics.median(rates[n]) for n in (0, 12))
    answer = {
        "bench": "lookup", "model": path.name, "cpu": machine().cpu, "cores": machine().cores,
        "python": platform.python_version(), "off_tokens_per_s": round(off, 1),
        "on_tokens_per_s": round(on, 1), "ratio": round(on / off, 2),
        "accepted_share": round(accepted, 2), "distinct_texts": len(texts),
    }  # fmt: skip
    if arguments.save:
        arguments.save.write_text(json.dumps(answer, indent=1) + "\n")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
