"""The tiny models themselves: they load, they speak, and they hear all that they are told."""

import subprocess
import sys
from pathlib import Path

import pytest

SPEAK = """
import ctypes, sys
import llama_cpp as llama
import numpy as np

silence = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(silence, None)
model = llama.llama_model_load_from_file(sys.argv[1].encode(), llama.llama_model_default_params())
assert model, "does not load"
vocab = llama.llama_model_get_vocab(model)

def tokens(text):
    room = (llama.llama_token * 512)()
    count = llama.llama_tokenize(vocab, text.encode(), len(text.encode()), room, 512, True, True)
    return list(room[:count])

def piece(token):
    room = ctypes.create_string_buffer(64)
    length = llama.llama_token_to_piece(vocab, token, room, 64, 0, False)
    return room.raw[:length]

def reply(prompt):
    parameters = llama.llama_context_default_params()
    parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 512, 1, 1
    context = llama.llama_init_from_model(model, parameters)
    said, row = [], tokens(prompt)
    for _ in range(24):
        held = (llama.llama_token * len(row))(*row)
        assert llama.llama_decode(context, llama.llama_batch_get_one(held, len(row))) == 0
        logits = llama.llama_get_logits_ith(context, -1)
        row = [int(np.ctypeslib.as_array(logits, (512,)).argmax())]
        said += row
    llama.llama_free(context)
    return said

text = "Grüße, 你好 🎉, where is my order?\\n"
assert b"".join(map(piece, tokens(text))).decode() == text
middle = " Please tell me when it comes." * 4
one, other = reply("Hello." + middle), reply("Kilo." + middle)
assert len(set(one)) > 5, f"it says the same thing over and over: {one}"
assert one != other, "the start of the prompt makes no difference"
assert reply("Hello." + middle) == one
"""


@pytest.mark.parametrize("name", ["llama", "draft", "gpt2", "gemma3", "mamba", "lfm2"])
def test_a_tiny_model_says_different_things_to_different_openings(
    tiny_models: dict[str, Path], name: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SPEAK, str(tiny_models[name])], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
