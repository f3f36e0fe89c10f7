"""How far llama.cpp's own logits move with the shape of a batch: what the soak's bound stands on.

    python tests/faults/near_ties.py --tokens 5000 --result near_ties.json

Nothing of Quietdesk's engine takes part, only llama.cpp's functions: four sequences are read in
pieces of a random size and continued together, greedily; then each is read alone, in pieces of
the batch's size, and fed the same tokens. For each token that the crowd chose, the gap is how far
below the likeliest logit it stands alone. Where the arithmetic were the same every gap would be 0.
"""

import argparse
import json
import os
import platform
import random
import re
from datetime import date
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from quietdesk_models.weights import find

N_CTX, N_SEQ, N_BATCH, N_NEW = 768, 4, 512, 48
WORDS = re.findall(
    r"\S+",
    "order parcel helmet refund bicycle late broken invoice address colour size return Monday "
    "label guarantee price please when where why thank you cannot find my the a is and with for",
)


class Raw:
    """A model and a context as the engine opens them, with no more than decode."""

    def __init__(self, path: Path) -> None:
        """Open them."""
        self._silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = N_CTX * N_SEQ, N_SEQ
        params.n_batch = params.n_ubatch = N_BATCH
        params.kv_unified = False
        params.n_threads = params.n_threads_batch = 2
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.batch = llama_cpp.llama_batch_init(N_BATCH, 0, 1)

    def tokens(self, text: str) -> list[int]:
        """A text's."""
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), True, True)
        return list(ids[:n])

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[NDArray[np.float32]]:
        """The logits of the rows that want them; a row is sequence, position, token, wanted."""
        self.batch.n_tokens = len(rows)
        for i, (sequence, position, token, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = wanted
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return [
            np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(self.context, i), (self.n_vocab,)
            ).copy()
            for i, row in enumerate(rows)
            if row[3]
        ]

    def forget(self) -> None:
        """Empty the memory."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)


def together(raw: Raw, prompts: list[list[int]], dice: random.Random) -> list[list[int]]:
    """What each is continued with, read in pieces beside the others and continued beside them."""
    raw.forget()
    said: list[list[int]] = [[] for _ in prompts]
    read = [0] * len(prompts)
    while any(len(one) < N_NEW for one in said):
        rows: list[tuple[int, int, int, bool]] = []
        asked: list[int] = []
        for sequence, prompt in enumerate(prompts):
            if read[sequence] < len(prompt):
                end = min(len(prompt), read[sequence] + dice.randint(1, N_BATCH // N_SEQ))
                for at in range(read[sequence], end):
                    rows.append((sequence, at, prompt[at], at == len(prompt) - 1))
                read[sequence] = end
                if end == len(prompt):
                    asked.append(sequence)
            elif len(said[sequence]) < N_NEW:
                at = len(prompt) + len(said[sequence]) - 1
                rows.append((sequence, at, said[sequence][-1], True))
                asked.append(sequence)
        for sequence, logits in zip(asked, raw.decode(rows), strict=True):
            said[sequence].append(int(logits.argmax()))
    return said


def gaps_alone(raw: Raw, prompt: list[int], said: list[int]) -> list[float]:
    """How far below the likeliest logit each of the tokens stands, read alone."""
    raw.forget()
    logits: list[NDArray[np.float32]] = []
    for start in range(0, len(prompt), N_BATCH):
        piece = range(start, min(start + N_BATCH, len(prompt)))
        logits = raw.decode([(0, at, prompt[at], at == len(prompt) - 1) for at in piece])
    gaps = []
    for n, token in enumerate(said):
        gaps.append(float(logits[0].max() - logits[0][token]))
        logits = raw.decode([(0, len(prompt) + n, token, True)])
    return gaps


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=5000, help="at least how many")
    parser.add_argument("--model", type=Path, help="a GGUF file; the bundled model if left out")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--result", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    path = options.model or find("smollm2-135m").path
    raw, dice = Raw(path), random.Random(options.seed)
    gaps: list[float] = []
    while len(gaps) < options.tokens:
        prompts = [
            raw.tokens(" ".join(dice.choices(WORDS, k=dice.randint(20, 500)))) for _ in range(N_SEQ)
        ]
        prompts = [prompt[: N_CTX - N_NEW] for prompt in prompts]
        for prompt, said in zip(prompts, together(raw, prompts, dice), strict=True):
            gaps += gaps_alone(raw, prompt, said)
    found = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": path.name,
        "llama_cpp_python": llama_cpp.__version__,
        "tokens": len(gaps),
        "other_token": sum(gap > 0 for gap in gaps),
        "widest_gaps_logits": [round(gap, 3) for gap in sorted(gaps)[-10:]],
    }
    print(json.dumps(found))
    if options.result:
        options.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
