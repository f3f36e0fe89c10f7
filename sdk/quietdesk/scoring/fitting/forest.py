"""Forest: trees that are grown on some customers and judged by the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.tree import DecisionTreeRegressor

from quietdesk.scoring.base import FloatArray, IntArray
from quietdesk.scoring.fitting.recipe import Arrays, Recipe


def grow(
    columns: npt.NDArray[np.float32],
    rows: IntArray,
    y: FloatArray,
    weight: FloatArray,
    groups: IntArray,
    wanted: IntArray,
    groups_wanted: IntArray,
    recipe: Recipe,
) -> tuple[Arrays, FloatArray]:
    """Trees from some rows, each from those of some groups, and what they say of wanted rows.

    Returns:
        (arrays, shape of `wanted`: the mean over the trees that were grown without the row's group,
        which are all of them where none of `rows` is of that group).

    Source: Breiman, Random Forests (2001), with whole groups in and out of the bag.
    """
    center = float(np.average(y, weights=weight))
    if "trees" not in recipe.looks:
        return trees_of([]) | {"trees.bias": np.array([center])}, np.full(len(wanted), center)
    names, draw = np.unique(groups), np.random.default_rng(recipe.seed)
    total, n_told = np.zeros(len(wanted)), np.zeros(len(wanted))
    trees = []
    for _ in range(recipe.n_trees):
        n_drawn = max(1, round(recipe.sample_share * len(names)))
        drawn = draw.choice(names, n_drawn, replace=False)
        mine = np.isin(groups, drawn)
        tree = DecisionTreeRegressor(
            min_samples_leaf=min(recipe.min_leaf, max(1, int(mine.sum()) // 4)),
            max_features=recipe.feature_share,
            random_state=int(draw.integers(1 << 31)),
        ).fit(columns[rows[mine]], y[mine], weight[mine])
        trees.append(tree)
        others = np.flatnonzero(~np.isin(groups_wanted, drawn))
        total[others] += tree.predict(columns[wanted[others]])
        n_told[others] += 1
    return trees_of(trees), np.where(n_told > 0, total / np.maximum(n_told, 1), center)


def trees_of(trees: Sequence[DecisionTreeRegressor]) -> Arrays:
    """Trees as arrays, for `satisfaction.climb`."""
    kinds = {"feature": np.int16, "threshold": np.float32, "left": np.int32, "right": np.int32}
    columns: dict[str, list[npt.NDArray[Any]]] = {
        name: [np.zeros(0, kind)] for name, kind in (kinds | {"value": np.float32}).items()
    }
    roots, depths, begin = [], [], 0
    for grown in trees:
        tree = grown.tree_
        leaf = tree.children_left < 0
        own = np.arange(int(tree.node_count))
        near = tree.threshold.astype(np.float32)
        # Rounded down, a threshold parts numbers of four bytes just as before.
        near = np.where(near > tree.threshold, np.nextafter(near, np.float32(-np.inf)), near)
        columns["feature"].append(np.where(leaf, 0, tree.feature).astype(np.int16))
        columns["threshold"].append(np.where(leaf, 0, near).astype(np.float32))
        for side, child in (("left", tree.children_left), ("right", tree.children_right)):
            columns[side].append(np.where(leaf, own, child).astype(np.int32) + np.int32(begin))
        columns["value"].append(tree.value[:, 0, 0].astype(np.float32))
        roots.append(begin)
        depths.append(tree.max_depth)
        begin += tree.node_count
    found: Arrays = {f"trees.{name}": np.concatenate(parts) for name, parts in columns.items()}
    found["trees.root"] = np.array(roots, np.int32)
    found["trees.depth"] = np.array(depths, np.int16)
    found["trees.bias"] = np.zeros(1)
    return found
