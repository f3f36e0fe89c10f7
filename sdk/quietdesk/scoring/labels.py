"""Label metrics: accuracy, precision, recall, F1, confusion, MCC and kappa from counts that add up.

For every name that a log has both true labels and predictions of (`intent`, `resolved`, ...). A
unit may have several labels of one name. All numbers come from a few integers per class: units that
have it truly, units that were predicted to have it, and both; they are equal to scikit-learn's with
`zero_division=0`. Of units with exactly one, the confusion matrix is kept as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from quietdesk.columns import list_offsets
from quietdesk.scoring.base import (
    FAMILY,
    FAMILY_LIMIT,
    BaseMetric,
    Better,
    BoolArray,
    Conversations,
    FloatArray,
    IntArray,
    Measurement,
    Metric,
    Remark,
    Scale,
    Sums,
    Unit,
    divide,
)

_TRUE, _PREDICTED, _BOTH, _EXACT, _UNITS, _MANY = (
    "true",
    "predicted",
    "both",
    "exact",
    "units",
    "many",
)
_CONFUSION = "confusion"


def _key(*parts: str) -> str:
    """A column's name; parts are apart whatever characters labels have."""
    return FAMILY.join(parts)


class Labels(BaseMetric):
    """Predicted labels against true ones, for every name that both are there of."""

    scale = Scale.SHARE
    better = Better.HIGHER
    definition = (
        "Share of units whose predicted labels are exactly the true ones; then, for each label "
        "name, precision, recall and F1 over all decisions (micro), as the mean over classes "
        "(macro) and weighted by how often a class is true, Matthews' correlation, Cohen's kappa."
    )
    source = (
        "Sokolova and Lapalme, A Systematic Analysis of Performance Measures (2009); Gorodkin "
        "(2004) for MCC, Cohen (1960) for kappa; equal to scikit-learn."
    )
    misleads = (
        "Accuracy flatters where one class is frequent: read macro F1, MCC and kappa beside it. "
        "Labels that people gave are no truth where people disagree."
    )

    def __init__(self, unit: Unit = Unit.MESSAGE) -> None:
        self.unit = unit
        self.name = "labels" if unit is Unit.MESSAGE else "conversation-labels"
        self.title = f"Labels of {unit}s"

    def measure(self, conversations: Conversations) -> Measurement:
        """Units with labels of either kind; without truth or prediction, they are not measured."""
        rows = conversations.batch if self.unit is Unit.CONVERSATION else conversations.rows
        truth, guess = _entries(rows["labels"]), _entries(rows["predictions"])
        pairs = [_pair(name, truth, guess) for name in sorted(truth.keys() & guess.keys())]
        half = [
            entries[name].units
            for entries, others in ((truth, guess), (guess, truth))
            for name in sorted(entries.keys() - others.keys())
        ]
        none = np.zeros(0, np.int64)
        index = np.unique(np.concatenate([none, *half, *(pair.units for pair in pairs)]))
        measured = np.zeros(len(index), np.bool_)
        right = np.ones(len(index), np.bool_)
        sums: dict[str, IntArray] = {}
        totals: dict[str, IntArray] = {}
        remarks: list[Remark] = []
        for pair in pairs:
            place = np.searchsorted(index, pair.units)
            measured[place[pair.complete]] = True
            right[place[pair.complete & ~pair.exact]] = False
            if pair.n_columns > FAMILY_LIMIT:
                totals[f"left out {pair.name}"] = np.ones(1, np.int64)
                continue
            for name, column in pair.columns().items():
                sums[name] = np.zeros(len(index), np.int64)
                sums[name][place] = column
            totals.update(pair.confusion())
            remarks += self._unseen(pair, conversations)
        sums["right"] = (right & measured).astype(np.int64)
        values = np.where(measured, right.astype(np.float64), np.nan)
        causes = index[measured & ~right] if self.unit is Unit.MESSAGE else None
        return Measurement(
            index, measured, sums, values, totals=totals, causes=causes, remarks=remarks
        )

    def _unseen(self, pair: "_Pair", conversations: Conversations) -> list[Remark]:
        """Predictions of classes that are never true in this batch; `settled` sorts them out."""
        remarks = []
        rows, classes = pair.guesses.T if len(pair.guesses) else np.zeros((2, 0), np.int64)
        known = np.isin(classes, pair.truths[:, 1])
        for unit, code in zip(rows[~known].tolist(), classes[~known].tolist(), strict=True):
            text = unseen_text(pair.name, pair.classes[code])
            if self.unit is Unit.CONVERSATION:
                remarks.append(Remark(text, conversations.ids[unit].as_py()))
            else:
                conversation = conversations.ids[int(conversations.conversation_of[unit])].as_py()
                remarks.append(Remark(text, conversation, int(conversations.position_of[unit])))
        return remarks

    def settled(self, remarks: Iterable[str], sums: Mapping[str, int]) -> set[str]:
        """Without the remarks on classes that turned out to be true somewhere."""
        seen = {
            unseen_text(*parts[:2])
            for parts in (name.split(FAMILY) for name in sums)
            if len(parts) == 3 and parts[2] == _TRUE and sums[_key(*parts)]
        }
        return set(remarks) - seen

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """Exact matches, then each name's measures, then each class's."""
        found = {self.name: divide(sums["right"], sums["n"])}
        for name, classes in _names(tuple(sums)):
            table = np.stack(
                [
                    [
                        sums.get(_key(name, label, kind), np.zeros_like(sums["n"]))
                        for label in classes
                    ]
                    for kind in (_TRUE, _PREDICTED, _BOTH)
                ]
            )
            head = f"{self.name}.{name}"
            measures = measures_of(
                *table,
                units=sums[_key(name, _UNITS)],
                exact=sums[_key(name, _EXACT)],
                single=sums[_key(name, _MANY)] == 0,
            )
            found.update({f"{head}.{measure}": values for measure, values in measures.items()})
            for place, label in enumerate(classes):
                true, predicted, both = table[:, place]
                precision, recall, f1 = _scores(true, predicted, both)
                found[f"{head}.precision.{label}"] = precision
                found[f"{head}.recall.{label}"] = recall
                found[f"{head}.f1.{label}"] = f1
        return found

    def scale_of(self, name: str) -> Scale:
        """Correlations are numbers from -1 to 1, the rest are shares."""
        return Scale.NUMBER if name.endswith((".mcc", ".kappa")) else Scale.SHARE

    def shares(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """Exact matches and accuracy, and each class's recall and precision."""
        found = {self.name: ("right", "n")}
        for name, classes in _names(tuple(columns)):
            head = f"{self.name}.{name}"
            found[f"{head}.accuracy"] = (_key(name, _EXACT), _key(name, _UNITS))
            for label in classes:
                both = _key(name, label, _BOTH)
                found[f"{head}.recall.{label}"] = (both, _key(name, label, _TRUE))
                found[f"{head}.precision.{label}"] = (both, _key(name, label, _PREDICTED))
        return found


def unseen_text(name: str, label: str) -> str:
    """What is remarked on a label that was predicted and is never true."""
    return f"{name} {label!r} is predicted, and is never the true label"


@lru_cache(maxsize=64)
def _names(columns: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Label names and their classes, by the columns that there are."""
    found: dict[str, set[str]] = {}
    for column in columns:
        parts = column.split(FAMILY)
        if len(parts) == 3:
            found.setdefault(parts[0], set()).add(parts[1])
        elif len(parts) == 2:
            found.setdefault(parts[0], set())
    return tuple((name, tuple(sorted(classes))) for name, classes in sorted(found.items()))


def measures_of(
    true: FloatArray,
    predicted: FloatArray,
    both: FloatArray,
    *,
    units: FloatArray,
    exact: FloatArray,
    single: BoolArray,
) -> dict[str, FloatArray]:
    """The measures of one label name, each of shape (n_replicates,).

    Args:
        true: Units that have each class truly, shape (n_classes, n_replicates).
        predicted: Units that were predicted to have it.
        both: Units of which both is true.
        units: Units, shape (n_replicates,).
        exact: Units whose predicted labels are the true ones.
        single: Whether every unit has one true and one predicted label.
    """
    precision, recall, f1 = _scores(true, predicted, both)
    # A class that is neither true nor predicted is none, as scikit-learn takes it.
    there = (true + predicted) > 0
    found = {"accuracy": divide(exact, units)}
    hit, said, meant = both.sum(axis=0), predicted.sum(axis=0), true.sum(axis=0)
    whole = dict(zip(("precision", "recall", "f1"), _scores(meant, said, hit), strict=True))
    measures = {"precision": precision, "recall": recall, "f1": f1}
    for name, values in measures.items():
        found[f"{name}_micro"] = whole[name]
        found[f"{name}_macro"] = divide((values * there).sum(axis=0), there.sum(axis=0))
        found[f"{name}_weighted"] = _or_0((values * true).sum(axis=0), meant)
    # One less scikit-learn's `hamming_loss`, so that more is better as everywhere here.
    found["hamming_score"] = 1 - divide(said + meant - 2 * hit, units * there.sum(axis=0))
    chance = (true * predicted).sum(axis=0)
    covariance = hit * units - chance
    spread = (units**2 - (predicted**2).sum(axis=0)) * (units**2 - (true**2).sum(axis=0))
    mcc = np.zeros_like(units)
    np.divide(covariance, np.sqrt(np.maximum(spread, 0)), out=mcc, where=spread > 0)
    found["mcc"] = np.where(single, mcc, np.nan)
    found["kappa"] = np.where(single, divide(covariance, units**2 - chance), np.nan)
    return found


def _scores(
    true: FloatArray, predicted: FloatArray, both: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and F1, each 0 where it has no meaning."""
    return _or_0(both, predicted), _or_0(both, true), _or_0(2 * both, predicted + true)


def _or_0(over: FloatArray, under: FloatArray) -> FloatArray:
    """The quotient, 0 where there is none."""
    quotient = np.zeros(np.shape(over))
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


class Confusion(NamedTuple):
    """How often each class was taken for each."""

    classes: list[str]
    counts: IntArray
    """Shape (n_classes, n_classes): true by predicted."""


def confusion_of(totals: Mapping[str, IntArray], name: str) -> Confusion:
    """The confusion matrix of a label name, from a state's totals."""
    cells = {}
    for key, total in totals.items():
        parts = key.split(FAMILY)
        if len(parts) == 4 and parts[0] == name and parts[1] == _CONFUSION:
            cells[parts[2], parts[3]] = int(total[0])
    classes = sorted({label for pair in cells for label in pair})
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for (true, predicted), count in cells.items():
        counts[classes.index(true), classes.index(predicted)] = count
    return Confusion(classes, counts)


def names_in(totals: Mapping[str, IntArray]) -> list[str]:
    """The label names that a state has confusion matrices of."""
    return sorted(
        {key.split(FAMILY)[0] for key in totals if f"{FAMILY}{_CONFUSION}{FAMILY}" in key}
    )


class _Entries(NamedTuple):
    """The labels of one name."""

    units: IntArray
    """Units that have any, or an empty list of them; ascending."""
    owners: IntArray
    """The unit of each label."""
    labels: pa.Array


def _entries(column: pa.Array) -> dict[str, _Entries]:
    entries = column.flatten()
    if not len(entries):
        return {}
    names, values = entries.flatten()
    encoded = names.dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False))
    owners = np.repeat(np.arange(len(column)), np.diff(list_offsets(column)))
    found = {}
    for code, name in enumerate(encoded.dictionary.to_pylist()):
        rows = np.flatnonzero(codes == code)
        chosen = values.take(pa.array(rows))
        lengths = np.diff(list_offsets(chosen))
        found[name] = _Entries(
            np.unique(owners[rows]), np.repeat(owners[rows], lengths), chosen.flatten()
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """True and predicted labels of one name."""

    name: str
    classes: list[str]
    units: IntArray
    complete: BoolArray
    """Whether a unit has both."""
    exact: BoolArray
    truths: IntArray
    """Shape (n, 2): unit and class of each true label of a complete unit, each once."""
    guesses: IntArray
    """The same of each predicted label."""

    def _place(self, pairs: IntArray) -> IntArray:
        return np.searchsorted(self.units, pairs[:, 0])

    def _counts(self, pairs: IntArray) -> IntArray:
        return np.bincount(self._place(pairs), minlength=len(self.units))

    @property
    def shared(self) -> IntArray:
        """The pairs of unit and class that are true and predicted."""
        return _common(self.truths, self.guesses, len(self.classes))

    @property
    def n_columns(self) -> int:
        """How many columns there are."""
        kinds = (self.truths, self.guesses, self.shared)
        return 3 + sum(len(np.unique(pairs[:, 1])) for pairs in kinds)

    def columns(self) -> dict[str, IntArray]:
        """The integers of each unit, shape (n_units,) by column."""
        complete = self.complete.astype(np.int64)
        many = (self._counts(self.truths) != 1) | (self._counts(self.guesses) != 1)
        found = {
            _key(self.name, _UNITS): complete,
            _key(self.name, _EXACT): complete * self.exact,
            _key(self.name, _MANY): complete * many,
        }
        kinds = ((_TRUE, self.truths), (_PREDICTED, self.guesses), (_BOTH, self.shared))
        for kind, pairs in kinds:
            for code in np.unique(pairs[:, 1]).tolist():
                column = np.zeros(len(self.units), np.int64)
                column[self._place(pairs[pairs[:, 1] == code])] = 1
                found[_key(self.name, self.classes[code], kind)] = column
        return found

    def confusion(self) -> dict[str, IntArray]:
        """The cells of the confusion matrix that occur, over units with one label on each side."""
        one = (self._counts(self.truths) == 1) & (self._counts(self.guesses) == 1)
        true = self.truths[one[self._place(self.truths)]]
        guess = self.guesses[one[self._place(self.guesses)]]
        cells, counts = np.unique(true[:, 1] * len(self.classes) + guess[:, 1], return_counts=True)
        return {
            _key(
                self.name,
                _CONFUSION,
                self.classes[cell // len(self.classes)],
                self.classes[cell % len(self.classes)],
            ): np.array([count])
            for cell, count in zip(cells.tolist(), counts.tolist(), strict=True)
        }


def _common(a: IntArray, b: IntArray, n_classes: int) -> IntArray:
    keys = np.intersect1d(a[:, 0] * n_classes + a[:, 1], b[:, 0] * n_classes + b[:, 1])
    return np.column_stack([keys // max(n_classes, 1), keys % max(n_classes, 1)])


def _pair(name: str, truth: Mapping[str, _Entries], guess: Mapping[str, _Entries]) -> _Pair:
    both = (truth[name], guess[name])
    encoded = pa.concat_arrays([side.labels for side in both]).dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
    units = np.union1d(both[0].units, both[1].units)
    complete = np.isin(units, both[0].units) & np.isin(units, both[1].units)
    cut = len(both[0].labels)
    sides = []
    for side, own in zip(both, (codes[:cut], codes[cut:]), strict=True):
        kept = complete[np.searchsorted(units, side.owners)]
        pairs = np.column_stack([side.owners[kept], own[kept]])
        sides.append(np.unique(pairs, axis=0))
    n_classes = max(len(encoded.dictionary), 1)
    keys = [side[:, 0] * n_classes + side[:, 1] for side in sides]
    odd = np.setxor1d(*keys) // n_classes
    return _Pair(
        name, encoded.dictionary.to_pylist(), units, complete, ~np.isin(units, odd), *sides
    )


def metrics() -> tuple[Metric, ...]:
    """The labels of messages and those of conversations."""
    return (Labels(Unit.MESSAGE), Labels(Unit.CONVERSATION))
