"""Agreement: how well estimates agree with people, corrected for ties and chance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.statistics import average_ranks, spearman

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

N_REPLICATES = 300
"""Bootstrap replicates of an interval; its ends are the 2.5 and 97.5 per cent points."""
N_BINS = 10
"""Bins of the calibration error, of equal numbers of cases."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and its interval of 95 per cent."""

    value: float
    """NaN where it cannot be computed: everyone of one class, too few cases."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How estimates agree with the mean of people's ratings.

    Attributes:
        n: Cases.
        n_groups: Conversations or customers that they come from.
        spearman: Rank correlation with the mean rating, -1 to 1, tied ranks averaged.
        auc: Of the dissatisfied against the others, by the estimated probability, 0 to 1.
        kappa: Cohen's, over dissatisfied, neutral, satisfied, -1 to 1.
        uar: Unweighted average recall over those three, 0 to 1; 1/3 is chance.
        calibration: Mean distance of the estimated probability of dissatisfied from its frequency,
            over `N_BINS` bins, 0 to 1.
        rater: One person's Spearman with the mean of the others; NaN with one rater per case.
        dissatisfied: Share of dissatisfied cases.
    """

    n: int
    n_groups: int
    spearman: Figure
    auc: Figure
    kappa: Figure
    uar: Figure
    calibration: Figure
    rater: float
    dissatisfied: float


def area_under_curve(scores: FloatArray, positive: BoolArray) -> float:
    """Area under the ROC curve, 0 to 1: a positive case outscores a negative one; ties count half.

    Source: Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve (1982).
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    total = float(average_ranks(scores)[positive].sum())
    return (total - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def kappa(truth: IntArray, guess: IntArray, n_classes: int) -> float:
    """Cohen's kappa, -1 to 1; NaN where both are the same constant.

    Source: Cohen, A Coefficient of Agreement for Nominal Scales (1960).
    """
    if not len(truth):
        return float("nan")
    table = np.bincount(truth * n_classes + guess, minlength=n_classes**2)
    shares = table.reshape(n_classes, n_classes) / len(truth)
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - chance) / (1 - chance) if chance < 1 else float("nan")


def average_recall(truth: IntArray, guess: IntArray, n_classes: int) -> float:
    """Recall averaged over the classes that occur, each counting the same, 0 to 1.

    Source: Schuller et al., The Interspeech 2009 Emotion Challenge (2009).
    """
    size = np.bincount(truth, minlength=n_classes)
    hits = np.bincount(truth[truth == guess], minlength=n_classes)
    some = size > 0
    return float((hits[some] / size[some]).mean()) if some.any() else float("nan")


def calibration_error(probability: FloatArray, happened: BoolArray) -> float:
    """Expected calibration error, 0 to 1, over bins of equal numbers of cases.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian
    Binning (AAAI 2015); equal-mass bins as in Nguyen and O'Connor (EMNLP 2015).
    """
    n = len(probability)
    if not n:
        return float("nan")
    order = np.argsort(probability, kind="stable")
    bins = np.arange(n) * min(N_BINS, n) // n
    size = np.bincount(bins)
    said = np.bincount(bins, weights=probability[order])
    came = np.bincount(bins, weights=happened[order].astype(np.float64))
    return float(np.abs(said - came).sum() / size.sum())


def one_rater(votes: FloatArray, offsets: IntArray) -> float:
    """Spearman of each vote with the mean of the other votes on the same case; NaN without any.

    Args:
        votes: All votes, flat.
        offsets: Shape (n + 1,): case i has the votes offsets[i] to offsets[i + 1].
    """
    size = np.diff(offsets)
    total = np.add.reduceat(np.append(votes, 0.0), offsets[:-1]) if len(size) else size
    total = np.where(size > 0, total, 0)
    case = np.repeat(np.arange(len(size)), size)
    several = size[case] > 1
    case, single = case[several], votes[several]
    if not len(single):
        return float("nan")
    return spearman(single, (total[case] - single) / (size[case] - 1))


def with_interval(
    measure: Callable[[IntArray], float], groups: IntArray, *, seed: int = 12345
) -> Figure:
    """A measure over all cases, with a percentile bootstrap that draws whole groups.

    Args:
        measure: From rows (any, repeated ones too) to a number.
        groups: Shape (n,): each row's group, any numbers.
        seed: The same draws each time.

    Source: Field and Welsh, Bootstrapping Clustered Data (2007).
    """
    n = len(groups)
    value = measure(np.arange(n)) if n else float("nan")
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if n else np.zeros(0, np.int64)
    size = np.diff(np.append(first, n))
    if len(first) < 2:
        return Figure(value, float("nan"), float("nan"))
    draw = np.random.default_rng(seed)
    found = np.empty(N_REPLICATES)
    for replicate in range(N_REPLICATES):
        drawn = draw.integers(len(first), size=len(first))
        length = size[drawn]
        inside = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        found[replicate] = measure(order[np.repeat(first[drawn], length) + inside])
    low, high = np.nanpercentile(found, [2.5, 97.5]) if np.isfinite(found).any() else (np.nan,) * 2
    return Figure(value, float(low), float(high))


def agreement(
    estimate: Mapping[str, FloatArray | IntArray],
    votes: FloatArray,
    offsets: IntArray,
    classes: IntArray,
    groups: IntArray,
) -> Agreement:
    """Every measure of one set of estimates.

    Args:
        estimate: `expected` (the rating), `dissatisfied` (its probability) and `classes` (0
            dissatisfied, 1 neutral, 2 satisfied), each of shape (n,).
        votes: All ratings, flat.
        offsets: Shape (n + 1,): case i has the votes offsets[i] to offsets[i + 1].
        classes: Shape (n,): the true class of each case.
        groups: Shape (n,): the conversation or customer of each case.
    """
    size = np.diff(offsets)
    case = np.repeat(np.arange(len(size)), size)
    mean = np.bincount(case, weights=votes, minlength=len(size)) / np.maximum(size, 1)
    expected = np.asarray(estimate["expected"], np.float64)
    risk = np.asarray(estimate["dissatisfied"], np.float64)
    guess = np.asarray(estimate["classes"], np.int64)
    bad = classes == 0

    def figure(measure: Callable[[IntArray], float]) -> Figure:
        return with_interval(measure, groups)

    return Agreement(
        n=len(mean),
        n_groups=len(np.unique(groups)),
        spearman=figure(lambda rows: spearman(expected[rows], mean[rows])),
        auc=figure(lambda rows: area_under_curve(risk[rows], bad[rows])),
        kappa=figure(lambda rows: kappa(classes[rows], guess[rows], 3)),
        uar=figure(lambda rows: average_recall(classes[rows], guess[rows], 3)),
        calibration=figure(lambda rows: calibration_error(risk[rows], bad[rows])),
        rater=one_rater(votes, offsets),
        dissatisfied=float(bad.mean()) if len(bad) else float("nan"),
    )
