"""Turns: the looks at a turn, by features, text, story and trees, and what they are worth."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from quietdesk.scoring.base import FloatArray, IntArray
from quietdesk.scoring.features import Grams, features, turn_features
from quietdesk.scoring.fitting.blend import positive_blend
from quietdesk.scoring.fitting.forest import grow
from quietdesk.scoring.fitting.labels import Labelled
from quietdesk.scoring.fitting.recipe import LOOKS, Arrays, Recipe
from quietdesk.scoring.fitting.words import idf_of, matrix_of, weighted
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.satisfaction import (
    KINDS,
    TEXT_LOOKS,
    bag_grams,
    standard,
    text_grams,
)


class TurnData(NamedTuple):
    """Everything about the labelled turns that no fold changes."""

    x: npt.NDArray[np.float32]
    grams: Mapping[str, sparse.csr_matrix]
    of: IntArray
    y: FloatArray
    weight: FloatArray
    n: int
    sets: IntArray
    """Shape (n_turns,)."""
    groups: IntArray
    """Shape (n_turns,)."""
    bags: Mapping[str, Grams]


def turn_data(labels: Labelled, recipe: Recipe) -> TurnData:
    """Features and words of the labelled turns, and their ratings."""
    seen: Reading = reading(labels.conversations)
    x = turn_features(seen, labels.rows)
    if not recipe.ahead:
        x[:, [feature.ahead for feature in features()]] = 0
    grams = {kind: matrix_of(g) for kind, g in text_grams(seen, labels.rows).items()}
    of = labels.conversations.conversation_of[labels.rows]
    y = labels.turns.mean
    weight, n = np.minimum(labels.turns.size, 5.0), labels.conversations.n
    sets, groups = labels.sets[of], labels.groups[of]
    return TurnData(x, grams, of, y, weight, n, sets, groups, bag_grams(seen))


def fit_and_look(
    data: TurnData, mine: IntArray, inner: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """The weighted looks, and what they say of turns that they were not fitted on.

    Returns:
        (arrays, shape (n_turns, 3): the looks of each rated turn from folds without its group,
        of turns without ratings from all folds).
    """
    found = _fit_looks(data, mine, recipe)
    looks = linear_looks(found, data, np.arange(len(data.x)))
    for k in range(recipe.n_inner):
        out = np.flatnonzero(inner[data.of] == k)
        kept = mine[inner[data.of[mine]] != k]
        if len(kept) and len(out):
            looks[out] = linear_looks(_fit_looks(data, kept, recipe), data, out)
    return found, looks


def _fit_looks(data: TurnData, rows: IntArray, recipe: Recipe) -> Arrays:
    """The weighted looks at a turn: by features, by text and by story."""
    x, weight = data.x[rows], data.weight[rows]
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    spread[spread < 1e-6] = 0.0
    wide = _within(standard(x, mean, spread), data.sets[rows])
    y = _targets(data, rows, wide, recipe)
    weights, bias = np.zeros(x.shape[1]), float(np.average(y, weights=weight))
    if "features" in recipe.looks and recipe.signs:
        weights = _signed(wide, y, weight, recipe.x_alpha, recipe.signs)
    elif "features" in recipe.looks:
        model = Ridge(alpha=recipe.x_alpha).fit(wide, y, weight)
        weights, bias = model.coef_, model.intercept_
    of_x = {"x.mean": mean, "x.spread": spread, "x.weights": weights, "x.bias": np.array([bias])}
    return of_x | _fit_text(data, rows, y, weight, recipe)


def _targets(data: TurnData, rows: IntArray, wide: FloatArray, recipe: Recipe) -> FloatArray:
    """Ratings of some turns without what is the raters' own.

    Raters differ from conversation to conversation. What the features do not explain of a
    conversation's mean is taken off before anything is learned from its turns.
    """
    y, weight, of = _within(data.y[rows], data.sets[rows]), data.weight[rows], data.of[rows]
    rest = y - Ridge(alpha=recipe.x_alpha).fit(wide, y, weight).predict(wide)
    total = np.bincount(of, weights=weight, minlength=data.n)
    lenient = np.bincount(of, weights=rest * weight, minlength=data.n)
    shrink = _doubt(rest, weight, of) if recipe.shrink is None else recipe.shrink
    size = np.bincount(of, minlength=data.n)
    found: FloatArray = y - np.where(size > 1, lenient / (total + shrink), 0.0)[of]
    return found


def _doubt(rest: FloatArray, weight: FloatArray, of: IntArray) -> float:
    """The variance within conversations by that between them, at least 1, at most 1e9.

    Source: the analysis of variance's estimators of the components of variance, as in Searle,
    Casella and McCulloch, Variance Components (1992), chapter 3.
    """
    total = np.bincount(of, weights=weight)
    there = total > 0
    total, n = total[there], int(there.sum())
    if n < 2 or len(rest) <= n:
        return 1e9
    mean = np.bincount(of, weights=rest * weight)[there] / total
    place = np.cumsum(there) - 1
    within = float((weight * (rest - mean[place[of]]) ** 2).sum()) / (len(rest) - n)
    middle = float((rest * weight).sum() / weight.sum())
    between = float((total * (mean - middle) ** 2).sum()) / (n - 1)
    size = (total.sum() - (total**2).sum() / total.sum()) / (n - 1)
    variance = (between - within) / size
    return float(np.clip(within / variance, 1.0, 1e9)) if variance > 0 else 1e9


def _within(values: FloatArray, sets: IntArray) -> FloatArray:
    """Values with every set's mean moved to the mean of all."""
    n = int(sets.max()) + 1
    if n == 1:
        return values
    moved = values.copy()
    for k in range(n):
        mine = sets == k
        if mine.any():
            moved[mine] += values.mean(axis=0) - values[mine].mean(axis=0)
    return moved


def _signed(
    wide: FloatArray, y: FloatArray, weight: FloatArray, alpha: float, signs: Mapping[str, int]
) -> FloatArray:
    """Ridge weights that keep to some signs; features without one get 0."""
    sign = np.array([signs.get(feature.name, 0) for feature in features()], np.float64)
    used = np.flatnonzero(sign)
    unknown = set(signs) - {feature.name for feature in features()}
    assert not unknown, unknown
    columns = wide[:, used] * sign[used]
    centered = columns - np.average(columns, axis=0, weights=weight)
    gram = (centered * weight[:, None]).T @ centered + alpha * np.eye(len(used))
    goal = (centered * weight[:, None]).T @ (y - np.average(y, weights=weight))
    scale = float(weight.sum())
    found = minimize(
        lambda w: float(w @ gram @ w / 2 - w @ goal) / scale,
        np.zeros(len(used)),
        jac=lambda w: (gram @ w - goal) / scale,
        bounds=[(0, None)] * len(used),
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-10},
    ).x
    weights = np.zeros(len(sign))
    weights[used] = found * sign[used]
    return weights


def _fit_text(
    data: TurnData, rows: IntArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> Arrays:
    """Weights of the text features for each look at them.

    The arrays of kinds that no look needs are empty.
    """
    used = {kind for look, kinds in TEXT_LOOKS.items() if look in recipe.looks for kind in kinds}
    found: Arrays = {f"{kind}.idf": np.zeros(0, np.float32) for kind in KINDS}
    block = {}
    for kind in sorted(used):
        matrix = data.grams[kind][rows]
        found[f"{kind}.idf"] = idf_of(matrix)
        block[kind] = weighted(matrix, found[f"{kind}.idf"])
    for look, kinds in TEXT_LOOKS.items():
        if look in recipe.looks:
            columns = sparse.hstack([block[kind] for kind in kinds]).tocsr()
            model = Ridge(alpha=recipe.text_alpha, solver="sparse_cg", tol=1e-3)
            model.fit(columns, y, weight)
            weights, bias = model.coef_, model.intercept_
        else:
            weights, bias = np.zeros(0), float(np.average(y, weights=weight))
        found[f"{look}.bias"] = np.array([bias])
        begin = 0
        for kind in kinds:
            stop = begin + (len(found[f"{kind}.idf"]) if len(weights) else 0)
            found[f"{look}.{kind}.weights"] = weights[begin:stop].astype(np.float32)
            begin = stop
    return found


def fit_trees(
    base: Arrays, data: TurnData, rows: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """Trees from some rated turns, and what they say of every turn.

    Returns:
        (arrays, shape (n_turns,): of each turn the mean over the trees that were grown without its
        customer, which are all of them where none of the rows is the customer's).
    """
    wide = _within(standard(data.x[rows], base["x.mean"], base["x.spread"]), data.sets[rows])
    y, weight = _targets(data, rows, wide, recipe), data.weight[rows]
    every = np.arange(len(data.x))
    return grow(data.x, rows, y, weight, data.groups[rows], every, data.groups, recipe)


def linear_looks(part: Arrays, data: TurnData, rows: IntArray) -> FloatArray:
    """The looks by features, text and story of some turns, from the matrices that are there.

    Returns:
        Shape (len(rows), 3).
    """
    looks = np.empty((len(rows), 1 + len(TEXT_LOOKS)))
    looks[:, 0] = standard(data.x[rows], part["x.mean"], part["x.spread"]) @ part["x.weights"]
    looks[:, 0] += part["x.bias"][0]
    for place, look in enumerate(TEXT_LOOKS, 1):
        looks[:, place] = part[f"{look}.bias"][0]
    for kind in KINDS:
        if len(part[f"{kind}.idf"]):
            block = weighted(data.grams[kind][rows], part[f"{kind}.idf"])
            for place, look in enumerate(TEXT_LOOKS, 1):
                if len(weights := part.get(f"{look}.{kind}.weights", np.zeros(0))):
                    looks[:, place] += block @ weights.astype(np.float64)
    return looks


def fit_blend(
    context: FloatArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> tuple[FloatArray, float]:
    """Weights of the columns of `neighbours`: looks count from 0 up, neighbours correct them.

    What neighbours say counts by how far it differs from the turn's own plain score, so that a turn
    that stands alone is scored by its looks only.
    """
    looks = context[:, 1 : 1 + len(LOOKS)]
    own, bias = positive_blend(looks, y, weight)
    apart = context[:, 1 + len(LOOKS) :] - context[:, :1]
    mean, spread = apart.mean(axis=0), apart.std(axis=0)
    spread[spread < 1e-9] = 1.0
    model = Ridge(alpha=recipe.blend_alpha)
    model.fit((apart - mean) / spread, y - looks @ own - bias[0], weight)
    correction = model.coef_ / spread
    weights = np.concatenate([[-float(correction.sum())], own, correction])
    return weights, float(bias[0] + model.intercept_ - mean @ correction)
