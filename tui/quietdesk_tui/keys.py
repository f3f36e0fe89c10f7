"""What the app can do, and which keys do it; the user's own keys on top of the defaults."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from textual.binding import Binding

from quietdesk.errors import ConfigError

Place = Literal["app", "screen", "composer", "list", "transcript"]
"""Where a key works: everywhere, in the chat, or where the focus is."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that the app can do."""

    id: str
    """Its name in the settings."""
    keys: tuple[str, ...]
    label: str
    """A word or two for the line of keys."""
    title: str
    """What it does, for the command palette and the help."""
    group: str
    place: Place = "screen"
    rank: int = 0
    """Place in the line of keys, the lowest last to go when there is no room; 0: not there."""
    more: str = ""
    """What else there is to know, a sentence for the help."""


def _writing() -> Iterator[Action]:
    group = "Writing"
    yield Action("send", ("enter",), "Send", "Send the message", group, "composer")
    newline = ("shift+enter", "ctrl+j", "alt+enter")
    yield Action(
        "newline",
        newline,
        "New line",
        "Begin a new line",
        group,
        "composer",
        more="Few terminals can tell Shift+Enter from Enter; Ctrl+J works in all.",
    )
    yield Action(
        "cancel",
        ("escape",),
        "Stop",
        "Stop the reply",
        group,
        rank=1,
        more="What was said is kept. When nothing is being written: back to the composer.",
    )


def _messages() -> Iterator[Action]:
    group = "Messages"
    yield Action(
        "regenerate",
        ("ctrl+r",),
        "Again",
        "Write the last reply again",
        group,
        rank=6,
        more="The old one is kept beside it.",
    )
    yield Action(
        "go_on",
        ("ctrl+g",),
        "Go on",
        "Go on with a reply that was cut",
        group,
        rank=4,
        more="The shorter one is kept beside it.",
    )
    yield Action(
        "edit",
        ("f4",),
        "Edit",
        "Edit your selected message, or the last one",
        group,
        rank=8,
        more="Both ways of the conversation are kept.",
    )
    yield Action(
        "previous_version",
        ("alt+left",),
        "Version before",
        "Show the version before of a message",
        group,
        more="Or click on ‹ 2/3 ›. Of the selected message, or of the last one with several.",
    )
    yield Action(
        "next_version",
        ("alt+right",),
        "Version after",
        "Show the version after of a message",
        group,
    )
    yield Action(
        "fork",
        ("f9",),
        "Fork",
        "Fork the conversation at the selected message",
        group,
        rank=12,
        more="Or all of it: a copy to go on with, in the list.",
    )
    yield Action(
        "copy_reply",
        ("ctrl+y",),
        "Copy",
        "Copy the last reply",
        group,
        rank=7,
        more="Or the selected message.",
    )
    yield Action("copy_code", ("alt+y",), "Copy code", "Copy the code in it", group)
    yield Action("previous_message", ("alt+up",), "Before", "Select the message before", group)
    yield Action("next_message", ("alt+down",), "After", "Select the message after", group)
    yield Action("page_up", ("pageup",), "Page up", "Scroll up by a page", group, "composer")
    yield Action(
        "page_down", ("pagedown",), "Page down", "Scroll down by a page", group, "composer"
    )
    yield Action("top", ("ctrl+home",), "Top", "Go to the first message", group)
    yield Action(
        "bottom", ("ctrl+end",), "Bottom", "Go to the last message", group, more="And follow it."
    )
    yield Action(
        "context",
        ("f3",),
        "Context",
        "Show what the model saw",
        group,
        rank=8,
        more="And what it did not see, and why.",
    )


def _conversations() -> Iterator[Action]:
    group = "Conversations"
    yield Action("new", ("ctrl+n",), "New", "New conversation", group, rank=3)
    yield Action(
        "search",
        ("ctrl+f",),
        "Search",
        "Search in all conversations",
        group,
        rank=5,
        more="In titles and in everything that was said.",
    )
    yield Action("list", ("ctrl+l",), "List", "Show or hide the list", group, rank=9)
    yield Action("previous_conversation", ("f6",), "Up", "Open the conversation above", group)
    yield Action("next_conversation", ("f7",), "Down", "Open the conversation below", group)
    yield Action("rename", ("f2",), "Rename", "Rename the conversation", group, rank=10)
    yield Action("delete", ("f8",), "Delete", "Delete the conversation", group, rank=11)
    yield Action(
        "export",
        ("ctrl+s",),
        "Save",
        "Save the conversation as a file",
        group,
        rank=13,
        more="As Markdown or JSON.",
    )
    yield Action("undo", ("ctrl+z",), "Undo", "Bring the deleted conversation back", group)


def _app() -> Iterator[Action]:
    group = "App"
    yield Action("retry", ("f5",), "Try again", "Load the model again after it failed", group)
    yield Action(
        "scores",
        ("ctrl+o",),
        "Scores",
        "Show the saved runs of `quietdesk score`",
        group,
        rank=9,
        more="The worst conversations first, with the messages that made them so.",
    )
    yield Action("theme", ("ctrl+t",), "Theme", "Change between dark and light", group)
    yield Action("help", ("f1",), "Help", "Show all keys", group, "app", rank=2)
    yield Action("palette", ("ctrl+p",), "Commands", "Find a command", group, "app", rank=2)
    yield Action(
        "interrupt",
        ("ctrl+c",),
        "Copy or quit",
        "Copy what is selected with the mouse",
        group,
        "app",
        more="Quit if nothing is.",
    )
    yield Action(
        "quit", ("ctrl+q",), "Quit", "Quit", group, "app", rank=14, more="Everything is kept."
    )


ACTIONS = (*_writing(), *_messages(), *_conversations(), *_app())

_MODIFIERS = {"ctrl": "Ctrl", "shift": "Shift", "alt": "Alt", "super": "Super", "meta": "Meta"}
_NAMED = {
    "escape": "Esc",
    "enter": "Enter",
    "space": "Space",
    "tab": "Tab",
    "backspace": "Backspace",
    "delete": "Del",
    "insert": "Ins",
    "home": "Home",
    "end": "End",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}
_SAME = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+left_square_bracket": "escape"}
"""Keys that no terminal can tell from others."""


class KeyMap:
    """The keys of every action."""

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        """The default keys, with the user's own in their place.

        Args:
            own: Action to key; several keys are separated by commas.

        Raises:
            ConfigError: no such action, no such key, or one key for two actions.
        """
        self._keys = {action.id: action.keys for action in ACTIONS}
        self.own: dict[str, str] = {}
        for name, text in (own or {}).items():
            if name not in self._keys:
                near = get_close_matches(name, self._keys, n=1, cutoff=0.5)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(self._keys)}."
                raise ConfigError(f"Unknown action {name!r} in [app.keys]. {hint}")
            keys = tuple(_checked(name, key.strip()) for key in _split(text))
            self._keys[name] = keys
            self.own[name] = ",".join(keys)
        self._refuse_clashes()

    def _refuse_clashes(self) -> None:
        owners: dict[str, str] = {}
        for action in ACTIONS:
            for key in self._keys[action.id]:
                other = owners.setdefault(key, action.id)
                if other != action.id:
                    wanted, taken = action.id, other
                    if wanted not in self.own:
                        wanted, taken = taken, wanted
                    raise ConfigError(
                        f"The key {key!r} of {wanted!r} in [app.keys] is taken by {taken!r}. "
                        f"Choose another one, or give {taken!r} another one too."
                    )

    def keys(self, action_id: str) -> tuple[str, ...]:
        """The keys of an action."""
        return self._keys[action_id]

    def name(self, action_id: str) -> str:
        """The first key of an action, in words: `Ctrl+R`."""
        return name_key(self._keys[action_id][0])

    def names(self, action_id: str) -> str:
        """All keys of an action, in words."""
        return ", ".join(map(name_key, self._keys[action_id]))


def bindings(*places: Place) -> list[Binding]:
    """The bindings of the actions that work in some places, with the default keys.

    They come before what the focused widget does with the same key.
    """
    return [
        Binding(
            ",".join(action.keys),
            "command_palette" if action.id == "palette" else action.id,
            action.label,
            show=False,
            priority=True,
            id=action.id,
        )
        for action in ACTIONS
        if action.place in places
    ]


def name_key(key: str) -> str:
    """A key in words: `ctrl+r` is Ctrl+R."""
    *modifiers, base = key.split("+")
    if base in _NAMED:
        shown = _NAMED[base]
    elif len(base) == 1 or re.fullmatch(r"f\d+", base):
        shown = base.upper()
    else:
        shown = _character(base) or base
    return "+".join([*(_MODIFIERS[name] for name in modifiers), shown])


def _split(text: str) -> list[str]:
    return [","] if text.strip() == "," else text.split(",")


def _character(name: str) -> str | None:
    """The character of a long key name: `full_stop` is a dot."""
    try:
        return unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return None


def _checked(action_id: str, text: str) -> str:
    """A key as Textual names it.

    Raises:
        ConfigError: it is none, or it cannot do this action.
    """
    *modifiers, base = text.lower().split("+")
    base = {"esc": "escape", "pgup": "pageup", "pgdn": "pagedown", "del": "delete"}.get(base, base)
    modifiers = ["ctrl" if name in {"control", "c", "^"} else name for name in modifiers]
    plain = len(base) == 1 and base.isprintable()
    known = plain or base in _NAMED or re.fullmatch(r"f([1-9]|1\d|2[0-4])", base)
    if not known or any(name not in _MODIFIERS for name in modifiers):
        raise ConfigError(
            f"Bad key {text!r} for {action_id!r} in [app.keys]. "
            "Write it like ctrl+x, alt+up, shift+enter or f4."
        )
    if (plain or base == "space") and not set(modifiers) - {"shift"}:
        raise ConfigError(
            f"Bad key {text!r} for {action_id!r} in [app.keys]: it would be typed into the "
            "message. Put ctrl or alt in front, or take a function key."
        )
    key = "+".join([*sorted(modifiers, key=list(_MODIFIERS).index), _long_name(base)])
    if key in _SAME:
        raise ConfigError(
            f"Bad key {text!r} for {action_id!r} in [app.keys]: a terminal cannot tell it from "
            f"{_SAME[key]}."
        )
    return key


def _long_name(base: str) -> str:
    """A single character by Textual's name for it: `.` is full_stop."""
    if len(base) > 1 or base.isalnum():
        return base
    special = {"/": "slash", "\\": "backslash", "@": "at", "-": "minus", "_": "underscore"}
    named = unicodedata.name(base).lower().replace("-", "_").replace(" ", "_")
    return special.get(base, named)
