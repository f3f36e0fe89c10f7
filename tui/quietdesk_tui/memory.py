"""What the app remembers between runs: the open conversation, drafts, the theme, what was sent.

Kept in the state folder, readable by its owner only. Losing it loses no conversation, so a file
that cannot be read or written is noted in the log and otherwise ignored.
"""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

HISTORY_LIMIT = 500
"""Messages that the composer remembers."""

_log = logging.getLogger(__name__)


class Remembered(BaseModel):
    """The app's state as it stands in `app.json`."""

    model_config = ConfigDict(extra="ignore")

    conversation_id: str = ""
    """The conversation that was open; empty: none."""
    drafts: dict[str, str] = Field(default_factory=dict)
    """What was typed and not sent, by conversation; under the empty id a new one's."""
    theme: str = ""
    """The theme that was chosen in the app; empty: the settings' one."""
    theme_in_settings: str = ""
    """The settings' theme then: once they say something else, they are followed again."""
    list_shown: bool | None = None
    """Whether the list of conversations was shown or hidden by hand; None: as there is room."""


class Memory:
    """Reads and writes what is remembered."""

    def __init__(self, folder: Path | None) -> None:
        """Read what there is.

        Args:
            folder: Where it is kept; None: nowhere.
        """
        self._folder = folder
        self.state = self._read_state()
        self.history = self._read_history()

    def _read_state(self) -> Remembered:
        text = self._read("app.json")
        if not text:
            return Remembered()
        try:
            return Remembered.model_validate_json(text)
        except ValidationError as error:
            _log.warning("The app's state could not be read and begins anew: %s", error)
            return Remembered()

    def _read_history(self) -> list[str]:
        entries: list[str] = []
        for line in self._read("history.jsonl").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, str):
                    entries.append(entry)
        return entries[-HISTORY_LIMIT:]

    def _read(self, name: str) -> str:
        if self._folder is None:
            return ""
        try:
            return (self._folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("%s could not be read: %s", name, error)
            return ""

    def save(self) -> None:
        """Keep the state as it stands."""
        self.state.drafts = {key: text for key, text in self.state.drafts.items() if text}
        self._write("app.json", self.state.model_dump_json(indent=1) + "\n")

    def add_to_history(self, text: str) -> None:
        """Remember a message that was sent, unless it is the last one again."""
        if self.history and self.history[-1] == text:
            return
        self.history.append(text)
        del self.history[:-HISTORY_LIMIT]
        lines = (json.dumps(entry, ensure_ascii=False) for entry in self.history)
        self._write("history.jsonl", "\n".join(lines) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Replace a file in one step, so that a crash leaves the old one."""
        if self._folder is None:
            return
        path = self._folder / name
        temporary = path.with_name(f".{name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
        except OSError as error:
            _log.warning("%s could not be written: %s", name, error)
