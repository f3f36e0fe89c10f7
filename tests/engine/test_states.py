"""States on disk: what is found again after a restart, and what is never believed."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.engine.engine import Engine
from quietdesk.engine.prefix_cache import PrefixCache, Tokens
from quietdesk.engine.sampling import Limits
from quietdesk.engine.states.files import StateFolder
from quietdesk.engine.states.keeper import StateKeeper
from quietdesk.engine.stream import Stream
from quietdesk.testing import ScriptedRunner

REACH = PrefixCache(1, can_trim=True, parked_bytes=0).reach


def some(*tokens: int) -> Tokens:
    return np.array(tokens, np.int32)


def opened(folder: Path, key: str = "k", limit: int = 10**6, scope: str = "") -> StateFolder:
    states = StateFolder(folder, limit_bytes=limit, scope=scope)
    states.open(key)
    return states


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it never became true")


class Desk:
    """An engine that keeps states in a folder, closed and opened again at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, **options: int) -> Engine:
        self.runner = ScriptedRunner(n_seq=options.pop("n_seq", 2), n_ctx=options.pop("n_ctx", 900))
        keeper = StateKeeper(StateFolder(self.folder, limit_bytes=10**7))
        return Engine(lambda: self.runner, states=keeper, **options)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def say(engine: Engine, prompt: list[int], owner: str = "anna") -> Stream:
    stream = engine.submit(prompt, limits=Limits(max_tokens=4), owner=owner)
    assert stream.wait(10)
    assert stream.error is None
    return stream


def truth(prompt: list[int]) -> str:
    with Engine(lambda: ScriptedRunner(n_seq=1, n_ctx=900)) as engine:
        return say(engine, prompt).text


# The files


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1, max_size=8), st.binary()
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=9),
)
@settings(max_examples=40, deadline=None)
def test_the_longest_common_beginning_is_found_whoever_it_belongs_to(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[tuple[int, list[int], bytes]],
    asked: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("states")
    states = opened(folder)
    model: dict[str, tuple[list[int], bytes]] = {}
    for owner, tokens, state in writes:
        assert states.write(f"o{owner}", some(*tokens), state)
        model[f"o{owner}"] = (tokens, state)
    for looking in (states, opened(folder)):
        found = looking.find(some(*asked), "o1", REACH)
        lengths = [REACH(some(*tokens), some(*asked)) for tokens, _ in model.values()]
        assert (found[1] if found else 0) == max(lengths, default=0)
        if found:
            tokens, state = model[found[0].owner]
            assert found[0].tokens.tolist() == tokens
            assert looking.read(found[0]) == state


def test_a_file_damaged_anywhere_is_refused_and_removed(tmp_path: Path) -> None:
    states = opened(tmp_path)
    states.write("anna", some(*range(20)), bytes(range(200)))
    path = states.path_of("anna")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        again = opened(tmp_path)
        found = again.find(some(*range(30)), "anna", REACH)
        assert found is None or again.read(found[0]) is None, at
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert opened(tmp_path).find(some(*range(30)), "anna", REACH) is None
    path.write_bytes(whole)
    assert opened(tmp_path).find(some(*range(30)), "anna", REACH)


def test_a_file_of_another_key_is_not_looked_at_even_under_this_ones_name(tmp_path: Path) -> None:
    opened(tmp_path, "other model").write("anna", some(1, 2, 3), b"x")
    mine = opened(tmp_path)
    assert mine.find(some(1, 2, 3, 4), "anna", REACH) is None
    next(tmp_path.iterdir()).rename(mine.path_of("anna"))
    assert opened(tmp_path).find(some(1, 2, 3, 4), "anna", REACH) is None
    assert mine.of("anna") is None


def test_space_is_bounded_and_what_was_unused_for_longest_goes(tmp_path: Path) -> None:
    states = opened(tmp_path, limit=5000)
    for number in range(3):
        states.write(f"o{number}", some(number, 1), bytes(1000))
        os.utime(states.path_of(f"o{number}"), (number, number))
    kept = opened(tmp_path, limit=5000)
    found = kept.find(some(0, 1, 2), "", REACH)
    assert found and kept.read(found[0]) == bytes(1000)
    kept.write("new", some(9, 1), bytes(2500))
    assert kept.of("o0") and kept.of("new")
    assert kept.of("o1") is None
    assert kept.usage()[1] <= 5000
    assert not kept.write("huge", some(1), bytes(6000))
    opened(tmp_path, limit=0)
    assert list(tmp_path.iterdir()) == []


def test_erasing_and_sweeping_reach_every_model_and_only_this_database(tmp_path: Path) -> None:
    for key in ("a", "b"):
        for scope in ("here", "there"):
            states = opened(tmp_path, key, scope=scope)
            states.write("anna", some(1, 2), b"x")
            states.write("ben", some(1, 2), b"x")
    here = opened(tmp_path, "a", scope="here")
    assert here.erase("anna") == 2
    assert here.sweep(lambda owner: owner != "ben") == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_nobody_else_can_read_a_state_and_none_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = opened(tmp_path / "new")
    states.write("anna", some(1, 2), b"x")
    assert states.path_of("anna").stat().st_mode & 0o077 == 0
    assert states.folder.stat().st_mode & 0o077 == 0

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        states.write("anna", some(1, 2, 3), b"y")
    assert [path.suffix for path in states.folder.iterdir()] == [".state"]
    found = opened(states.folder).find(some(1, 2, 3), "anna", REACH)
    assert found and found[0].tokens.tolist() == [1, 2]


# The engine


def test_after_a_restart_only_what_is_new_is_evaluated(desk: Desk) -> None:
    prompt = [7] * 10 + list(range(100, 300))
    with desk() as engine:
        first = say(engine, prompt)
        words = engine.tokenize(first.text, special=False, begin=False)
    prompt = [*prompt, *words, *range(40, 60)]
    with desk() as engine:
        second = say(engine, prompt)
        assert second.usage.evaluated_tokens <= 1 + 20
        assert second.text == truth(prompt)
        assert engine.metrics().states_loaded == 1
        new = say(engine, [7] * 10 + list(range(100, 280)) + [3, 3], owner="ben")
        assert new.usage.evaluated_tokens <= 3


def test_a_quiet_moment_is_used_so_that_a_kill_costs_little(desk: Desk) -> None:
    prompt = list(range(100, 400))
    with desk() as engine:
        say(engine, prompt)
        wait_until(lambda: engine.metrics().states_written == 1)
        assert StateFolder(desk.folder, limit_bytes=10**7).usage()[0] == 1


def test_conversations_that_memory_does_not_hold_come_back_from_disk(desk: Desk) -> None:
    with desk(n_seq=2, parked_bytes=1000) as engine:
        histories = {f"o{i}": [100 + i] * 100 for i in range(8)}
        for turn in range(3):
            for owner, history in histories.items():
                stream = say(engine, history, owner)
                assert stream.text == truth(history)
                if turn:
                    assert stream.usage.evaluated_tokens <= 40 + 1
                words = engine.tokenize(stream.text, special=False, begin=False)
                histories[owner] = [*history, *words, *[200 + turn] * 40]
            # Two are in sequences and at most three in memory; what is still being written would be
            # taken back from the writer, and no disk be read.
            wait_until(lambda: StateFolder(desk.folder, limit_bytes=10**7).usage()[0] >= 3)
        assert engine.metrics().states_loaded >= 3


def test_another_context_or_a_damaged_file_means_reading_the_prompt_again(desk: Desk) -> None:
    prompt = list(range(100, 300))
    with desk() as engine:
        say(engine, prompt)
    with desk(n_ctx=800) as engine:
        assert say(engine, prompt).usage.cached_tokens == 0
    for path in desk.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with desk() as engine:
        again = say(engine, prompt)
        assert again.usage.cached_tokens == 0
        assert again.text == truth(prompt)
        assert engine.metrics().states_refused == 1


def test_what_is_forgotten_is_gone_from_disk_and_memory_and_stays_gone(desk: Desk) -> None:
    prompt = list(range(100, 300))
    with desk() as engine:
        say(engine, prompt)
        say(engine, [*prompt, 5], owner="ben")
        engine.forget("anna")
        engine.forget("ben")
        assert say(engine, prompt, owner="").usage.cached_tokens == 0
    assert list(desk.folder.iterdir()) == []


def test_what_has_no_owner_any_more_is_not_written(tmp_path: Path) -> None:
    gone = threading.Event()
    folder = StateFolder(tmp_path, limit_bytes=10**7)
    keeper = StateKeeper(folder, exists=lambda owner: not gone.is_set())
    with Engine(lambda: ScriptedRunner(n_seq=2), states=keeper) as engine:
        say(engine, list(range(100, 300)))
        gone.set()
    assert keeper.skipped == 1
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_costs_nothing_but_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with desk(n_seq=1, parked_bytes=900) as engine:
        for owner in ("anna", "ben", "cleo"):
            history = [100 + len(owner)] * 150
            assert say(engine, history, owner).text == truth(history)
    assert list(desk.folder.iterdir()) == []
