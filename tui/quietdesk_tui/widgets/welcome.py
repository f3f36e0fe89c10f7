"""What stands in an empty conversation: what this is, three questions to try, the main keys."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Click
from textual.widgets import Static

from quietdesk_tui.keys import KeyMap, name_key
from quietdesk_tui.messages import ExampleChosen

EXAMPLES = (
    "Write a kind reply to a customer whose parcel is three days late.",
    "Explain the difference between a refund and a credit note in two sentences.",
    "Turn this into a list: bring the receipt, fill in the form, wait for the e-mail.",
)


class Example(Static, can_focus=True):
    """A question to try: Enter or a click puts it into the composer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "take", "Take", show=False),
        Binding("up", "app.focus_previous", "Up", show=False),
        Binding("down", "app.focus_next", "Down", show=False),
    ]

    def __init__(self, text: str) -> None:
        """The question."""
        self.text = text
        super().__init__(Content.assemble(("› ", "$primary"), text))

    def action_take(self) -> None:
        """Put it into the composer."""
        self.post_message(ExampleChosen(self.text))

    @on(Click)
    def _clicked(self) -> None:
        self.action_take()


class Welcome(VerticalScroll, can_focus=False):
    """The first thing that one sees."""

    def __init__(self, key_map: KeyMap, model_name: str, *, id: str | None = None) -> None:
        """The welcome text.

        Args:
            key_map: For the keys that it names.
            model_name: The model's name.
            id: For the style sheet.
        """
        super().__init__(id=id)
        self._key_map = key_map
        self._model_name = model_name

    def compose(self) -> ComposeResult:
        """Heading, examples, keys."""
        with Vertical(id="welcome-box"):
            yield Static("Quietdesk", id="welcome-title")
            yield Static(
                f"A chat with {self._model_name} on this machine. Nothing you write leaves it.",
                id="welcome-text",
            )
            yield Static("Try one of these", id="welcome-try")
            for text in EXAMPLES:
                yield Example(text)
            yield Static(self._keys(), id="welcome-keys")

    def _keys(self) -> Content:
        pairs = (
            ("send", "sends"),
            ("newline", "new line"),
            ("cancel", "stops"),
            ("search", "searches"),
            ("palette", "commands"),
            ("help", "help"),
        )
        parts: list[tuple[str, str] | str] = []
        for action, words in pairs:
            keys = self._key_map.keys(action)
            # Shift+Enter, the first one, is known to few terminals.
            key = "ctrl+j" if "ctrl+j" in keys else keys[0]
            if parts:
                parts.append(("  ·  ", "$foreground 35%"))
            parts += [
                (name_key(key), "$primary"),
                (f" {words}".replace(" ", "\u00a0"), "$foreground 66%"),
            ]
        return Content.assemble(*parts)
