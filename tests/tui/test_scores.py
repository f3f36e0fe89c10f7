"""The scores screen: saved runs, the worst conversations, and files that are no runs."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from quietdesk import Author, score
from quietdesk.cli import main
from quietdesk.types import Transcript as Log
from quietdesk.types import TranscriptMessage
from quietdesk_tui.runs import read_runs
from quietdesk_tui.screens.scores import BadScreen, ScoresScreen
from quietdesk_tui.widgets.transcript import Transcript

Running = Callable[..., AbstractAsyncContextManager[Pilot[int]]]
Until = Callable[[Pilot[int], Callable[[], bool]], Any]

GOOD = ("Where is my order?", "It arrives tomorrow.", "Great, thank you!", "You are welcome.")
BAD = (
    *("Where is my order 1042?", "I am sorry. Could you rephrase that?"),
    *("Where is my order 1042?", "I am sorry. Could you rephrase that?"),
)


def log(name: str, texts: tuple[str, ...]) -> Log:
    authors = (Author.CUSTOMER, Author.BOT)
    said = [TranscriptMessage(author=authors[n % 2], text=text) for n, text in enumerate(texts)]
    return Log(id=name, messages=tuple(said))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the app looks for runs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    runs = tmp_path / "quietdesk" / "scores"
    runs.mkdir(parents=True)
    return runs


@pytest.fixture
def week(folder: Path) -> Path:
    """A run with one bad conversation among good ones."""
    scores = score([log("bad", BAD), *(log(f"good-{n}", GOOD) for n in range(9))])
    path = folder / "week-12.json"
    path.write_text(json.dumps(scores.to_json()))
    return path


def test_a_run_is_read_with_the_worst_conversation_and_its_causes(week: Path) -> None:
    (run,) = read_runs(week.parent)
    assert (run.name, run.problem, run.n_conversations) == ("week-12", "", 10)
    assert {figure.title: figure.value for figure in run.figures}["Bot loops"] == "10.0 %"
    assert run.worst[0].id == "bad" and 4 in run.worst[0].causes["bot_loops"]
    assert [said.text for said in run.worst[0].said] == list(BAD)
    assert "bot_loops" in run.worst[0].said[3].causes


def test_runs_that_the_command_saved_are_read_and_one_that_was_stopped_says_so(week: Path) -> None:
    log_file = week.parent.parent / "logs.jsonl"
    log_file.write_text(log("bad", BAD).model_dump_json())
    assert main.run(["score", str(log_file), "--save", "v1.2"]) == 0
    stopped = shutil.copytree(week.parent / "v1.2", week.parent / "stopped")
    (stopped / "scores.json").unlink()
    runs = {run.name: run for run in read_runs(week.parent)}
    assert set(runs) == {"week-12", "v1.2", "stopped"}
    assert (runs["v1.2"].problem, runs["v1.2"].n_conversations) == ("", 1)
    assert "not finished" in runs["stopped"].problem


def test_a_damaged_run_says_so_and_the_others_are_read(week: Path) -> None:
    whole = json.loads(week.read_text())
    damaged = {
        "cut": week.read_text()[:500],
        "list": "[]",
        "binary": "\x00\x01",
        "old": json.dumps({**whole, "format": "quietdesk scores 0"}),
        "state": json.dumps({**whole, "state": whole["state"][:100]}),
        "metrics": json.dumps({**whole, "metrics": ["unknown"]}),
        "fields": json.dumps({"format": whole["format"]}),
    }
    for name, text in damaged.items():
        (week.parent / f"{name}.json").write_text(text)
    runs = {run.name: run for run in read_runs(week.parent)}
    assert set(runs) == {*damaged, "week-12"}
    assert all(runs[name].problem for name in damaged)
    assert not runs["week-12"].problem


async def test_the_worst_conversation_of_a_run_is_opened_at_its_causes(
    picture: ModuleType, running: Running, until: Until, week: Path
) -> None:
    app = picture.sample_app()
    async with running(app, (80, 24)) as pilot:
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, ScoresScreen))
        scores = app.screen
        worst = scores.query_one("#worst", OptionList)
        await until(pilot, lambda: worst.option_count > 0)
        figures = str(scores.query_one("#figures", Static).render())
        assert "Bot loops" in figures and "10.0 %" in figures and "█" in figures
        assert "bad" in str(worst.get_option_at_index(0).prompt)
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, BadScreen))
        view = app.screen.query_one(Transcript)
        await until(pilot, lambda: len(view.entries) == len(BAD))
        assert "bot loops" in view.entries[3].mark
        await pilot.press("n")
        await until(pilot, lambda: view.selected is not None and bool(view.selected.mark))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is scores)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.chat)


async def test_without_runs_the_screen_tells_how_to_make_one(
    picture: ModuleType, running: Running, until: Until, folder: Path
) -> None:
    app = picture.sample_app()
    async with running(app, (80, 24)) as pilot:
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, ScoresScreen))
        note = app.screen.query_one("#runs-note", Static)
        await until(pilot, lambda: "quietdesk score LOGS --save NAME" in str(note.render()))
        assert str(folder) in str(note.render()).replace("\n", "")


async def test_a_damaged_run_is_told_on_the_screen(
    picture: ModuleType, running: Running, until: Until, folder: Path
) -> None:
    (folder / "broken.json").write_text("{")
    app = picture.sample_app()
    async with running(app, (80, 24)) as pilot:
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, ScoresScreen))
        figures = app.screen.query_one("#figures", Static)
        await until(pilot, lambda: "holds no scores" in str(figures.render()))
        await pilot.press("enter", "tab", "escape")
        await until(pilot, lambda: app.screen is app.chat)
