"""The transcript: a conversation's messages, of which only the visible lines are ever drawn.

One widget for all messages, however many there are. A message is laid out when it comes into view;
until then its height is an estimate. A reply that is being written is laid out block by block, so
that a frame costs the same at its end as at its beginning.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.content import Content
from textual.events import Click, Resize
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.timer import Timer

from quietdesk_tui.blocks import Block, Document, Kind, clean
from quietdesk_tui.markdown import EMPTY, STYLES, Line, render, wrap
from quietdesk_tui.messages import MessageSelected, VersionWanted

MEASURE = 100
"""Cells of the widest line of text: longer lines are hard to read."""
FRAME_S = 1 / 25
"""Least time between two frames while a reply streams: what is drawn is taken from the model."""
_GUTTER = 2
_MARGIN = 2


def column(width: int) -> tuple[int, int]:
    """Where gutter and text stand in a view of some width: cells before them, and their own."""
    text = max(min(width - _GUTTER - 2 * _MARGIN, MEASURE), 2) + _GUTTER
    return max((width - text) // 2, 0), text


class Entry:
    """One message as the transcript shows it, laid out for one width.

    Attributes:
        key: The message's id.
        kind: Name of its style: `customer`, `bot`, `human`, `system`, `tool`, `day`.
        text: What was said, as it is copied.
        version: Which of its versions it is, from 1.
        versions: How many versions there are.
    """

    def __init__(
        self,
        key: str,
        kind: str,
        text: str,
        *,
        name: str = "",
        time_of_day: str = "",
        note: str = "",
        note_style: str = ".note",
        streaming: bool = False,
        mark: str = "",
    ) -> None:
        """A message.

        Args:
            key: The message's id.
            kind: Name of its style.
            text: What was said.
            name: Who said it.
            time_of_day: When, in words.
            note: A line below it about how it ended.
            note_style: The note's style.
            streaming: Whether it is being written.
            mark: What is to be said about it beside its name.
        """
        self.key = key
        self.kind = kind
        self.name = name
        self.time_of_day = time_of_day
        self.note = note
        self.note_style = note_style
        self.streaming = streaming
        self.mark = mark
        self.version = self.versions = 1
        self.progress = ""
        self._parts = [text] if text else []
        self._document = Document(text, whole=not streaming) if kind in _MARKDOWN else None
        self._plain = "" if self._document else clean(text)
        self._width = 0
        self._head: list[Line] = []
        self._body: list[list[Line]] = []
        self._starts: list[int] = [0]
        self._foot: list[Line] = []
        self._estimate = 2 + len(text) // 80 + text.count("\n")

    @property
    def text(self) -> str:
        """What was said."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    @property
    def code(self) -> str:
        """The code in it, its blocks after one another."""
        pieces: list[str] = []
        for block in self._document.blocks if self._document else ():
            if block.kind is Kind.CODE:
                pieces.append(("\n" if block.continues else "\n\n") * bool(pieces) + block.text)
        return "".join(pieces)

    @property
    def height(self) -> int:
        """Lines that it takes; an estimate until it was laid out."""
        if not self._width:
            return self._estimate
        return len(self._head) + self._starts[-1] + len(self._foot)

    def set_version(self, version: int, versions: int) -> None:
        """Which of how many versions it is; told beside its name where there are several."""
        if (version, versions) != (self.version, self.versions):
            self.version, self.versions = version, versions
            if self._width:
                self._head = self._headline(self._width)

    @property
    def version_cells(self) -> tuple[int, int]:
        """Where in its first line the signs for other versions begin and end; equal: nowhere."""
        start = cell_len(self.name) + 2 + cell_len(self.time_of_day) + 2
        return start, start + cell_len(self._version_sign)

    @property
    def _version_sign(self) -> str:
        return f"‹ {self.version}/{self.versions} ›" if self.versions > 1 else ""

    def feed(self, text: str) -> int:
        """More was said; the first of its lines that this changed."""
        assert self._document is not None
        self._parts.append(text)
        untouched = self._document.feed(text)
        if not self._width:
            return 0
        before = self._body[untouched] if untouched < len(self._body) else []
        self._lay_out_body(untouched)
        same = 0
        if untouched < len(self._body):
            # Lines that are as they were stay the same objects: they need not be drawn again.
            lines = self._body[untouched]
            same = _common(before, lines)
            lines[:same] = before[:same]
        return len(self._head) + self._starts[untouched] + same

    def finish(self) -> None:
        """Nothing more will be said."""
        self.streaming = False
        self.progress = ""
        if self._document is not None:
            untouched = self._document.finish()
            if self._width:
                self._lay_out_body(untouched)

    def lay_out(self, width: int) -> None:
        """Have its lines for a width; no work when it has them."""
        if width == self._width:
            return
        self._width = width
        self._head = self._headline(width)
        self._lay_out_body(0)
        self.lay_out_foot()

    def _headline(self, width: int) -> list[Line]:
        if self.kind == "day":
            words = f" {self.text} "
            side = max((width - len(words)) // 2, 2)
            rule = Content.styled(f"{'─' * side}{words}{'─' * side}", ".day")
            return [EMPTY, Line(rule)]
        line = Content.assemble(
            (self.name, f".name-{self.kind}"),
            (f"  {self.time_of_day}", ".time"),
            (f"  {self._version_sign}" if self.versions > 1 else "", ".versions"),
            (f"  {self.mark}" if self.mark else "", ".mark"),
        )
        return [EMPTY, Line(line.truncate(max(width, 1), ellipsis=True))]

    def _lay_out_body(self, untouched: int) -> None:
        if self.kind == "day":
            return
        del self._body[untouched:]
        del self._starts[untouched + 1 :]
        blocks: Sequence[Block | None] = self._document.blocks if self._document else [None]
        for block in blocks[untouched:]:
            if block is None:
                lines = wrap(Content(self._plain.replace("\t", "    ")), self._width)
            else:
                lines = render(block, self._width, streaming=self.streaming)
                if block.gap and lines:
                    lines.insert(0, EMPTY)
            self._body.append(lines)
            self._starts.append(self._starts[-1] + len(lines))

    def lay_out_foot(self) -> None:
        """Have the lines below the text: the note, or what goes on."""
        self._foot = []
        if not self._width:
            return
        if self.progress:
            self._foot.append(Line(Content.styled(self.progress, ".progress")))
        if self.note:
            words = Content.styled(self.note, self.note_style)
            if self._starts[-1]:
                self._foot.append(EMPTY)
            self._foot += wrap(words, self._width)

    def line(self, row: int) -> Line:
        """The line at a row below its top; an empty one until it was laid out."""
        if not self._width:
            return EMPTY
        if row < len(self._head):
            return self._head[row]
        row -= len(self._head)
        if row < self._starts[-1]:
            number = bisect_right(self._starts, row) - 1
            return self._body[number][row - self._starts[number]]
        return self._foot[row - self._starts[-1]]


def _common(before: Sequence[Line], after: Sequence[Line]) -> int:
    """How many lines at the beginning look the same."""
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        if not (old.content.is_same(new.content) and old.fill == new.fill and old.glue == new.glue):
            return number
    return min(len(before), len(after))


_MARKDOWN = frozenset({"bot", "human", "system", "tool"})


class Transcript(ScrollView, can_focus=True):
    """Shows entries; stays at the bottom while the reader is at the bottom."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"transcript--{name}"
        for name in (
            *STYLES,
            *("customer", "human", "system", "tool", "bar", "bar-selected", "cursor"),
            *("name-customer", "name-bot", "name-human", "name-system", "name-tool"),
            *("time", "day", "note", "note-error", "progress", "versions", "mark"),
        )
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_up", "Up", show=False),
        Binding("down", "scroll_down", "Down", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown,space", "page_down", "Page down", show=False),
        Binding("home", "scroll_home", "Top", show=False),
        Binding("end", "scroll_end", "Bottom", show=False),
        Binding("left", "screen.previous_version", "Version before", show=False),
        Binding("right", "screen.next_version", "Version after", show=False),
        Binding("c", "screen.copy_reply", "Copy", show=False),
        Binding("e", "screen.edit", "Edit", show=False),
        Binding("f", "screen.fork", "Fork", show=False),
        Binding("r", "screen.regenerate", "Again", show=False),
        Binding("enter", "screen.cancel", "Write", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        """An empty one."""
        super().__init__(id=id)
        self._entries: list[Entry] = []
        self._tops: list[int] = [0]
        self._selected: int | None = None
        self._follows = True
        self._moving = False
        self._pending: list[str] = []
        self._flush_timer: Timer | None = None
        self._next_frame = 0.0
        self._spinner: Timer | None = None
        self._spinner_text: Callable[[], str] = str
        self._strips: LRUCache[tuple[Line, int, bool, str, bool], Strip] = LRUCache(512)
        self._styles_by_name: dict[str, Style] = {}

    # What is shown

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages, in order."""
        return self._entries

    @property
    def follows(self) -> bool:
        """Whether it stays at the bottom when more is said."""
        return self._follows

    @property
    def selected(self) -> Entry | None:
        """The message that actions work on, if one was selected."""
        return None if self._selected is None else self._entries[self._selected]

    def show(self, entries: Sequence[Entry]) -> None:
        """Show other messages, from their end."""
        self._stop_spinner()
        self._pending.clear()
        self._entries = list(entries)
        self._selected = None
        self._follows = True
        self._place(0)

    def add(self, entry: Entry) -> None:
        """Show one more message at the end, and go there."""
        self._flush()
        self._entries.append(entry)
        self._follows = True
        self._place(len(self._entries) - 1)

    def remove_from(self, key: str) -> None:
        """Take away a message and what comes after it."""
        self._pending.clear()
        for number, entry in enumerate(self._entries):
            if entry.key == key:
                del self._entries[number:]
                self._selected = None
                self._place(number)
                return

    def feed(self, text: str) -> None:
        """The last message goes on; it is drawn with the next frame."""
        self._pending.append(text)
        if self._flush_timer is None:
            # Textual's timers need an interval above 0.
            wait = max(self._next_frame - time.perf_counter(), 0.001)
            self._flush_timer = self.set_timer(wait, self._flush)

    def finish(self, *, note: str = "", note_style: str = ".note") -> None:
        """The last message is complete.

        Args:
            note: A line below it about how it ended.
            note_style: The note's style.
        """
        self._flush()
        self._stop_spinner()
        entry = self._entries[-1]
        entry.finish()
        entry.note, entry.note_style = note, note_style
        entry.lay_out_foot()
        self._place(len(self._entries) - 1)

    def spin(self, text: Callable[[], str]) -> None:
        """Show that the last message is awaited, until something is said.

        Args:
            text: Tells what goes on; asked ten times a second.
        """
        self._spinner_text = text
        if self._spinner is None:
            self._spinner = self.set_interval(0.1, self._spin)
        self._spin()

    def _spin(self) -> None:
        entry = self._entries[-1]
        had = bool(entry.progress)
        entry.progress = self._spinner_text()
        if self._width:
            entry.lay_out(self._width)
            entry.lay_out_foot()
        if had:
            self.refresh_lines(self._tops[-1] - 1)
        else:
            self._place(len(self._entries) - 1)

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
            if self._entries:
                self._entries[-1].progress = ""
                self._entries[-1].lay_out_foot()

    def _flush(self) -> None:
        """Draw what was fed since the last frame."""
        if self._flush_timer is not None:
            self._flush_timer.stop()
            self._flush_timer = None
        if not self._pending or not self._entries:
            return
        started = time.perf_counter()
        self._stop_spinner()
        text = "".join(self._pending)
        self._pending.clear()
        row = self._entries[-1].feed(text)
        self._place(len(self._entries) - 1, dirty_row=row)
        ended = time.perf_counter()
        # A machine too slow for that many frames gets fewer, and stays responsive.
        self._next_frame = ended + max(FRAME_S - (ended - started), 3 * (ended - started))

    # Where it is

    @property
    def _width(self) -> int:
        """Cells of a line of text."""
        return column(self.scrollable_content_region.width)[1] - _GUTTER

    @property
    def _left(self) -> int:
        """Cells on the left of the gutter."""
        return column(self.scrollable_content_region.width)[0]

    def _place(self, first: int, *, dirty_row: int = 0) -> None:
        """Entries from one on have changed: find where all stand, and keep the reader's place.

        Args:
            first: The first one that changed.
            dirty_row: Its first line that changed.
        """
        del self._tops[first + 1 :]
        heights = (entry.height for entry in self._entries[first:])
        self._tops[first:] = accumulate(heights, initial=self._tops[first])
        self._settle_view(self._tops[first] + dirty_row)

    def _settle_view(self, dirty_from: int = 0) -> None:
        """Lay out what is in view, until that changes no height any more.

        Args:
            dirty_from: The first line that has to be drawn again if nothing moves.
        """
        if not self.size:
            return
        before = self.scroll_offset.y
        moved = False
        while True:
            self._resize_content()
            top = self.max_scroll_y if self._follows else self.scroll_offset.y
            first, last = self._visible(top)
            changed = None
            for number in range(first, last):
                before = self._entries[number].height
                self._entries[number].lay_out(self._width)
                if self._entries[number].height != before and changed is None:
                    changed = number
            if changed is None:
                break
            moved = True
            edge = self._tops[first + 1]
            heights = (entry.height for entry in self._entries[changed:])
            self._tops[changed:] = accumulate(heights, initial=self._tops[changed])
            if not self._follows and changed == first and top > 0:
                # What is below the topmost message stays where the reader sees it.
                self._resize_content()
                self._move_to(max(self._tops[first + 1] - (edge - top), self._tops[first]))
        if self._follows:
            self._move_to(self.max_scroll_y)
        if moved or self.scroll_offset.y != before:
            self.refresh()
        else:
            start = max(dirty_from, self.scroll_offset.y)
            self.refresh_lines(start, self.scroll_offset.y + self.size.height - start)

    def _visible(self, top: int) -> tuple[int, int]:
        """The entries that show when the view begins at a line: first, and one after the last."""
        if not self._entries:
            return 0, 0
        first = max(bisect_right(self._tops, top) - 1, 0)
        last = bisect_right(self._tops, top + max(self.size.height - 1, 0))
        return min(first, len(self._entries) - 1), min(last, len(self._entries))

    def _resize_content(self) -> None:
        # One empty line below the last message.
        size = Size(self.size.width, self._tops[-1] + bool(self._entries))
        if size == self.virtual_size:
            return
        self._moving = True
        if self.show_vertical_scrollbar and size.height > self.size.height:
            # Only the scrollbar has to know: laying out the screen for each line would be slow.
            self.set_reactive(Transcript.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size
        self._moving = False

    def _move_to(self, y: float) -> None:
        self._moving = True
        self.scroll_to(y=y, force=True)
        self._moving = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow the end again once the reader is there; lay out what came into view."""
        super().watch_scroll_y(old_value, new_value)
        if not self._moving and old_value != new_value:
            self._follows = new_value >= self.max_scroll_y
            self._settle_view()

    def scroll_to(self, x: float | None = None, y: float | None = None, **options: Any) -> None:
        """At once: an animation would fight with heights that change on the way."""
        super().scroll_to(x, y, **{**options, "animate": False})

    def _on_resize(self, event: Resize) -> None:
        self._strips.clear()
        top = self.scroll_offset.y
        first, _ = self._visible(top)
        if not self._follows and self._entries:
            entry = self._entries[first]
            share = (top - self._tops[first]) / max(entry.height, 1)
            entry.lay_out(self._width)
            heights = (entry.height for entry in self._entries[first:])
            self._tops[first:] = accumulate(heights, initial=self._tops[first])
            self._resize_content()
            self._move_to(self._tops[first] + round(share * entry.height))
        self._settle_view()

    def action_scroll_end(self) -> None:
        """To the end, and stay there."""
        self._follows = True
        self._settle_view()

    # Selecting messages

    def select_key(self, key: str) -> None:
        """Select a message by its id, where it is shown."""
        for number, entry in enumerate(self._entries):
            if entry.key == key:
                self.select(number)

    def select(self, number: int | None) -> None:
        """Select a message by its number, and bring it into view; None: none."""
        if number is not None and not 0 <= number < len(self._entries):
            return
        self._selected = number
        if number is not None:
            self._entries[number].lay_out(self._width)
            top, bottom = self._tops[number], self._tops[number + 1]
            view = self.size.height
            if top < self.scroll_offset.y or bottom - top > view:
                self._follows = False
                self._move_to(top)
            elif bottom > self.scroll_offset.y + view:
                self._move_to(bottom + 1 - view)
            self._settle_view()
        self.refresh()
        self.post_message(MessageSelected(None if number is None else self._entries[number].key))

    def action_select_previous(self) -> None:
        """Select the message before, skipping day lines."""
        self._step(-1)

    def action_select_next(self) -> None:
        """Select the message after; after the last one none."""
        self._step(1)

    def _step(self, direction: int) -> None:
        start = len(self._entries) if self._selected is None else self._selected
        number = start + direction
        while 0 <= number < len(self._entries) and self._entries[number].kind == "day":
            number += direction
        if number >= len(self._entries):
            self.select(None)
            self.action_scroll_end()
        else:
            self.select(number)

    async def _on_click(self, event: Click) -> None:
        """Select the message under the pointer."""
        if self.text_selection is not None:
            return
        y = self.scroll_offset.y + event.y
        number = bisect_right(self._tops, y) - 1
        if not 0 <= number < len(self._entries) or self._entries[number].kind == "day":
            return
        entry = self._entries[number]
        start, end = entry.version_cells
        cell = event.x - self._left - _GUTTER
        if y == self._tops[number] + 1 and start <= cell < end:
            direction = -1 if cell < (start + end) // 2 else 1
            self.post_message(VersionWanted(entry.key, direction))
        else:
            self.select(None if number == self._selected else number)

    # Drawing

    def notify_style_update(self) -> None:
        """Other colours: nothing that was drawn is right any more."""
        super().notify_style_update()
        self._strips.clear()
        self._styles_by_name.clear()

    def selection_updated(self, selection: Selection | None) -> None:
        """Text was selected with the mouse."""
        self._strips.clear()
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text without decoration, wrapped lines joined again."""
        left = self._left + _GUTTER
        bottom = self._tops[-1]
        start = selection.start.y if selection.start else 0
        end = min(selection.end.y + 1 if selection.end else bottom, bottom)
        text = ""
        for y in range(start, end):
            span = selection.get_span(y)
            number = bisect_right(self._tops, y) - 1
            entry = self._entries[number]
            entry.lay_out(self._width)
            line = entry.line(y - self._tops[number])
            if span is None:
                continue
            plain = line.content.plain
            begin = max(span[0] - left, line.lead, 0)
            stop = len(plain) if span[1] == -1 else max(span[1] - left, 0)
            joint = "\n" if line.glue is None or y == start else line.glue
            text += (joint if y > start else "") + plain[begin:stop].rstrip()
        return text, "\n"

    def render_line(self, y: int) -> Strip:
        """One line of the view."""
        width = self.size.width
        line_y = self.scroll_offset.y + y
        base = self.visual_style
        if line_y >= self._tops[-1]:
            return Strip.blank(width, base.rich_style)
        number = bisect_right(self._tops, line_y) - 1
        entry = self._entries[number]
        row = line_y - self._tops[number]
        line = entry.line(row)
        chosen = number == self._selected
        in_panel = row > 0 and entry.kind != "day"
        key = (line, width, in_panel, entry.kind, chosen)
        span = None
        if (selection := self.text_selection) is not None:
            span = selection.get_span(line_y)
        strip = self._strips.get(key) if span is None else None
        if strip is None:
            strip = self._draw(line, entry.kind, width, in_panel, chosen, span)
            if span is None:
                self._strips[key] = strip
        return strip.apply_offsets(0, line_y)

    def _draw(
        self,
        line: Line,
        kind: str,
        width: int,
        in_panel: bool,
        chosen: bool,
        span: tuple[int, int] | None,
    ) -> Strip:
        base = self.visual_style
        body = base
        if in_panel and kind in _PANELS:
            body = base + self._style(f".{kind}")
        if in_panel and chosen:
            body += self._style(".cursor")
        bar = "▌" if in_panel and (chosen or kind in _PANELS) else " "
        bar_style = ".bar-selected" if chosen else ".bar"
        room = self._width - line.content.cell_length
        content = Content.assemble(
            " " * self._left,
            (bar, bar_style),
            " ",
            line.content,
            (" " * max(room, 0), line.fill) if line.fill else " " * max(room, 0),
        )
        if span is not None:
            start, end = span
            content = content.stylize(
                self._selection_style, start, len(content.plain) if end == -1 else end
            )
        segments = [
            Segment(text, style.rich_style)
            for text, style in content.render(body, end="", parse_style=self._style)
        ]
        if self._left and segments:
            segments = _outside(segments, self._left, base)
        strip = Strip(segments)
        return strip.adjust_cell_length(width, base.rich_style)

    @property
    def _selection_style(self) -> Style:
        return self.screen.get_visual_style("screen--selection", partial=True)

    def _style(self, name: str | Style) -> Style:
        """A style by the name that spans use: `.strong`."""
        if isinstance(name, Style):
            return name
        style = self._styles_by_name.get(name)
        if style is None:
            # Not `get_visual_style(partial=True)`: in Textual 8.2 it drops an opaque background.
            rules = self.get_component_styles(f"transcript--{name[1:]}")
            style = Style(
                background=rules.background if rules.has_rule("background") else None,
                foreground=rules.color if rules.has_rule("color") else None,
                bold=rules.text_style.bold,
                italic=rules.text_style.italic,
                underline=rules.text_style.underline,
                strike=rules.text_style.strike,
            )
            self._styles_by_name[name] = style
        return style


_PANELS = frozenset({"customer", "human", "system", "tool"})
"""Kinds that stand on a ground of their own; the bot's words stand on the screen's."""


def _outside(segments: list[Segment], left: int, base: Style) -> list[Segment]:
    """Segments with their first `left` cells, which are blank, in the screen's own style."""
    strip = Strip(segments)
    rest = strip.crop(left, strip.cell_length)
    return [Segment(" " * left, base.rich_style), *rest]
