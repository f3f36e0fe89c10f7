"""Fitting: an estimator of satisfaction from people's ratings, by nested cross-validation.

Needs scikit-learn; what comes out does not. All that depends on the labels (weights of words,
trees, the blend, the calibration) is fitted again inside every fold, and a customer's conversations
are never on both sides. The calibration is fitted on estimates for turns that the estimator did not
see (inner folds; of trees, those that were grown without the turn's customer), the agreement is
measured on conversations that neither saw (outer folds).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from quietdesk.errors import UsageError
from quietdesk.scoring.agreement import Agreement, agreement
from quietdesk.scoring.base import BoolArray, Conversations, FloatArray, IntArray, Unit
from quietdesk.scoring.features import Grams, features, turn_features
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.satisfaction import (
    BAGS,
    FORMAT,
    KINDS,
    TEXT_LOOKS,
    Estimator,
    Levels,
    Wholes,
    bag_grams,
    climb,
    neighbours,
    standard,
    text_grams,
    to_levels,
    whole_looks,
    whole_score,
    wholes,
)

Arrays = dict[str, npt.NDArray[Any]]

_LOOKS = ("features", "text", "story", "trees")
"""In the order of `neighbours`, after the plain score."""
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
    looks: tuple[str, ...] = _LOOKS
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
    groups: IntArray
    """Shape (n_turns,)."""
    bags: Mapping[str, Grams]


def _data(labels: Labelled, recipe: Recipe) -> _Data:
    seen: Reading = reading(labels.conversations)
    x = turn_features(seen, labels.rows)
    if not recipe.ahead:
        x[:, [feature.ahead for feature in features()]] = 0
    grams = {kind: _matrix(g) for kind, g in text_grams(seen, labels.rows).items()}
    of = labels.conversations.conversation_of[labels.rows]
    y = labels.turns.mean
    weight, n = np.minimum(labels.turns.size, 5.0), labels.conversations.n
    sets, groups = labels.sets[of], labels.groups[of]
    return _Data(x, grams, of, y, weight, n, sets, groups, bag_grams(seen))


def _matrix(grams: Grams) -> sparse.csr_matrix:
    shape = (grams.n_texts, grams.n_buckets)
    weight = grams.weight.astype(np.float32)
    matrix: sparse.csr_matrix = sparse.coo_matrix(
        (weight, (grams.owner, grams.buckets)), shape=shape
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
    turns, of_whole = None, None
    if recipe.n_outer:
        fold = _folds(groups, recipe.n_outer, recipe.seed)
        parts = []
        for k in range(recipe.n_outer):
            tell(f"fold {k + 1} of {recipe.n_outer}")
            arrays = _fit_part(labels, data, fold != k, rated, whole, recipe)
            parts.append(_apply(arrays, labels, data, fold == k, recipe))
        turns = _gather([part[0] for part in parts], [part[1] for part in parts], rated)
        of_whole = _gather([part[2] for part in parts], [part[3] for part in parts], whole)
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
        base, looks = _fit_and_look(data, mine, inner, recipe)
        trees, by_trees = _fit_trees(base, data, mine, recipe)
        base.update(trees)
        looks = np.concatenate([looks, by_trees[:, None]], axis=1)
        arrays.update({f"turn.{name}": array for name, array in base.items()})
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
        seen = wholes(score, data.x, data.of, data.n, data.bags)
        part, looks = _fit_and_look_at_whole(
            seen, _Cases(cases, y, weight, labels.groups[cases]), inner[cases], recipe
        )
        part["blend"], part["bias"] = _positive_blend(looks, y, weight)
        total = looks @ part["blend"] + part["bias"][0]
        arrays.update({f"whole.{name}": array for name, array in part.items()})
        levels = _fit_levels(total, votes, labels.scale)
        arrays.update({f"whole.levels.{name}": array for name, array in levels.items()})
    return arrays


def _fit_blend(
    context: FloatArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> tuple[FloatArray, float]:
    """Weights of the columns of `neighbours`: looks count from 0 up, neighbours correct them.

    What neighbours say counts by how far it differs from the turn's own plain score, so that a turn
    that stands alone is scored by its looks only.
    """
    looks = context[:, 1 : 1 + len(_LOOKS)]
    own, bias = _positive_blend(looks, y, weight)
    apart = context[:, 1 + len(_LOOKS) :] - context[:, :1]
    mean, spread = apart.mean(axis=0), apart.std(axis=0)
    spread[spread < 1e-9] = 1.0
    model = Ridge(alpha=recipe.blend_alpha)
    model.fit((apart - mean) / spread, y - looks @ own - bias[0], weight)
    correction = model.coef_ / spread
    weights = np.concatenate([[-float(correction.sum())], own, correction])
    return weights, float(bias[0] + model.intercept_ - mean @ correction)


def _fit_and_look(
    data: _Data, mine: IntArray, inner: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """The weighted looks, and what they say of turns that they were not fitted on.

    Returns:
        (arrays, shape (n_turns, 3): the looks of each rated turn from folds without its group,
        of turns without ratings from all folds).
    """
    found = _fit_looks(data, mine, recipe)
    looks = _linear_looks(found, data, np.arange(len(data.x)))
    for k in range(recipe.n_inner):
        out = np.flatnonzero(inner[data.of] == k)
        kept = mine[inner[data.of[mine]] != k]
        if len(kept) and len(out):
            looks[out] = _linear_looks(_fit_looks(data, kept, recipe), data, out)
    return found, looks


def _fit_looks(data: _Data, rows: IntArray, recipe: Recipe) -> Arrays:
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


def _targets(data: _Data, rows: IntArray, wide: FloatArray, recipe: Recipe) -> FloatArray:
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
    data: _Data, rows: IntArray, y: FloatArray, weight: FloatArray, recipe: Recipe
) -> Arrays:
    """Weights of the text features for each look at them.

    The arrays of kinds that no look needs are empty.
    """
    used = {kind for look, kinds in TEXT_LOOKS.items() if look in recipe.looks for kind in kinds}
    found: Arrays = {f"{kind}.idf": np.zeros(0, np.float32) for kind in KINDS}
    block = {}
    for kind in sorted(used):
        matrix = data.grams[kind][rows]
        found[f"{kind}.idf"] = _idf(matrix)
        block[kind] = _weighted(matrix, found[f"{kind}.idf"])
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


def _fit_trees(
    base: Arrays, data: _Data, rows: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """Trees from some rated turns, and what they say of every turn.

    Returns:
        (arrays, shape (n_turns,): of each turn the mean over the trees that were grown without its
        customer, which are all of them where none of the rows is the customer's).
    """
    wide = _within(standard(data.x[rows], base["x.mean"], base["x.spread"]), data.sets[rows])
    y, weight = _targets(data, rows, wide, recipe), data.weight[rows]
    every = np.arange(len(data.x))
    return _grow(data.x, rows, y, weight, data.groups[rows], every, data.groups, recipe)


def _grow(
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


def _idf(matrix: sparse.csr_matrix) -> npt.NDArray[np.float32]:
    """Weights of buckets, higher for rarer ones; 0 for those of fewer than three texts."""
    common = np.asarray((matrix > 0).sum(axis=0)).ravel()
    idf = np.log((1 + matrix.shape[0]) / (1 + common)) + 1
    return np.where(common >= 3, idf, 0.0).astype(np.float32)


def _weighted(matrix: sparse.csr_matrix, idf: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """Text features as `weigh` sees them: each text has length 1."""
    squares = matrix.power(2) @ (idf.astype(np.float64) ** 2)
    scale = 1.0 / np.sqrt(np.maximum(squares, 1e-12))
    weighted: sparse.csr_matrix = matrix.multiply(scale[:, None]).multiply(idf[None, :]).tocsr()
    weighted.eliminate_zeros()
    return weighted


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


def _linear_looks(part: Arrays, data: _Data, rows: IntArray) -> FloatArray:
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
            block = _weighted(data.grams[kind][rows], part[f"{kind}.idf"])
            for place, look in enumerate(TEXT_LOOKS, 1):
                if len(weights := part.get(f"{look}.{kind}.weights", np.zeros(0))):
                    looks[:, place] += block @ weights.astype(np.float64)
    return looks


class _Cases(NamedTuple):
    """Rated conversations."""

    places: IntArray
    y: FloatArray
    weight: FloatArray
    groups: IntArray

    def take(self, chosen: BoolArray) -> "_Cases":
        y, weight = self.y[chosen], self.weight[chosen]
        return _Cases(self.places[chosen], y, weight, self.groups[chosen])


def _fit_and_look_at_whole(
    seen: Wholes, cases: _Cases, fold: IntArray, recipe: Recipe
) -> tuple[Arrays, FloatArray]:
    """The looks at a conversation, and what they say of those that they were not fitted on.

    Returns:
        (arrays, shape (n_cases, n_looks): the looks of each from folds or trees without its group).
    """
    columns = seen.means.astype(np.float32)
    places, y, weight = cases.places, cases.y, cases.weight
    trees, by_trees = _grow(columns, places, y, weight, cases.groups, places, cases.groups, recipe)
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
    return {kind: _matrix(grams) for kind, grams in seen.bags.items()}


def _fit_whole(
    seen: Wholes, bag: Mapping[str, sparse.csr_matrix], cases: _Cases, recipe: Recipe
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
            found[f"{kind}.idf"] = _idf(bag[kind][cases.places])
            blocks.append(_weighted(bag[kind][cases.places], found[f"{kind}.idf"]))
        model = Ridge(alpha=recipe.bag_alpha, solver="sparse_cg", tol=1e-3)
        model.fit(sparse.hstack(blocks).tocsr(), cases.y, cases.weight)
        found["bag.bias"] = np.array([model.intercept_])
        weights = np.split(model.coef_.astype(np.float32), [blocks[0].shape[1]])
        found.update({f"bag.{kind}.weights": w for kind, w in zip(BAGS, weights, strict=True)})
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
        turn = part("turn.")
        looks = np.zeros((len(data.x), 4))
        looks[:, :3] = _linear_looks(turn, data, np.arange(len(data.x)))
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
