"""The scores screen: saved runs, how their values are distributed, and the worst conversations."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from quietdesk import Author, QuietdeskError
from quietdesk_tui import words
from quietdesk_tui.blocks import clean
from quietdesk_tui.runs import Bad, Figure, Run, read_runs
from quietdesk_tui.widgets.transcript import Entry, Transcript
from quietdesk_tui.wrapping import shorten

SIDE_BY_SIDE = 120
"""Columns from which figures and conversations stand beside each other."""
TITLE_CELLS = 27


class ScoresScreen(ModalScreen[None]):
    """Runs above, the chosen one below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+o", "dismiss", "Close", show=False)
    ]
    AUTO_FOCUS = "#runs"

    def __init__(self, folder: Path) -> None:
        """The runs in a folder.

        Args:
            folder: Where they are saved.
        """
        super().__init__()
        self._folder = folder
        self._runs: Sequence[Run] = ()
        self._shown: Run | None = None

    def compose(self) -> ComposeResult:
        """Runs, figures, the worst conversations."""
        with Vertical(id="scores") as frame:
            frame.border_title = " Scores "
            frame.border_subtitle = " Tab goes on · Enter opens · Esc closes "
            yield Static("Reading the runs …", id="runs-note")
            yield OptionList(id="runs", compact=True)
            with Vertical(id="run"):
                with VerticalScroll(id="figures-frame"):
                    yield Static(id="figures")
                yield OptionList(id="worst", compact=True)

    def on_mount(self) -> None:
        """Read the runs in a thread: the scorer takes a second to import."""
        self.query_one("#runs").display = self.query_one("#run").display = False
        self._read()

    @work(exit_on_error=False)
    async def _read(self) -> None:
        note = self.query_one("#runs-note", Static)
        try:
            self._runs = await asyncio.to_thread(read_runs, self._folder)
        except (QuietdeskError, OSError) as error:
            note.update(Content.styled(clean(str(error)), "$error"))
            return
        if not self._runs:
            note.update(self._nothing())
            return
        note.display = False
        options = self.query_one("#runs", OptionList)
        options.add_options(self._row(run) for run in self._runs)
        options.display = self.query_one("#run").display = True
        options.highlighted = 0
        options.focus()

    def _nothing(self) -> Content:
        return Content.assemble(
            ("There are no saved runs yet.\n\n", "bold"),
            "Score logged conversations and save what comes out:\n\n",
            ("  quietdesk score LOGS --save NAME\n\n", "$primary"),
            f"Runs are kept in {self._folder}.",
        )

    def _row(self, run: Run) -> Option:
        when = run.saved_at.astimezone()
        told = words.count(run.n_conversations, "conversation")
        if run.problem:
            return Option(Content.assemble(("✗ ", "$error"), f"{when:%Y-%m-%d %H:%M}  ", run.name))
        return Option(
            Content.assemble(
                ("● ", "$success"),
                f"{when:%Y-%m-%d %H:%M}  ",
                (run.name, "bold"),
                (f"  {told}", "$foreground 66%"),
            )
        )

    @on(OptionList.OptionHighlighted, "#runs")
    def _show(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        run = self._shown = self._runs[event.option_index]
        figures = self.query_one("#figures", Static)
        worst = self.query_one("#worst", OptionList)
        worst.clear_options()
        if run.problem:
            problem = f"{run.path} cannot be shown.\n{run.problem}"
            figures.update(Content.styled(clean(problem), "$error"))
        else:
            figures.update(Content("\n").join(map(_figure, run.figures)))
            worst.add_options(Option(_bad(bad)) for bad in run.worst)
        worst.display = bool(run.worst)

    @on(OptionList.OptionSelected, "#runs")
    def _to_worst(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        worst = self.query_one("#worst", OptionList)
        if worst.option_count:
            worst.focus()
            worst.highlighted = worst.highlighted or 0

    @on(OptionList.OptionSelected, "#worst")
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._shown is not None:
            self.app.push_screen(BadScreen(self._shown.worst[event.option_index]))

    @on(Resize)
    def _fit(self, event: Resize) -> None:
        self.set_class(event.size.width >= SIDE_BY_SIDE, "-side-by-side")

    async def action_dismiss(self, result: None = None) -> None:
        """Back to the chat."""
        self.dismiss(result)


class BadScreen(ModalScreen[None]):
    """One conversation of a run; messages that were a cause say of what."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close", show=False),
        Binding("n", "next", "Next cause", show=False),
    ]

    def __init__(self, bad: Bad) -> None:
        """A conversation to read."""
        super().__init__()
        self._bad = bad
        self._at = -1

    def compose(self) -> ComposeResult:
        """The transcript, as the chat shows one."""
        with Vertical(id="bad") as frame:
            frame.border_title = f" {shorten(clean(self._bad.id), 40)} "
            frame.border_subtitle = " n goes to the next cause · Esc closes "
            yield Transcript(id="bad-transcript")

    def on_mount(self) -> None:
        """From the beginning."""
        view = self.query_one(Transcript)
        view.show([_entry(self._bad, place) for place in range(len(self._bad.said))])
        view.focus()
        self.call_after_refresh(view.scroll_home)

    def action_next(self) -> None:
        """Select the next message that was a cause; after the last one the first again."""
        causes = [place for place, said in enumerate(self._bad.said) if said.causes]
        if causes:
            self._at = next((place for place in causes if place > self._at), causes[0])
            self.query_one(Transcript).select(self._at)

    async def action_dismiss(self, result: None = None) -> None:
        """Back to the scores."""
        self.dismiss(result)


def _entry(bad: Bad, place: int) -> Entry:
    said = bad.said[place]
    kind = said.author if said.author in set(Author) else Author.SYSTEM.value
    name = "Customer" if kind == Author.CUSTOMER else words.NAMES[Author(kind)]
    causes = ", ".join(map(_in_words, said.causes))
    return Entry(
        f"said-{place}", kind, said.text, name=name, time_of_day=f"{place + 1}", mark=causes
    )


def _figure(figure: Figure) -> Content:
    title = figure.title if figure.main else f"  {figure.title}"
    return Content.assemble(
        (f"{shorten(title, TITLE_CELLS):<{TITLE_CELLS}}", "bold" if figure.main else ""),
        (f"{figure.value:>9}", "bold" if figure.main else ""),
        (f"  {figure.interval:<16}  ", "$foreground 66%"),
        (figure.plot, "$primary"),
    )


def _bad(bad: Bad) -> Content:
    causes = ", ".join(
        f"{_in_words(metric)} ({', '.join(map(str, places))})"
        for metric, places in bad.causes.items()
    )
    return Content.assemble(
        (f"{bad.badness:>6.2f}  ", "$warning"),
        (shorten(clean(bad.id), 24), "bold"),
        (f"  {causes}", "$foreground 66%"),
    )


def _in_words(metric: str) -> str:
    return metric.replace("_", " ")
