"""Intervals, tests and effect sizes for sums of conversations: plain functions on numpy arrays.

Whatever is resampled is a customer (or a conversation of an unknown customer), or a hash bucket of
them, never a message: messages of one customer are alike, and an interval that takes them for
independent is too narrow.
"""

from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SEED = 12345
"""The seed of everything that is drawn, sacrebleu's default too: the same data, the same interval."""


class Interval(NamedTuple):
    """A 95 per cent interval."""

    low: float
    high: float


def segment_bootstrap(
    segments: npt.NDArray[np.int64 | np.float64],
    score: Callable[[npt.NDArray[np.float32]], float],
    n_replicates: int = 1000,
) -> tuple[float, float]:
    """Mean and half-width of a corpus score over resampled segments, as sacrebleu finds them.

    The same draws, the same sums in single precision and the same quantiles, so the result is
    sacrebleu's to the last bit; and its limits too, wherefore it is for some ten thousand segments.

    Args:
        segments: Shape (n, k): the statistics of each segment.
        score: The score of summed statistics, shape (k,).
        n_replicates: How many.
    """
    rng = np.random.default_rng(SEED)
    single = np.array(segments, dtype=np.float32)
    scores = []
    for _ in range(n_replicates):
        # One replicate's draws after the other's are the same numbers as all at once.
        drawn = rng.choice(len(single), size=(1, len(single)), replace=True)[0]
        scores.append(score(single[drawn].sum(0)))
    scores.sort()
    cut = n_replicates // 40
    return float(mean(scores)), float(0.5 * (scores[n_replicates - cut - 1] - scores[cut]))
