"""A program of its own that has llama.cpp requantise or measure one file: `python -m ...worker`.

llama.cpp ends the whole process when it meets something that it did not expect, cannot be
interrupted in the middle of a file, and takes all the time it gets. Here that costs a child: the
parent (`quantise.py`) watches it, and it ends by itself when the parent is gone. That is also why
this is the one module of the package that imports llama_cpp, and why nobody imports this module.

It prints one JSON object a line: `{"done": 12, "of": 272}` while it works, then its result or
`{"error": "..."}`. Standard input is the leash: when it closes, the work stops.
"""

import ctypes
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

CONTEXT = 512
"""Tokens that are read together when a text is measured; each window starts afresh."""
PROMPT, REPLY, REPEATS = 512, 48, 3
"""Of the timings: tokens read, tokens generated, and runs, of which the fastest counts.

Whatever else runs on the machine can only make a run slower."""
ABREAST, OPENING = 8, 32
"""Conversations that are generated together, and the tokens that each starts with."""

_errors: list[str] = []


def main() -> None:
    """Do what the arguments, one JSON object, ask for."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = json.loads(sys.argv[1])
    os.nice(int(task["niceness"]))
    log = llama_cpp.llama_log_callback(_log)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    _say(quantise(task) if task["do"] == "quantise" else measure(task))


def quantise(task: dict[str, object]) -> dict[str, object]:
    """Write the requantised file."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = task["n_threads"]
    params.ftype = task["file_type"]
    params.allow_requantize = True
    if task["embedding_type"] is not None:
        params.token_embedding_type = task["embedding_type"]
        params.output_tensor_type = task["embedding_type"]
    code = llama_cpp.llama_model_quantize(
        os.fsencode(str(task["source"])), os.fsencode(str(task["target"])), ctypes.byref(params)
    )
    if code != 0:
        return {
            "error": _errors[-1] if _errors else f"llama.cpp reported {code} and gave no reason"
        }
    return {"quantised": task["target"]}


def measure(task: dict[str, object]) -> dict[str, object]:
    """Read a text and time a prompt and a reply."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    path = os.fsencode(str(task["source"]))
    model = llama_cpp.llama_model_load_from_file(path, params)
    if not model:
        return {"error": _errors[-1] if _errors else "llama.cpp cannot load it"}
    vocab = llama_cpp.llama_model_get_vocab(model)
    text = Path(str(task["text"])).read_bytes()
    tokens = _tokenize(vocab, text)
    n_threads = int(str(task["n_threads"]))
    context = _context(model, n_threads, PROMPT + REPLY, 1)
    losses = _losses(context, vocab, tokens)
    reading, alone = _time_one(context, vocab, tokens)
    llama_cpp.llama_free(context)
    context = _context(model, n_threads, ABREAST * (OPENING + REPLY), ABREAST)
    abreast = _time_many(context, vocab, tokens)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return {
        "losses": [round(float(loss), 5) for loss in losses],
        "prompt_tokens_per_s": round(reading, 1),
        "single_tokens_per_s": round(alone, 1),
        "batch_tokens_per_s": round(abreast, 1),
    }


def _context(model: object, n_threads: int, n_ctx: int, n_seq: int) -> object:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_seq_max = n_ctx, n_seq
    params.n_batch = params.n_ubatch = CONTEXT
    params.n_threads = params.n_threads_batch = n_threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(_errors[-1] if _errors else "llama.cpp made no context")
    return context


def _tokenize(vocab: object, text: bytes) -> NDArray[np.int32]:
    room = (llama_cpp.llama_token * (len(text) + 8))()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), room, len(room), False, False)
    return np.array(room[:count], np.int32)


def _losses(context: object, vocab: object, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    """Minus the log-probability of each token given those before it in its window.

    The second half of each window counts: its tokens have at least half a window before them.
    """
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    bos = llama_cpp.llama_vocab_bos(vocab) if llama_cpp.llama_vocab_get_add_bos(vocab) else None
    half = CONTEXT // 2
    losses: list[NDArray[np.float64]] = []
    starts = range(0, max(len(tokens) - half, 1), half)
    for number, start in enumerate(starts):
        window = tokens[start : start + CONTEXT].copy()
        if bos is not None:
            window[0] = bos
        first = min(half, len(window) // 2)
        rows = range(first - 1, len(window) - 1)
        losses.append(_window_losses(_read(context, window, rows, n_vocab), window[first:]))
        _say({"done": number + 1, "of": len(starts)})
    return np.concatenate(losses)


def _window_losses(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    losses = np.empty(len(targets))
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        top = row.max()
        losses[i] = top + np.log(np.exp(row - top).sum(dtype=np.float64)) - row[target]
    return losses


def _read(
    context: object, window: NDArray[np.int32], rows: range, n_vocab: int
) -> NDArray[np.float32]:
    """The logits of some rows of a window, shape (len(rows), n_vocab); llama.cpp owns them."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    _decode(context, [(int(token), i, 0, i in rows) for i, token in enumerate(window)])
    first = llama_cpp.llama_get_logits_ith(context, rows[0])
    return np.ctypeslib.as_array(first, (len(rows), n_vocab))


def _time_one(context: object, vocab: object, tokens: NDArray[np.int32]) -> tuple[float, float]:
    """Tokens per second of reading a prompt, and of a greedy reply; the best of some runs."""
    prompt = np.resize(tokens, PROMPT)
    reading, speaking = [], []
    for _ in range(REPEATS):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        started = time.perf_counter()
        _decode(context, [(int(t), i, 0, i == PROMPT - 1) for i, t in enumerate(prompt)])
        between = time.perf_counter()
        row = PROMPT - 1
        for pos in range(PROMPT, PROMPT + REPLY):
            _decode(context, [(_best(context, vocab, row), pos, 0, True)])
            row = 0
        reading.append(PROMPT / (between - started))
        speaking.append(REPLY / (time.perf_counter() - between))
    return max(reading), max(speaking)


def _time_many(context: object, vocab: object, tokens: NDArray[np.int32]) -> float:
    """Tokens per second of all of some conversations that are generated together."""
    speaking = []
    for _ in range(REPEATS):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        openings = np.resize(tokens, (ABREAST, OPENING))
        rows = [
            (int(token), pos, seq, pos == OPENING - 1)
            for seq, opening in enumerate(openings)
            for pos, token in enumerate(opening)
        ]
        _decode(context, rows)
        places = [seq * OPENING + OPENING - 1 for seq in range(ABREAST)]
        started = time.perf_counter()
        for pos in range(OPENING, OPENING + REPLY):
            best = [_best(context, vocab, place) for place in places]
            _decode(context, [(token, pos, seq, True) for seq, token in enumerate(best)])
            places = list(range(ABREAST))
        speaking.append(ABREAST * REPLY / (time.perf_counter() - started))
    return max(speaking)


def _best(context: object, vocab: object, row: int) -> int:
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    logits = llama_cpp.llama_get_logits_ith(context, row)
    return int(np.ctypeslib.as_array(logits, (n_vocab,)).argmax())


def _decode(context: object, rows: list[tuple[int, int, int, bool]]) -> None:
    """Evaluate rows of token, position, sequence, and whether its logits are wanted."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, pos, seq, wanted) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, pos, int(wanted)
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if code != 0:
        raise RuntimeError(f"llama_decode returned {code}")
    llama_cpp.llama_synchronize(context)


def _log(level: int, text: bytes, _data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level == 4 and line:  # GGML_LOG_LEVEL_ERROR
        _errors.append(line)
    elif match := re.match(r"\[\s*(\d+)/\s*(\d+)\]", line):
        _say({"done": int(match[1]), "of": int(match[2])})


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError, ValueError) as error:
        _say({"error": str(error)})
        sys.exit(1)
