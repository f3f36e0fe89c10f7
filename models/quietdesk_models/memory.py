"""How much memory a model will take, estimated from its header before anything is loaded.

The KV cache and the recurrent states are counted as llama.cpp lays them out, with a stream of its
own for each sequence; the buffers of a step are an upper estimate.
"""

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
    heads = _per_layer(header, "attention.head_count_kv") or _per_layer(
        header, "attention.head_count"
    )
    width = header.number("embedding_length") // max(header.number("attention.head_count"), 1)
    numbers = (header.number("attention.key_length") or width) + (
        header.number("attention.value_length") or width
    )
    windowed = _windowed_layers(header)
    window = header.number("attention.sliding_window")
    # A windowed layer keeps its window and the rows of the step that moves it on.
    short = _padded(n_ctx) if full_window else min(_padded(n_ctx), _padded(window + n_batch))
    cells = [
        (short if windowed[layer] else _padded(n_ctx)) * count for layer, count in enumerate(heads)
    ]
    bits = KV_BITS[kv_type]
    return Memory(
        weights=header.weights_bytes,
        kv_cache=sum(cells) * numbers * n_seq * bits // (32 * 8),
        states=_states(header, heads) * n_seq,
        buffers=_buffers(header, n_seq, n_batch),
    )


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
