"""What the app's tests share: the made-up conversations, a screen, a fixed time zone."""

import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from textual.pilot import Pilot

from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.session import Phase


@pytest.fixture(scope="session")
def picture() -> ModuleType:
    """The module that draws the README's picture, with its made-up conversations."""
    place = Path(__file__).parent / "picture.py"
    spec = importlib.util.spec_from_file_location("picture", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of day that are the same wherever the tests run."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def no_bug_in_the_background(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A worker of the app that raises is logged and survived; here it fails the test."""
    yield
    bugs = [
        record
        for record in caplog.get_records("call")
        if record.exc_info and record.levelno >= logging.ERROR
    ]
    assert not bugs, bugs[0].getMessage()


Until = Callable[[Callable[[], bool]], Awaitable[None]]
Running = Callable[[QuietdeskApp], AbstractAsyncContextManager[Pilot[int]]]


async def wait_until(pilot: Pilot[int], what: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let the app go on until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        await pilot.pause(0.01)
    await pilot.pause()


@pytest.fixture
def until() -> Callable[[Pilot[int], Callable[[], bool]], Awaitable[None]]:
    """`wait_until`."""
    return wait_until


@pytest.fixture
def running() -> Callable[..., AbstractAsyncContextManager[Pilot[int]]]:
    """Runs an app until its model is loaded or could not be; closed afterwards."""

    @asynccontextmanager
    async def run(
        app: QuietdeskApp, size: tuple[int, int] = (120, 36), *, wait: bool = True
    ) -> AsyncIterator[Pilot[int]]:
        async with app.run_test(size=size) as pilot:
            if wait:
                await wait_until(pilot, lambda: app.session.phase in {Phase.READY, Phase.FAILED})
            try:
                yield pilot
            finally:
                await app.session.close()

    return run
