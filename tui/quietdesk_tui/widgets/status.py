"""The line of figures below the composer: the model, its speed, how full the context is."""

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from quietdesk_tui.session import Figures
from quietdesk_tui.wrapping import shorten

METER_CELLS = 10
NAME_CELLS = 24
"""Cells of the model's name beside figures: a file's name may be long."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the line shows."""

    mark: str = ""
    """A sign for how things stand."""
    mark_style: str = ""
    text: str = ""
    """The model, or what goes on."""
    figures: Figures | None = None
    context_key: str = ""
    """The key that tells more about the context."""


class StatusLine(Widget):
    """Shows a `Status`, what matters least left out first where there is no room."""

    status: reactive[Status] = reactive(Status())

    def render(self) -> Content:
        """The line, as wide as the screen allows."""
        status, width = self.status, self.size.width - 4
        left = Content.assemble((f"{status.mark} ", status.mark_style), status.text)
        if status.figures is None:
            return left.truncate(max(width, 1), ellipsis=True)
        name = shorten(status.text, NAME_CELLS)
        left = Content.assemble((f"{status.mark} ", status.mark_style), name)
        for parts in _choices(status.figures, status.context_key):
            right = Content.assemble(*parts)
            spare = width - left.cell_length - right.cell_length
            if spare >= 2:
                return left + " " * spare + right
        name = shorten(name, max(width - right.cell_length - 3, 0))
        left = Content.assemble((f"{status.mark} ", status.mark_style), name)
        if left.cell_length + right.cell_length + 1 > width:
            return right.truncate(max(width, 1), ellipsis=True)
        return left + " " * (width - left.cell_length - right.cell_length) + right


_Part = tuple[str, str]


def _choices(figures: Figures, key: str) -> list[list[_Part]]:
    """The figures, all of them first, then with less and less beside them."""
    usage = figures.usage
    rate = usage.tokens_per_second
    speed: list[_Part] = [
        (f"{rate:.1f}" if rate < 100 else f"{rate:.0f}", _STRONG),
        (" tok/s", _QUIET),
    ]
    if not rate:
        speed = []
    first: list[_Part] = []
    if usage.first_token_s:
        first = [(_seconds(usage.first_token_s), _STRONG), (" to first token", _QUIET)]
    short_first: list[_Part] = [first[0], (" first", _QUIET)] if first else []
    tokens: list[_Part] = []
    if usage.completion_tokens:
        tokens = [(f"{usage.completion_tokens:,}", _STRONG), (" tokens", _QUIET)]
    told = f"{figures.used:,}/{figures.n_ctx:,}"
    meter = meter_parts(figures.fill, told) if figures.n_ctx else []
    short_meter = [("context ", _QUIET), meter[-1]] if meter else []
    dropped: list[_Part] = []
    if figures.dropped:
        dropped = [(f"{figures.dropped} dropped", "$warning"), (f" {key}", _QUIET)]
    ways = (
        (speed, first, tokens, meter, dropped),
        (speed, short_first, tokens, meter, dropped),
        (speed, short_first, meter, dropped),
        (speed, short_first, short_meter, dropped),
        (speed, short_meter, dropped),
        (short_meter, dropped),
    )
    return [_joined([part for part in way if part]) for way in ways]


def meter_parts(
    fill: float, told: str, cells: int = METER_CELLS, name: str = "context"
) -> list[_Part]:
    """A meter of the context: `context ━━━─────── 1,390/4,096`.

    Args:
        fill: Share that is taken, 0 to 1.
        told: The same in figures.
        cells: Of the bar.
        name: What stands in front.
    """
    style = "$error" if fill >= 0.9 else "$warning" if fill >= 0.75 else "$primary"
    full = min(round(fill * cells), cells)
    if fill > 0:
        full = max(full, 1)
    return [
        (f"{name} ", _QUIET),
        ("━" * full, style),
        ("─" * (cells - full) + " ", "$foreground 30%"),
        (told, _STRONG if fill < 0.75 else style),
    ]


def _joined(groups: list[list[_Part]]) -> list[_Part]:
    parts: list[_Part] = []
    for group in groups:
        if parts:
            parts.append((" · ", "$foreground 35%"))
        parts.extend(group)
    return parts


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


_QUIET = "$foreground 66%"
_STRONG = "$foreground"


class KeyLine(Widget):
    """The keys that do something now, as many as there is room for; they can be clicked."""

    items: reactive[tuple[tuple[str, str, str], ...]] = reactive(())
    """Key, label and action of each, the most useful ones first."""

    def on_mount(self) -> None:
        """The keys have colours of their own, not those of links."""
        self.auto_links = False

    def render(self) -> Content:
        """The keys in a row."""
        room = self.size.width - 4
        shown: list[Content] = []
        for key, label, action in self.items:
            width = cell_len(key) + cell_len(label) + 3
            if width > room:
                break
            room -= width
            shown.append(
                Content.assemble((key, "$footer-key-foreground"), (f" {label}", _QUIET)).stylize(
                    f"@click='screen.{action}'"
                )
            )
        return Content("  ").join(shown)
