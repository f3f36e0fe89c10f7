"""Full collections happen at rest, and only then."""

import gc
from collections.abc import Iterator

import pytest

from quietdesk_tui.garbage import LAST_RESORT, REST_S, WORTH, Garbage


class Cycle:
    """What only a collection can free."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.fixture
def full() -> Iterator[list[int]]:
    """One number more for each full collection."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def fill(collections: int) -> list[Cycle]:
    """Objects until the middle generation was collected so many times more."""
    kept = []
    wanted = gc.get_count()[2] + collections
    while gc.get_count()[2] < wanted:
        kept.append(Cycle())
    return kept


def test_nothing_is_collected_in_full_while_something_moves(full: list[int]) -> None:
    now = 100.0
    garbage = Garbage(lambda: now)
    gc.collect()
    full.clear()
    garbage.settle()
    kept = fill(3 * WORTH)
    assert not full
    now += REST_S / 2
    garbage.moved()
    now += REST_S / 2
    assert not garbage.rest() and not full
    now += REST_S / 2
    assert garbage.rest() and full == [1]
    # Nothing is worth another one now.
    assert not garbage.rest()
    del kept


def test_what_was_there_at_the_start_is_not_looked_at_again() -> None:
    gc.unfreeze()
    Garbage().settle()
    assert gc.get_freeze_count() > 1000 and gc.get_threshold()[2] == LAST_RESORT
