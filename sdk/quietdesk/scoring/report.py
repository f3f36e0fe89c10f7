"""Report: what scores say, for a terminal, a browser, a spreadsheet.

Every number comes with its interval, how many units it rests on and how many could not be measured.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quietdesk.scoring.base import (
    HISTOGRAM_BINS,
    NATS_BIN,
    NATS_RANGE,
    Better,
    Category,
    Estimate,
    IntArray,
    Metric,
    Scale,
    bin_middle,
)
from quietdesk.scoring.compare import Change, Comparison, Verdict
from quietdesk.scoring.labels import Labels
from quietdesk.scoring.scores import CALENDAR, Scores
from quietdesk.scoring.statistics import FEWEST_CLUSTERS

MOST_SLICES = 12
"""Values of a field that a terminal shows, the largest first."""
MOST_WORST = 5
MOST_REMARKS = 10
_BARS = " ▁▂▃▄▅▆▇█"
_PLOT_WIDTH = 13
_WIDE = 96


def shown(value: float, scale: Scale) -> str:
    """A value for a reader."""
    if math.isnan(value):
        return "–"
    if scale is Scale.SHARE:
        return f"{100 * value:.1f} %"
    if scale is Scale.POINTS:
        return f"{value:.2f}"
    if scale is Scale.SECONDS:
        return _duration(value)
    if scale is Scale.NATS:
        return f"{value:.2f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def shown_interval(estimate: Estimate, scale: Scale) -> str:
    """The ends of an interval for a reader."""
    if math.isnan(estimate.low):
        return "–"
    low, high = shown(estimate.low, scale), shown(estimate.high, scale)
    unit = low.rpartition(" ")[2]
    if scale is Scale.SHARE or (scale is Scale.SECONDS and high.endswith(f" {unit}")):
        low = low.rpartition(" ")[0]
    return f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Line:
    """One value as a report shows it."""

    metric: Metric
    estimate: Estimate
    title: str
    main: bool
    """Whether the line stands for its metric; the others are indented below it."""
    histogram: IntArray | None
    """Units in each bin, of a main value."""
    binned: bool = False
    """Whether the value is the middle of a bin, so that two digits are all there is."""

    @property
    def value(self) -> str:
        """The value for a reader; empty for the heading of a metric of shares."""
        if self.is_heading:
            return ""
        if self.binned and self.scale is Scale.NUMBER:
            return f"{self.estimate.value:.2g}"
        return shown(self.estimate.value, self.scale)

    @property
    def interval(self) -> str:
        """The interval for a reader."""
        if self.is_heading:
            return ""
        if self.binned and self.scale is Scale.NUMBER:
            return f"{self.estimate.low:.2g} to {self.estimate.high:.2g}"
        return shown_interval(self.estimate, self.scale)

    @property
    def is_heading(self) -> bool:
        """Whether the metric has no main value, only shares of several kinds."""
        return self.main and self.estimate.name != self.metric.name

    @property
    def scale(self) -> Scale:
        """How the value is read."""
        return self.metric.scale_of(self.estimate.name)

    @property
    def top(self) -> float:
        """The upper end of the scale; NaN where it has none."""
        return {Scale.SHARE: 1.0, Scale.POINTS: 100.0}.get(self.scale, math.nan)


def lines_of(scores: Scores) -> list[Line]:
    """What was measured, without the classes of labels: main values, and the parts of them."""
    lines = []
    for name, metric in scores.metrics.items():
        state = scores.tally.whole.get(name)
        found = [estimate for estimate in scores.estimates if estimate.metric == name]
        if state is None or not found or not found[0].n:
            continue
        histogram = state.totals.get("histogram")
        title = metric.title or name
        if found[0].name != name:
            lines.append(Line(metric, found[0], title, main=True, histogram=histogram))
        for estimate in found:
            part = estimate.name.removeprefix(name).removeprefix(".")
            if isinstance(metric, Labels) and part.count(".") > 1:
                continue
            if not part:
                lines.append(Line(metric, estimate, title, main=True, histogram=histogram))
                continue
            quantile = part.startswith("p") and part[1:].isdigit()
            said = _part_title(part, quantile=quantile)
            lines.append(Line(metric, estimate, said, main=False, histogram=None, binned=quantile))
    return lines


def _part_title(part: str, *, quantile: bool) -> str:
    if quantile:
        return "median" if part == "p50" else f"{part[1:]} % are below"
    return part.replace("_", " ").replace(".", ": ")


def not_measured(scores: Scores) -> list[str]:
    """Metrics that found nothing to measure, and of how many units."""
    said = []
    for name, metric in scores.metrics.items():
        first = next(estimate for estimate in scores.estimates if estimate.metric == name)
        if not first.n:
            units = f" (0 of {first.n_missing:,} {metric.unit}s)" if first.n_missing else ""
            said.append(f"{metric.title or name}{units}")
    return said


def left_out(scores: Scores) -> list[str]:
    """What has too many different values to be counted, in sentences."""
    notes = [
        f"Not sliced by {name!r}: it has too many different values."
        for name in sorted(scores.tally.dropped)
    ]
    for state in scores.tally.whole.values():
        notes += [
            f"{name!r} has too many different labels; it is left out." for name in state.left_out
        ]
    return notes


def sparkline(counts: Sequence[float] | IntArray) -> str:
    """Counts as a row of bars."""
    top = max(counts, default=0)
    if not top:
        return ""
    return "".join(_BARS[math.ceil(8 * count / top)] for count in counts)


def binned(
    histogram: IntArray, scale: Scale, most: int = HISTOGRAM_BINS
) -> tuple[list[str], list[int]]:
    """A histogram for a reader: where each of at most `most` bins begins, and its count."""
    counts = np.asarray(histogram)
    if scale in {Scale.SHARE, Scale.POINTS} and len(counts) > most:
        cuts = np.arange(len(counts)) * most // len(counts)
        counts = np.bincount(cuts, weights=counts).astype(np.int64)
    if scale in {Scale.SHARE, Scale.POINTS}:
        step = (1.0 if scale is Scale.SHARE else 100.0) / len(counts)
        return [shown(step * i, scale) for i in range(len(counts))], counts.tolist()
    filled = np.flatnonzero(counts)
    if not len(filled):
        return [], []
    low, high = int(filled[0]), int(filled[-1])
    width = max(math.ceil((high - low + 1) / most), 1)
    starts = range(low, high + 1, width)
    nats = scale is Scale.NATS
    places = [NATS_RANGE[0] + NATS_BIN * i if nats else bin_middle(i) for i in starts]
    return (
        [shown(place, scale) for place in places],
        [int(counts[start : start + width].sum()) for start in starts],
    )


def interval_plot(estimate: Estimate, top: float, width: int = _PLOT_WIDTH) -> str:
    """The value and its interval on a line from 0 to top."""
    if math.isnan(top) or math.isnan(estimate.value):
        return ""

    def place(value: float) -> int:
        return min(max(round(value / top * (width - 1)), 0), width - 1)

    cells = ["·"] * width
    if not math.isnan(estimate.low):
        for i in range(place(estimate.low), place(estimate.high) + 1):
            cells[i] = "─"
    cells[place(estimate.value)] = "●"
    return "".join(cells)


def terminal(scores: Scores, width: int = 100) -> RenderableType:
    """A summary for a terminal.

    Args:
        scores: The scores.
        width: The terminal's columns; plots take their place only where there is room.
    """
    parts: list[RenderableType] = [_head(scores)]
    lines = lines_of(scores)
    if lines:
        parts.append(_table(lines, plots=width >= _WIDE))
    for name in scores.fields:
        parts += _slice_tables(scores, name)
    parts += _worst(scores)
    parts += _notes(scores)
    return Group(*parts)


def _head(scores: Scores) -> Text:
    tally = scores.tally
    text = Text()
    text.append(scores.source or "Scores", style="bold")
    text.append(f"\n{tally.n_conversations:,} conversations, {tally.n_messages:,} messages")
    if tally.n_conversations and tally.n_named:
        text.append(f", {tally.n_named / tally.n_conversations:.0%} of known customers")
    clusters = int((tally.population > 0).sum())
    if clusters < FEWEST_CLUSTERS:
        text.append("\nToo few customers: the intervals are guesses.", style="yellow")
    return text


def _table(lines: Sequence[Line], *, plots: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("metric", no_wrap=True, overflow="ellipsis")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if plots:
        table.add_column("", no_wrap=True, min_width=_PLOT_WIDTH, style="cyan")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("missing", justify="right", no_wrap=True)
    for line in lines:
        estimate = line.estimate
        plot = "" if line.is_heading else interval_plot(estimate, line.top)
        if not plot and line.histogram is not None and not line.is_heading:
            plot = sparkline(binned(line.histogram, line.scale, _PLOT_WIDTH)[1])
        table.add_row(
            Text(line.title if line.main else f"  {line.title}", style="" if line.main else "dim"),
            Text(line.value, style="bold" if line.main else ""),
            line.interval,
            *([plot] if plots else []),
            f"{estimate.n:,}" if line.main else "",
            f"{estimate.n_missing:,}" if line.main and estimate.n_missing else "",
        )
    return table


def main_estimates(scores: Scores, name: str) -> dict[str, dict[str, Estimate]]:
    """Main value's name to each slice's estimate of it, for metrics that any slice measured."""
    found: dict[str, dict[str, Estimate]] = {}
    for value, estimates in scores.slices(name).items():
        seen = set()
        for estimate in estimates:
            if estimate.metric not in seen and estimate.n:
                found.setdefault(estimate.name, {})[value] = estimate
            seen.add(estimate.metric)
    return found


def sizes_of(scores: Scores, name: str) -> dict[str, int]:
    """Slice to the most units that any metric measured in it."""
    return {
        value: max((estimate.n for estimate in estimates), default=0)
        for value, estimates in scores.slices(name).items()
    }


def apart(estimate: Estimate, whole: Estimate) -> bool:
    """Whether a slice's interval lies wholly beside the whole's value."""
    return estimate.low > whole.value or estimate.high < whole.value


def _slice_tables(scores: Scores, name: str) -> list[RenderableType]:
    sizes = sizes_of(scores, name)
    if len(sizes) < 2:
        return []
    if name in CALENDAR:
        return [_trend_table(scores, name)]
    values = sorted(sizes, key=lambda value: (-sizes[value], value))[:MOST_SLICES]
    title = f"By {name}"
    if len(sizes) > len(values):
        title += f", the {len(values)} largest of {len(sizes)}"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("metric", no_wrap=True)
    for value in values:
        table.add_column(value or "unknown", justify="right", overflow="ellipsis", max_width=14)
    for main, slices in main_estimates(scores, name).items():
        whole = scores[main]
        scale = scores.metrics[whole.metric].scale_of(main)
        cells = []
        for value in values:
            estimate = slices.get(value)
            if estimate is None:
                cells.append(Text("–", style="dim"))
                continue
            odd = apart(estimate, whole)
            cells.append(
                Text(
                    shown(estimate.value, scale) + ("*" if odd else " "),
                    style="bold" if odd else "",
                )
            )
        table.add_row(main, *cells)
    note = Text("* the interval leaves out the value of all conversations", style="dim")
    return [table, note]


def _trend_table(scores: Scores, name: str) -> RenderableType:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title=f"By {name}",
        title_justify="left",
        title_style="bold",
    )
    values = sorted(value for value in scores.slices(name) if value)
    table.add_column("metric", no_wrap=True)
    table.add_column(values[0] if values else "", justify="right")
    table.add_column("", no_wrap=True, max_width=30, style="cyan")
    table.add_column(values[-1] if values else "", justify="right")
    for main, slices in main_estimates(scores, name).items():
        scale = scores.metrics[scores[main].metric].scale_of(main)
        series = [slices[value].value for value in values if value in slices]
        ends = [slices.get(values[0]), slices.get(values[-1])]
        low, high = min(series, default=0.0), max(series, default=0.0)
        bars = [(value - low) / (high - low) if high > low else 0.5 for value in series]
        table.add_row(
            main,
            shown(ends[0].value, scale) if ends[0] else "–",
            "".join(_BARS[1 + round(7 * bar)] for bar in bars[-30:]),
            shown(ends[1].value, scale) if ends[1] else "–",
        )
    return table


@dataclass(frozen=True, slots=True)
class Worst:
    """A conversation that went badly, whole."""

    id: str
    customer: str | None
    badness: float
    messages: list[dict[str, Any]]
    scores: dict[str, float]
    causes: dict[int, list[str]]
    """Message to the metrics that it caused a figure of."""


def worst_of(scores: Scores, most: int) -> list[Worst]:
    """The worst conversations that any metric has something against, worst first."""
    table = scores.tally.worst
    if table is None:
        return []
    found = []
    for row in table.slice(0, most).to_pylist():
        if row["score badness"] <= 0:
            break
        causes: dict[int, list[str]] = {}
        for cause in row["score causes"]:
            causes.setdefault(cause["message"], []).append(cause["metric"])
        values = {
            name: row[f"score {name}"]
            for name in scores.metrics
            if row.get(f"score {name}") is not None
        }
        found.append(
            Worst(row["id"], row["customer"], row["score badness"], row["messages"], values, causes)
        )
    return found


def _worst(scores: Scores) -> list[RenderableType]:
    worst = worst_of(scores, MOST_WORST)
    if not worst:
        return []
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title="Worst conversations",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("conversation", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("badness", justify="right")
    table.add_column("because of (message)")
    for each in worst:
        reasons: dict[str, list[int]] = {}
        for message, metrics in sorted(each.causes.items()):
            for metric in metrics:
                reasons.setdefault(metric, []).append(message + 1)
        said = ", ".join(
            f"{metric} ({', '.join(map(str, places[:4]))}{'…' if len(places) > 4 else ''})"
            for metric, places in reasons.items()
        )
        table.add_row(each.id, f"{each.badness:.2f}", said or "–")
    return [table]


def _notes(scores: Scores) -> list[RenderableType]:
    notes = []
    absent = not_measured(scores)
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    notes += [*scores.notes, *left_out(scores)]
    for text, remarks in list(scores.remarks.items())[:MOST_REMARKS]:
        first = remarks.examples[0]
        where = f"{first.conversation_id!r}"
        if first.message is not None:
            where += f", message {first.message + 1}"
        notes.append(f"{text}: {remarks.count:,} times, first in {where}.")
    return [Padding(Text(note, style="dim"), (0, 0)) for note in notes]


def comparison_table(comparison: Comparison, width: int = 100) -> RenderableType:
    """The changes for a terminal of so many columns."""
    kind = "in pairs, over the same inputs" if comparison.paired else "as two samples"
    new, old = comparison.new.tally, comparison.old.tally
    head = Text()
    head.append(
        f"{comparison.new.source or 'new'} against {comparison.old.source or 'old'}", style="bold"
    )
    head.append(
        f"\n{new.n_conversations:,} and {old.n_conversations:,} conversations, compared {kind}"
    )
    if comparison.n_left_out:
        head.append(f"; {comparison.n_left_out:,} have no partner and are left out")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("metric", overflow="fold", min_width=16)
    wide = width >= _WIDE
    change_columns = ["change", "95 % interval"] if wide else ["change, 95 % interval"]
    for name in ("old", "new", *change_columns, "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=wide)
    for change in comparison.telling:
        cells = _change_row(comparison, change)
        table.add_row(*cells if wide else [*cells[:3], *cells[4:]])
    notes = [Text(note, style="dim") for note in comparison.notes]
    return Group(head, table, *_detectable(comparison), *notes)


def _detectable(comparison: Comparison) -> list[Text]:
    """What the values without a difference could have hidden."""
    parts = [
        f"{change.name} {shown(change.detectable, _scale_of(comparison, change))}"
        for change in comparison.whole
        if change.main and change.verdict is Verdict.SAME and change.detectable > 0
    ]
    if not parts:
        return []
    return [
        Text(
            "A true change of this size would have shown four times in five: ", style="dim"
        ).append(", ".join(parts) + ".")
    ]


def _scale_of(comparison: Comparison, change: Change) -> Scale:
    return comparison.new.metrics[change.new.metric].scale_of(change.name)


_STYLES = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.CHANGED: "yellow"}


def _change_row(comparison: Comparison, change: Change) -> list[Text | str]:
    scale = _scale_of(comparison, change)
    where = f" [{change.new.slice_field}={change.new.slice_value or 'unknown'}]"
    return [
        Text(
            change.name + (where if change.new.slice_field else ""),
            style="" if change.main else "dim",
        ),
        shown(change.old.value, scale),
        shown(change.new.value, scale),
        signed(change.difference, scale),
        signed_interval(change, scale),
        shown_p(change),
        Text(change.verdict, style=_STYLES.get(change.verdict, "dim")),
    ]


def shown_p(change: Change) -> str:
    """A change's p-value for a reader; in brackets where it is not adjusted."""
    p = change.p_adjusted if change.main else change.p
    if math.isnan(p):
        return "–"
    said = "<0.0001" if p < 0.0001 else f"{p:.4f}"
    return said if change.main else f"({said})"


def signed_interval(change: Change, scale: Scale) -> str:
    """The ends of a difference's interval for a reader."""
    if math.isnan(change.interval.low):
        return "–"
    low, high = (signed(end, scale) for end in change.interval)
    if scale is Scale.SHARE:
        low = low.rpartition(" ")[0]
    return f"{low} to {high}"


def signed(value: float, scale: Scale) -> str:
    """A difference for a reader, with its sign."""
    if math.isnan(value):
        return "–"
    return ("+" if value > 0 else "-" if value < 0 else "±") + shown(abs(value), scale)


class RowWriter:
    """Writes rows to a CSV or Parquet file as they come.

    Args:
        path: The file.
        kind: `csv` or `parquet`.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows; all of the same columns."""
        if self._kind == "csv":
            rows = _flat(rows)
        if self._writer is None:
            if self._kind == "csv":
                self._writer = pa_csv.CSVWriter(self._path, rows.schema)
            else:
                self._writer = pq.ParquetWriter(self._path, rows.schema, compression="zstd")
        self._writer.write_batch(rows)


def _flat(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with `causes` as text, since a CSV has no lists: `apologies:3 bot_loops:5`."""
    causes = [
        " ".join(f"{cause['metric']}:{cause['message'] + 1}" for cause in found)
        for found in rows["causes"].to_pylist()
    ]
    return rows.set_column(rows.schema.get_field_index("causes"), "causes", pa.array(causes))


def better_sign(metric: Metric) -> str:
    """An arrow for the good direction."""
    return {Better.HIGHER: "↑", Better.LOWER: "↓"}.get(metric.better, "")


def categories_of(metric: Metric) -> Iterable[str]:
    """The names of a category metric's bins; none for others."""
    return metric.categories if isinstance(metric, Category) else ()
