"""Metrics by name, and which of them are measured unasked."""

from collections.abc import Sequence

from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring import (
    commitments,
    friction,
    grounding,
    labels,
    outcome,
    reference,
    satisfaction,
    surprisal,
)
from quietdesk.scoring.base import Metric

NOT_BY_DEFAULT = frozenset(
    {
        *("ter", "chrf++", "satisfaction", "dissatisfied", "turn_satisfaction"),
        *(metric.name for metric in surprisal.metrics()),
    }
)
"""TER is slow; chrF++ says little that chrF does not; estimates are for those who know their
agreement with people; what a model finds takes a model."""


def all_metrics() -> dict[str, Metric]:
    """One of every metric, by name."""
    found: list[Metric] = [
        *reference.metrics(),
        *labels.metrics(),
        *outcome.metrics(),
        *friction.metrics(),
        *grounding.metrics(),
        *commitments.metrics(),
        *satisfaction.metrics(),
        *surprisal.metrics(),
    ]
    return {metric.name: metric for metric in found}


def default_metrics() -> list[Metric]:
    """What is measured unasked: whatever the log has what it takes for."""
    return [metric for name, metric in all_metrics().items() if name not in NOT_BY_DEFAULT]


def with_readings(
    wanted: Sequence[str | Metric], readings: surprisal.Readings
) -> list[str | Metric]:
    """The same metrics, those that take a model with what it found; `default` has them too."""
    made = {metric.name: metric for metric in surprisal.metrics(readings)}
    found: list[str | Metric] = [
        made.get(item, item) if isinstance(item, str) else item for item in wanted
    ]
    if "default" in wanted:
        found += [metric for metric in made.values() if metric not in found]
    return found


def check_takes_model(wanted: Sequence[str | Metric]) -> None:
    """Check that one of the metrics takes a model, before it is opened.

    Raises:
        UsageError: none does.
        UnknownNameError: no such metric.
    """
    names = {metric.name for metric in find_metrics(wanted)}
    taking = [metric.name for metric in surprisal.metrics()]
    if "default" not in wanted and not names.intersection(taking):
        raise UsageError(
            f"A model was named, and none of the metrics takes one. Add {' or '.join(taking)}, or "
            "leave the model out."
        )


def find_metrics(wanted: Sequence[str | Metric]) -> list[Metric]:
    """The metrics of these names; a metric itself stays what it is.

    `default` is all of `default_metrics`; `bleu:<tokenizer>` is BLEU with another tokenizer;
    `satisfaction:<file>` is the satisfaction metrics with an own estimator.

    Raises:
        UnknownNameError: no such metric or tokenizer, with the nearest names.
        UsageError: the file holds no estimator.
    """
    known = all_metrics()
    found: dict[str, Metric] = {}
    for item in wanted:
        if not isinstance(item, str):
            found[item.name] = item
        elif item == "default":
            found.update((metric.name, metric) for metric in default_metrics())
        elif item.startswith("bleu:"):
            metric = reference.Bleu(item.removeprefix("bleu:"))
            found[metric.name] = metric
        elif item.startswith("satisfaction:"):
            estimator = satisfaction.Estimator.load(item.removeprefix("satisfaction:"))
            found.update((metric.name, metric) for metric in satisfaction.metrics(estimator))
        elif item in known:
            found[item] = known[item]
        else:
            raise UnknownNameError("metric", item, [*known, "default"])
    return list(found.values())
