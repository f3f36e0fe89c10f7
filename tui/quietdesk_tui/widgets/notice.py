"""A notice above the composer: what went wrong at the start, and what can be done about it."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static


class Notice(VerticalScroll, can_focus=False):
    """Hidden until there is something to say."""

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static(id="notice-text")

    def show(self, what: str, why: str, hints: Sequence[str]) -> None:
        """Say it.

        Args:
            what: What does not work, a short heading.
            why: The error's own words.
            hints: What can be done, a sentence each.
        """
        text = Content.assemble((f"✗ {what}\n", "bold $error"), why)
        for hint in hints:
            text += Content.assemble("\n", ("› ", "$primary"), hint)
        self.query_one("#notice-text", Static).update(text)
        self.display = True
