"""Whether a process is there, and is still the same one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from quietdesk.store import liveness
from quietdesk.store.liveness import SILENCE_S, Writer, is_alive, sign_off, sign_on, this_writer


@pytest.fixture
def here() -> Iterator[Writer]:
    mark = sign_on()
    yield this_writer(mark)
    sign_off(mark)


def test_a_store_of_this_process_is_alive_until_it_signs_off() -> None:
    mark, other = sign_on(), sign_on()
    writer = this_writer(mark)
    assert is_alive(writer, 1e9)
    sign_off(mark)
    assert not is_alive(writer, 0)
    sign_off(other)


def test_a_number_that_was_given_to_another_process_is_not_the_writer(here: Writer) -> None:
    mark = here.started.partition("/")[2]
    assert not is_alive(replace(here, started=f"another time/{mark}"), 0)


def test_a_process_that_ended_is_dead_at_once(here: Writer) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = liveness._started(process.pid)
        writer = replace(here, pid=process.pid, started=f"{started}/mark")
        assert started and is_alive(writer, 1e9)
        process.kill()
        process.wait()
        assert not is_alive(writer, 0)


def test_another_machines_process_lives_by_its_heartbeat() -> None:
    writer = Writer("elsewhere", os.getpid(), "sometime")
    assert is_alive(writer, SILENCE_S - 0.1)
    assert not is_alive(writer, SILENCE_S + 0.1)


def test_without_proc_the_process_list_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert liveness._started(os.getpid()) == liveness._started(os.getpid())
    assert liveness._started(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert liveness._started(process.pid) is not None
        process.kill()
        process.wait()
        assert liveness._started(process.pid) is None
