"""What the model saw for a reply: the context's parts, what was dropped, and why."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from quietdesk import ContextReport, Message
from quietdesk.types import ContextItem, ContextOutcome
from quietdesk_tui import words
from quietdesk_tui.blocks import clean
from quietdesk_tui.widgets.status import meter_parts
from quietdesk_tui.wrapping import break_offsets, shorten

BEGIN_CELLS = 28
"""Cells of a message's beginning: with the rest of its line it fits 80 columns."""

_LOOKS = {
    ContextOutcome.KEPT: ("●", "$success"),
    ContextOutcome.PINNED: ("◆", "$primary"),
    ContextOutcome.TRUNCATED: ("◐", "$warning"),
    ContextOutcome.SUMMARISED: ("◌", "$warning"),
    ContextOutcome.EVICTED: ("○", "$error"),
}


class ContextScreen(ModalScreen[None]):
    """The report of one reply, for a reader."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f3,q,enter", "dismiss", "Close", show=False),
        Binding("up", "scroll(-1)", "Up", show=False),
        Binding("down", "scroll(1)", "Down", show=False),
        Binding("pageup", "scroll(-10)", "Page up", show=False),
        Binding("pagedown", "scroll(10)", "Page down", show=False),
    ]

    def __init__(self, report: ContextReport, said: Sequence[Message]) -> None:
        """A report to read.

        Args:
            report: What the model saw.
            said: The conversation's messages, to show how each begins.
        """
        super().__init__()
        self._report = report
        self._said = {message.id: message for message in said}
        # None while the reply is written.
        self._usage = next((m.usage for m in said if m.context is report), None)

    def compose(self) -> ComposeResult:
        """A summary, then one line for each item."""
        with VerticalScroll(id="context") as frame:
            frame.border_title = " What the model saw "
            frame.border_subtitle = " Esc closes "
            yield Static(self._summary(), id="context-summary")
            yield Static(id="context-items")

    def on_resize(self) -> None:
        """Lay the items out for the width that there is."""
        items = self.query_one("#context-items", Static)
        self.call_after_refresh(lambda: items.update(self._items(max(items.size.width, 20))))

    def _summary(self) -> Content:
        report = self._report
        free = max(report.n_ctx - report.prompt_tokens - report.reply_reserve, 0)
        evaluated = report.prompt_tokens - report.cached_tokens
        dropped = len(report.evicted)
        share = f"{report.fill:.0%}".replace("%", " %")
        lines = [
            Content.assemble(*meter_parts(report.fill, share, 24, f"{'Context':<19}")),
            _line("Prompt", f"{words.count(report.prompt_tokens, 'token')} of {report.n_ctx:,}"),
            _line("Known already", f"{report.cached_tokens:,} of them, in the cache"),
            _line("Read now", f"{evaluated:,} of them"),
            _line("Kept for the reply", words.count(report.reply_reserve, "token")),
            *self._reply_line(),
            _line("Free", words.count(free, "token")),
            _line("Overflow policy", report.policy),
            _line(
                "Chat template",
                "the model's own" if report.template == "model" else report.template,
            ),
            self._counts(),
        ]
        if dropped:
            told = f"{words.count(dropped, 'message')} not seen in their own words"
            lines.append(Content.styled(told, "$warning"))
        else:
            lines.append(Content.styled("Everything was seen.", "$success"))
        lines += [Content.styled(clean(note), "$warning") for note in report.notes]
        if report.summary:
            lines.append(_line("Summary", clean(report.summary)))
        return Content("\n").join(lines)

    def _reply_line(self) -> list[Content]:
        if self._usage is None:
            return []
        return [_line("Reply", words.count(self._usage.completion_tokens, "token"))]

    def _counts(self) -> Content:
        """How many items were kept, evicted and so on."""
        counts = Counter(item.outcome for item in self._report.items)
        parts: list[tuple[str, str]] = []
        for outcome, (sign, style) in _LOOKS.items():
            if counts[outcome]:
                parts += [(f"{sign} ", style), (f"{counts[outcome]} {outcome.value}   ", "")]
        return Content.assemble(*parts)

    def _items(self, width: int) -> Content:
        gone = {item.id for item in self._report.evicted}
        items = sorted(self._report.items, key=lambda item: item.id not in gone)
        return Content("\n").join(self._item(item, width) for item in items)

    def _item(self, item: ContextItem, width: int) -> Content:
        sign, style = _LOOKS[item.outcome]
        message = self._said.get(item.id)
        if message is not None:
            who = words.NAMES[message.author]
            begin = shorten(words.first_words(message.text), BEGIN_CELLS)
        else:
            who, begin = item.kind.capitalize(), ""
        reason = clean(item.reason)
        cuts = [0, *break_offsets(reason, width - 4), len(reason)]
        why = [f"\n    {reason[cut:end].rstrip()}" for cut, end in pairwise(cuts) if end > cut]
        return Content.assemble(
            (f"{sign} ", style),
            (f"{item.outcome.value:<10} ", style),
            (f"{item.tokens:>6,}  ", "$foreground"),
            (f"{who}  ", "bold"),
            (begin, "$foreground 75%"),
            ("".join(why), "$foreground 66%"),
        )

    def action_scroll(self, lines: int) -> None:
        """Scroll by some lines."""
        self.query_one("#context", VerticalScroll).scroll_relative(y=lines, animate=False)

    async def action_dismiss(self, result: None = None) -> None:
        """Back to the chat."""
        self.dismiss(result)


def _line(name: str, value: str) -> Content:
    return Content.assemble((f"{name:<20}", "$foreground 66%"), value)
