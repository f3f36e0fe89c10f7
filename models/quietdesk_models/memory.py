"""How much memory a model will take, estimated from its header before anything is loaded.

The KV cache and the recurrent states are counted as llama.cpp lays them out, with a stream of its
own for each sequence; the buffers of a step are an upper estimate.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quietdesk_models.gguf import Header

KV_BITS: Mapping[str, int] = {"f32": 32 * 32, "f16": 16 * 32, "q8_0": 34 * 8}
"""Bits of a block of 32 numbers of the KV cache."""
PADDING = 256
"""llama.cpp's KV caches grow in steps of so many tokens."""

_PATTERNS = {"gemma2": 2, "gemma3": 6, "cohere2": 4, "gpt-oss": 2}
"""Of so many layers the last one sees everything, where the file does not say it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they are for."""

    weights: int
    kv_cache: int
    states: int
    """Of recurrent layers."""
    buffers: int
    """For one step: activations, and scores of one row a sequence and some drafted ones."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.states + self.buffers


def estimate(
    header: Header,
    *,
    n_ctx: int,
    n_seq: int = 1,
    n_batch: int = 512,
    kv_type: str = "f16",
    full_window: bool = False,
) -> Memory:
    """What a model takes.

    Args:
        header: The model's.
        n_ctx: Tokens of context of each sequence.
        n_seq: Sequences.
        n_batch: Rows of a step.
        kv_type: A key of `KV_BITS`.
        full_window: Whether layers with a sliding window keep everything all the same, so that
            a conversation can go back to an earlier turn.
    """
    heads = _heads(header)
    return Memory(
        weights=header.weights_bytes,
        kv_cache=sum(_kv_cells(header, n_ctx, n_batch, full_window))
        * _numbers(header)
        * n_seq
        * KV_BITS[kv_type]
        // (32 * 8),
        states=_states(header, heads) * n_seq,
        buffers=_buffers(header, n_seq, n_batch),
    )


def layer_bytes(header: Header, *, n_ctx: int, n_seq: int, kv_type: str) -> list[int]:
    """What each layer takes where it lies: its weights, and its part of KV cache and states.

    Every layer keeps the whole context, windowed ones too.

    Args:
        header: The model's.
        n_ctx: Tokens of context of each sequence.
        n_seq: Sequences.
        kv_type: A key of `KV_BITS`.

    Returns:
        Bytes of each layer, and last of the output.
    """
    heads = _heads(header)
    cell = _numbers(header) * n_seq * KV_BITS[kv_type]
    sizes = [cells * cell // (32 * 8) for cells in _kv_cells(header, n_ctx, 0, True)]
    recurrent = [layer for layer in range(header.n_layer) if not any(heads[layer : layer + 1])]
    for layer in recurrent:
        sizes[layer : layer + 1] = [_states(header, heads) * n_seq // len(recurrent)]
    output = output_copy_bytes(header)
    for tensor in header.tensors:
        block = re.match(r"blk\.(\d+)\.", tensor.name)
        if block and int(block[1]) < len(sizes):
            sizes[int(block[1])] += tensor.size_bytes
        elif tensor.name.startswith("output"):
            output += tensor.size_bytes
    return [*sizes, output]


def output_copy_bytes(header: Header) -> int:
    """What the output takes once more where it does not lie with the embeddings it shares."""
    sizes = {tensor.name: tensor.size_bytes for tensor in header.tensors}
    return 0 if "output.weight" in sizes else sizes.get("token_embd.weight", 0)


def _heads(header: Header) -> list[int]:
    """Heads of keys and values in each layer; 0 in a recurrent one."""
    return _per_layer(header, "attention.head_count_kv") or _per_layer(
        header, "attention.head_count"
    )


def _numbers(header: Header) -> int:
    """Numbers of a key and a value of one head."""
    width = header.number("embedding_length") // max(header.number("attention.head_count"), 1)
    return (header.number("attention.key_length") or width) + (
        header.number("attention.value_length") or width
    )


def _kv_cells(header: Header, n_ctx: int, n_batch: int, full_window: bool) -> list[int]:
    """Cells that each layer keeps of one sequence, times its heads."""
    windowed = _windowed_layers(header)
    window = header.number("attention.sliding_window")
    # A windowed layer keeps its window and the rows of the step that moves it on.
    short = _padded(n_ctx) if full_window else min(_padded(n_ctx), _padded(window + n_batch))
    return [
        (short if windowed[layer] else _padded(n_ctx)) * count
        for layer, count in enumerate(_heads(header))
    ]


def _per_layer(header: Header, key: str) -> list[int]:
    numbers = list(header.numbers(key))
    return numbers * header.n_layer if len(numbers) == 1 else numbers


def _windowed_layers(header: Header) -> list[bool]:
    """Which layers see a window only; where nothing is known of it, none."""
    n_layer = header.n_layer
    if not header.number("attention.sliding_window"):
        return [False] * n_layer
    told = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(told, tuple) and len(told) == n_layer:
        return [bool(layer) for layer in told]
    pattern = told if isinstance(told, int) else _PATTERNS.get(header.architecture, 1)
    return [layer % pattern < pattern - 1 for layer in range(n_layer)]


def _states(header: Header, heads: list[int]) -> int:
    """Bytes of one sequence's recurrent states, which are in 32 bits."""
    recurrent = header.n_layer - sum(1 for count in heads if count > 0)
    if recurrent == 0:
        return 0
    embedding = header.number("embedding_length")
    if head_size := header.number("wkv.head_size"):
        numbers = 2 * embedding + embedding * head_size
    elif cache := header.number("shortconv.l_cache"):
        numbers = embedding * (cache - 1)
    else:
        inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
        groups, kernel = header.number("ssm.group_count"), header.number("ssm.conv_kernel")
        numbers = max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner
    return 4 * numbers * recurrent


def _buffers(header: Header, n_seq: int, n_batch: int) -> int:
    """An upper estimate of what a step needs beside weights and caches."""
    embedding = header.number("embedding_length")
    wide = max(header.number("feed_forward_length"), 2 * embedding)
    activations = 4 * n_batch * (6 * embedding + 3 * wide)
    scores = 4 * header.n_vocab * (n_seq + 16)
    # Tables of the graph, the batch and the sampler, whatever the model.
    return activations + scores + 32 * 2**20


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING) * PADDING
