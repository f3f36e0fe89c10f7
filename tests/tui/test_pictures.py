"""The app looks as it did: pictures of each screen, in both themes, narrow and wide.

After a change that is meant: `pytest tests/tui/test_pictures.py --snapshot-update`, then look at
the pictures.
"""

import threading
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from quietdesk.engine.backend import Backend
from quietdesk.errors import ModelFileError
from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.session import Phase
from quietdesk_tui.widgets.transcript import Transcript

NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[[Pilot[int], Callable[[], bool]], Awaitable[None]]
Compare = Callable[..., bool]


async def at_rest(pilot: Pilot[int]) -> None:
    """Wait until the screen has been the same for a while; what is laid out late moves it."""
    same, before = 0, ""
    for _ in range(200):
        await pilot.pause(0.1)
        await pilot.pause()
        now = pilot.app.export_screenshot()
        same, before = (same + 1, before) if now == before else (0, now)
        if same == 4:
            return
    raise AssertionError("the screen never came to rest")


class Camera:
    """Compares the app with its picture once it has come to rest."""

    def __init__(self, compare: Compare, until: Until) -> None:
        self._compare, self._until = compare, until

    def __call__(
        self,
        app: QuietdeskApp,
        size: tuple[int, int],
        *keys: str,
        until: Callable[[], bool] = lambda: True,
        phase: Phase = Phase.READY,
        release: Callable[[], None] = lambda: None,
    ) -> bool:
        async def settle(pilot: Pilot[int]) -> None:
            await self._until(pilot, lambda: app.session.phase is phase)
            await at_rest(pilot)
            for key in keys:
                await pilot.press(key)
            await self._until(pilot, until)
            await at_rest(pilot)

        try:
            return self._compare(app, terminal_size=size, run_before=settle)
        finally:
            release()
            app.session.end()


@pytest.fixture
def camera(snap_compare: Compare, until: Until) -> Camera:
    return Camera(snap_compare, until)


@pytest.mark.parametrize("theme", ["quietdesk-dark", "quietdesk-light"])
@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_conversation(
    camera: Camera, picture: ModuleType, theme: str, size: tuple[int, int]
) -> None:
    assert camera(picture.sample_app(theme=theme), size)


def test_the_beginning_of_a_conversation(camera: Camera, picture: ModuleType) -> None:
    app = picture.sample_app()
    assert camera(app, WIDE, "ctrl+home")


def test_a_chinese_conversation(camera: Camera, picture: ModuleType) -> None:
    assert camera(picture.sample_app(conversation_id="c-2"), NARROW)


def test_a_reply_that_was_stopped(camera: Camera, picture: ModuleType) -> None:
    assert camera(picture.sample_app(conversation_id="c-1"), NARROW)


@pytest.mark.parametrize("theme", ["quietdesk-dark", "quietdesk-light"])
def test_the_welcome(camera: Camera, picture: ModuleType, theme: str) -> None:
    assert camera(picture.sample_app(theme=theme, conversation_id=""), NARROW)


def test_a_search(camera: Camera, picture: ModuleType) -> None:
    app = picture.sample_app()

    def found() -> bool:
        return app.chat.query_one("#list", OptionList).option_count == 1

    assert camera(app, WIDE, "ctrl+f", *"refund", until=found)


def test_a_title_that_is_being_edited(camera: Camera, picture: ModuleType) -> None:
    app = picture.sample_app()
    assert camera(app, WIDE, "f2", until=lambda: app.chat.query_one("#rename").has_focus)


def test_a_selected_message(camera: Camera, picture: ModuleType) -> None:
    assert camera(picture.sample_app(), NARROW, "alt+up", "alt+up")


def test_a_reply_with_versions(camera: Camera, picture: ModuleType) -> None:
    app = picture.sample_app(conversation_id="c-1", replies=["It arrives **tomorrow**."])
    # Speeds are measured, and differ from run to run.
    app.session.figures = lambda: None

    def written() -> bool:
        entries = app.chat.query_one(Transcript).entries
        return bool(entries) and entries[-1].versions == 2

    assert camera(app, NARROW, "ctrl+r", until=written)


def test_an_edit(camera: Camera, picture: ModuleType) -> None:
    assert camera(picture.sample_app(conversation_id="c-1"), NARROW, "f4", "!")


def test_the_context(camera: Camera, picture: ModuleType) -> None:
    app = picture.sample_app()

    def laid_out() -> bool:
        found = app.screen.query("#context-items")
        return bool(found) and "evicted" in str(found.only_one(Static).render())

    assert camera(app, NARROW, "f3", until=laid_out)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_the_help(camera: Camera, picture: ModuleType, size: tuple[int, int]) -> None:
    assert camera(picture.sample_app(), size, "f1")


def test_the_model_could_not_be_loaded(camera: Camera, picture: ModuleType) -> None:
    shown = threading.Event()

    def broken(tell: Callable[[float], bool]) -> Backend:
        # How high the scrollbar's bar is depends on which messages were in view before.
        shown.wait()
        raise ModelFileError("/models/x.gguf", "it is cut short: 3 of 105 MB are there.")

    app = picture.sample_app(engine=broken)

    def failed() -> bool:
        shown.set()
        return app.session.phase is Phase.FAILED

    assert camera(app, NARROW, phase=Phase.LOADING, until=failed, release=shown.set)


def test_a_message_waits_while_the_model_loads(camera: Camera, picture: ModuleType) -> None:
    go = threading.Event()

    def slow(tell: Callable[[float], bool]) -> Backend:
        tell(0.25)
        go.wait()
        raise ModelFileError("x.gguf", "the test is over.")

    app = picture.sample_app(conversation_id="", engine=slow)
    assert camera(app, NARROW, *"Hello", "enter", phase=Phase.LOADING, release=go.set)


def test_a_reply_in_the_middle(camera: Camera, picture: ModuleType) -> None:
    steps: list[Any] = []
    over = threading.Event()

    def stands(batch: object) -> bool:
        steps.append(batch)
        if len(steps) > 30:
            over.wait()
        return False

    app = picture.sample_app(conversation_id="", replies=[picture.NORWAY], fails=stands)

    # Speeds are measured, and differ from run to run.
    app.session.figures = lambda: None

    def enough() -> bool:
        entries = app.chat.query_one(Transcript).entries
        return bool(entries) and "Service" in entries[-1].text

    assert camera(app, NARROW, *"Hi", "enter", until=enough, release=over.set)


def test_a_terminal_that_is_too_small(camera: Camera, picture: ModuleType) -> None:
    assert camera(picture.sample_app(), (36, 8))
