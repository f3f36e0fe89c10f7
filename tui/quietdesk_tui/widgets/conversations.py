"""The list of conversations: the last used first, searched in everything that was said."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from typing import ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Blur, Key, Resize
from textual.geometry import Offset
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from quietdesk import ConversationInfo
from quietdesk_tui import words
from quietdesk_tui.blocks import clean
from quietdesk_tui.messages import ConversationChosen, Renamed, SearchChanged
from quietdesk_tui.wrapping import shorten

SEARCH_PAUSE_S = 0.08
"""From the last key in the search field until the search."""


class TitleInput(Input):
    """The field for another title, on top of the old one; gone when it loses the focus."""

    def _on_blur(self, event: Blur) -> None:
        super()._on_blur(event)
        self.display = False


class ConversationList(Vertical):
    """Search field and list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("delete", "screen.delete", "Delete", show=False)
    ]

    def __init__(self, *, id: str | None = None) -> None:
        """An empty one."""
        super().__init__(id=id)
        self._infos: Sequence[ConversationInfo] = ()
        self._open_id = ""
        self._busy: AbstractSet[str] = frozenset()
        self._unread: AbstractSet[str] = frozenset()
        self._today = date.min
        self._query = ""
        self._renaming = ""
        self._rows: list[tuple[str, int]] = []

    def compose(self) -> ComposeResult:
        """Heading, search field, list."""
        yield Label("Quietdesk", id="brand")
        with Horizontal(id="search-box"):
            yield Input(placeholder="Search", id="search", compact=True)
        yield OptionList(id="list", compact=True)
        yield Label("", id="list-note")
        yield TitleInput(id="rename", compact=True)

    def on_mount(self) -> None:
        """The title field shows only while it is used."""
        self.query_one("#rename").display = False
        for field in self.query(Input):
            field.cursor_blink = False

    # What is shown

    def show(
        self,
        infos: Sequence[ConversationInfo],
        *,
        open_id: str,
        busy: AbstractSet[str],
        unread: AbstractSet[str],
        now: datetime,
        query: str = "",
    ) -> None:
        """Show these conversations.

        Args:
            infos: In the order of the list.
            open_id: The one that is open.
            busy: Those in which a reply is being written.
            unread: Those in which a reply ended unseen.
            now: For the headings by day.
            query: The words that were searched for.
        """
        self._infos, self._open_id, self._busy, self._unread = infos, open_id, busy, unread
        self._today, self._query = now.astimezone().date(), query
        self._draw()

    def _draw(self) -> None:
        options = self.query_one("#list", OptionList)
        highlighted = options.highlighted_option
        keep = highlighted.id if highlighted is not None else None
        scroll = options.scroll_offset.y
        width = max(options.size.width - 2, 10)
        self._rows = []
        made: list[Option] = []
        heading = ""
        for info in self._infos:
            group = _group(info.updated_at.astimezone().date(), self._today)
            if group != heading and not self._query:
                heading = group
                # The first heading needs no empty line above it.
                above = "\n" if made else ""
                made.append(Option(Content.styled(f"{above}{group}", _QUIET), disabled=True))
                self._rows.append(("", 2 if above else 1))
            made.append(Option(self._row(info, width), id=info.id))
            self._rows.append((info.id, 2))
        options.clear_options()
        options.add_options(made)
        ids = [key for key, _ in self._rows]
        for wanted in (keep, self._open_id):
            if wanted and wanted in ids:
                options.highlighted = ids.index(wanted)
                break
        options.scroll_to(y=scroll, animate=False)
        if not self._infos:
            note = "Nothing found." if self._query else "No conversations yet."
        else:
            note = f"{len(self._infos)} found" if self._query else ""
        self.query_one("#list-note", Label).update(note)
        self.query_one("#list-note").display = bool(note)

    def _row(self, info: ConversationInfo, width: int) -> Content:
        """Two lines: title and time, and how the last message begins."""
        when = _when(info.updated_at.astimezone(), self._today)
        mark, mark_style = "  ", ""
        if info.id in self._busy:
            mark, mark_style = "◐ ", "$primary"
        elif info.id in self._unread:
            mark, mark_style = "● ", "$primary"
        elif info.id == self._open_id:
            mark, mark_style = "▌ ", "$primary"
        title = shorten(clean(info.title) or "Untitled", width - cell_len(when) - 3)
        gap = " " * max(width - 2 - cell_len(title) - cell_len(when), 1)
        snippet = shorten(words.first_words(info.last_text), width - 2)
        strong = "bold" if info.id == self._open_id or info.id in self._unread else ""
        return Content.assemble(
            (mark, mark_style),
            self._found(Content.styled(title, strong)),
            (gap + when, _QUIET),
            "\n",
            ("▌ " if info.id == self._open_id else "  ", "$primary"),
            self._found(Content.styled(snippet, _QUIET)),
        )

    def _found(self, text: Content) -> Content:
        wanted = [re.escape(word) for word in self._query.split()]
        if not wanted:
            return text
        return text.highlight_regex(re.compile("|".join(wanted), re.IGNORECASE), style="$warning")

    def _on_resize(self, event: Resize) -> None:
        self._draw()

    @property
    def chosen_id(self) -> str:
        """The conversation that is highlighted while the list has the focus; empty: none."""
        options = self.query_one("#list", OptionList)
        if not options.has_focus or options.highlighted_option is None:
            return ""
        return options.highlighted_option.id or ""

    def neighbour(self, conversation_id: str, direction: int) -> str:
        """The conversation above (-1) or below (1) another one in the list; empty: none."""
        ids = [info.id for info in self._infos]
        if not ids:
            return ""
        if conversation_id not in ids:
            return ids[0]
        place = ids.index(conversation_id) + direction
        return ids[place] if 0 <= place < len(ids) else ""

    # Searching

    def focus_search(self) -> None:
        """Begin to search."""
        field = self.query_one("#search", Input)
        field.focus()
        field.action_select_all()

    @property
    def is_searching(self) -> bool:
        """Whether there are words in the search field, or the cursor is in it."""
        field = self.query_one("#search", Input)
        return bool(field.value) or field.has_focus

    def end_search(self) -> None:
        """Show all conversations again."""
        self.query_one("#search", Input).value = ""

    @on(Input.Changed, "#search")
    def _search(self, event: Input.Changed) -> None:
        event.stop()
        value = event.value

        def tell() -> None:
            if self.query_one("#search", Input).value == value:
                self.post_message(SearchChanged(value))

        self.set_timer(SEARCH_PAUSE_S, tell)

    @on(Input.Submitted, "#search")
    def _take_first(self, event: Input.Submitted) -> None:
        event.stop()
        if self._infos and event.value:
            self.post_message(ConversationChosen(self._infos[0].id))

    def on_key(self, event: Key) -> None:
        """Down leads from the search field into the list, Up at its top back."""
        options = self.query_one("#list", OptionList)
        field = self.query_one("#search", Input)
        if event.key == "down" and field.has_focus and options.option_count:
            event.stop()
            options.focus()
            if options.highlighted is None:
                options.action_first()

    @on(OptionList.OptionSelected, "#list")
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id:
            self.post_message(ConversationChosen(event.option.id))

    # Renaming

    def rename(self, conversation_id: str) -> bool:
        """Edit a title in its place; False where the conversation is not in the list."""
        info = next((info for info in self._infos if info.id == conversation_id), None)
        if info is None:
            return False
        options = self.query_one("#list", OptionList)
        top = 0
        for key, height in self._rows:
            if key == conversation_id:
                break
            top += height
        if not options.scroll_offset.y <= top < options.scroll_offset.y + options.size.height - 1:
            options.scroll_to(y=max(top - 2, 0), animate=False)
        row = options.region.y - self.region.y + top - options.scroll_offset.y
        field = self.query_one("#rename", TitleInput)
        field.styles.offset = Offset(0, row)
        self._renaming = conversation_id
        field.value = info.title
        field.display = True
        field.focus()
        field.action_select_all()
        return True

    def end_rename(self) -> bool:
        """Keep the old title; False where none is being edited."""
        field = self.query_one("#rename", TitleInput)
        was_editing = bool(field.display)
        field.display = False
        return was_editing

    @on(Input.Submitted, "#rename")
    def _renamed(self, event: Input.Submitted) -> None:
        event.stop()
        event.input.display = False
        self.post_message(Renamed(self._renaming, event.value))

    @on(Input.Changed, "#rename")
    def _quietly(self, event: Input.Changed) -> None:
        event.stop()


_QUIET = "$foreground 66%"


def _group(day: date, today: date) -> str:
    """The heading that a conversation stands under."""
    days = (today - day).days
    if days <= 0:
        return "Today"
    if days == 1:
        return "Yesterday"
    if days < 7:
        return "Last seven days"
    if day.year == today.year:
        return f"{day:%B}"
    return f"{day:%B %Y}"


def _when(moment: datetime, today: date) -> str:
    """When, as short as it is clear."""
    days = (today - moment.date()).days
    if days <= 0:
        return f"{moment:%H:%M}"
    if days < 7:
        return f"{moment:%a}"
    if moment.year == today.year:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%Y}"
