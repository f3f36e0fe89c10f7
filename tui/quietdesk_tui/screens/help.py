"""The help: every action with its keys, made from the key map."""

from itertools import groupby
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from quietdesk_tui.keys import ACTIONS, KeyMap

FIXED = (
    ("↑ ↓", "At the composer's edges: messages that were sent before"),
    ("Tab, Shift+Tab", "Go between the list, the conversation and the composer"),
    ("Enter, c, r", "In the conversation: go back to writing, copy, write again"),
    ("Enter, Del", "In the list: open, delete"),
    ("Mouse", "Select text, then copy it; click a message to select it"),
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
        """One text in a frame."""
        with VerticalScroll(id="help") as frame:
            frame.border_title = " Keys "
            frame.border_subtitle = " Esc closes "
            yield Static(self._text())

    def _text(self) -> Content:
        width = max(len(self._key_map.names(action.id)) for action in ACTIONS)
        width = max(width, *(len(key) for key, _ in FIXED)) + 2
        parts: list[Content] = []
        for group, actions in groupby(ACTIONS, key=lambda action: action.group):
            parts.append(Content.styled(f"{group}\n", "bold $primary"))
            for action in actions:
                parts.append(_row(self._key_map.names(action.id), action.title, width))
            parts.append(Content("\n"))
        parts.append(Content.styled("Always\n", "bold $primary"))
        parts += [_row(key, title, width) for key, title in FIXED]
        parts.append(
            Content.assemble(
                "\n",
                ("Your own keys", "bold $primary"),
                (f" stand in {self._config_file}:\n", "$foreground 70%"),
                ('  [app.keys]\n  regenerate = "ctrl+g"', "$foreground"),
                ("\nThe names are: ", "$foreground 70%"),
                (", ".join(action.id for action in ACTIONS), "$foreground 70%"),
                (".", "$foreground 70%"),
            )
        )
        return Content("").join(parts)

    def action_scroll(self, direction: int) -> None:
        """Scroll by a line."""
        self.query_one("#help", VerticalScroll).scroll_relative(y=direction, animate=False)

    async def action_dismiss(self, result: None = None) -> None:
        """Back to the chat."""
        self.dismiss(result)


def _row(key: str, title: str, width: int) -> Content:
    return Content.assemble((key.ljust(width), "$foreground"), (f"{title}\n", "$foreground 75%"))
