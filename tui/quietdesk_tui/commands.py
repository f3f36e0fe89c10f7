"""What the command palette offers: actions, themes, and conversations by their words."""

from collections.abc import Callable, Iterator
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from quietdesk_tui.keys import ACTIONS
from quietdesk_tui.screens.chat import ChatScreen

FOUND_AT_MOST = 8
"""Conversations that a search in the palette shows."""


NAME_CELLS = 40
"""Cells for a command's name, before its keys."""


class Commands(Provider):
    """Actions with their keys, themes, and conversations in which the words stand."""

    def _commands(self) -> Iterator[tuple[str, str, Callable[[], object]]]:
        """Name, help and what to do."""
        chat = self.app.screen_stack[0]
        assert isinstance(chat, ChatScreen)
        for action in ACTIONS:
            if action.id in {"send", "newline", "palette", "interrupt", "page_up", "page_down"}:
                continue
            node = self.app if action.place == "app" else chat
            call = partial(self.app.run_action, action.id, node)
            yield action.title, chat.key_map.names(action.id), call
        for name in sorted(self.app.available_themes):
            yield f"Theme: {name}", "Colours", partial(setattr, self.app, "theme", name)
        yield "Save a picture of the screen (SVG)", "", partial(self.app.run_action, "screenshot")

    async def discover(self) -> Hits:
        """Everything but the themes, before anything is typed."""
        for name, key, call in self._commands():
            if not name.startswith("Theme: "):
                yield DiscoveryHit(_shown(Content(name), key), call, text=name)

    async def search(self, query: str) -> Hits:
        """What fits, then the conversations in which all the words stand."""
        matcher = self.matcher(query)
        for name, key, call in self._commands():
            score = matcher.match(name)
            if score > 0:
                shown = Content.from_text(matcher.highlight(name))
                yield Hit(score, _shown(shown, key), call, text=name)
        chat = self.app.screen_stack[0]
        assert isinstance(chat, ChatScreen)
        for info in (await chat.session.conversations(query))[:FOUND_AT_MOST]:
            title = info.title or "Untitled"
            yield Hit(
                0.1,
                _shown(Content(f"Open: {title}"), ""),
                partial(chat.go_to, info.id),
                text=f"Open: {title}",
            )


def _shown(name: Content, key: str) -> Content:
    """A command and its keys, the keys in a column of their own."""
    if not key:
        return name
    gap = " " * max(NAME_CELLS - name.cell_length, 2)
    return Content.assemble(name, gap, (key, "$foreground 66%"))
