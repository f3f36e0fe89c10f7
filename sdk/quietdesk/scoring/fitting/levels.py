"""Levels: a score as odds of the scale's levels, calibrated."""

import numpy as np
from scipy.optimize import minimize

from quietdesk.scoring.base import BoolArray, FloatArray, IntArray
from quietdesk.scoring.fitting.labels import Votes, classes_of
from quietdesk.scoring.fitting.recipe import Arrays


def fit_levels(score: FloatArray, votes: Votes, scale: FloatArray) -> Arrays:
    """The calibration of a score: odds of the levels, probability of dissatisfied, class limits."""
    case = np.repeat(np.arange(len(score)), votes.size)
    level = np.abs(votes.values[:, None] - scale[None, :]).argmin(axis=1)
    slope, thresholds = _proportional_odds(score[case], level, len(scale))
    truth = classes_of(votes.mean, scale)
    bad = truth == 0
    cuts = np.quantile(score, [bad.mean(), 1.0 - (truth == 2).mean()])
    if not bad.any():
        cuts[0] = score.min() - 1.0
    if not (truth == 2).any():
        cuts[1] = score.max() + 1.0
    return {
        "slope": np.array([slope]),
        "thresholds": thresholds,
        "risk": _platt(score, bad),
        "cuts": np.maximum.accumulate(cuts),
    }


def _proportional_odds(
    score: FloatArray, level: IntArray, n_levels: int
) -> tuple[float, FloatArray]:
    """Slope and thresholds of the likeliest proportional-odds model, the slope not negative."""
    spread = float(score.std()) or 1.0
    z = (score - score.mean()) / spread
    share = np.clip([(level >= k).mean() for k in range(1, n_levels)], 1e-4, 1 - 1e-4)
    start = -np.log(share / (1 - share))
    steps = np.log(np.maximum(np.diff(start), 1e-3))

    def unpack(theta: FloatArray) -> tuple[float, FloatArray]:
        rising = np.concatenate([theta[1:2], np.exp(np.clip(theta[2:], -12, 6))])
        return float(np.exp(np.clip(theta[0], -12, 6))), np.cumsum(rising)

    def loss(theta: FloatArray) -> float:
        slope, limits = unpack(theta)
        above = 1.0 / (1.0 + np.exp(-np.clip(slope * z[:, None] - limits[None, :], -40, 40)))
        edges = np.concatenate([np.ones((len(z), 1)), above, np.zeros((len(z), 1))], axis=1)
        likely = edges[np.arange(len(z)), level] - edges[np.arange(len(z)), level + 1]
        return float(-np.log(np.maximum(likely, 1e-12)).mean())

    found = minimize(loss, np.concatenate([[0.0], start[:1], steps]), method="L-BFGS-B")
    slope, limits = unpack(found.x)
    return slope / spread, limits + slope / spread * float(score.mean())


def _platt(score: FloatArray, bad: BoolArray) -> FloatArray:
    """(slope, intercept) of the probability of dissatisfied; the slope is not positive.

    Source: Platt (1999), with his targets that keep a rare class from certainty.
    """
    spread = float(score.std()) or 1.0
    z = (score - score.mean()) / spread
    n_bad, n_other = int(bad.sum()), int((~bad).sum())
    target = np.where(bad, (n_bad + 1) / (n_bad + 2), 1 / (n_other + 2))

    def loss(theta: FloatArray) -> float:
        logit = theta[1] - np.exp(np.clip(theta[0], -12, 6)) * z
        return float((np.logaddexp(0, logit) - target * logit).mean())

    base = np.log((n_bad + 1) / (n_other + 1))
    found = minimize(loss, np.array([0.0, base]), method="L-BFGS-B").x
    slope = -float(np.exp(np.clip(found[0], -12, 6))) / spread
    return np.array([slope, float(found[1]) - slope * float(score.mean())])
