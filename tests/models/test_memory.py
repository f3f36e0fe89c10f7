"""The memory estimate against what llama.cpp says that it allocates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quietdesk_models.gguf import read_model
from quietdesk_models.memory import estimate

ALLOCATE = """
import ctypes, json, re, sys
import llama_cpp as llama

lines = []
log = llama.llama_log_callback(lambda level, text, data: lines.append(text.decode()))
llama.llama_log_set(log, None)
path, n_ctx, n_seq = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
del lines[:]
params = llama.llama_context_default_params()
params.n_ctx, params.n_seq_max, params.n_threads = n_ctx * n_seq, n_seq, 1
params.n_batch = params.n_ubatch = 512
params.kv_unified = False
params.n_outputs_max = n_seq + 16
params.swa_full = False
assert llama.llama_init_from_model(model, params)
found = {"KV": 0.0, "RS": 0.0, "compute": 0.0}
for line in lines:
    if match := re.search(r"(KV|RS|compute) buffer size = *([0-9.]+) MiB", line):
        found[match[1]] += float(match[2])
print(json.dumps(found))
"""


@pytest.mark.parametrize("n_seq", [1, 4])
@pytest.mark.parametrize("name", ["starter", "llama", "gpt2", "gemma3", "mamba", "lfm2"])
def test_the_estimate_is_what_llama_cpp_allocates(
    tiny_models: dict[str, Path], starter_path: Path, name: str, n_seq: int
) -> None:
    path = starter_path if name == "starter" else tiny_models[name]
    run = subprocess.run(
        [sys.executable, "-c", ALLOCATE, str(path), "2048", str(n_seq)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    told = {key: value * 2**20 for key, value in json.loads(run.stdout).items()}
    memory = estimate(read_model(path), n_ctx=2048, n_seq=n_seq)
    # llama.cpp prints hundredths of a mebibyte.
    assert memory.kv_cache == pytest.approx(told["KV"], abs=2**20 / 100)
    assert memory.states == pytest.approx(told["RS"], abs=2**20 / 100)
    assert told["compute"] <= memory.buffers
    assert told["KV"] + told["RS"] > 0
