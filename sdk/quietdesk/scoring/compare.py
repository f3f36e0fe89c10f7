"""Compare: what changed between two runs, and whether chance alone would give as much.

Where both runs answer the same inputs, each customer is compared with himself: a paired bootstrap
gives the interval and approximate randomisation the p-value. Otherwise both are samples of their
own. Which it is shows in the tallies: for each bucket of customers they hold a sum of digests of
conversation ids and first questions, and buckets with equal sums hold the same inputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from quietdesk.errors import UsageError
from quietdesk.scoring.base import (
    N_SLICE_BUCKETS,
    Better,
    BoolArray,
    Estimate,
    IntArray,
    Metric,
    State,
)
from quietdesk.scoring.labels import Labels
from quietdesk.scoring.scores import CALENDAR, Scores, bucketed
from quietdesk.scoring.statistics import (
    FEWEST_CLUSTERS,
    LEVEL,
    N_TRIALS,
    NO_INTERVAL,
    Difference,
    Interval,
    Question,
    approximate_randomisation,
    cliffs_delta,
    cohen_h,
    holm,
    paired_bootstrap,
    smallest_detectable,
    two_sample_bootstrap,
)

PAIRED_SHARE = 0.5
"""Share of conversations with the same input from which on runs are compared in pairs."""


class Verdict(StrEnum):
    """What can be said of a change."""

    BETTER = "better"
    WORSE = "worse"
    CHANGED = "changed"
    """Of a value that is neither good nor bad."""
    SAME = "none seen"
    """No difference beyond what chance alone gives."""
    TOO_FEW = "too few to tell"


@dataclass(frozen=True, slots=True)
class Change:
    """One value in two runs."""

    new: Estimate
    old: Estimate
    difference: float
    """New less old."""
    interval: Interval
    """95 per cent, of the difference."""
    p: float
    """Two-sided, as if this were the only question."""
    p_adjusted: float
    """After Holm, over the main values of all metrics and slices; NaN for the others."""
    test: str
    effect: float
    """Effect size; NaN where there is none."""
    effect_name: str
    detectable: float
    """The smallest true change that this many conversations show four times in five."""
    n_clusters: int
    """Customers in both runs, where paired, else in the smaller one."""
    better: Better
    verdict: Verdict
    main: bool
    """Whether it is its metric's main value."""

    @property
    def name(self) -> str:
        """The value's name."""
        return self.new.name

    def to_json(self) -> dict[str, Any]:
        """The change as JSON; null for a number that there is none of."""
        return {
            "metric": self.new.metric,
            "name": self.name,
            "slice_field": self.new.slice_field,
            "slice_value": self.new.slice_value,
            "old": or_null(self.old.value),
            "new": or_null(self.new.value),
            "difference": or_null(self.difference),
            "low": or_null(self.interval.low),
            "high": or_null(self.interval.high),
            "p": or_null(self.p),
            "p_adjusted": or_null(self.p_adjusted),
            "test": self.test,
            "effect": or_null(self.effect),
            "effect_name": self.effect_name,
            "detectable": or_null(self.detectable),
            "clusters": self.n_clusters,
            "verdict": str(self.verdict),
        }


def or_null(value: float) -> float | None:
    """The number, or None for JSON where it is NaN."""
    return None if math.isnan(value) else value


@dataclass(frozen=True, slots=True)
class Comparison:
    """All changes between two runs."""

    new: Scores
    old: Scores
    changes: tuple[Change, ...]
    """Of the whole first, then slice by slice."""
    paired: bool
    n_left_out: int
    """Conversations of either run without the same input in the other, where paired."""
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> tuple[Change, ...]:
        """The changes of the whole."""
        return tuple(change for change in self.changes if not change.new.slice_field)

    @property
    def telling(self) -> tuple[Change, ...]:
        """What a reader wants: all main values of the whole; of the rest, what differs.

        Of labels, the rest is macro F1 and MCC: their many values say the same in other words.
        """
        return tuple(change for change in self.changes if self._tells(change))

    def to_json(self) -> dict[str, Any]:
        """All changes as JSON."""
        return {
            "format": "quietdesk comparison 1",
            "new": self.new.source,
            "old": self.old.source,
            "conversations": [self.new.tally.n_conversations, self.old.tally.n_conversations],
            "paired": self.paired,
            "left_out": self.n_left_out,
            "notes": list(self.notes),
            "changes": [change.to_json() for change in self.changes],
        }

    def _tells(self, change: Change) -> bool:
        if change.main and not change.new.slice_field:
            return True
        if change.verdict in {Verdict.SAME, Verdict.TOO_FEW}:
            return False
        labels = isinstance(self.new.metrics[change.new.metric], Labels)
        told = not labels or change.name.endswith((".f1_macro", ".mcc"))
        return change.main or (told and not change.new.slice_field)


def compare(new: Scores, old: Scores) -> Comparison:
    """Compare two runs of the same metrics.

    Raises:
        UsageError: they have no metric in common, or one under two signatures.
    """
    metrics = [metric for name, metric in new.metrics.items() if name in old.metrics]
    if not metrics:
        raise UsageError(
            f"The runs have no metric in common: {', '.join(new.metrics)} and "
            f"{', '.join(old.metrics)}. Score both with the same metrics."
        )
    notes = []
    for metric in metrics:
        ours, theirs = (str(scores.metrics[metric.name].signature({})) for scores in (new, old))
        if ours != theirs:
            raise UsageError(
                f"{metric.name!r} was measured in two ways: {ours} and {theirs}. Score both runs "
                "with one version and the same options."
            )
    only = sorted(new.metrics.keys() ^ old.metrics.keys())
    if only:
        notes.append(f"Measured in one run only, and left out: {', '.join(only)}.")
    same = _same_inputs(new, old)
    n_same = int(new.tally.population[same].sum())
    paired = n_same > PAIRED_SHARE * max(new.tally.n_conversations, old.tally.n_conversations)
    n_left_out = 0
    if paired:
        n_left_out = new.tally.n_conversations + old.tally.n_conversations - 2 * n_same
    buckets = same if paired else None
    changes = _changes(metrics, new, old, buckets, "", "")
    parts = buckets
    if parts is not None:
        # A slice's bucket is the sum of several; it is the same where all of them are.
        empty = (new.tally.population == 0) & (old.tally.population == 0)
        parts = np.all((same | empty).reshape(-1, N_SLICE_BUCKETS), axis=0)
    for key in sorted(new.tally.parts.keys() & old.tally.parts.keys()):
        if key[0] in CALENDAR:
            # Weeks are the course of one run; between two runs they are no slice in common.
            continue
        changes += _changes(metrics, new, old, parts, *key)
    return Comparison(new, old, tuple(_adjusted(changes)), paired, n_left_out, tuple(notes))


def _same_inputs(new: Scores, old: Scores) -> BoolArray:
    """Buckets of which both runs have the same conversations."""
    ours, theirs = new.tally, old.tally
    same: BoolArray = np.logical_and.reduce(
        [
            ours.population > 0,
            ours.population == theirs.population,
            ours.inputs == theirs.inputs,
        ]
    )
    return same


@dataclass(frozen=True, slots=True)
class _Pair:
    """One metric in both runs, new first."""

    metric: Metric
    states: tuple[State, State]
    estimates: tuple[dict[str, Estimate], dict[str, Estimate]]
    cells: tuple[dict[str, IntArray], dict[str, IntArray]]
    """Sums in the buckets that are compared."""
    n_clusters: int

    @property
    def question(self) -> Question:
        """For a test."""
        return Question(*self.cells, self.metric.values)


def _changes(
    metrics: Sequence[Metric],
    new: Scores,
    old: Scores,
    same: BoolArray | None,
    slice_field: str,
    slice_value: str,
) -> list[Change]:
    """What changed in the whole or in one slice.

    Args:
        metrics: The metrics.
        new: One run.
        old: The other.
        same: Buckets to compare in pairs; None where the runs are two samples.
        slice_field: Empty for the whole.
        slice_value: The slice's value.
    """
    found = (_pair(metric, new, old, same, slice_field, slice_value) for metric in metrics)
    pairs = [pair for pair in found if pair is not None]
    p_values: list[Mapping[str, float]] = [{} for _ in pairs]
    if same is not None and pairs:
        p_values = list(approximate_randomisation([pair.question for pair in pairs]))
    return [
        change
        for pair, p in zip(pairs, p_values, strict=True)
        for change in _changes_of(pair, p, paired=same is not None)
    ]


def _pair(
    metric: Metric,
    new: Scores,
    old: Scores,
    same: BoolArray | None,
    slice_field: str,
    slice_value: str,
) -> _Pair | None:
    """The metric in both runs; None where one of them has nothing of it."""
    states, estimates = [], []
    for scores in (new, old):
        known = scores.tally.parts[slice_field, slice_value] if slice_field else scores.tally.whole
        if metric.name not in known or not int(known[metric.name].cells["n"].sum()):
            return None
        states.append(known[metric.name])
        all_ = scores.slices(slice_field)[slice_value] if slice_field else scores.estimates
        estimates.append({each.name: each for each in all_ if each.metric == metric.name})
    cells = [bucketed(state) for state in states]
    if same is not None:
        cells = [{name: np.where(same, sums, 0) for name, sums in side.items()} for side in cells]
        n_clusters = int(((cells[0]["n"] > 0) | (cells[1]["n"] > 0)).sum())
    else:
        n_clusters = min(int((side["n"] > 0).sum()) for side in cells)
    return _Pair(
        metric,
        (states[0], states[1]),
        (estimates[0], estimates[1]),
        (cells[0], cells[1]),
        n_clusters,
    )


def _changes_of(pair: _Pair, p_values: Mapping[str, float], *, paired: bool) -> list[Change]:
    """Each value's change."""
    metric, (ours, theirs) = pair.metric, pair.estimates
    differences: Mapping[str, Difference] = {}
    if pair.n_clusters >= 2:
        bootstrap = paired_bootstrap if paired else two_sample_bootstrap
        differences = bootstrap(pair.question)
    shared = [name for name in ours if name in theirs]
    main = metric.name if metric.name in shared else shared[0]
    changes = []
    for name in shared:
        found = differences.get(name, _NOTHING)
        effect, effect_name = _effect(pair, name)
        p = p_values.get(name, found.p)
        if p <= 1 / N_TRIALS and not math.isnan(found.p):
            # No toss gave as much. How rare it is beyond that, the bootstrap says.
            p = min(p, found.p)
        changes.append(
            Change(
                new=ours[name],
                old=theirs[name],
                difference=found.value,
                interval=found.interval,
                p=p,
                p_adjusted=math.nan,
                test=f"paired: {_PAIRED}" if paired else f"two samples: {_TWO_SAMPLES}",
                effect=effect,
                effect_name=effect_name,
                detectable=smallest_detectable(found.interval),
                n_clusters=pair.n_clusters,
                better=metric.better_of(name),
                verdict=Verdict.TOO_FEW,
                main=name == main,
            )
        )
    return changes


_NOTHING = Difference(math.nan, NO_INTERVAL, math.nan)
_PAIRED = "bootstrap, approximate randomisation"
_TWO_SAMPLES = "bootstrap"


def _effect(pair: _Pair, name: str) -> tuple[float, str]:
    """Effect size and its name; NaN where there is none."""
    if name in pair.metric.shares(pair.cells[0].keys() | pair.cells[1].keys()):
        new, old = (side[name].value for side in pair.estimates)
        return cohen_h(new, old), "Cohen's h"
    bins = [state.totals.get("histogram") for state in pair.states]
    if name == pair.metric.name and bins[0] is not None and bins[1] is not None:
        return cliffs_delta(bins[0], bins[1]), "Cliff's delta"
    return math.nan, ""


def _adjusted(changes: Sequence[Change]) -> list[Change]:
    """The changes with adjusted p-values, and what follows from them."""
    main = holm([change.p if change.main else math.nan for change in changes])
    return [
        replace(change, p_adjusted=p, verdict=_verdict(change, p if change.main else change.p))
        for change, p in zip(changes, main, strict=True)
    ]


def _verdict(change: Change, p: float) -> Verdict:
    if change.n_clusters < FEWEST_CLUSTERS or math.isnan(p):
        return Verdict.TOO_FEW
    if p >= 1 - LEVEL:
        return Verdict.SAME
    if change.better is Better.NEITHER:
        return Verdict.CHANGED
    up = change.difference > 0
    return Verdict.BETTER if up == (change.better is Better.HIGHER) else Verdict.WORSE
