"""Fitting: an estimator of satisfaction from people's ratings, by nested cross-validation.

Needs scikit-learn; what comes out does not. All that depends on the labels (weights of words,
trees, the blend, the calibration) is fitted again inside every fold, and a customer's conversations
are never on both sides. The calibration is fitted on estimates for turns that the estimator did not
see (the inner folds), the agreement is measured on conversations that neither saw (the outer ones).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from quietdesk.errors import UsageError
from quietdesk.scoring.agreement import Agreement, agreement
from quietdesk.scoring.base import BoolArray, Conversations, FloatArray, IntArray, Unit
from quietdesk.scoring.features import Grams, features, turn_features
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.satisfaction import (
    CONTEXT,
    FORMAT,
    TEXTS,
    Estimator,
    Levels,
    first_looks,
    neighbours,
    standard,
    text_grams,
    to_levels,
    whole_looks,
    whole_score,
    whole_table,
)

Arrays = dict[str, npt.NDArray[Any]]

MAX_LEVELS = 11
"""Ratings on a finer scale are gathered into `FEWER_LEVELS` levels of equal size."""
FEWER_LEVELS = 5
MIN_CASES = 60
"""Fewer rated turns, or conversations, are not enough to fit and test anything."""


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
    x_alpha: float = 5000.0
    """Ridge penalty on standardised features; labels are noisy and features many."""
    text_alpha: float = 25.0
    """Ridge penalty on text features of length 1."""
    blend_alpha: float = 300.0
    """Ridge penalty on what corrects a turn's score by its neighbours."""
    whole_alpha: float = 100.0
    means_alpha: float = 3000.0
    shrink: float = 10.0
    """Ratings worth of doubt before a conversation's raters are called lenient or strict."""
    n_trees: int = 120
    learning_rate: float = 0.06
    max_leaves: int = 15
    min_leaf: int = 40
    feature_share: float = 0.25
    looks: tuple[str, ...] = ("features", "text", "trees")
    """What a turn is looked at by. Only features carry over between topics."""
    signs: Mapping[str, int] = field(default_factory=dict)
    """Features that may count, each with the direction that it may count in, 1 or -1; all features,
    in any direction, where there are none. What is known beforehand need not be learned wrongly."""


class Votes(NamedTuple):
    """Ratings of some cases, several raters each.

    Attributes:
        values: All ratings, flat.
        offsets: Shape (n + 1,): case i has the ratings offsets[i] to offsets[i + 1]; it may have
            none.
    """

    values: FloatArray
    offsets: IntArray

    @property
    def size(self) -> IntArray:
        """Ratings of each case, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def mean(self) -> FloatArray:
        """Mean rating of each case, shape (n,); NaN without one."""
        n = len(self.offsets) - 1
        case = np.repeat(np.arange(n), self.size)
        total = np.bincount(case, weights=self.values, minlength=n)
        return np.where(self.size > 0, total / np.maximum(self.size, 1), np.nan)

    def take(self, cases: IntArray) -> "Votes":
        """The ratings of some cases."""
        size = self.size[cases]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
        row = np.repeat(self.offsets[cases] - offsets[:-1], size) + np.arange(int(size.sum()))
        return Votes(self.values[row], offsets)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Conversations with ratings, as fitting and evaluating see them.

    Attributes:
        conversations: All of them.
        side: `customer` or `agent`: whose messages are rated.
        rows: Rows of all messages of that side.
        turns: Ratings of these messages.
        whole: Ratings of the conversations.
        groups: Shape (n_conversations,): the customer, or the conversation where none is known.
        scale: Levels of the ratings, ascending.
    """

    conversations: Conversations
    side: str
    rows: IntArray
    turns: Votes
    whole: Votes
    groups: IntArray
    scale: FloatArray
    sets: IntArray
    """Shape (n_conversations,): the collection that each comes from. What sets two collections
    apart teaches nothing about their turns: features and ratings are compared within one."""


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


def labelled(conversations: Conversations, label: str | None = None) -> Labelled:
    """The ratings in a batch.

    Args:
        conversations: The conversations, all labels in one batch.
        label: A label's name to read instead of the ratings: numbers, or yes and no in any of the
            usual words, which become 1 and 0.

    Raises:
        UsageError: no ratings, ratings of both sides' messages, or labels that are no numbers.
    """
    seen = reading(conversations)
    if label is None:
        of_messages = _votes(conversations.ratings.values, conversations.ratings.offsets)
        column = conversations.batch["ratings"]
        size = np.array([len(item) for item in column.to_pylist()], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
        of_whole = _votes(column.flatten(), offsets)
    else:
        of_messages = _label_votes(conversations, label, Unit.MESSAGE)
        of_whole = _label_votes(conversations, label, Unit.CONVERSATION)
    rated = of_messages.size > 0
    by_customer, by_agent = int((rated & seen.customer).sum()), int((rated & seen.agent).sum())
    if not by_customer and not by_agent and not (of_whole.size > 0).any():
        where = "have ratings" if label is None else f"have the label {label!r}"
        raise UsageError(
            f"No message and no conversation {where}. `ratings` of messages or conversations are "
            "read; name another label with --label."
        )
    if by_customer and by_agent and min(by_customer, by_agent) * 20 > max(by_customer, by_agent):
        raise UsageError(
            f"Ratings stand on {by_customer} customer messages and on {by_agent} agent messages. "
            "An estimator learns one of them: leave the others out."
        )
    side = "agent" if by_agent > by_customer else "customer"
    rows = np.flatnonzero(seen.customer if side == "customer" else seen.agent)
    turns = of_messages.take(rows)
    scale = _scale(turns, of_whole)
    one = np.zeros(conversations.n, np.int64)
    return Labelled(conversations, side, rows, turns, of_whole, _groups(conversations), scale, one)


def _votes(values: Any, offsets: IntArray) -> Votes:
    return Votes(np.asarray(values.to_numpy(zero_copy_only=False), np.float64), offsets)


_YES = {"yes", "true", "y", "1", "satisfied", "resolved", "good", "positive", "up"}
_NO = {"no", "false", "n", "0", "dissatisfied", "unresolved", "bad", "negative", "down"}


def _label_votes(conversations: Conversations, label: str, unit: Unit) -> Votes:
    lists = conversations.labels(label, unit=unit)
    values = np.empty(len(lists.values))
    for i, text in enumerate(lists.values.to_pylist()):
        word = text.strip().lower()
        if word in _YES or word in _NO:
            values[i] = float(word in _YES)
            continue
        try:
            values[i] = float(word)
        except ValueError:
            raise UsageError(
                f"The label {label!r} has the value {text!r}, which is no rating. Ratings are "
                "numbers, or yes and no."
            ) from None
    return Votes(values, lists.offsets)


def _groups(conversations: Conversations) -> IntArray:
    customers = conversations.batch["customer"].to_pylist()
    ids = conversations.ids.to_pylist()
    names = [("c", c) if c is not None else ("i", i) for c, i in zip(customers, ids, strict=True)]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _scale(turns: Votes, whole: Votes) -> FloatArray:
    values = np.unique(np.concatenate([turns.values, whole.values]))
    if not np.isfinite(values).all() or (values < 0).any():
        raise UsageError("A rating is negative or no number. Ratings start at 0 or above.")
    if len(values) < 2:
        raise UsageError(f"Every rating is {values[0]:g}. There is nothing to learn from them.")
    if len(values) > MAX_LEVELS:
        every = np.concatenate([turns.values, whole.values])
        edges = np.quantile(every, np.linspace(0, 1, FEWER_LEVELS + 1))
        which = np.clip(np.searchsorted(edges[1:-1], every, side="right"), 0, FEWER_LEVELS - 1)
        values = np.unique([every[which == k].mean() for k in np.unique(which)])
    return values


def classes_of(mean: FloatArray, scale: FloatArray) -> IntArray:
    """0 dissatisfied, 1 neutral, 2 satisfied: half a level below the scale's middle, or above it.

    On a scale of 1 to 5: a mean of at most 2.5, and of at least 3.5. On yes and no: below and above
    one half.
    """
    middle = (scale[0] + scale[-1]) / 2
    half = (scale[-1] - scale[0]) / (len(scale) - 1) / 2
    if len(scale) == 2:
        return np.where(mean < middle, 0, np.where(mean > middle, 2, 1)).astype(np.int64)
    low, high = middle - half + 1e-9, middle + half - 1e-9
    return np.where(mean <= low, 0, np.where(mean >= high, 2, 1)).astype(np.int64)


class _Data(NamedTuple):
    """Everything about the labelled turns that no fold changes."""

    x: npt.NDArray[np.float32]
    grams: Mapping[str, sparse.csr_matrix]
    of: IntArray
    y: FloatArray
    weight: FloatArray
    n: int
    sets: IntArray
    """Shape (n_turns,)."""


def _data(labels: Labelled, recipe: Recipe) -> _Data:
    seen: Reading = reading(labels.conversations)
    x = turn_features(seen, labels.rows)
    if not recipe.ahead:
        x[:, [feature.ahead for feature in features()]] = 0
    grams = {kind: _matrix(g) for kind, g in text_grams(seen, labels.rows).items()}
    of = labels.conversations.conversation_of[labels.rows]
    y = labels.turns.mean
    return _Data(
        x, grams, of, y, np.minimum(labels.turns.size, 5.0), labels.conversations.n, labels.sets[of]
    )


def _matrix(grams: Grams) -> sparse.csr_matrix:
    shape = (grams.n_texts, grams.n_buckets)
    ones = np.ones(len(grams.buckets), np.float32)
    matrix: sparse.csr_matrix = sparse.coo_matrix(
        (ones, (grams.owner, grams.buckets)), shape=shape
    ).tocsr()
    return matrix


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
    data = _data(labels, recipe)
    groups = labels.groups
    n_groups = len(np.unique(groups[np.union1d(data.of[rated], whole)]))
    if n_groups < 10:
        raise UsageError(
            f"The labels come from {n_groups} customers or conversations. At least 10 are needed "
            "to test an estimator on some that it was not fitted on."
        )
    turns, wholes = None, None
    if recipe.n_outer:
        fold = _folds(groups, recipe.n_outer, recipe.seed)
        parts = []
        for k in range(recipe.n_outer):
            tell(f"fold {k + 1} of {recipe.n_outer}")
            arrays = _fit_part(labels, data, fold != k, rated, whole, recipe)
            parts.append(_apply(arrays, labels, data, fold == k, recipe))
        turns = _gather([part[0] for part in parts], [part[1] for part in parts], rated)
        wholes = _gather([part[2] for part in parts], [part[3] for part in parts], whole)
    tell("fitting on everything")
    arrays = _fit_part(labels, data, np.ones(data.n, np.bool_), rated, whole, recipe)
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
    estimator = Estimator(told, {name: _small(array) for name, array in arrays.items()})
    return Fitted(
        estimator,
        agreement_with(turns, labels.turns, rated, groups[data.of[rated]], labels.scale),
        agreement_with(wholes, labels.whole, whole, groups[whole], labels.scale),
        turns,
        labels.rows[rated],
        wholes,
        whole,
    )


def _small(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Text weights take two bytes each: their errors average out."""
    return array.astype(np.float16) if array.size > 1 << 14 else array


def _folds(groups: IntArray, k: int, seed: int) -> IntArray:
    """A fold for each conversation, the same for all of a group."""
    names, inverse = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    fold: IntArray = (order % k)[inverse]
    return fold


def _fit_part(
    labels: Labelled,
    data: _Data,
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
        base = _fit_looks(data, mine, recipe)
        arrays.update({f"turn.{name}": array for name, array in base.items()})
        # Each turn's looks come from folds without its group; turns without labels from the whole.
        looks = _looks(base, data)
        for k in range(recipe.n_inner):
            out = inner[data.of] == k
            kept = mine[inner[data.of[mine]] != k]
            if len(kept) and out.any():
                looks[out] = _looks(_fit_looks(data, kept, recipe), data)[out]
        context = neighbours(looks, data.of, ahead=recipe.ahead)
        weights, bias = _fit_blend(context[mine], data.y[mine], data.weight[mine], recipe)
        score = context @ weights + bias
        arrays["turn.blend"], arrays["turn.bias"] = weights, np.array([bias])
        levels = _fit_levels(score[mine], labels.turns.take(mine), labels.scale)
        arrays.update({f"turn.levels.{name}": array for name, array in levels.items()})
    cases = whole[inside[whole]]
    if len(cases):
        y, votes = labels.whole.mean[cases], labels.whole.take(cases)
        weight = np.minimum(votes.size, 5.0)
        part = _fit_whole(data, score, cases, y, weight, recipe)
        looks = whole_looks(part, score, data.x, data.of, data.n)[cases]
        for k in range(recipe.n_inner):
            out = inner[cases] == k
            if out.any() and not out.all():
                fold = _fit_whole(data, score, cases[~out], y[~out], weight[~out], recipe)
                looks[out] = whole_looks(fold, score, data.x, data.of, data.n)[cases[out]]
        part["blend"], part["bias"] = _positive_blend(looks, y, weight)
        total = looks @ part["blend"] + part["bias"][0]
        arrays.update({f"whole.{name}": array for name, array in part.items()})
        levels = _fit_levels(total, votes, labels.scale)
        arrays.update({f"whole.levels.{name}": array for name, array in levels.items()})
    return arrays


def _fit_blend(
    context: FloatArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> tuple[FloatArray, float]:
    """Weights of the columns of `neighbours`: a correction of the plain score, where it pays."""
    mean, spread = context.mean(axis=0), context.std(axis=0)
    spread[spread < 1e-9] = 1.0
    plain = context[:, 0]
    scaled = (context - mean) / spread
    model = Ridge(alpha=recipe.blend_alpha).fit(scaled, y - plain, weight)
    weights = model.coef_ / spread
    bias = float(model.intercept_ - mean @ weights)
    weights[0] += 1.0
    return weights, bias


def _fit_looks(data: _Data, rows: IntArray, recipe: Recipe) -> Arrays:
    """The three looks at a turn, from some rated turns."""
    x, y, weight, of = data.x[rows], data.y[rows], data.weight[rows], data.of[rows]
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    spread[spread < 1e-6] = 0.0
    wide = standard(x, mean, spread)
    # Raters differ from conversation to conversation. What the features do not explain of a
    # conversation's mean is taken off before anything is learned from its turns.
    y = _within(y, data.sets[rows])
    wide = _within(wide, data.sets[rows])
    first = Ridge(alpha=recipe.x_alpha).fit(wide, y, weight)
    rest = (y - first.predict(wide)) * weight
    size = np.bincount(of, minlength=data.n)
    lenient = np.bincount(of, weights=rest, minlength=data.n) / (
        np.bincount(of, weights=weight, minlength=data.n) + recipe.shrink
    )
    y = y - np.where(size > 1, lenient, 0.0)[of]
    found: Arrays = {"x.mean": mean, "x.spread": spread}
    if recipe.signs:
        found["x.weights"] = _signed(wide, y, weight, recipe)
        found["x.bias"] = np.array([np.average(y, weights=weight)])
    else:
        by_x = Ridge(alpha=recipe.x_alpha).fit(wide, y, weight)
        found["x.weights"], found["x.bias"] = by_x.coef_, np.array([by_x.intercept_])
    center = float(np.average(y, weights=weight))
    if "features" not in recipe.looks:
        found["x.weights"], found["x.bias"] = np.zeros(x.shape[1]), np.array([center])
    found.update(
        _fit_text(data, rows, y, weight, recipe) if "text" in recipe.looks else _no_text(center)
    )
    found.update(_fit_trees(x, y, recipe) if "trees" in recipe.looks else _no_trees(center))
    return found


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


def _signed(wide: FloatArray, y: FloatArray, weight: FloatArray, recipe: Recipe) -> FloatArray:
    """Ridge weights that keep to the recipe's signs; other features get 0."""
    sign = np.array([recipe.signs.get(feature.name, 0) for feature in features()], np.float64)
    used = np.flatnonzero(sign)
    unknown = set(recipe.signs) - {feature.name for feature in features()}
    assert not unknown, unknown
    columns = wide[:, used] * sign[used]
    centered = columns - np.average(columns, axis=0, weights=weight)
    gram = (centered * weight[:, None]).T @ centered + recipe.x_alpha * np.eye(len(used))
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
    data: _Data, rows: IntArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> Arrays:
    """Weights of the text features: one fit for all kinds of `TEXTS`, one for the context."""
    found: Arrays = {}
    for name, kinds in (("text", TEXTS), (CONTEXT, (CONTEXT,))):
        blocks = []
        for kind in kinds:
            matrix = data.grams[kind][rows]
            common = np.asarray((matrix > 0).sum(axis=0)).ravel()
            idf = np.where(common >= 3, np.log((1 + len(rows)) / (1 + common)) + 1, 0.0)
            found[f"{kind}.idf"] = idf.astype(np.float32)
            blocks.append(_weighted(matrix, found[f"{kind}.idf"]))
        model = Ridge(alpha=recipe.text_alpha, solver="sparse_cg", tol=1e-3)
        model.fit(sparse.hstack(blocks).tocsr(), y, weight)
        found[f"{name}.bias"] = np.array([model.intercept_])
        begin = 0
        for kind, block in zip(kinds, blocks, strict=True):
            weights = model.coef_[begin : begin + block.shape[1]]
            found[f"{kind}.weights"] = weights.astype(np.float32)
            begin += block.shape[1]
    return found


def _no_text(center: float) -> Arrays:
    found: Arrays = {}
    for kind in (*TEXTS, CONTEXT):
        found[f"{kind}.idf"] = found[f"{kind}.weights"] = np.zeros(0, np.float32)
    for name in ("text", CONTEXT):
        found[f"{name}.bias"] = np.array([center])
    return found


def _no_trees(center: float) -> Arrays:
    none = np.zeros(0, np.int32)
    columns = ("feature", "left", "right", "root", "depth")
    found: Arrays = {f"trees.{name}": none for name in columns}
    found["trees.threshold"] = found["trees.value"] = np.zeros(0)
    found["trees.bias"] = np.array([center])
    return found


def _fit_trees(x: npt.NDArray[np.float32], y: FloatArray, recipe: Recipe) -> Arrays:
    forest = HistGradientBoostingRegressor(
        max_iter=recipe.n_trees,
        learning_rate=recipe.learning_rate,
        max_leaf_nodes=recipe.max_leaves,
        min_samples_leaf=min(recipe.min_leaf, max(5, len(y) // 20)),
        l2_regularization=10.0,
        max_features=recipe.feature_share,
        max_bins=63,
        early_stopping=False,
        random_state=recipe.seed,
    ).fit(x, y)
    return trees_of(forest)


def _weighted(matrix: sparse.csr_matrix, idf: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """Text features as `weigh` sees them: each occurrence counts, and each text has length 1."""
    squares = matrix @ (idf.astype(np.float64) ** 2)
    scale = 1.0 / np.sqrt(np.maximum(squares, 1e-12))
    weighted: sparse.csr_matrix = matrix.multiply(scale[:, None]).multiply(idf[None, :]).tocsr()
    return weighted


def trees_of(forest: HistGradientBoostingRegressor) -> Arrays:
    """A boosted forest as arrays, for `satisfaction.climb`."""
    columns: dict[str, list[npt.NDArray[Any]]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "value")
    }
    roots, depths, begin = [], [], 0
    # scikit-learn has no public way to the nodes; a test compares the result with its predict.
    for (tree,) in forest._predictors:
        nodes = tree.nodes
        leaf = nodes["is_leaf"].astype(np.bool_)
        own = np.arange(len(nodes))
        columns["feature"].append(np.where(leaf, 0, nodes["feature_idx"]).astype(np.int16))
        columns["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]))
        columns["left"].append(np.where(leaf, own, nodes["left"]).astype(np.int32) + begin)
        columns["right"].append(np.where(leaf, own, nodes["right"]).astype(np.int32) + begin)
        columns["value"].append(nodes["value"].astype(np.float32))
        roots.append(begin)
        depths.append(int(nodes["depth"].max()))
        begin += len(nodes)
    found: Arrays = {f"trees.{name}": np.concatenate(parts) for name, parts in columns.items()}
    found["trees.root"] = np.array(roots, np.int32)
    found["trees.depth"] = np.array(depths, np.int16)
    found["trees.bias"] = np.array([float(np.ravel(forest._baseline_prediction)[0])])
    return found


def _looks(part: Arrays, data: _Data) -> FloatArray:
    """`first_looks` of every turn, from the matrices that are already there."""
    text = np.full(len(data.x), float(part["text.bias"][0]))
    context = np.full(len(data.x), float(part[f"{CONTEXT}.bias"][0]))
    for kind in (*TEXTS, CONTEXT):
        if len(part[f"{kind}.idf"]):
            idf = part[f"{kind}.idf"].astype(np.float64)
            matrix = data.grams[kind]
            over = matrix @ (idf * part[f"{kind}.weights"])
            total = context if kind == CONTEXT else text
            total += over / np.sqrt(np.maximum(matrix @ idf**2, 1e-12))
    return first_looks(part, data.x, text, context)


def _fit_whole(
    data: _Data,
    score: FloatArray | None,
    cases: IntArray,
    y: FloatArray,
    weight: FloatArray,
    recipe: Recipe,
) -> Arrays:
    """Two looks at a conversation: by its turns' features, and by their scores."""
    table, means = whole_table(score, data.x, data.of, data.n)
    found: Arrays = {}
    sides = [("m", means, recipe.means_alpha)]
    if score is not None:
        sides.append(("d", table, recipe.whole_alpha))
    for name, columns, alpha in sides:
        chosen = columns[cases]
        mean, spread = chosen.mean(axis=0), chosen.std(axis=0)
        spread[spread < 1e-6] = 0.0
        model = Ridge(alpha=alpha).fit(standard(chosen, mean, spread), y, weight)
        found[f"{name}.mean"], found[f"{name}.spread"] = mean, spread
        found[f"{name}.weights"] = model.coef_
        found[f"{name}.bias"] = np.array([model.intercept_])
    return found


def _positive_blend(
    looks: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weights from 0 and a bias; a look that says nothing gets none."""
    root = np.sqrt(weight)
    middle, center = np.average(looks, axis=0, weights=weight), np.average(y, weights=weight)
    # A look may count for less than it deserves, not for more: a little ridge against chance.
    ridge = np.eye(looks.shape[1]) * np.sqrt(0.02 * len(y)) * looks.std(axis=0).mean()
    over = np.concatenate([(looks - middle) * root[:, None], ridge])
    goal = np.concatenate([(y - center) * root, np.zeros(looks.shape[1])])
    found = minimize(
        lambda w: float(((over @ w - goal) ** 2).sum()) / len(y),
        np.full(looks.shape[1], 1 / looks.shape[1]),
        jac=lambda w: 2 * over.T @ (over @ w - goal) / len(y),
        bounds=[(0, None)] * looks.shape[1],
        method="L-BFGS-B",
    ).x
    return found, np.array([float(center - middle @ found)])


def _fit_levels(score: FloatArray, votes: Votes, scale: FloatArray) -> Arrays:
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


_Part = tuple[Levels | None, IntArray, Levels | None, IntArray]


def _apply(
    arrays: Arrays, labels: Labelled, data: _Data, outside: BoolArray, recipe: Recipe
) -> _Part:
    """(turn levels, their places among the rows, conversation levels, their places)."""

    def part(prefix: str) -> Arrays:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    score, turns = None, None
    rows = np.flatnonzero(outside[data.of])
    if "turn.blend" in arrays:
        looks = _looks(part("turn."), data)
        context = neighbours(looks, data.of, ahead=recipe.ahead)
        score = context @ arrays["turn.blend"] + arrays["turn.bias"][0]
        turns = to_levels(part("turn.levels."), labels.scale, score[rows])
    whole = None
    places = np.flatnonzero(outside)
    if "whole.bias" in arrays:
        total = whole_score(part("whole."), score, data.x, data.of, data.n)
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
    wholes = None
    whole = np.flatnonzero((labels.whole.size > 0) & found.measured)
    if found.conversations is not None and len(whole):
        levels = _levels([column[whole] for column in found.conversations])
        wholes = agreement_with(levels, labels.whole, whole, labels.groups[whole], labels.scale)
    return turns, wholes
