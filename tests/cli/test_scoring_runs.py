"""Scoring runs that are stopped, killed, saved: as they are typed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quietdesk.cli import main, runs
from quietdesk.scoring.kept import runs_in

METRICS = ("--metrics", "turns,apologies")


def write_log(path, n, words=5):
    """A native log of n conversations, each with a question of so many words and a reply."""
    some = " ".join(f"word{i * i % 997}" for i in range(words))
    with path.open("w", encoding="utf-8") as file:
        for place in range(n):
            said = [
                {"author": "customer", "text": f"{some} {place}?"},
                {"author": "bot", "text": "Sorry, no." if place % 3 else "Yes."},
            ]
            talk = {"id": f"talk-{place}", "customer": f"c-{place // 2}", "messages": said}
            file.write(f"{json.dumps(talk)}\n")
    return path


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Folders of the user's that are empty, for this process and those that it starts."""
    for name in ("CACHE", "DATA", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path


def score(log, *more):
    command = [sys.executable, "-m", "quietdesk.cli", "score", str(log), *METRICS, "--json", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, which gets the signal whole, as that of a terminal does.
        start_new_session=True,
    )


def kept(home):
    return {path.name for path in home.glob("cache/quietdesk/scores/*/parts/*.tally")}


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_for_parts(process, home, n):
    wait_until(lambda: len(kept(home)) >= n or process.poll() is not None)
    assert process.returncode is None


def children_of(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # Dead ones stay listed where nobody asks for them.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_the_same_command_goes_on_after_ctrl_c_and_after_a_kill(homes, capsys):
    log = write_log(homes / "log.jsonl", 4800, 800)
    assert log.stat().st_size > 6 * (4 << 20)

    with score(log, "--jobs", "1") as process:
        wait_for_parts(process, homes, 1)
        children = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "kept in" in said and "The same command goes on from there." in said
    assert "Traceback" not in said
    wait_until(lambda: not any(map(is_alive, children)))

    before = kept(homes)
    with score(log, "--jobs", "2") as process:
        wait_for_parts(process, homes, len(before) + 1)
        os.killpg(process.pid, signal.SIGKILL)
    after = kept(homes)
    assert before < after

    with score(log, "--jobs", "2") as process:
        out, said = process.communicate(timeout=120)
    assert f"{len(after)} of " in said and "had been scored by an earlier run" in said
    assert process.returncode == 0 and not list(homes.glob("cache/quietdesk/scores/*"))
    assert main.run(["score", str(log), *METRICS, "--json", "--save", "whole"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert json.loads(out)["digest"] == whole["digest"]
    assert whole["conversations"] == 4800


def test_a_saved_run_is_compared_by_its_name_and_scored_once(homes, capsys):
    log = write_log(homes / "log.jsonl", 60)
    for _ in range(2):
        assert main.run(["score", str(log), *METRICS, "--save", "week 1"]) == 0
    assert "1 of 1 parts had been scored by an earlier run" in capsys.readouterr().err
    [run] = runs_in(homes / "data" / "quietdesk" / "scores")
    assert run.done and run.n_conversations == 60 and run.source == str(log)
    assert main.run(["compare", "week 1", str(run.folder)]) == 0
    assert "none seen" in capsys.readouterr().out
    assert main.run(["score", str(log), "--metrics", "chrf", "--save", "week 1"]) == 2
    assert "holds another run already" in capsys.readouterr().err
    (run.folder / "scores.json").unlink()
    assert main.run(["compare", "week 1", str(log)]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_a_log_of_the_same_name_as_a_saved_run_is_the_log(homes, capsys, monkeypatch):
    monkeypatch.chdir(homes)
    log = write_log(homes / "log.jsonl", 40)
    assert main.run(["score", str(log), *METRICS, "--save", "log.jsonl"]) == 0
    assert main.run(["compare", "log.jsonl", str(log), *METRICS]) == 0


def test_what_nobody_goes_on_with_is_removed(homes, monkeypatch):
    monkeypatch.setattr(runs, "RESUMED_BYTES", 0)
    old, young = (homes / "cache" / "quietdesk" / "scores" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    os.utime(old / "run.json", (1, 1))
    log = write_log(homes / "log.jsonl", 40)
    assert main.run(["score", str(log), *METRICS]) == 0
    assert not old.exists() and young.exists()
