"""Makes tiny GGUF models that llama.cpp loads: random weights, fixed seeds, half a megabyte each.

One model for each kind of memory that an engine has to get right: full attention with rotary and
with learned positions, a sliding window, a recurrent state, and a hybrid of the last two kinds.
All share one byte-level BPE vocabulary of 512 tokens, so that any byte string can be read and
said. They have nothing sensible to say, but what they say depends on all that they were told.

    python tests/data/make_models.py FOLDER
"""

import re
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|bos|>")
END_OF_TEXT, IM_START, IM_END, PAD, BOS = range(len(SPECIALS))
N_VOCAB = 512
N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_LAYER = 64, 128, 4, 2, 4
N_CTX = 2048
WINDOW = 64
"""Tokens that the sliding-window model's local layers look back."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXT = """
Hello, thank you for getting in touch with the support team. How can I help you today? My order
number is 48213 and it has not arrived yet. I am sorry to hear that. Let me check the status of the
delivery for you. The parcel left our warehouse on Monday and should be with you within three
working days. Can I return the bike helmet that I bought last week? Yes, you can return it within
thirty days, as long as it is unused and in its original box. Where do I find the return label?
You will find the label in your account, under orders. Please print it and put it on the box. What
does the shipping cost? Shipping is free for orders over fifty euros, otherwise it costs five euros.
I was charged twice for the same order. I can see the second payment here, and I have asked for a
refund. It takes five to seven days until the money is back in your account. Is there anything else
that I can do for you? No, that is all, thank you very much. You are welcome, and have a nice day.
The system answers questions of the customer. The user asks, the assistant answers.
"""


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def learn_merges(text: str, count: int) -> list[tuple[str, str]]:
    """The first `count` byte-pair merges of text; ties go to the pair that sorts first."""
    letters = byte_letters()
    words: Counter[tuple[str, ...]] = Counter(
        tuple(letters[byte] for byte in word.encode())
        for word in re.findall(r" ?[A-Za-z]+| ?[0-9]+|[^\sA-Za-z0-9]+|\s+", text)
    )
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, often in words.items():
            for pair in pairwise(word):
                pairs[pair] += often
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): often for word, often in words.items()})
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    for letter in word:
        if result and (result[-1], letter) == pair:
            result[-1] += letter
        else:
            result.append(letter)
    return tuple(result)


class Maker:
    """Writes one model: metadata, the shared vocabulary, and random tensors."""

    def __init__(self, path: Path, architecture: str, seed: int, n_layer: int = N_LAYER) -> None:
        self.writer = gguf.GGUFWriter(path, architecture)
        self.random = np.random.default_rng(seed)
        self.writer.add_name(f"tiny {architecture}")
        self.writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        self.writer.add_context_length(N_CTX)
        self.writer.add_embedding_length(N_EMBD)
        self.writer.add_block_count(n_layer)

    def vocabulary(self, *, template: str | None, bos: int, eos: int, add_bos: bool) -> None:
        merges = learn_merges(TEXT, N_VOCAB - 256 - len(SPECIALS))
        tokens = [*SPECIALS, *byte_letters(), *(left + right for left, right in merges)]
        control = [gguf.TokenType.CONTROL] * len(SPECIALS)
        self.writer.add_tokenizer_model("gpt2")
        self.writer.add_tokenizer_pre("gpt-2")
        self.writer.add_token_list(tokens)
        self.writer.add_token_types(control + [gguf.TokenType.NORMAL] * (N_VOCAB - len(control)))
        self.writer.add_token_merges([f"{left} {right}" for left, right in merges])
        self.writer.add_bos_token_id(bos)
        self.writer.add_eos_token_id(eos)
        self.writer.add_pad_token_id(PAD)
        self.writer.add_add_bos_token(add_bos)
        if template is not None:
            self.writer.add_chat_template(template)

    def attention(self, n_head_kv: int | list[int] = N_HEAD_KV) -> None:
        self.writer.add_head_count(N_HEAD)
        self.writer.add_head_count_kv(n_head_kv)
        self.writer.add_feed_forward_length(N_FF)

    def ones(self, name: str, size: int) -> None:
        self.add(name, np.ones(size, np.float32))

    def zeros(self, name: str, size: int) -> None:
        self.add(name, np.zeros(size, np.float32))

    def matrix(self, name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        """A weight matrix in 16 bits, whose outputs are `gain` times as large as its inputs."""
        values = self.random.normal(0.0, gain / inputs**0.5, (outputs, inputs))
        self.add(name, values.astype(np.float16))

    def add(self, name: str, values: NDArray[np.float16] | NDArray[np.float32]) -> None:
        self.writer.add_tensor(name, values)

    def embeddings(self, output_norm: str = "output_norm.weight") -> None:
        self.matrix("token_embd.weight", N_EMBD, N_VOCAB, gain=N_EMBD**0.5)
        self.ones(output_norm, N_EMBD)
        # No row for control tokens: they are never the likeliest, so greedy replies do not end.
        values = self.random.normal(0.0, 3.0 / N_EMBD**0.5, (N_VOCAB, N_EMBD))
        values[: len(SPECIALS)] = 0.0
        self.add("output.weight", values.astype(np.float16))

    def attention_layer(self, block: str, head_size: int) -> None:
        # Sharp attention: a wrong key or value must show in the text, not vanish in an average.
        self.ones(f"{block}.attn_norm.weight", N_EMBD)
        self.matrix(f"{block}.attn_q.weight", N_EMBD, N_HEAD * head_size, gain=2.0)
        self.matrix(f"{block}.attn_k.weight", N_EMBD, N_HEAD_KV * head_size, gain=2.0)
        self.matrix(f"{block}.attn_v.weight", N_EMBD, N_HEAD_KV * head_size, gain=2.0)
        self.matrix(f"{block}.attn_output.weight", N_HEAD * head_size, N_EMBD, gain=2.0)

    def gated_mlp(self, block: str) -> None:
        self.ones(f"{block}.ffn_norm.weight", N_EMBD)
        self.matrix(f"{block}.ffn_gate.weight", N_EMBD, N_FF)
        self.matrix(f"{block}.ffn_up.weight", N_EMBD, N_FF)
        self.matrix(f"{block}.ffn_down.weight", N_FF, N_EMBD)

    def write(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def make_llama(path: Path, seed: int = 1) -> None:
    """Rotary positions, grouped keys, ChatML."""
    maker = Maker(path, "llama", seed)
    maker.attention()
    maker.writer.add_layer_norm_rms_eps(1e-5)
    maker.writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    maker.vocabulary(template=CHATML, bos=IM_START, eos=IM_END, add_bos=False)
    maker.embeddings()
    for layer in range(N_LAYER):
        maker.attention_layer(f"blk.{layer}", N_EMBD // N_HEAD)
        maker.gated_mlp(f"blk.{layer}")
    maker.write()


def make_draft(path: Path) -> None:
    """The llama model with a little noise: its drafts are often, not always, right."""
    make_llama(path)
    reader = gguf.GGUFReader(path, "r+")
    noise = np.random.default_rng(7)
    for tensor in reader.tensors:
        if tensor.name.endswith("ffn_down.weight"):
            tensor.data[:] += noise.normal(0.0, 0.02, tensor.data.shape).astype(tensor.data.dtype)
    reader.data.flush()


def make_babbler(path: Path, like: Path) -> None:
    """One layer of random weights with the vocabulary of another model's file."""
    fields = gguf.GGUFReader(like).fields
    key = "tokenizer.ggml."
    tokens = fields[f"{key}tokens"].contents()
    maker = Maker(path, "llama", seed=6, n_layer=1)
    maker.attention()
    maker.writer.add_layer_norm_rms_eps(1e-5)
    maker.writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    maker.writer.add_tokenizer_model(fields[f"{key}model"].contents())
    maker.writer.add_tokenizer_pre(fields[f"{key}pre"].contents())
    maker.writer.add_token_list(tokens)
    maker.writer.add_token_types(fields[f"{key}token_type"].contents())
    maker.writer.add_token_merges(fields[f"{key}merges"].contents())
    maker.writer.add_eos_token_id(fields[f"{key}eos_token_id"].contents())
    maker.matrix("token_embd.weight", N_EMBD, len(tokens))
    maker.ones("output_norm.weight", N_EMBD)
    maker.attention_layer("blk.0", N_EMBD // N_HEAD)
    maker.gated_mlp("blk.0")
    maker.write()


def make_gpt2(path: Path) -> None:
    """Learned positions, biases, one matrix for q, k and v, and no chat template."""
    maker = Maker(path, "gpt2", seed=2)
    maker.attention(N_HEAD)
    maker.writer.add_layer_norm_eps(1e-5)
    maker.vocabulary(template=None, bos=END_OF_TEXT, eos=END_OF_TEXT, add_bos=False)
    maker.embeddings()
    maker.zeros("output_norm.bias", N_EMBD)
    maker.matrix("position_embd.weight", N_EMBD, N_CTX, gain=N_EMBD**0.5 * 0.5)
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        maker.ones(f"{block}.attn_norm.weight", N_EMBD)
        maker.zeros(f"{block}.attn_norm.bias", N_EMBD)
        maker.matrix(f"{block}.attn_qkv.weight", N_EMBD, 3 * N_EMBD, gain=2.0)
        maker.zeros(f"{block}.attn_qkv.bias", 3 * N_EMBD)
        maker.matrix(f"{block}.attn_output.weight", N_EMBD, N_EMBD, gain=2.0)
        maker.zeros(f"{block}.attn_output.bias", N_EMBD)
        maker.ones(f"{block}.ffn_norm.weight", N_EMBD)
        maker.zeros(f"{block}.ffn_norm.bias", N_EMBD)
        maker.matrix(f"{block}.ffn_up.weight", N_EMBD, N_FF)
        maker.zeros(f"{block}.ffn_up.bias", N_FF)
        maker.matrix(f"{block}.ffn_down.weight", N_FF, N_EMBD)
        maker.zeros(f"{block}.ffn_down.bias", N_EMBD)
    maker.write()


def make_gemma3(path: Path) -> None:
    """Every other layer sees a window of `WINDOW` tokens only; wants a begin token."""
    head_size = 32
    maker = Maker(path, "gemma3", seed=3)
    maker.attention()
    maker.writer.add_key_length(head_size)
    maker.writer.add_value_length(head_size)
    maker.writer.add_layer_norm_rms_eps(1e-5)
    maker.writer.add_sliding_window(WINDOW)
    maker.writer.add_sliding_window_pattern([layer % 2 == 0 for layer in range(N_LAYER)])
    maker.vocabulary(template=CHATML, bos=BOS, eos=IM_END, add_bos=True)
    maker.embeddings()
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        maker.attention_layer(block, head_size)
        maker.add(f"{block}.attn_q_norm.weight", np.full(head_size, 2.0, np.float32))
        maker.add(f"{block}.attn_k_norm.weight", np.full(head_size, 2.0, np.float32))
        # The embeddings come in multiplied by 8; what attention adds has to be heard beside them.
        maker.add(f"{block}.post_attention_norm.weight", np.full(N_EMBD, 8.0, np.float32))
        maker.gated_mlp(block)
        maker.ones(f"{block}.post_ffw_norm.weight", N_EMBD)
    maker.write()


def make_mamba(path: Path) -> None:
    """No attention: one state, rewritten with every token."""
    inner, state, kernel, rank = 2 * N_EMBD, 8, 4, 8
    maker = Maker(path, "mamba", seed=4)
    maker.writer.add_head_count(0)
    maker.writer.add_feed_forward_length(0)
    maker.writer.add_layer_norm_rms_eps(1e-5)
    maker.writer.add_ssm_conv_kernel(kernel)
    maker.writer.add_ssm_inner_size(inner)
    maker.writer.add_ssm_state_size(state)
    maker.writer.add_ssm_time_step_rank(rank)
    maker.vocabulary(template=CHATML, bos=END_OF_TEXT, eos=IM_END, add_bos=False)
    maker.embeddings()
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        maker.ones(f"{block}.attn_norm.weight", N_EMBD)
        maker.matrix(f"{block}.ssm_in.weight", N_EMBD, 2 * inner, gain=2.0)
        conv = maker.random.normal(0.0, 0.7, (inner, kernel)).astype(np.float32)
        maker.add(f"{block}.ssm_conv1d.weight", conv)
        maker.zeros(f"{block}.ssm_conv1d.bias", inner)
        maker.matrix(f"{block}.ssm_x.weight", inner, rank + 2 * state, gain=2.0)
        maker.matrix(f"{block}.ssm_dt.weight", rank, inner)
        # softplus(-3) is 0.05: a state that forgets over some tens of tokens.
        maker.add(f"{block}.ssm_dt.bias", np.full(inner, -3.0, np.float32))
        decay = -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1))
        maker.add(f"{block}.ssm_a", decay)
        maker.ones(f"{block}.ssm_d", inner)
        maker.matrix(f"{block}.ssm_out.weight", inner, N_EMBD, gain=2.0)
    maker.write()


def make_lfm2(path: Path) -> None:
    """A hybrid: every other layer is a short convolution with a state of its own."""
    head_size, kernel = N_EMBD // N_HEAD, 3
    attends = [layer % 2 == 1 for layer in range(N_LAYER)]
    maker = Maker(path, "lfm2", seed=5)
    maker.attention([N_HEAD_KV if yes else 0 for yes in attends])
    maker.writer.add_vocab_size(N_VOCAB)
    maker.writer.add_layer_norm_rms_eps(1e-5)
    maker.writer.add_shortconv_l_cache(kernel)
    maker.vocabulary(template=CHATML, bos=IM_START, eos=IM_END, add_bos=False)
    maker.embeddings("token_embd_norm.weight")
    for layer, yes in enumerate(attends):
        block = f"blk.{layer}"
        if yes:
            maker.attention_layer(block, head_size)
            maker.add(f"{block}.attn_q_norm.weight", np.full(head_size, 2.0, np.float32))
            maker.add(f"{block}.attn_k_norm.weight", np.full(head_size, 2.0, np.float32))
        else:
            maker.ones(f"{block}.attn_norm.weight", N_EMBD)
            conv = maker.random.normal(0.0, 0.7, (N_EMBD, kernel)).astype(np.float32)
            maker.add(f"{block}.shortconv.conv.weight", conv)
            maker.matrix(f"{block}.shortconv.in_proj.weight", N_EMBD, 3 * N_EMBD, gain=1.5)
            maker.matrix(f"{block}.shortconv.out_proj.weight", N_EMBD, N_EMBD, gain=2.0)
        maker.gated_mlp(block)
    maker.write()


MAKERS: dict[str, Callable[[Path], None]] = {
    "llama": make_llama,
    "draft": make_draft,
    "gpt2": make_gpt2,
    "gemma3": make_gemma3,
    "mamba": make_mamba,
    "lfm2": make_lfm2,
}


def make_all(folder: Path) -> dict[str, Path]:
    """Every tiny model, by its architecture's name (`draft` is a second llama)."""
    paths = {name: folder / f"tiny-{name}.gguf" for name in MAKERS}
    for name, path in paths.items():
        MAKERS[name](path)
    return paths


if __name__ == "__main__":
    for made in make_all(Path(sys.argv[1])).values():
        print(made, made.stat().st_size)
