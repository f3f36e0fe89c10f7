"""Every action has its keys, and the user's own keys are checked before the app opens."""

import pytest

from quietdesk.errors import ConfigError
from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.keys import ACTIONS, KeyMap, name_key
from quietdesk_tui.screens.chat import ChatScreen
from quietdesk_tui.widgets.composer import Composer


def test_the_default_keys_do_not_clash() -> None:
    keys = [key for action in ACTIONS for key in action.keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_every_action_is_there_where_it_works(action: object) -> None:
    place = {"app": QuietdeskApp, "screen": ChatScreen, "composer": Composer}[action.place]  # type: ignore[attr-defined]
    name = "command_palette" if action.id == "palette" else action.id  # type: ignore[attr-defined]
    assert callable(getattr(place, f"action_{name}"))


def test_an_own_key_takes_the_place_of_the_default() -> None:
    key_map = KeyMap({"regenerate": "alt+r, F12"})
    assert key_map.keys("regenerate") == ("alt+r", "f12")
    assert key_map.names("regenerate") == "Alt+R, F12"
    assert key_map.own == {"regenerate": "alt+r,f12"}


def test_two_actions_can_change_places() -> None:
    key_map = KeyMap({"new": "ctrl+r", "regenerate": "ctrl+n"})
    assert (key_map.keys("new"), key_map.keys("regenerate")) == (("ctrl+r",), ("ctrl+n",))


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"cancle": "f9"}, "Unknown action 'cancle' in [app.keys]. Did you mean 'cancel'?"),
        ({"zzz": "f9"}, "Known: send, newline"),
        ({"new": "hyper+x"}, "Bad key 'hyper+x' for 'new' in [app.keys]. Write it like ctrl+x"),
        ({"new": "ctrl+nonsense"}, "Bad key 'ctrl+nonsense'"),
        ({"new": ""}, "Bad key ''"),
        ({"new": "f25"}, "Bad key 'f25'"),
        ({"new": "x"}, "would be typed into the message"),
        ({"new": "shift+x"}, "would be typed into the message"),
        ({"new": "space"}, "would be typed into the message"),
        ({"new": "ctrl+i"}, "cannot tell it from tab"),
        ({"new": "ctrl+m"}, "cannot tell it from enter"),
        ({"new": "ctrl+r"}, "The key 'ctrl+r' of 'new' in [app.keys] is taken by 'regenerate'"),
        ({"regenerate": "ctrl+n"}, "of 'regenerate' in [app.keys] is taken by 'new'"),
    ],
)
def test_a_bad_key_is_refused_in_words(own: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KeyMap(own)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ctrl+r", "Ctrl+R"),
        ("alt+up", "Alt+↑"),
        ("escape", "Esc"),
        ("f1", "F1"),
        ("shift+enter", "Shift+Enter"),
        ("ctrl+full_stop", "Ctrl+."),
        ("ctrl+pagedown", "Ctrl+PgDn"),
    ],
)
def test_a_key_is_named_as_it_is_printed_on_it(key: str, name: str) -> None:
    assert name_key(key) == name


def test_a_sign_can_be_part_of_a_key() -> None:
    assert KeyMap({"new": "ctrl+/"}).keys("new") == ("ctrl+slash",)
    assert KeyMap({"new": "ctrl+."}).keys("new") == ("ctrl+full_stop",)
