"""Folds: an estimator fitted on everything, and its agreement on folds that it did not see.

All that depends on the labels (weights of words, trees, the blend, the calibration) is fitted again
inside every fold, and a customer's conversations are never on both sides. The calibration is fitted
on estimates for turns that the estimator did not see (inner folds; of trees, those that were grown
without the turn's customer), the agreement is measured on conversations that neither saw (outer
folds).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from quietdesk.errors import UsageError
from quietdesk.scoring.agreement import Agreement, agreement
from quietdesk.scoring.base import BoolArray, FloatArray, IntArray
from quietdesk.scoring.features import features
from quietdesk.scoring.fitting.blend import positive_blend
from quietdesk.scoring.fitting.labels import Labelled, Votes, classes_of
from quietdesk.scoring.fitting.levels import fit_levels
from quietdesk.scoring.fitting.recipe import Arrays, Recipe
from quietdesk.scoring.fitting.turns import (
    TurnData,
    fit_and_look,
    fit_blend,
    fit_trees,
    linear_looks,
    turn_data,
)
from quietdesk.scoring.fitting.whole import Cases, fit_and_look_at_whole
from quietdesk.scoring.reading import reading
from quietdesk.scoring.satisfaction import (
    BAGS,
    FORMAT,
    KINDS,
    Estimator,
    Levels,
    climb,
    neighbours,
    to_levels,
    whole_score,
    wholes,
)

MIN_CASES = 60
"""Fewer rated turns, or conversations, are not enough to fit and test anything."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator and what is known about it.

    Attributes:
        estimator: Fitted on everything.
        turns: Agreement on rated turns in the outer folds; None without such labels.
        conversations: The same for conversations.
        turn_estimates: The outer folds' estimates of the rated turns, beside `turn_rows`.
        turn_rows: Their rows.
        whole_estimates: The outer folds' estimates of the rated conversations.
        whole_rows: Their places.
    """

    estimator: Estimator
    turns: Agreement | None
    conversations: Agreement | None
    turn_estimates: Levels | None = None
    turn_rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    whole_estimates: Levels | None = None
    whole_rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))


def fit(
    labels: Labelled,
    recipe: Recipe | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Fitted:
    """An estimator fitted on everything, and its agreement on folds that it did not see.

    Args:
        labels: The labels.
        recipe: How; the defaults if None.
        header: What else to write into the estimator's header.
        progress: Told what is being done.

    Raises:
        UsageError: too few labels.
    """
    # One thread: the fits are small, and threads that wait for each other on a busy machine cost
    # many times what they save.
    with threadpool_limits(1):
        return _fit(labels, recipe or Recipe(), header or {}, progress or (lambda text: None))


def _fit(
    labels: Labelled, recipe: Recipe, header: Mapping[str, Any], tell: Callable[[str], None]
) -> Fitted:
    rated = np.flatnonzero(labels.turns.size > 0)
    whole = np.flatnonzero(labels.whole.size > 0)
    if max(len(rated), len(whole)) < MIN_CASES:
        raise UsageError(
            f"{len(rated)} rated turns and {len(whole)} rated conversations are too few: "
            f"{MIN_CASES} of one are the least, some hundreds are a good start."
        )
    if len(rated) < MIN_CASES:
        rated = rated[:0]
    if len(whole) < MIN_CASES:
        whole = whole[:0]
    tell("reading the words")
    data = turn_data(labels, recipe)
    groups = labels.groups
    n_groups = len(np.unique(groups[np.union1d(data.of[rated], whole)]))
    if n_groups < 10:
        raise UsageError(
            f"The labels come from {n_groups} customers or conversations. At least 10 are needed "
            "to test an estimator on some that it was not fitted on."
        )
    turns, of_whole = None, None
    if recipe.n_outer:
        fold = _folds(groups, recipe.n_outer, recipe.seed)
        parts = []
        for k in range(recipe.n_outer):
            tell(f"fold {k + 1} of {recipe.n_outer}")
            arrays = fit_part(labels, data, fold != k, rated, whole, recipe)
            parts.append(apply(arrays, labels, data, fold == k, recipe))
        turns = _gather([part[0] for part in parts], [part[1] for part in parts], rated)
        of_whole = _gather([part[2] for part in parts], [part[3] for part in parts], whole)
    tell("fitting on everything")
    arrays = fit_part(labels, data, np.ones(data.n, np.bool_), rated, whole, recipe)
    covered = reading(labels.conversations).english.mean() if data.n else 0.0
    told = {
        **header,
        "format": FORMAT,
        "scale": labels.scale.tolist(),
        "side": labels.side,
        "ahead": recipe.ahead,
        "language": "en" if covered >= 0.9 else "any",
        "features": [feature.name for feature in features()],
        "n_turns": len(rated),
        "n_conversations": len(whole),
    }
    estimator = Estimator(told, {name: _small(name, array) for name, array in arrays.items()})
    return Fitted(
        estimator,
        agreement_with(turns, labels.turns, rated, groups[data.of[rated]], labels.scale),
        agreement_with(of_whole, labels.whole, whole, groups[whole], labels.scale),
        turns,
        labels.rows[rated],
        of_whole,
        whole,
    )


def _small(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Text weights take two bytes each: their errors average out."""
    of_text = any(f"{kind}." in name for kind in (*KINDS, *BAGS))
    return array.astype(np.float16) if of_text else array


def _folds(groups: IntArray, k: int, seed: int) -> IntArray:
    """A fold for each conversation, the same for all of a group."""
    names, inverse = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold: IntArray = (order % k)[inverse]
    return fold


def fit_part(
    labels: Labelled,
    data: TurnData,
    inside: BoolArray,
    rated: IntArray,
    whole: IntArray,
    recipe: Recipe,
) -> Arrays:
    """Everything, from the labels of the conversations inside."""
    arrays: Arrays = {}
    mine = rated[inside[data.of[rated]]]
    score: FloatArray | None = None
    inner = _folds(labels.groups, recipe.n_inner, recipe.seed + 1)
    if len(mine):
        base, looks = fit_and_look(data, mine, inner, recipe)
        trees, by_trees = fit_trees(base, data, mine, recipe)
        base.update(trees)
        looks = np.concatenate([looks, by_trees[:, None]], axis=1)
        arrays.update({f"turn.{name}": array for name, array in base.items()})
        context = neighbours(looks, data.of, ahead=recipe.ahead)
        weights, bias = fit_blend(context[mine], data.y[mine], data.weight[mine], recipe)
        score = context @ weights + bias
        arrays["turn.blend"], arrays["turn.bias"] = weights, np.array([bias])
        levels = fit_levels(score[mine], labels.turns.take(mine), labels.scale)
        arrays.update({f"turn.levels.{name}": array for name, array in levels.items()})
    cases = whole[inside[whole]]
    if len(cases):
        y, votes = labels.whole.mean[cases], labels.whole.take(cases)
        weight = np.minimum(votes.size, 5.0)
        seen = wholes(score, data.x, data.of, data.n, data.bags)
        part, looks = fit_and_look_at_whole(
            seen, Cases(cases, y, weight, labels.groups[cases]), inner[cases], recipe
        )
        part["blend"], part["bias"] = positive_blend(looks, y, weight)
        total = looks @ part["blend"] + part["bias"][0]
        arrays.update({f"whole.{name}": array for name, array in part.items()})
        levels = fit_levels(total, votes, labels.scale)
        arrays.update({f"whole.levels.{name}": array for name, array in levels.items()})
    return arrays


_Part = tuple[Levels | None, IntArray, Levels | None, IntArray]


def apply(
    arrays: Arrays, labels: Labelled, data: TurnData, outside: BoolArray, recipe: Recipe
) -> _Part:
    """(turn levels, their places among the rows, conversation levels, their places)."""

    def part(prefix: str) -> Arrays:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    score, turns = None, None
    rows = np.flatnonzero(outside[data.of])
    if "turn.blend" in arrays:
        turn = part("turn.")
        looks = np.zeros((len(data.x), 4))
        looks[:, :3] = linear_looks(turn, data, np.arange(len(data.x)))
        # Climbing takes longest: only where it is asked for; other conversations do not matter.
        looks[rows, 3] = climb(turn, data.x[rows])
        context = neighbours(looks, data.of, ahead=recipe.ahead)
        score = context @ arrays["turn.blend"] + arrays["turn.bias"][0]
        turns = to_levels(part("turn.levels."), labels.scale, score[rows])
    whole = None
    places = np.flatnonzero(outside)
    if "whole.bias" in arrays:
        seen = wholes(score, data.x, data.of, data.n, data.bags)
        total = whole_score(part("whole."), seen)
        whole = to_levels(part("whole.levels."), labels.scale, total[places])
    return turns, rows, whole, places


def _gather(
    parts: Sequence[Levels | None], places: Sequence[IntArray], wanted: IntArray
) -> Levels | None:
    """The parts of all folds in the order of the wanted places."""
    known = [(part, place) for part, place in zip(parts, places, strict=True) if part is not None]
    if not known or not len(wanted):
        return None
    place = np.concatenate([place for _, place in known])
    order = np.argsort(place)
    chosen = order[np.searchsorted(place[order], wanted)]
    return _levels(
        [np.concatenate(column)[chosen] for column in zip(*(p for p, _ in known), strict=True)]
    )


def _levels(columns: Sequence[npt.NDArray[Any]]) -> Levels:
    score, expected, dissatisfied, classes, probabilities = columns
    return Levels(score, expected, dissatisfied, classes, probabilities)


def agreement_with(
    found: Levels | None, votes: Votes, cases: IntArray, groups: IntArray, scale: FloatArray
) -> Agreement | None:
    """How some cases' estimates agree with their ratings; None without any.

    Args:
        found: The estimates, shape (len(cases),).
        votes: The ratings that the cases are places in.
        cases: Places in `votes`.
        groups: Shape (len(cases),): each case's customer or conversation.
        scale: Levels of the ratings.
    """
    if found is None or not len(cases):
        return None
    mine = votes.take(cases)
    return agreement(
        found._asdict(), mine.values, mine.offsets, classes_of(mine.mean, scale), groups
    )


def evaluate(estimator: Estimator, labels: Labelled) -> tuple[Agreement | None, Agreement | None]:
    """How an estimator agrees with labels that it was not fitted on: (turns, conversations).

    Turns rated on the other side than the estimator's are matched with its nearest turn before.
    The scales need not be the same: agreement is in ranks, classes and probabilities.
    """
    conversations = labels.conversations
    found = estimator.estimate(conversations)
    of = conversations.conversation_of
    turns = None
    rated = np.flatnonzero(labels.turns.size > 0)
    if found.turns is not None and len(found.rows) and len(rated):
        rows = labels.rows[rated]
        nearest = np.searchsorted(found.rows, rows, side="right") - 1
        known = (nearest >= 0) & found.measured[of[rows]]
        known[known] = of[found.rows[nearest[known]]] == of[rows[known]]
        rated, nearest = rated[known], nearest[known]
        levels = _levels([column[nearest] for column in found.turns])
        turns = agreement_with(
            levels, labels.turns, rated, labels.groups[of[labels.rows[rated]]], labels.scale
        )
    of_whole = None
    whole = np.flatnonzero((labels.whole.size > 0) & found.measured)
    if found.conversations is not None and len(whole):
        levels = _levels([column[whole] for column in found.conversations])
        of_whole = agreement_with(levels, labels.whole, whole, labels.groups[whole], labels.scale)
    return turns, of_whole
