"""Whole: the looks at a conversation, and what they are worth."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.linear_model import Ridge

from quietdesk.scoring.base import BoolArray, FloatArray, IntArray
from quietdesk.scoring.features import Grams
from quietdesk.scoring.fitting.forest import grow, trees_of
from quietdesk.scoring.fitting.recipe import Arrays, Recipe
from quietdesk.scoring.fitting.words import idf_of, matrix_of, weighted
from quietdesk.scoring.satisfaction import (
    BAGS,
    Wholes,
    standard,
    whole_looks,
)


class Cases(NamedTuple):
    """Rated conversations."""

    places: IntArray
    y: FloatArray
    weight: FloatArray
    groups: IntArray

    def take(self, chosen: BoolArray) -> "Cases":
        """Some of them."""
        y, weight = self.y[chosen], self.weight[chosen]
        return Cases(self.places[chosen], y, weight, self.groups[chosen])


def fit_and_look_at_whole(
    seen: Wholes, cases: Cases, fold: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """The looks at a conversation, and what they say of those that they were not fitted on.

    Returns:
        (arrays, shape (n_cases, n_looks): the looks of each from folds or trees without its group).
    """
    columns = seen.means.astype(np.float32)
    places, y, weight = cases.places, cases.y, cases.weight
    trees, by_trees = grow(columns, places, y, weight, cases.groups, places, cases.groups, recipe)
    bag = _bag_blocks(seen, recipe)
    # Trees are looked at by those that were grown without the group, not by folds.
    no_trees = trees_of([])
    found = _fit_whole(seen, bag, cases, recipe)
    looks = whole_looks(found | no_trees, _only(seen, places))
    for k in range(recipe.n_inner):
        out = fold == k
        if out.any() and not out.all():
            part = _fit_whole(seen, bag, cases.take(~out), recipe)
            looks[out] = whole_looks(part | no_trees, _only(seen, places[out]))
    looks[:, 2] = by_trees
    return found | trees, looks


def _only(seen: Wholes, rows: IntArray) -> Wholes:
    """The same of some conversations."""
    place = np.full(len(seen.means), -1)
    place[rows] = np.arange(len(rows))
    bags = {}
    for kind, grams in seen.bags.items():
        mine = place[grams.owner] >= 0
        owner = place[grams.owner[mine]]
        bags[kind] = Grams(
            grams.buckets[mine], owner, grams.weight[mine], len(rows), grams.n_buckets
        )
    table = None if seen.table is None else seen.table[rows]
    return Wholes(seen.means[rows], table, bags)


def _bag_blocks(seen: Wholes, recipe: Recipe) -> dict[str, sparse.csr_matrix]:
    """The conversations' words as matrices; none where the recipe looks at no words."""
    if "story" not in recipe.looks:
        return {}
    return {kind: matrix_of(grams) for kind, grams in seen.bags.items()}


def _fit_whole(
    seen: Wholes, bag: Mapping[str, sparse.csr_matrix], cases: Cases, recipe: Recipe
) -> Arrays:
    """The weighted looks at a conversation."""
    found: Arrays = {}
    sides = [("m", seen.means, recipe.means_alpha)]
    if seen.table is not None:
        sides.append(("d", seen.table, recipe.whole_alpha))
    for name, columns, alpha in sides:
        chosen = columns[cases.places]
        mean, spread = chosen.mean(axis=0), chosen.std(axis=0)
        spread[spread < 1e-6] = 0.0
        model = Ridge(alpha=alpha).fit(standard(chosen, mean, spread), cases.y, cases.weight)
        found[f"{name}.mean"], found[f"{name}.spread"] = mean, spread
        found[f"{name}.weights"], found[f"{name}.bias"] = model.coef_, np.array([model.intercept_])
    for kind in BAGS:
        found[f"{kind}.idf"] = np.zeros(0, np.float32)
        found[f"bag.{kind}.weights"] = np.zeros(0, np.float32)
    found["bag.bias"] = np.array([np.average(cases.y, weights=cases.weight)])
    if bag:
        blocks = []
        for kind in BAGS:
            found[f"{kind}.idf"] = idf_of(bag[kind][cases.places])
            blocks.append(weighted(bag[kind][cases.places], found[f"{kind}.idf"]))
        model = Ridge(alpha=recipe.bag_alpha, solver="sparse_cg", tol=1e-3)
        model.fit(sparse.hstack(blocks).tocsr(), cases.y, cases.weight)
        found["bag.bias"] = np.array([model.intercept_])
        weights = np.split(model.coef_.astype(np.float32), [blocks[0].shape[1]])
        found.update({f"bag.{kind}.weights": w for kind, w in zip(BAGS, weights, strict=True)})
    return found
