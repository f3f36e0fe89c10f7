"""Recipe: what is fitted of an estimator, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


LOOKS = ("features", "text", "story", "trees")
"""In the order of `neighbours`, after the plain score."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is fitted, how; the defaults are what `quietdesk fit` uses."""

    ahead: bool = True
    """Turns are estimated knowing what was said later."""
    n_outer: int = 5
    """Folds that measure the agreement; 0 measures none."""
    n_inner: int = 4
    """Folds inside each of them that fit the blend and the calibration."""
    seed: int = 0
    x_alpha: float = 2000.0
    """Ridge penalty on standardised features; labels are noisy and features many."""
    text_alpha: float = 20.0
    """Ridge penalty on text features of length 1."""
    blend_alpha: float = 300.0
    """Ridge penalty on what corrects a turn's score by its neighbours."""
    whole_alpha: float = 100.0
    means_alpha: float = 3000.0
    bag_alpha: float = 5.0
    """Ridge penalties on what a conversation is scored from: its turns' scores, their mean
    features, all of its words."""
    shrink: float | None = None
    """Ratings worth of doubt before a conversation's raters are called lenient or strict; None:
    as many as the ratings themselves say."""
    n_trees: int = 120
    """Each grown on the turns of some customers and averaged."""
    sample_share: float = 0.63
    """Of the customers that a tree is grown on, as many as different ones in a bootstrap sample."""
    min_leaf: int = 3
    feature_share: float = 0.1
    """Of the columns that are tried at each node."""
    looks: tuple[str, ...] = LOOKS
    """What a turn is looked at by. Only features carry over between topics."""
    signs: Mapping[str, int] = field(default_factory=dict)
    """Features that may count, each with the direction that it may count in, 1 or -1; all features,
    in any direction, where there are none. What is known beforehand need not be learned wrongly."""
