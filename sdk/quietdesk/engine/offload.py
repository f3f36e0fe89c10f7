"""Offloading: which layers go on which GPU, so that each one that goes there fits in whole.

llama.cpp takes layers from the end of the model, the output counting as the last one, and gives
each GPU a run of neighbouring layers; a layer's part of the KV cache lies where the layer does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RESERVE_BYTES = 512 * 2**20
"""Left free on each GPU: for its driver, its libraries' workspaces and other programs."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that llama.cpp can use."""

    name: str
    """As llama.cpp calls it: `CUDA0`, `Metal`."""
    description: str
    free_bytes: int
    total_bytes: int
    shares_memory: bool = False
    """Whether its memory is the processor's."""


@dataclass(frozen=True, slots=True)
class Offload:
    """What goes on the GPUs."""

    n_layers: int
    """The output counted in."""
    split: tuple[int, ...]
    """Layers of each GPU."""
    gpu_bytes: tuple[int, ...]
    """Estimate for each GPU: its layers, and buffers where it has any."""
    fits: bool


def offload(layers: Sequence[int], gpus: Sequence[Gpu], buffers: int, wanted: int = -1) -> Offload:
    """As many layers as fit, or the wanted ones.

    One GPU is taken where one is enough, the one with the most room, as every border between two
    costs a transfer in each step; else they are filled one after another.

    Args:
        layers: Bytes of each layer, the output last.
        gpus: In llama.cpp's order, at least one.
        buffers: Bytes that each GPU with layers needs for a step.
        wanted: How many layers, whether they fit or not; -1: as many as fit.
    """
    rooms = [gpu.free_bytes - RESERVE_BYTES - buffers for gpu in gpus]
    most = len(layers) if wanted < 0 else min(wanted, len(layers))
    for n in range(most, -1, -1):
        taken = layers[len(layers) - n :]
        split = _fill(taken, rooms)
        if split is not None:
            return Offload(n, split, _bytes(taken, split, buffers), True)
        if wanted >= 0:
            break
    taken = layers[len(layers) - most :]
    roomiest = rooms.index(max(rooms))
    split = tuple(most if at == roomiest else 0 for at in range(len(rooms)))
    return Offload(most, split, _bytes(taken, split, buffers), False)


def _fill(layers: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...] | None:
    """Layers of each GPU; None where they do not fit."""
    roomiest = rooms.index(max(rooms))
    if not layers or sum(layers) <= rooms[roomiest]:
        return tuple(len(layers) if at == roomiest else 0 for at in range(len(rooms)))
    split, at = [], 0
    for room in rooms:
        first = at
        while at < len(layers) and layers[at] <= room:
            room -= layers[at]
            at += 1
        split.append(at - first)
    return tuple(split) if at == len(layers) else None


def _bytes(layers: Sequence[int], split: Sequence[int], buffers: int) -> tuple[int, ...]:
    sizes, at = [], 0
    for count in split:
        sizes.append(sum(layers[at : at + count]) + buffers if count else 0)
        at += count
    return tuple(sizes)
