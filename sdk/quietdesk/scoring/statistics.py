"""Intervals, tests and effect sizes for sums of conversations: plain functions on numpy arrays.

What is resampled is a customer (or a conversation of an unknown customer), or a hash bucket of
them, never a message: messages of one customer are alike, and an interval that takes them for
independent is too narrow. Buckets are weighted by independent Poisson draws, one matrix for all
metrics and slices, so any number of them costs one product each and all are resampled alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from statistics import NormalDist, mean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit
from threadpoolctl import ThreadpoolController

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Values = Callable[[Mapping[str, FloatArray]], Mapping[str, FloatArray]]
"""From sums by column, each of shape (n_replicates,), to values by name."""

SEED = 12345
"""The seed of all that is drawn, and sacrebleu's: the same data give the same interval."""
N_REPLICATES = 1000
N_TRIALS = 10_000
"""Random assignments of a test."""
LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
POWER = 0.8
"""Of the smallest detectable change: how often a change of that size would be found."""
FEWEST_IN_TAIL = 5
FEWEST_CLUSTERS = 10
"""Fewer customers than this tell nothing about others; an interval is given, and is a guess."""


class Interval(NamedTuple):
    """A 95 per cent interval."""

    low: float
    high: float


NO_INTERVAL = Interval(math.nan, math.nan)


def wilson(hits: float, n: float, z: float = Z) -> Interval:
    """Wilson's score interval for a share of independent trials.

    Args:
        hits: Trials that hit, 0 to n.
        n: Trials; need not be whole, for an effective number.
        z: The quantile of the error's distribution.

    Source: Wilson, Probable Inference (1927).
    """
    if n <= 0:
        return NO_INTERVAL
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(
        0.0 if hits <= 0 else max(middle - half, 0.0), 1.0 if hits >= n else min(middle + half, 1.0)
    )


def clustered_wilson(hits: IntArray, trials: IntArray, *, hashed: bool = False) -> Interval:
    """Wilson's interval for a share of trials that come in clusters.

    The number of trials is divided by the design effect: the variance between clusters over that of
    independent trials, at least 1. Where no trial or every one hit, the clusters say nothing of
    their likeness, and each counts as one trial.

    Args:
        hits: Shape (n_clusters,).
        trials: Shape (n_clusters,).
        hashed: Whether they are hash buckets, which may hold several clusters each.

    Source: Kish, Survey Sampling (1965); Korn and Graubard, Confidence Intervals for Proportions
    with Small Expected Number of Positive Counts (1998), with Wilson's interval for theirs.
    """
    some = trials > 0
    hit, tried = hits[some].astype(np.float64), trials[some].astype(np.float64)
    n_clusters, total, share = len(tried), tried.sum(), 0.0
    if n_clusters == 0:
        return NO_INTERVAL
    share = hit.sum() / total
    if tried.max() <= 1:
        return wilson(hit.sum(), total)
    if n_clusters < 2:
        return Interval(0.0, 1.0)
    if share in {0.0, 1.0}:
        whole = count_clusters(n_clusters, len(trials)) if hashed else n_clusters
        effective = min(float(total), whole)
        return wilson(share * effective, effective)
    error = hit - share * tried
    variance = n_clusters / (n_clusters - 1) * float(error @ error) / total**2
    effect = max(variance * total / (share * (1 - share)), 1.0)
    effective = total / effect
    return wilson(share * effective, effective, t_quantile(n_clusters - 1))


def count_clusters(n_occupied: int, n_buckets: int) -> float:
    """About how many clusters it takes to occupy so many hash buckets.

    Source: Whang et al., A Linear-Time Probabilistic Counting Algorithm (1990).
    """
    empty = max(n_buckets - n_occupied, 1)
    return max(n_buckets * math.log(n_buckets / empty), float(n_occupied))


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t."""
    return float(stdtrit(max(freedom, 1.0), 0.5 + level / 2))


@lru_cache(maxsize=8)
def poisson_weights(
    n_clusters: int, n_replicates: int = N_REPLICATES, seed: int = SEED
) -> FloatArray:
    """How often each replicate draws each cluster, shape (n_replicates, n_clusters).

    Independent Poisson(1) counts in place of a multinomial one: a cluster's weights do not depend
    on which others there are. Source: Chamandy et al., Estimating Uncertainty for Massive Data
    Streams (2012).
    """
    rng = np.random.default_rng(seed)
    weights = rng.poisson(1.0, size=(n_replicates, n_clusters)).astype(np.float64)
    weights.setflags(write=False)
    return weights


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """The matrix product on one core.

    With more, threads that wait for each other spin, and where something else uses the cores, as
    worker processes do, a product of a millisecond takes a hundred.
    """
    with _blas().limit(limits=1, user_api="blas"):
        result: FloatArray = a @ b
    return result


def resample(
    cells: Mapping[str, IntArray], values: Values, weights: FloatArray | None = None
) -> Mapping[str, FloatArray]:
    """Values of replicates: each cluster's sums as often as it was drawn.

    Args:
        cells: Column to sums by cluster, shape (n_clusters,).
        values: From sums to values.
        weights: Shape (n_replicates, n_clusters); Poisson's if None.
    """
    columns = list(cells)
    sums = np.stack([cells[name] for name in columns], axis=1).astype(np.float64)
    if weights is None:
        weights = poisson_weights(len(sums))
    drawn = _drawn(weights, sums)
    return values({name: drawn[:, place] for place, name in enumerate(columns)})


def _drawn(weights: FloatArray, sums: FloatArray) -> FloatArray:
    """The replicates' sums, shape (n_replicates, n_columns)."""
    occupied = np.flatnonzero(sums.any(axis=1))
    # Copying columns of the weights costs more than a product with some zeros.
    if 2 * len(occupied) > len(sums):
        return product(weights, sums)
    return product(weights[:, occupied], sums[occupied])


def percentile_interval(replicates: FloatArray, n_clusters: int) -> Interval:
    """The middle 95 per cent of replicates, widened as Student's t is wider than the normal.

    Args:
        replicates: Shape (n_replicates,); NaN where a replicate has no value.
        n_clusters: Clusters that were resampled.

    Source: Hesterberg, What Teachers Should Know About the Bootstrap (2015): expanded percentiles.
    """
    known = replicates[~np.isnan(replicates)]
    if n_clusters < 2 or len(known) < len(replicates) / 2:
        return NO_INTERVAL
    tail = NormalDist().cdf(-t_quantile(n_clusters - 1))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(low), float(high))


def ratio_interval(over: IntArray, under: IntArray) -> Interval:
    """An interval for a ratio of sums over clusters: the bootstrap of Student's t.

    Each replicate's ratio is measured in its own standard error, so that a long tail to one side,
    as waiting times have, moves the interval instead of falling out of it.

    Args:
        over: Shape (n_clusters,).
        under: Shape (n_clusters,), from 0.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 12; the standard
    error as in Cochran, Sampling Techniques (1977), section 6.
    """
    bottom = under.astype(np.float64)
    top = np.where(under > 0, over, 0).astype(np.float64)
    if (under > 0).sum() < 2:
        return NO_INTERVAL
    powers = np.stack([top, bottom, top * top, top * bottom, bottom * bottom], axis=1)
    ratio, error = _ratios(powers.sum(axis=0)[None])
    ratios, errors = _ratios(_drawn(poisson_weights(len(over)), powers))
    usable = errors > 0
    if error[0] <= 0 or usable.sum() < len(errors) / 2:
        return Interval(float(ratio[0]), float(ratio[0]))
    low, high = np.quantile(
        (ratios[usable] - ratio) / errors[usable], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    )
    return Interval(float(ratio[0] - high * error[0]), float(ratio[0] - low * error[0]))


def _ratios(powers: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ratios of sums and their standard errors, from sums of x, n, xx, xn, nn: shape (n, 5)."""
    x, n, xx, xn, nn = powers.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = x / n
        variance = np.maximum(xx - 2 * ratio * xn + ratio**2 * nn, 0.0) / n**2
    return ratio, np.sqrt(variance)


def segment_bootstrap(
    segments: npt.NDArray[np.int64 | np.float64],
    score: Callable[[npt.NDArray[np.float32]], float],
    n_replicates: int = N_REPLICATES,
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


class Difference(NamedTuple):
    """What a test says of one value in two runs."""

    value: float
    """New less old."""
    interval: Interval
    p: float
    """Two-sided: how often chance alone gives a difference as large."""


def bootstrap_p(replicates: FloatArray, n_clusters: int) -> float:
    """Two-sided p of a difference whose replicates are these.

    Below 5 per cent if and only if the interval of `percentile_interval` leaves out 0, but for
    rounding. Where fewer than `FEWEST_IN_TAIL` replicates lie beyond 0, their share says no more
    than that p is small; how small, Student's t says, so that many questions can be asked at once.
    """
    known = replicates[~np.isnan(replicates)]
    if n_clusters < 2 or len(known) < len(replicates) / 2:
        return math.nan
    in_tail = float(min(np.sum(known <= 0), np.sum(known >= 0)))
    # The expansion of the percentiles, undone: the normal quantile is one of Student's t.
    z = (
        -NormalDist().inv_cdf(min((in_tail + 0.5) / (len(known) + 1), 0.5))
        * Z
        / t_quantile(n_clusters - 1)
    )
    p = min(2 * NormalDist().cdf(-z), 1.0)
    if in_tail < FEWEST_IN_TAIL and known.std() > 0:
        p = min(p, 2 * float(stdtr(n_clusters - 1, -abs(known.mean()) / known.std())))
    return p


class Question(NamedTuple):
    """Values of two runs, to be told apart."""

    new: Mapping[str, IntArray]
    """Column to sums by cluster."""
    old: Mapping[str, IntArray]
    values: Values
    """From sums to values."""


def paired_bootstrap(question: Question) -> dict[str, Difference]:
    """Each value's difference between two runs over the same clusters, drawn together.

    Source: Koehn, Statistical Significance Tests for Machine Translation Evaluation (2004).
    """
    both = _both(question)
    occupied = np.any([sums != 0 for cells in both for sums in cells.values()], axis=0)
    drawn = [resample(cells, question.values) for cells in both]
    return _differences(both, drawn, question.values, int(occupied.sum()))


def two_sample_bootstrap(question: Question) -> dict[str, Difference]:
    """Each value's difference between two runs of different customers, drawn apart."""
    both = _both(question)
    counts = [int(np.any([sums != 0 for sums in cells.values()], axis=0).sum()) for cells in both]
    drawn = []
    for place, cells in enumerate(both):
        n = len(next(iter(cells.values())))
        drawn.append(resample(cells, question.values, poisson_weights(n, seed=SEED + place)))
    # The freedom of a difference is close to the smaller sample's, and never below it.
    return _differences(both, drawn, question.values, min(counts))


def _both(question: Question) -> list[dict[str, IntArray]]:
    """The cells of both runs with the same columns."""
    columns = sorted(question.new.keys() | question.old.keys())
    return [_filled(cells, columns) for cells in (question.new, question.old)]


def _differences(
    both: Sequence[Mapping[str, IntArray]],
    drawn: Sequence[Mapping[str, FloatArray]],
    values: Values,
    n_clusters: int,
) -> dict[str, Difference]:
    whole = [
        values({name: np.array([sums.sum()], np.float64) for name, sums in cells.items()})
        for cells in both
    ]
    found = {}
    for name in whole[0]:
        replicates = drawn[0][name] - drawn[1][name]
        found[name] = Difference(
            float(whole[0][name][0] - whole[1][name][0]),
            percentile_interval(replicates, n_clusters),
            bootstrap_p(replicates, n_clusters),
        )
    return found


def _filled(cells: Mapping[str, IntArray], columns: Sequence[str]) -> dict[str, IntArray]:
    """The cells with zeros for columns that never occurred."""
    n = len(next(iter(cells.values())))
    return {name: cells.get(name, np.zeros(n, np.int64)) for name in columns}


def approximate_randomisation(
    questions: Sequence[Question], n_trials: int = N_TRIALS
) -> list[dict[str, float]]:
    """Two-sided p of each value's difference, each cluster's runs swapped by the toss of a coin.

    Args:
        questions: All over the same clusters; they share the tosses.
        n_trials: How many tosses for each cluster.

    Returns:
        Value to p, for each question.

    Source: Riezler and Maxwell, On Some Pitfalls in Automatic Evaluation and Significance Testing
    for MT (2005); the added one as in Phipson and Smyth (2010).
    """
    columns = [sorted(question.new.keys() | question.old.keys()) for question in questions]
    sides = zip(*(_both(question) for question in questions), strict=True)
    ours, theirs = (np.concatenate([_matrix(cells) for cells in side], axis=1) for side in sides)
    cuts = np.cumsum([len(names) for names in columns])[:-1]
    swapped = (ours != theirs).any(axis=1)
    gap, total = (ours - theirs)[swapped], (ours + theirs).sum(axis=0)
    base = (theirs[swapped]).sum(axis=0) + ours[~swapped].sum(axis=0)
    rng = np.random.default_rng(SEED)
    observed = _gaps(ours.sum(axis=0)[None], total, questions, columns, cuts)
    counts = [dict.fromkeys(found, 0) for found in observed]
    for n in _blocks(n_trials, len(gap)):
        heads = rng.integers(0, 2, size=(n, len(gap)), dtype=np.int8).astype(np.float64)
        # What does not differ is the same in both runs, whichever way the coin falls.
        first = product(heads, gap) + base
        for place, found in enumerate(_gaps(first, total, questions, columns, cuts)):
            for name, difference in found.items():
                counts[place][name] += _as_large(difference, observed[place][name][0])
    return [{name: (count + 1) / (n_trials + 1) for name, count in c.items()} for c in counts]


def _gaps(
    first: FloatArray,
    total: FloatArray,
    questions: Sequence[Question],
    columns: Sequence[Sequence[str]],
    cuts: IntArray,
) -> list[dict[str, FloatArray]]:
    """For each question, each value's distance between a run of these sums and one of the rest."""
    parts = zip(np.split(first, cuts, axis=1), np.split(total, cuts), strict=True)
    return [
        _gap(one, all_ - one, names, question.values)
        for (one, all_), names, question in zip(parts, columns, questions, strict=True)
    ]


def permutation_test(question: Question, n_trials: int = N_TRIALS) -> dict[str, float]:
    """Two-sided p of each value's difference, clusters dealt anew to two runs of the same sizes.

    Exact where both runs are drawn from one population of clusters; for a difference in means of
    populations with other spreads too, use `two_sample_bootstrap`.

    Args:
        question: Two runs of different clusters.
        n_trials: How many deals.
    """
    columns = sorted(question.new.keys() | question.old.keys())
    ours, theirs = (_matrix(cells) for cells in _both(question))
    ours, theirs = ours[(ours != 0).any(axis=1)], theirs[(theirs != 0).any(axis=1)]
    pool = np.concatenate([ours, theirs])
    rng = np.random.default_rng(SEED)
    total = pool.sum(axis=0)
    observed = _gap(ours.sum(axis=0)[None], theirs.sum(axis=0)[None], columns, question.values)
    counts = dict.fromkeys(observed, 0)
    for n in _blocks(n_trials, len(pool)):
        dealt = rng.permuted(np.tile(np.arange(len(pool)), (n, 1)), axis=1) < len(ours)
        first = product(dealt.astype(np.float64), pool)
        for name, gap in _gap(first, total - first, columns, question.values).items():
            counts[name] += _as_large(gap, observed[name][0])
    return {name: (count + 1) / (n_trials + 1) for name, count in counts.items()}


def _blocks(n_trials: int, n_clusters: int) -> list[int]:
    """Trials at a time, so that a block of draws stays below some ten megabytes."""
    size = max(2**20 // max(n_clusters, 1), 1)
    return [min(size, n_trials - start) for start in range(0, n_trials, size)]


def _matrix(cells: Mapping[str, IntArray]) -> FloatArray:
    return np.stack(list(cells.values()), axis=1).astype(np.float64)


def _gap(
    first: FloatArray, second: FloatArray, columns: Sequence[str], values: Values
) -> dict[str, FloatArray]:
    one, other = (
        values({name: sums[:, place] for place, name in enumerate(columns)})
        for sums in (first, second)
    )
    return {name: np.abs(one[name] - other[name]) for name in one}


def _as_large(gap: FloatArray, observed: float) -> int:
    # Trials without a value count against the difference. Equal sums in another order may differ
    # in the last places.
    return int(np.sum(~(gap < observed * (1 - 1e-12))))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that any false alarm among all has at most the level's chance.

    NaN stays, and does not count among the tests.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min((len(order) - rank) * p, 1.0))
        adjusted[place] = highest
    return adjusted


def cohen_h(new: float, old: float) -> float:
    """Effect size between two shares: the difference of their arcsine transforms.

    About .2 is small, .5 middling, .8 large. Source: Cohen, Statistical Power Analysis (1988).
    """
    return 2 * math.asin(math.sqrt(new)) - 2 * math.asin(math.sqrt(old))


def cohen_d(new: Sequence[float] | FloatArray, old: Sequence[float] | FloatArray) -> float:
    """Effect size between two means, in pooled standard deviations; NaN without any spread.

    Source: Cohen, Statistical Power Analysis (1988).
    """
    a, b = np.asarray(new, np.float64), np.asarray(old, np.float64)
    freedom = len(a) + len(b) - 2
    if freedom < 1:
        return math.nan
    pooled = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / freedom
    return float((a.mean() - b.mean()) / math.sqrt(pooled)) if pooled > 0 else math.nan


def cliffs_delta(new: Sequence[float] | IntArray, old: Sequence[float] | IntArray) -> float:
    """Chance that a new unit lies above an old one, less the chance of the opposite: -1 to 1.

    Args:
        new: Counts in bins from low to high, as `np.histogram` gives them.
        old: Counts in the same bins; two units of one bin are taken for equal.

    Source: Cliff, Dominance Statistics (1993).
    """
    n = max(len(new), len(old))
    a, b = (np.pad(np.asarray(x, np.float64), (0, n - len(x))) for x in (new, old))
    if not a.sum() or not b.sum():
        return math.nan
    below = np.cumsum(b) - b
    above = b.sum() - np.cumsum(b)
    return float((a * (below - above)).sum() / (a.sum() * b.sum()))


def smallest_detectable(interval: Interval) -> float:
    """The true change that a test at 5 per cent finds four times in five, by an interval."""
    half = (interval.high - interval.low) / 2
    return (Z + NormalDist().inv_cdf(POWER)) * half / Z


class PoweredMean(NamedTuple):
    """A mean from a few human labels and many automatic ones."""

    value: float
    interval: Interval
    weight: float
    """How much the automatic labels were trusted, 0 (not at all) to 1."""


def prediction_powered_mean(
    labels: FloatArray, predictions: FloatArray, unlabelled: FloatArray
) -> PoweredMean:
    """The mean of human labels over everything, helped by predictions, and unbiased by them.

    Args:
        labels: Shape (n,): human labels.
        predictions: Shape (n,): the automatic labels of the same units.
        unlabelled: Shape (m,): the automatic labels of the other units.

    Raises:
        ValueError: fewer than two labels or unlabelled units, or labels without predictions.

    Source: Angelopoulos et al., Prediction-Powered Inference (2023), and Angelopoulos, Duchi and
    Zrnic, PPI++ (2023), for the weight that makes the interval shortest.
    """
    if len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels and {len(predictions)} predictions for them.")
    n, m = len(labels), len(unlabelled)
    if n < 2 or m < 2:
        raise ValueError(f"{n} labels and {m} units without: at least two of each are needed.")
    spread = float(np.var(np.concatenate([predictions, unlabelled]), ddof=1))
    likeness = float(np.cov(labels, predictions, ddof=1)[0, 1])
    weight = min(max(likeness / ((1 + n / m) * spread), 0.0), 1.0) if spread > 0 else 0.0
    value = float(labels.mean() + weight * (unlabelled.mean() - predictions.mean()))
    variance = float(np.var(labels - weight * predictions, ddof=1)) / n
    variance += weight**2 * float(np.var(unlabelled, ddof=1)) / m
    half = t_quantile(n - 1) * math.sqrt(variance)
    return PoweredMean(value, Interval(value - half, value + half), weight)


def average_ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    ranks: FloatArray = (ends - (counts - 1) / 2)[inverse]
    return ranks


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation, corrected for ties; NaN where either is constant."""
    x, y = average_ranks(np.asarray(a)), average_ranks(np.asarray(b))
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread > 0 else math.nan
