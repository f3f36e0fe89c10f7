"""Scores: the numbers of a run, each with its interval, and what they were computed from."""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from quietdesk.columns import to_batch
from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring.base import Estimate, IntArray, Metric, Scale, State, is_bucketed
from quietdesk.scoring.catalogue import find_metrics
from quietdesk.scoring.scorer import Remarks, Scorer, Tally
from quietdesk.scoring.statistics import (
    FEWEST_CLUSTERS,
    NO_INTERVAL,
    Interval,
    clustered_wilson,
    percentile_interval,
    ratio_interval,
    resample,
)
from quietdesk.types import Transcript

FORMAT = "quietdesk scores 1"
CALENDAR = ("week", "month", "day")
"""Slices that are a course of time."""
BATCH = 2048
"""Conversations made into columns at a time."""


def bucketed(state: State) -> dict[str, IntArray]:
    """The columns of a state that values are computed from, by bucket."""
    return {name: sums for name, sums in state.cells.items() if is_bucketed(name)}


def estimates_of(metric: Metric, state: State, *, named: bool) -> list[Estimate]:
    """The values of a state with their intervals, the main one first.

    Args:
        metric: The metric.
        state: Its state.
        named: Whether customers are known, so that conversations may depend on each other.
    """
    cells = bucketed(state)
    n = int(cells["n"].sum()) if "n" in cells else 0
    n_missing = int(state.cells["missing"].sum()) if "missing" in state.cells else 0
    signature = str(metric.signature(state.totals))
    if not n:
        # Which values there would be is not known without labels; the main one always is.
        return [
            Estimate(
                metric.name,
                metric.name,
                math.nan,
                *NO_INTERVAL,
                "nothing measured",
                0,
                n_missing,
                0,
                signature,
            )
        ]
    values = metric.exact(state.sums)
    n_clusters = int((cells["n"] > 0).sum())
    nothing = np.zeros_like(cells["n"])
    shares, ratios = metric.shares(cells), metric.ratios(cells)
    rest = [name for name in values if name not in shares and name not in ratios]
    replicates = resample(cells, metric.values) if rest else {}
    segment = _segment_interval(metric, state)
    # One unit in each conversation and nothing else in common: segments are clusters.
    apart = not named and segment is not None and int(state.totals["conversations"][0]) == n
    found = []
    for name, value in values.items():
        if math.isnan(value):
            interval, method = NO_INTERVAL, "nothing measured"
        elif name in shares:
            hits, trials = shares[name]
            interval = clustered_wilson(
                cells.get(hits, nothing), cells.get(trials, nothing), hashed=True
            )
            method = "Wilson, clustered"
        elif name in ratios:
            over, under, factor = ratios[name]
            low, high = ratio_interval(cells.get(over, nothing), cells.get(under, nothing))
            scale = metric.scale_of(name)
            bottom = -math.inf if scale is Scale.NATS else 0.0
            top = 1.0 if scale is Scale.SHARE else math.inf
            interval = Interval(max(low * factor, bottom), min(high * factor, top))
            method = "bootstrap of t, clustered"
        elif segment is not None and apart:
            mean, half = segment
            interval, method = Interval(mean - half, mean + half), "bootstrap of segments"
        else:
            interval = percentile_interval(replicates[name], n_clusters)
            method = "bootstrap, clustered"
        if n_clusters < FEWEST_CLUSTERS and not math.isnan(interval.low):
            method += "; too few customers to trust"
        found.append(
            Estimate(
                metric.name,
                name,
                value,
                interval.low,
                interval.high,
                method,
                n,
                n_missing,
                n_clusters,
                signature,
                "",
                "",
                *(segment or (None, None)),
            )
        )
    return found


def _segment_interval(metric: Metric, state: State) -> tuple[float, float] | None:
    """Mean and half-width as sacrebleu gives them, where segments were kept."""
    if state.segments is None or len(state.segments) < 2:
        return None
    return metric.segment_interval(state.segments)


class Scores:
    """The scores of a run.

    `scores["chrf"]` is the estimate of that name; iterating gives all of the whole.

    Attributes:
        metrics: What was measured, by name.
        tally: The integers behind the numbers.
        rows: One row per conversation, where they were kept; None otherwise.
        source: What was scored, in words.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        tally: Tally,
        *,
        rows: pa.Table | None = None,
        source: str = "",
    ) -> None:
        self.metrics = {metric.name: metric for metric in metrics}
        self.tally = tally
        self.rows = rows
        self.source = source

    @cached_property
    def estimates(self) -> tuple[Estimate, ...]:
        """Every value of the whole, metric by metric, the main value of each first."""
        named = self.tally.n_named > 0
        return tuple(
            estimate
            for name, metric in self.metrics.items()
            for estimate in estimates_of(metric, self.tally.whole.get(name, State()), named=named)
        )

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __getitem__(self, name: str) -> Estimate:
        for estimate in self.estimates:
            if estimate.name == name:
                return estimate
        raise UnknownNameError("score", name, [estimate.name for estimate in self.estimates])

    @cached_property
    def remarks(self) -> dict[str, Remarks]:
        """What the metrics had to say about the data, the most frequent first."""
        kept = dict(self.tally.remarks)
        for name, metric in self.metrics.items():
            if name in self.tally.whole:
                still = metric.settled(kept, self.tally.whole[name].sums)
                kept = {text: found for text, found in kept.items() if text in still}
        return dict(sorted(kept.items(), key=lambda item: -item[1].count))

    @property
    def notes(self) -> list[str]:
        """What a reader must know of how values came to be, in sentences."""
        n = self.tally.n_conversations
        told = [
            note
            for name, metric in self.metrics.items()
            if name in self.tally.whole
            for note in metric.notes(self.tally.whole[name].totals, n)
        ]
        return list(dict.fromkeys(told))

    @property
    def fields(self) -> list[str]:
        """The fields that there are slices by."""
        return list(dict.fromkeys(name for name, _ in self.tally.parts))

    def slices(self, name: str) -> dict[str, list[Estimate]]:
        """The estimates in each slice by a field, in the order of its values.

        Raises:
            UnknownNameError: it was not sliced by that.
        """
        if name not in self.fields:
            raise UnknownNameError("slice", name, self.fields)
        return self._slices[name]

    @cached_property
    def _slices(self) -> dict[str, dict[str, list[Estimate]]]:
        named = self.tally.n_named > 0
        found: dict[str, dict[str, list[Estimate]]] = {}
        for (name, value), states in sorted(self.tally.parts.items()):
            found.setdefault(name, {})[value] = [
                replace(estimate, slice_field=name, slice_value=value)
                for metric in self.metrics.values()
                if metric.name in states
                for estimate in estimates_of(metric, states[metric.name], named=named)
            ]
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON, the integers too, so that `load` gives the same scores again."""
        slices = [
            _as_json(estimate)
            for name in self.fields
            for estimates in self.slices(name).values()
            for estimate in estimates
        ]
        return {
            "format": FORMAT,
            "source": self.source,
            "conversations": self.tally.n_conversations,
            "messages": self.tally.n_messages,
            "metrics": list(self.metrics),
            "digest": self.tally.digest,
            "estimates": [_as_json(estimate) for estimate in self.estimates],
            "slices": slices,
            "slices_left_out": sorted(self.tally.dropped),
            "notes": self.notes,
            "remarks": [
                {
                    "text": text,
                    "count": found.count,
                    "examples": [
                        {"conversation": example.conversation_id, "message": example.message}
                        for example in found.examples
                    ],
                }
                for text, found in self.remarks.items()
            ],
            "state": base64.b64encode(self.tally.to_bytes()).decode(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], metrics: Sequence[Metric] = ()) -> "Scores":
        """The scores that `to_json` gave.

        Args:
            data: The JSON.
            metrics: Own metrics among those that were measured.

        Raises:
            UsageError: it is not of this format.
            UnknownNameError: an own metric is missing.
        """
        if data.get("format") != FORMAT:
            raise UsageError(
                f"These are no scores of this version: format {data.get('format')!r}, expected "
                f"{FORMAT!r}. Score the conversations anew."
            )
        own = {metric.name: metric for metric in metrics}
        signatures = {each["metric"]: each["signature"] for each in data["estimates"]}
        known = [
            metric.under(signatures.get(metric.name, ""))
            for metric in find_metrics([own.get(name, name) for name in data["metrics"]])
        ]
        tally = Tally.from_bytes(base64.b64decode(data["state"]))
        return cls(known, tally, source=data["source"])


def load(path: Path | str, metrics: Sequence[Metric] = ()) -> Scores:
    """The scores in a file that `quietdesk score --json` wrote.

    Args:
        path: The file.
        metrics: Own metrics among those that were measured.

    Raises:
        UsageError: it cannot be read, or holds no scores.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The file {str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UsageError(
            f"The file {str(path)!r} holds no scores. `quietdesk score LOGS --json > FILE` makes "
            "one that does."
        )
    return Scores.from_json(data, metrics)


def _as_json(estimate: Estimate) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(estimate).items()
    }


def score(
    conversations: Iterable[Transcript] | Iterable[pa.RecordBatch],
    metrics: Sequence[str | Metric] = ("default",),
    *,
    slices: Sequence[str] = (),
    keep_rows: bool = True,
) -> Scores:
    """Score conversations in this process.

    Args:
        conversations: Transcripts, or batches with the schema of `quietdesk.columns.schema()`.
        metrics: Names, or own metrics; `default` is all that the conversations have data for.
        slices: Fields to slice by: metadata, labels, `week`, ...
        keep_rows: Whether to keep a row per conversation in `Scores.rows`.

    Raises:
        UnknownNameError: no metric of that name.
        UsageError: two metrics of one name, or a batch of something else.
    """
    scorer = Scorer(find_metrics(metrics), slices)
    tally = Tally(scorer.fingerprint)
    rows = []
    for batch in batches_of(conversations):
        reading = scorer.read(batch)
        tally.add(reading.tally)
        if keep_rows:
            rows.append(reading.rows)
    if not rows and keep_rows:
        rows.append(scorer.read(to_batch([])).rows)
    return Scores(scorer.metrics, tally, rows=pa.Table.from_batches(rows) if keep_rows else None)


def batches_of(
    conversations: Iterable[Transcript] | Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Conversations as columns, in their order, some thousands at a time."""
    waiting: list[Transcript] = []
    for item in conversations:
        if isinstance(item, pa.RecordBatch):
            yield item
        else:
            waiting.append(item)
            if len(waiting) == BATCH:
                yield to_batch(waiting)
                waiting = []
    if waiting:
        yield to_batch(waiting)
