"""The help: every action with its keys, made from the key map."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from quietdesk_tui.keys import ACTIONS, Action, KeyMap

FIXED = (
    ("↑ ↓", "Messages that were sent before", "At the composer's first and last line."),
    ("Tab, Shift+Tab", "Go between list, conversation and composer", ""),
    ("← →", "Show the version before or after", "In the conversation."),
    ("c, e, f, r", "Copy, edit, fork, write again", "In the conversation; Enter: back to writing."),
    ("Enter, Del", "Open, delete", "In the list."),
    ("Mouse", "Select text, then copy it; click a message to select it", ""),
)


class HelpScreen(ModalScreen[None]):
    """Scrolls where it does not fit; any of its closing keys leads back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter", "dismiss", "Close", show=False),
        Binding("up", "scroll(-1)", "Up", show=False),
        Binding("down", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, key_map: KeyMap, config_file: Path) -> None:
        """The help for some keys.

        Args:
            key_map: The keys in force.
            config_file: Where the user's own go.
        """
        super().__init__()
        self._key_map = key_map
        self._config_file = config_file

    def compose(self) -> ComposeResult:
        """One row for each action, in groups."""
        with VerticalScroll(id="help") as frame:
            frame.border_title = " Keys "
            frame.border_subtitle = " Esc closes "
            for group, actions in groupby(ACTIONS, key=lambda action: action.group):
                yield Static(group, classes="group")
                yield from self._rows([_told(self._key_map, action) for action in actions])
            yield Static("Always", classes="group")
            yield from self._rows(FIXED)
            yield Static("Your own keys", classes="group")
            yield Static(self._own())

    def _rows(self, rows: Sequence[tuple[str, str, str]]) -> ComposeResult:
        with Grid(classes="rows"):
            for key, title, more in rows:
                yield Static(key, markup=False)
                yield Static(
                    Content.assemble(title, (f"  {more}" if more else "", "$foreground 66%"))
                )

    def _own(self) -> Content:
        return Content.assemble(
            (f"They stand in {self._config_file}, by name:\n", "$foreground 70%"),
            '  [app.keys]\n  regenerate = "alt+r"\n',
            ("Names: ", "$foreground 70%"),
            (", ".join(action.id for action in ACTIONS), "$foreground 70%"),
        )

    def action_scroll(self, direction: int) -> None:
        """Scroll by a line."""
        self.query_one("#help", VerticalScroll).scroll_relative(y=direction, animate=False)

    async def action_dismiss(self, result: None = None) -> None:
        """Back to the chat."""
        self.dismiss(result)


def _told(key_map: KeyMap, action: Action) -> tuple[str, str, str]:
    return key_map.names(action.id), action.title, action.more
