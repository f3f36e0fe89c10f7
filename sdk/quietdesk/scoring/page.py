"""Page: scores as one HTML file that needs no network, for light and dark screens and for paper."""

import math
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from quietdesk.scoring import charts
from quietdesk.scoring.base import Estimate, Metric, Scale
from quietdesk.scoring.compare import Change, Comparison, Verdict
from quietdesk.scoring.labels import Labels, confusion_of, names_in
from quietdesk.scoring.report import (
    MOST_REMARKS,
    Line,
    apart,
    better_sign,
    binned,
    categories_of,
    left_out,
    lines_of,
    main_estimates,
    not_measured,
    shown,
    shown_interval,
    shown_p,
    signed,
    signed_interval,
    sizes_of,
    worst_of,
)
from quietdesk.scoring.scores import CALENDAR, Scores
from quietdesk.scoring.statistics import FEWEST_CLUSTERS

MOST_WORST = 30
MOST_SLICES = 12
MOST_CLASSES = 40
"""Classes that a confusion matrix is drawn for; more cannot be read."""
MOST_TURNS = 200
"""Messages of one conversation that are shown."""


def page(scores: Scores, comparison: Comparison | None = None, *, title: str = "") -> str:
    """The whole page.

    Args:
        scores: What to show.
        comparison: With another run, shown first.
        title: Its heading; what was scored, if empty.
    """
    environment = Environment(
        loader=PackageLoader("quietdesk.scoring"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    trends = [_trends(scores, name) for name in scores.fields if name in CALENDAR]
    slices = [_slices(scores, name) for name in scores.fields if name not in CALENDAR]
    content: dict[str, Any] = {
        "title": title or scores.source or "Scores",
        "facts": _facts(scores),
        "warning": _warning(scores),
        "comparison": None if comparison is None else _comparison(comparison),
        "rows": [_row(line) for line in lines_of(scores)],
        "notes": _notes(scores),
        "trends": [field for field in trends if field["charts"]],
        "slices": [field for field in slices if len(field["values"]) > 1],
        "labels": _labels(scores),
        "worst": _worst(scores),
        "definitions": _definitions(scores),
        "footer": f"Quietdesk {version('quietdesk')} · integers {scores.tally.digest}",
    }
    content["sections"] = _sections(content)
    return environment.get_template("page.html").render(content)


def _facts(scores: Scores) -> list[str]:
    tally = scores.tally
    facts = [f"{tally.n_conversations:,} conversations", f"{tally.n_messages:,} messages"]
    if tally.n_named and tally.n_conversations:
        facts.append(f"{tally.n_named / tally.n_conversations:.0%} of known customers")
    return facts


def _warning(scores: Scores) -> str:
    if int((scores.tally.population > 0).sum()) >= FEWEST_CLUSTERS:
        return ""
    return "Too few customers to tell much: the intervals are guesses."


def _sections(content: dict[str, Any]) -> list[tuple[str, str]]:
    sections = [("comparison", "Comparison")] if content["comparison"] else []
    sections.append(("scores", "Scores"))
    for kind, prefix in (("trends", "trend"), ("slices", "slice")):
        sections += [(f"{prefix}-{i}", f"By {f['name']}") for i, f in enumerate(content[kind], 1)]
    sections += [(f"labels-{i}", each["name"]) for i, each in enumerate(content["labels"], 1)]
    if content["worst"]:
        sections.append(("worst", "Worst conversations"))
    return [*sections, ("definitions", "Definitions")]


def _row(line: Line) -> dict[str, Any]:
    estimate = line.estimate
    row: dict[str, Any] = {
        "main": line.main,
        "name": f"{line.title} {better_sign(line.metric)}".strip() if line.main else line.title,
        "hint": f"{line.metric.definition} {line.metric.misleads}".strip(),
        "value": line.value,
        "interval": line.interval,
        "method": _method(estimate, line.scale),
        "chart": "",
        "histogram": "",
        "n": f"{estimate.n:,}" if line.main else "",
        "missing": f"{estimate.n_missing:,}" if line.main else "",
    }
    if line.is_heading:
        return row
    label = f"{line.title}: {line.value}, interval {line.interval}"
    row["chart"] = charts.interval(estimate.value, estimate.low, estimate.high, line.top, label)
    if line.histogram is not None:
        starts, counts = binned(line.histogram, line.scale)
        names = list(categories_of(line.metric))
        if len(names) == len(line.histogram):
            starts, counts = names, line.histogram.tolist()
        # Of a share of yes and no, the bars would say what the number says.
        if sum(count > 0 for count in counts) > 2 or line.scale is not Scale.SHARE:
            row["histogram"] = charts.histogram(starts, counts, f"Distribution of {line.title}")
    return row


def _method(estimate: Estimate, scale: Scale) -> str:
    method = f"{estimate.method}; {estimate.n_clusters:,} customers or more"
    if estimate.segment_mean is not None and estimate.segment_half_width is not None:
        method += (
            f"; sacrebleu's bootstrap of segments: {shown(estimate.segment_mean, scale)} ± "
            f"{shown(estimate.segment_half_width, scale)}"
        )
    return method


def _notes(scores: Scores) -> list[str]:
    notes = []
    absent = not_measured(scores)
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    notes += [*scores.notes, *left_out(scores)]
    for text, remarks in list(scores.remarks.items())[:MOST_REMARKS]:
        places = ", ".join(
            each.conversation_id
            + ("" if each.message is None else f" (message {each.message + 1})")
            for each in remarks.examples
        )
        notes.append(f"{text}: {remarks.count:,} times, first in {places}.")
    return notes


def _title(scores: Scores, estimate: Estimate) -> str:
    metric = scores.metrics[estimate.metric]
    part = estimate.name.removeprefix(estimate.metric).removeprefix(".").replace("_", " ")
    title = metric.title or metric.name
    return f"{title}: {part}" if part else title


def _scale(scores: Scores, estimate: Estimate) -> Scale:
    return scores.metrics[estimate.metric].scale_of(estimate.name)


def _trends(scores: Scores, name: str) -> dict[str, Any]:
    found = []
    for main, slices in main_estimates(scores, name).items():
        whole = scores[main]
        scale = _scale(scores, whole)
        points = [
            charts.Point(
                value,
                each.value,
                each.low,
                each.high,
                f"{shown(each.value, scale)} ({shown_interval(each, scale)}), n {each.n:,}",
            )
            for value, each in sorted(slices.items())
            if value
        ]
        title = _title(scores, whole)
        chart = charts.trend(points, f"{title} by {name}")
        if chart:
            found.append(
                {
                    "name": title,
                    "chart": chart,
                    "last": shown(points[-1].value, scale),
                    "first_at": points[0].at,
                    "last_at": points[-1].at,
                    "last_n": f"{slices[points[-1].at].n:,}",
                }
            )
    return {"name": name, "charts": found}


_NO_CELL = {"value": "–", "interval": "", "n": "", "off": False, "hint": "not measured"}


def _slices(scores: Scores, name: str) -> dict[str, Any]:
    sizes = sizes_of(scores, name)
    values = sorted(sizes, key=lambda value: (-sizes[value], value))[:MOST_SLICES]
    rows = []
    for main, slices in main_estimates(scores, name).items():
        whole = scores[main]
        scale = _scale(scores, whole)
        cells = []
        for value in values:
            each = slices.get(value)
            if each is None:
                cells.append(_NO_CELL)
                continue
            cells.append(
                {
                    "value": shown(each.value, scale),
                    "interval": shown_interval(each, scale),
                    "n": f"{each.n:,}",
                    "off": apart(each, whole),
                    "hint": f"n {each.n:,}, not measured {each.n_missing:,}; {each.method}",
                }
            )
        rows.append(
            {"name": _title(scores, whole), "whole": shown(whole.value, scale), "cells": cells}
        )
    more = ""
    if len(sizes) > len(values):
        more = f"The {len(values)} largest of {len(sizes)} values."
    return {"name": name, "values": [v or "unknown" for v in values], "rows": rows, "more": more}


def _labels(scores: Scores) -> list[dict[str, Any]]:
    found = []
    for name, metric in scores.metrics.items():
        state = scores.tally.whole.get(name)
        if not isinstance(metric, Labels) or state is None:
            continue
        values = {each.name: each for each in scores.estimates if each.metric == name}
        for label in names_in(state.totals):
            confusion = confusion_of(state.totals, label)
            classes = confusion.classes
            found.append(
                {
                    "name": label,
                    "classes": classes,
                    "matrix": _matrix(confusion.counts.tolist(), classes),
                    "classes_rows": [
                        {
                            "name": each,
                            "cells": [
                                _value_and_interval(values, f"{name}.{label}.{kind}.{each}")
                                for kind in ("precision", "recall", "f1")
                            ],
                            "true": f"{int(confusion.counts[place].sum()):,}",
                            "predicted": f"{int(confusion.counts[:, place].sum()):,}",
                        }
                        for place, each in enumerate(classes)
                    ],
                }
            )
    return found


def _matrix(counts: list[list[int]], classes: list[str]) -> list[dict[str, Any]]:
    if len(classes) > MOST_CLASSES:
        return []
    return [
        {
            "name": true,
            "cells": [
                {"name": predicted, "count": count, "share": f"{count / max(sum(row), 1):.3f}"}
                for predicted, count in zip(classes, row, strict=True)
            ],
            "total": sum(row),
        }
        for true, row in zip(classes, counts, strict=True)
    ]


def _value_and_interval(values: dict[str, Estimate], name: str) -> tuple[str, str]:
    if name not in values:
        return "–", "–"
    return shown(values[name].value, Scale.SHARE), shown_interval(values[name], Scale.SHARE)


def _worst(scores: Scores) -> list[dict[str, Any]]:
    titles = {name: metric.title or name for name, metric in scores.metrics.items()}
    found = []
    for each in worst_of(scores, MOST_WORST):
        reasons = dict.fromkeys(titles[m] for metrics in each.causes.values() for m in metrics)
        turns = [
            {
                "place": place + 1,
                "author": message["author"],
                "at": ""
                if message["created_at"] is None
                else f"{message['created_at']:%Y-%m-%d %H:%M}",
                "text": message["text"],
                "causes": [titles[name] for name in each.causes.get(place, [])],
            }
            for place, message in enumerate(each.messages[:MOST_TURNS])
        ]
        found.append(
            {
                "id": each.id,
                "customer": each.customer,
                "badness": f"{each.badness:.2f}",
                "reasons": list(reasons),
                "turns": turns,
            }
        )
    return found


def _definitions(scores: Scores) -> list[dict[str, str]]:
    return [_definition(scores, metric) for metric in scores.metrics.values()]


def _definition(scores: Scores, metric: Metric) -> dict[str, str]:
    state = scores.tally.whole.get(metric.name)
    return {
        "name": metric.name,
        "title": metric.title or metric.name,
        "definition": metric.definition,
        "misleads": metric.misleads,
        "source": metric.source,
        "signature": str(metric.signature({} if state is None else state.totals)),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    kind = (
        "in pairs, since both runs answer the same inputs"
        if comparison.paired
        else "as two samples"
    )
    new, old = comparison.new.tally, comparison.old.tally
    how = f"{new.n_conversations:,} and {old.n_conversations:,} conversations, compared {kind}."
    if comparison.n_left_out:
        how += f" {comparison.n_left_out:,} have no partner and are left out of the differences."
    return {
        "old": comparison.old.source or "the other run",
        "how": " ".join([how, *comparison.notes]),
        "rows": [_change(comparison.new, change) for change in comparison.telling],
    }


_TONES = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}


def _change(scores: Scores, change: Change) -> dict[str, Any]:
    scale = _scale(scores, change.new)
    title = _title(scores, change.new)
    if change.new.slice_field:
        title += f" [{change.new.slice_field}: {change.new.slice_value or 'unknown'}]"
    low, high = change.interval
    interval = signed_interval(change, scale)
    reach = max(
        (abs(end) for end in (change.difference, low, high) if not math.isnan(end)), default=0.0
    )
    return {
        "main": change.main,
        "name": title,
        "old": shown(change.old.value, scale),
        "new": shown(change.new.value, scale),
        "n_old": f"{change.old.n:,}",
        "n_new": f"{change.new.n:,}",
        "change": signed(change.difference, scale),
        "interval": interval,
        "chart": charts.difference(change.difference, low, high, reach, f"{title}: {interval}"),
        "p": shown_p(change),
        "effect": "–" if math.isnan(change.effect) else f"{change.effect:+.2f}",
        "effect_name": change.effect_name,
        "detectable": "–" if math.isnan(change.detectable) else shown(change.detectable, scale),
        "verdict": change.verdict,
        "tone": _TONES.get(change.verdict, ""),
    }
