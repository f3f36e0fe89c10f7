"""Where a conversation is saved: a field for a file's name, Markdown or JSON by its ending."""

import re
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

ENDINGS = (".md", ".json")


class ExportScreen(ModalScreen[Path | None]):
    """Gives the path, or None when nothing is to be saved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+s", "dismiss", "Close", show=False),
        Binding("tab", "change_ending", "Markdown or JSON", show=False, priority=True),
    ]

    def __init__(self, title: str, folder: Path) -> None:
        """The question for a conversation.

        Args:
            title: The conversation's, from which a name is made.
            folder: Where it is saved unless another place is named.
        """
        super().__init__()
        self._path = folder / f"{file_name(title)}.md"
        self._agreed = ""

    def compose(self) -> ComposeResult:
        """A field, and what the endings mean."""
        with Vertical(id="export") as frame:
            frame.border_title = " Save the conversation "
            frame.border_subtitle = " Enter saves · Tab changes the ending · Esc closes "
            yield Input(str(self._path), id="export-path", compact=True, select_on_focus=False)
            yield Static(id="export-note")

    def on_mount(self) -> None:
        """The cursor stands before the ending."""
        field = self.query_one(Input)
        field.cursor_blink = False
        field.cursor_position = len(str(self._path.with_suffix("")))
        self._tell()

    @on(Input.Changed)
    def _tell(self) -> None:
        path = self.path
        self._agreed = ""
        note = {
            ".md": "Markdown: what is said, as it stands.",
            ".json": "JSON: every version of every message, with figures and context reports.",
        }.get(path.suffix.lower(), "Let it end in .md for Markdown, or in .json for everything.")
        self._say(note)

    @property
    def path(self) -> Path:
        """The file as it is named now."""
        return Path(self.query_one(Input).value.strip()).expanduser()

    def action_change_ending(self) -> None:
        """From Markdown to JSON, or back."""
        field, path = self.query_one(Input), self.path
        if not path.name:
            return
        other = ".md" if path.suffix.lower() == ".json" else ".json"
        # `with_suffix` would take the end of a name with a dot in it for an ending.
        stem = field.value.strip()
        if path.suffix.lower() in ENDINGS:
            stem = stem[: -len(path.suffix)]
        field.value = stem + other
        field.cursor_position = len(stem)

    @on(Input.Submitted)
    def _choose(self, event: Input.Submitted) -> None:
        event.stop()
        path = self.path
        if path.suffix.lower() not in ENDINGS:
            self._say("Let the name end in .md or in .json.", "-error")
        elif path.is_dir():
            self._say("That is a folder.", "-error")
        elif not path.parent.is_dir():
            self._say(f"There is no folder {str(path.parent)!r}.", "-error")
        elif path.exists() and self._agreed != str(path):
            self._agreed = str(path)
            self._say("The file is there already. Enter once more replaces it.", "-warning")
        else:
            self.dismiss(path)

    def _say(self, text: str, style: str = "") -> None:
        note = self.query_one("#export-note", Static)
        note.update(Content(text))
        note.set_classes(style)

    async def action_dismiss(self, result: Path | None = None) -> None:
        """Back to the chat, with nothing saved."""
        self.dismiss(result)


def file_name(title: str) -> str:
    """A file's name of a title's letters and digits, in any script; without an ending."""
    name = re.sub(r"[^\w]+", "-", title.lower()).strip("-_")[:60].strip("-_")
    return name or "conversation"
