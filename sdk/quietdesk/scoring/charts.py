"""Charts: small drawings in SVG, with colours by class so that a style sheet decides them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def _svg(width: float, height: float, label: str, *shapes: str, css: str = "") -> Markup:
    # Every text in the shapes was escaped.
    return Markup(
        f'<svg class="chart {css}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(shapes)}</svg>"
    )


def interval(value: float, low: float, high: float, top: float, label: str) -> Markup:
    """A value and its interval on a scale from 0 to top."""
    width, height, pad = 150.0, 16.0, 5.0
    if math.isnan(value) or math.isnan(top) or top <= 0:
        return Markup("")

    def x(at: float) -> float:
        return pad + (width - 2 * pad) * min(max(at / top, 0.0), 1.0)

    middle = height / 2
    shapes = [f'<line class="axis" x1="{pad}" x2="{width - pad}" y1="{middle}" y2="{middle}"/>']
    if not math.isnan(low):
        shapes.append(
            f'<rect class="band" x="{x(low):.1f}" y="{middle - 4}" '
            f'width="{max(x(high) - x(low), 1):.1f}" height="8" rx="2"/>'
        )
    shapes.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{middle}" r="3.5"/>')
    return _svg(width, height, label, *shapes)


def histogram(starts: Sequence[str], counts: Sequence[int], label: str) -> Markup:
    """Counts as bars; each tells its bin and count."""
    if not counts or not max(counts):
        return Markup("")
    bar, gap, height = 7.0, 1.0, 26.0
    top = max(counts)
    shapes = []
    for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
        tall = max(height * count / top, 1.0 if count else 0.0)
        shapes.append(
            f'<rect class="bar" x="{i * (bar + gap):g}" y="{height - tall:.1f}" width="{bar:g}" '
            f'height="{tall:.1f}"><title>{escape(start)}: {count:,}</title></rect>'
        )
    return _svg(len(counts) * (bar + gap) - gap, height, label, *shapes)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a trend."""

    at: str
    value: float
    low: float
    high: float
    said: str
    """The value for a reader."""


def trend(points: Sequence[Point], label: str) -> Markup:
    """Values in the course of time, with a band for their intervals."""
    known = [point for point in points if not math.isnan(point.value)]
    if len(known) < 2:
        return Markup("")
    width, height, pad = 300.0, 90.0, 6.0
    ends = [end for p in known for end in (p.value, p.low, p.high) if not math.isnan(end)]
    low, high = min(ends), max(ends)
    if high == low:
        low, high = low - 0.5, high + 0.5

    def x(i: int) -> float:
        return pad + (width - 2 * pad) * i / (len(known) - 1)

    def y(value: float) -> float:
        return pad + (height - 2 * pad) * (high - value) / (high - low)

    upper = [f"{x(i):.1f},{y(_or(p.high, p.value)):.1f}" for i, p in enumerate(known)]
    lower = [f"{x(i):.1f},{y(_or(p.low, p.value)):.1f}" for i, p in enumerate(known)]
    line = " ".join(f"{x(i):.1f},{y(p.value):.1f}" for i, p in enumerate(known))
    shapes = [
        f'<polygon class="band" points="{" ".join(upper + lower[::-1])}"/>',
        f'<polyline class="line" points="{line}"/>',
    ]
    shapes += [
        f'<circle class="dot" cx="{x(i):.1f}" cy="{y(p.value):.1f}" r="2.5">'
        f"<title>{escape(p.at)}: {escape(p.said)}</title></circle>"
        for i, p in enumerate(known)
    ]
    return _svg(width, height, label, *shapes, css="trend")


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def difference(value: float, low: float, high: float, reach: float, label: str) -> Markup:
    """A difference and its interval around 0, on a scale from -reach to reach."""
    width, height = 150.0, 16.0
    if math.isnan(value) or not reach > 0:
        return Markup("")

    def x(at: float) -> float:
        return width / 2 + (width / 2 - 5) * min(max(at / reach, -1.0), 1.0)

    middle = height / 2
    shapes = [
        f'<line class="axis" x1="5" x2="{width - 5}" y1="{middle}" y2="{middle}"/>',
        f'<line class="zero" x1="{width / 2}" x2="{width / 2}" y1="1" y2="{height - 1}"/>',
    ]
    if not math.isnan(low):
        shapes.append(
            f'<rect class="band" x="{x(low):.1f}" y="{middle - 4}" '
            f'width="{max(x(high) - x(low), 1):.1f}" height="8" rx="2"/>'
        )
    shapes.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{middle}" r="3.5"/>')
    return _svg(width, height, label, *shapes)
