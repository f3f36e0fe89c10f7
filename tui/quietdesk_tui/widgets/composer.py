"""The composer: where a message is written, with a memory of those that were sent."""

from collections.abc import Sequence

from textual.events import Key
from textual.strip import Strip
from textual.widgets import TextArea

from quietdesk_tui.keys import KeyMap
from quietdesk_tui.messages import ScrollWanted, Submitted


class Composer(TextArea):
    """Grows with its text. Up and Down at its edges go through what was sent before."""

    def __init__(self, history: Sequence[str], key_map: KeyMap, *, id: str | None = None) -> None:
        """An empty one.

        Args:
            history: What was sent before, the oldest first; read, never changed.
            key_map: The keys in force.
            id: For the style sheet.
        """
        super().__init__(
            id=id,
            soft_wrap=True,
            tab_behavior="focus",
            show_line_numbers=False,
            highlight_cursor_line=False,
            compact=True,
        )
        # A cursor that blinks is drawn again twice a second, also while the model needs the time.
        self.cursor_blink = False
        self._history = history
        self._acts = {
            key: act
            for act in ("send", "newline", "page_up", "page_down")
            for key in key_map.keys(act)
        }
        if "shift+enter" in self._acts:
            # What xterm and tmux send where keys are reported in xterm's own form.
            self._acts["shift+\r"] = self._acts["shift+enter"]
        self._place: int | None = None
        self._unsent = ""

    def render_line(self, y: int) -> Strip:
        """One line of the view."""
        if self.wrap_width < 1:
            # Textual 8.2 divides by the width when it shows the placeholder.
            return Strip.blank(self.size.width, self.rich_style)
        return super().render_line(y)

    def replace_text(self, text: str) -> None:
        """Show another text, the cursor at its end."""
        self._place = None
        self._load(text)

    def _load(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)

    def action_send(self) -> None:
        """Have it sent; the screen empties it once that was accepted."""
        self.post_message(Submitted(self.text))

    def action_newline(self) -> None:
        """Begin a new line."""
        self.insert("\n")
        self.scroll_cursor_visible()

    async def _on_key(self, event: Key) -> None:
        # Not bindings: those are looked up when a key arrives, and what was typed before it may
        # not have reached the text yet. Here keys come in the order in which they were typed.
        # Textual calls the handler of the class above by itself unless it is told not to.
        if (act := self._acts.get(event.key)) is not None:
            event.stop()
            event.prevent_default()
            getattr(self, f"action_{act}")()

    def action_cursor_up(self, select: bool = False) -> None:
        """One line up; on the first line the message sent before."""
        if select or self.cursor_location[0] > 0 or not self._at_first_row():
            super().action_cursor_up(select)
        else:
            self._step(-1)

    def action_cursor_down(self, select: bool = False) -> None:
        """One line down; on the last line the message sent after."""
        if select or not self._at_last_row():
            super().action_cursor_down(select)
        elif self._place is not None:
            self._step(1)
        else:
            self.move_cursor(self.document.end)

    def _at_first_row(self) -> bool:
        return self.get_cursor_up_location() == (0, 0)

    def _at_last_row(self) -> bool:
        return self.get_cursor_down_location() == self.document.end

    def _step(self, direction: int) -> None:
        """Show the message before or after in history; past the last one what was not sent."""
        place = len(self._history) if self._place is None else self._place
        if self._place is None:
            self._unsent = self.text
        place += direction
        if place < 0:
            return
        if place >= len(self._history):
            self._place = None
            self._load(self._unsent)
        else:
            self._place = place
            self._load(self._history[place])

    def action_page_up(self) -> None:
        """Scroll the conversation, not the message."""
        self.post_message(ScrollWanted(-1))

    def action_page_down(self) -> None:
        """Scroll the conversation, not the message."""
        self.post_message(ScrollWanted(1))
