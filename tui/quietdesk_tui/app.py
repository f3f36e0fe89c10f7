"""The terminal app: puts session and screens together, and opens and closes the terminal.

`run` is what the `quietdesk` command finds under the entry point `quietdesk.app`.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.text import Text
from textual.app import App
from textual.binding import BindingType
from textual.command import Provider
from textual.events import Event, InputEvent
from textual.screen import Screen
from textual.theme import BUILTIN_THEMES, Theme
from textual.types import CSSPathType

from quietdesk import Settings
from quietdesk.config import config_file, state_folder
from quietdesk.engine.backend import Backend
from quietdesk.errors import ConfigError
from quietdesk.store.base import Store
from quietdesk_tui import keys
from quietdesk_tui.commands import Commands
from quietdesk_tui.garbage import Garbage
from quietdesk_tui.keys import KeyMap
from quietdesk_tui.markdown import load_lexers
from quietdesk_tui.memory import Memory
from quietdesk_tui.screens.chat import ChatScreen
from quietdesk_tui.screens.help import HelpScreen
from quietdesk_tui.session import Phase, Session
from quietdesk_tui.theme import THEMES

CLOSE_S = 10.0
"""How long quitting waits for replies to be kept."""
LOAD_END_S = 2.0
"""How long quitting waits for a model that is being loaded to notice."""

_SHEETS = (
    "screens/chat.tcss",
    "screens/context.tcss",
    "screens/export.tcss",
    "screens/help.tcss",
    "screens/palette.tcss",
    "screens/scores.tcss",
    "widgets/composer.tcss",
    "widgets/conversations.tcss",
    "widgets/notice.tcss",
    "widgets/status.tcss",
    "widgets/transcript.tcss",
    "widgets/welcome.tcss",
)

_log = logging.getLogger(__name__)


class QuietdeskApp(App[int], inherit_bindings=False):
    """The app around one session."""

    TITLE = "Quietdesk"
    # Whole paths: Textual looks for others beside the file of a subclass.
    CSS_PATH: ClassVar[CSSPathType | None] = [Path(__file__).parent / name for name in _SHEETS]
    BINDINGS: ClassVar[list[BindingType]] = [*keys.bindings("app")]
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {Commands}
    NOTIFICATION_TIMEOUT = 5

    def __init__(
        self,
        session: Session,
        memory: Memory,
        key_map: KeyMap,
        *,
        log_file: Path | None = None,
        chat: Callable[[], ChatScreen] | None = None,
    ) -> None:
        """An app that has not taken the terminal yet.

        Args:
            session: What it shows.
            memory: What was left from the last run.
            key_map: The keys in force.
            log_file: Where errors are written.
            chat: Makes the chat screen; for tests.
        """
        super().__init__()
        self.session = session
        self.memory = memory
        self.key_map = key_map
        self.log_file = log_file
        self._chat = chat or (lambda: ChatScreen(session, memory, key_map, log_file=log_file))
        self._leaving = False
        self._terminal_gone = False
        self._garbage = Garbage()
        for theme in THEMES:
            self.register_theme(theme)
        self.set_keymap(key_map.own)
        self.theme = self._first_theme()

    def _first_theme(self) -> str:
        """The theme chosen in the app, as long as the settings still say what they said then."""
        state, wanted = self.memory.state, self.session.settings.app.theme
        if state.theme in self.available_themes and state.theme_in_settings == wanted:
            return state.theme
        return wanted if wanted in self.available_themes else THEMES[0].name

    def get_default_screen(self) -> Screen[None]:
        """The chat."""
        return self._chat()

    def on_mount(self) -> None:
        """Listen for the theme and for the signals that end a session."""
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            with suppress(NotImplementedError):
                loop.add_signal_handler(signal.SIGTERM, self._end)
                loop.add_signal_handler(signal.SIGHUP, self._hang_up)
            self.run_worker(self._keep_smooth())

    async def _keep_smooth(self) -> None:
        """Do what stops everything for a moment while nobody notices."""
        self._garbage.settle()
        while self.session.phase in {Phase.OPENING, Phase.LOADING}:
            await asyncio.sleep(0.2)
        await asyncio.to_thread(load_lexers)
        self._garbage.settle()
        while True:
            await asyncio.sleep(0.5)
            if self.session.turns:
                self._garbage.moved()
            self._garbage.rest()

    async def on_event(self, event: Event) -> None:
        """Every event; those of keys and mouse mean that somebody is there."""
        if isinstance(event, InputEvent):
            self._garbage.moved()
        await super().on_event(event)

    def _remember_theme(self, theme: Theme) -> None:
        self.memory.state.theme = theme.name
        self.memory.state.theme_in_settings = self.session.settings.app.theme
        self.memory.save()

    @property
    def chat(self) -> ChatScreen:
        """The chat screen, whatever stands in front of it."""
        screen = self.screen_stack[0]
        assert isinstance(screen, ChatScreen)
        return screen

    def action_help(self) -> None:
        """Show every action and its keys."""
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        else:
            self.push_screen(HelpScreen(self.key_map, config_file()))

    def action_interrupt(self) -> None:
        """Copy what is selected; quit if nothing is."""
        selected = getattr(self.focused, "selected_text", "") or self.screen.get_selected_text()
        if selected:
            self.copy_to_clipboard(selected)
            self.screen.clear_selection()
            self.notify("Copied. Once more quits.", timeout=3)
        else:
            self._end()

    async def action_quit(self) -> None:
        """Keep everything and leave; at once when asked twice."""
        self._end()

    def _end(self) -> None:
        if self._leaving:
            self.exit(0)
            return
        self._leaving = True
        self.chat.save()
        self.run_worker(self._close(), exit_on_error=False)

    def _hang_up(self) -> None:
        """The terminal has gone, as when a window is closed: keep everything and end at once.

        Textual 8.2 cannot leave a terminal that is not there: its threads wait for it without end,
        the one that reads keys at full speed.
        """
        self._terminal_gone = True
        self._end()

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self.session.close(), CLOSE_S)
        except Exception:
            _log.exception("Closing failed.")
        if self._terminal_gone:
            logging.shutdown()
            os._exit(0)
        self.exit(0)

    def _handle_exception(self, error: Exception) -> None:
        """Our own bug: into the log, and one sentence on the terminal instead of a traceback."""
        _log.critical("The app had to stop.", exc_info=error)
        if self.is_headless:
            super()._handle_exception(error)
            return
        where = f" The details are in {self.log_file}." if self.log_file else ""
        name = type(error).__name__
        self._return_code = 1
        self.panic(Text(f"quietdesk: The app had to stop: {name}: {error}{where}"))


def run(
    settings: Settings,
    *,
    store_opener: Callable[[], Store] | None = None,
    engine_opener: Callable[[Callable[[float], bool]], Backend] | None = None,
) -> int:
    """Open the app and stay until it is quit; the exit code.

    Args:
        settings: In force.
        store_opener: Opens the database; the settings' one if None.
        engine_opener: Loads the model; the settings' one if None.

    Raises:
        ConfigError: a bad theme or key in the settings.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or Console().is_dumb_terminal:
        print(
            "quietdesk: The app needs a terminal, and this is none. "
            "In a pipe use `quietdesk chat`.",
            file=sys.stderr,
        )
        return 2
    key_map = KeyMap(settings.app.keys)
    _check_theme(settings.app.theme)
    log_file = _open_log(state_folder())
    session = Session(settings, store_opener=store_opener, engine_opener=engine_opener)
    app = QuietdeskApp(session, Memory(state_folder()), key_map, log_file=log_file)
    try:
        app.run()
    finally:
        session.end()
    if session.is_loading and not session.wait_for_loading(LOAD_END_S):
        # Native code that does not return can be ended only with the process. Nothing is lost:
        # the database is closed, and no message was under way without a model.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(app.return_code or 0)
    return app.return_code or 0


def _check_theme(name: str) -> None:
    known = [theme.name for theme in THEMES] + list(BUILTIN_THEMES)
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}."
        raise ConfigError(f"Unknown theme {name!r} in [app]. {hint}")


def _open_log(folder: Path) -> Path | None:
    """Have everything that is logged written into a file; None where that cannot be done."""
    path = folder / "app.log"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = RotatingFileHandler(path, maxBytes=2**20, backupCount=2, encoding="utf-8")
    except OSError:
        # The screen is not for log lines, so without a file there is no log.
        logging.getLogger().addHandler(logging.NullHandler())
        return None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    return path
