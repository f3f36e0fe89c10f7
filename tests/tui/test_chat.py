"""Every action of the chat screen, done with keys as a user does them."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from quietdesk import FinishReason, Settings
from quietdesk.engine.backend import Backend
from quietdesk.errors import ModelFileError
from quietdesk_tui.app import QuietdeskApp
from quietdesk_tui.keys import ACTIONS, KeyMap
from quietdesk_tui.memory import Memory
from quietdesk_tui.screens.context import ContextScreen
from quietdesk_tui.screens.export import ExportScreen
from quietdesk_tui.screens.help import HelpScreen
from quietdesk_tui.session import Phase, Session, Stage
from quietdesk_tui.widgets.composer import Composer
from quietdesk_tui.widgets.conversations import ConversationList
from quietdesk_tui.widgets.notice import Notice
from quietdesk_tui.widgets.transcript import Transcript
from quietdesk_tui.widgets.welcome import EXAMPLES, Example, Welcome

Running = Callable[..., AbstractAsyncContextManager[Pilot[int]]]
Until = Callable[[Pilot[int], Callable[[], bool]], Any]


def composer(app: QuietdeskApp) -> Composer:
    return app.chat.query_one(Composer)


def transcript(app: QuietdeskApp) -> Transcript:
    return app.chat.query_one(Transcript)


def said(app: QuietdeskApp) -> list[str]:
    return [entry.text for entry in transcript(app).entries if entry.kind != "day"]


def listed(app: QuietdeskApp) -> list[str]:
    options = app.chat.query_one("#list", OptionList)
    return [option.id for option in options.options if option.id]


def toasts(app: QuietdeskApp) -> str:
    return " | ".join(toast.message for toast in app._notifications)


def idle(app: QuietdeskApp) -> Callable[[], bool]:
    return lambda: not app.session.turns


async def write(pilot: Pilot[int], text: str) -> None:
    """Type a text; all keys in one burst, as they come over a slow line."""
    for character in text:
        key = {" ": "space", "\n": "ctrl+j"}.get(character, character)
        pilot.app.post_message(Key(key, None if key == "ctrl+j" else character))
    await pilot.pause()


async def leave(app: QuietdeskApp, key: str) -> None:
    """Press the key that quits, and wait for the end; the pilot would wait for a screen."""
    app.simulate_key(key)
    while not app._exit:
        await asyncio.sleep(0.01)


class Gate:
    """Lets a scripted model take as many steps as the test allows."""

    def __init__(self) -> None:
        self._steps = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, batch: object) -> bool:
        while not self._open.is_set() and not self._steps.acquire(timeout=0.01):
            pass
        return False

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._steps.release()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()


# Writing


async def test_a_message_is_sent_and_answered(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="", replies=["We **do**."])
    async with running(app) as pilot:
        assert app.focused is composer(app) and app.chat.query_one(Welcome).display
        await write(pilot, "Do you?")
        await pilot.press("enter")
        await until(pilot, idle(app))
        assert said(app) == ["Do you?", "We **do**."]
        assert composer(app).text == "" and not app.chat.query_one(Welcome).display
        assert listed(app)[0] == app.session.current_id
        assert [entry.key for entry in transcript(app).entries] == [
            message.id for message in app.session.messages
        ]


async def test_enter_sends_all_that_was_typed_before_it(
    picture: ModuleType, running: Running, until: Until
) -> None:
    """Keys that arrive in one burst, as over a slow line, keep their order."""
    app = picture.sample_app(conversation_id="")
    async with running(app) as pilot:
        await write(pilot, "abcdefgh")
        app.simulate_key("enter")
        await until(pilot, lambda: bool(app.session.messages))
        assert said(app)[0] == "abcdefgh"


async def test_an_empty_message_is_not_sent(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app(conversation_id="")
    async with running(app) as pilot:
        await write(pilot, "  ")
        await pilot.press("enter")
        assert said(app) == [] and not app.session.turns


async def test_the_composer_grows_with_its_lines(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        small = composer(app).region.height
        await write(pilot, "a\nb\nc\nd")
        await pilot.pause()
        assert composer(app).text == "a\nb\nc\nd"
        assert composer(app).region.height == small + 3
        await write(pilot, "\n" * 40)
        await pilot.pause()
        assert composer(app).region.height < 20


async def test_up_and_down_go_through_what_was_sent(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="")
    async with running(app) as pilot:
        for text in ("first", "second\nline"):
            await write(pilot, text)
            await pilot.press("enter")
            await until(pilot, idle(app))
        await write(pilot, "draft")
        texts = []
        for key in ("up", "up", "up", "up", "down", "down", "down"):
            await pilot.press(key)
            await pilot.pause()
            texts.append(composer(app).text)
        # The second Up moves inside the message of two lines.
        assert texts == [
            "second\nline", "second\nline", "first", "first", "second\nline", "draft", "draft"
        ]  # fmt: skip


async def test_escape_stops_the_reply_and_keeps_it(
    picture: ModuleType, running: Running, until: Until
) -> None:
    gate = Gate()
    app = picture.sample_app(conversation_id="", replies=["one two three four"], fails=gate)
    async with running(app) as pilot:
        await write(pilot, "Count")
        await pilot.press("enter")
        gate.allow(3)
        await until(pilot, lambda: len(said(app)) == 2 and "two" in said(app)[1])
        await pilot.press("escape")
        await until(pilot, lambda: app.session.turn.cancelled)
        gate.open()
        await until(pilot, idle(app))
        assert app.session.messages[-1].finish_reason is FinishReason.CANCELLED
        assert said(app)[1] == app.session.messages[-1].text != ""
        assert "Stopped here. Ctrl+G" in transcript(app).entries[-1].note


async def test_escape_stops_while_the_prompt_is_read(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="", prompt_delay_s=0.5)
    async with running(app) as pilot:
        await write(pilot, "Read this")
        await pilot.press("enter")
        await until(pilot, lambda: app.session.turn is not None and app.session.turn.has_begun)
        await pilot.pause(0.15)
        assert "Reading" in transcript(app).entries[-1].progress
        await pilot.press("escape")
        await until(pilot, idle(app))
        assert "before anything was said" in transcript(app).entries[-1].note
        assert said(app)[0] == "Read this"


async def test_a_second_message_waits_in_the_composer(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="", prompt_delay_s=60)
    async with running(app) as pilot:
        await write(pilot, "one")
        await pilot.press("enter")
        await write(pilot, "two")
        await pilot.press("enter")
        await until(pilot, lambda: "still being written" in toasts(app))
        assert composer(app).text == "two"
        await pilot.press("escape")
        await until(pilot, idle(app))
        assert said(app)[0] == "one" and composer(app).text == "two"


async def test_a_message_that_does_not_fit_comes_back(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="", n_ctx=600)
    async with running(app) as pilot:
        text = "word " * 2000
        composer(app).replace_text(text)
        await pilot.press("enter")
        await until(pilot, lambda: bool(toasts(app)))
        await until(pilot, lambda: composer(app).text == text)
        assert said(app) == [] and "tokens" in toasts(app)


async def test_what_is_typed_while_a_message_is_refused_stays(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="", n_ctx=600)
    async with running(app) as pilot:
        text = "word " * 2000
        composer(app).replace_text(text)
        await pilot.press("enter", "x")
        await until(pilot, lambda: text in composer(app).text)
        assert composer(app).text == f"{text}\n\nx" or composer(app).text == f"{text}x"


async def test_drafts_stay_with_their_conversations(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await write(pilot, "half")
        await pilot.press("f7")
        await until(pilot, lambda: app.session.current_id == "c-1")
        assert composer(app).text == ""
        await pilot.press("f6")
        await until(pilot, lambda: app.session.current_id == "c-0")
        assert composer(app).text == "half"


async def test_an_example_goes_into_the_composer(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app(conversation_id="")
    async with running(app) as pilot:
        await pilot.click(app.chat.query(Example).first())
        await pilot.pause()
        assert composer(app).text == EXAMPLES[0] and app.focused is composer(app)


# Messages


async def test_the_reply_is_written_again(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(replies=["Another one."])
    async with running(app) as pilot:
        before = said(app)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "Another one.")
        assert said(app)[:-1] == before[:-1]


async def test_there_is_nothing_to_write_again_in_a_new_conversation(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app(conversation_id="")
    async with running(app) as pilot:
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert "There is no reply yet" in toasts(app)


async def test_the_last_reply_is_copied(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+y")
        assert app.clipboard == picture.CODE


async def test_the_code_is_copied(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("alt+y")
        assert app.clipboard.startswith("def shipping(") and app.clipboard.endswith("* 1.5")


async def test_a_selected_message_is_copied(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("alt+up", "alt+up")
        selected = transcript(app).selected
        assert selected is not None and selected.key == "c-0-q1"
        await pilot.press("ctrl+y")
        assert app.clipboard == "Can you give me the formula in Python?"
        await pilot.press("alt+down", "alt+down")
        assert transcript(app).selected is None


async def test_text_is_selected_with_the_mouse_and_copied_as_it_was_written(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app(conversation_id="c-1")
    async with running(app, (70, 30)) as pilot:
        view = transcript(app)
        rows = [view.render_line(y).text for y in range(view.size.height)]
        first = next(y for y, row in enumerate(rows) if "It was sent" in row)
        column = rows[first].index("It was sent")
        await pilot.mouse_down(view, (column, first))
        await pilot.hover(view, (column + 8, first + 1))
        await pilot.mouse_up(view, (column + 8, first + 1))
        await pilot.pause()
        await pilot.press("ctrl+c")
        assert app.clipboard.startswith("It was sent on Monday. Banks take up to three days")
        assert "\n" not in app.clipboard and app._exit is False


async def test_the_context_is_shown(picture: ModuleType, running: Running, until: Until) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(app.screen, ContextScreen))
        summary = str(app.screen.query_one("#context-summary", Static).render())
        await until(
            pilot, lambda: "evicted" in str(app.screen.query_one("#context-items", Static).render())
        )
        items = str(app.screen.query_one("#context-items", Static).render())
        assert "1,210 tokens of 4,096" in summary and "2 messages not seen" in summary
        assert "The oldest turns give way" in items and "Do you ship to Norway" in items
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is app.chat


async def test_the_context_of_a_selected_reply_is_shown(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("alt+up", "alt+up", "alt+up", "f3")
        await until(pilot, lambda: isinstance(app.screen, ContextScreen))
        summary = str(app.screen.query_one("#context-summary", Static).render())
        assert "310 tokens of 4,096" in summary and "Everything was seen" in summary


async def test_the_reader_is_left_alone_while_a_reply_streams(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(replies=["word\n\n" * 60], delay_s=0.005)
    async with running(app, (100, 24)) as pilot:
        await write(pilot, "Go")
        await pilot.press("enter")
        view = transcript(app)
        await until(pilot, lambda: view.max_scroll_y > 40 and view.follows)
        assert view.scroll_offset.y == view.max_scroll_y
        await pilot.press("pageup")
        await pilot.pause()
        place = view.scroll_offset.y
        await until(pilot, idle(app))
        assert view.scroll_offset.y == place < view.max_scroll_y and not view.follows
        await pilot.press("ctrl+end")
        await pilot.pause()
        assert view.scroll_offset.y == view.max_scroll_y and view.follows
        await pilot.press("ctrl+home")
        await pilot.pause()
        assert view.scroll_offset.y == 0


# Branches


def versions(app: QuietdeskApp) -> list[str]:
    """The versions of each message as they are told."""
    return [f"{e.version}/{e.versions}" for e in transcript(app).entries if e.kind != "day"]


async def test_an_edited_message_begins_a_branch_and_the_old_one_is_kept(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(replies=["Yes, and to Chile too."])
    async with running(app) as pilot:
        before = said(app)
        await write(pilot, "draft")
        await pilot.press("alt+up", "alt+up", "alt+up", "alt+up", "f4")
        assert composer(app).text == before[0] and "leaves it" in str(composer(app).border_title)
        composer(app).replace_text("Do you ship to Chile?")
        await pilot.press("enter")
        await until(pilot, lambda: not app.session.turns and len(said(app)) == 2)
        assert said(app) == ["Do you ship to Chile?", "Yes, and to Chile too."]
        assert versions(app) == ["2/2", "1/1"]
        assert composer(app).text == "draft" and not composer(app).border_title
        await pilot.press("alt+left")
        await until(pilot, lambda: said(app) == before)
        assert versions(app) == ["1/2", "1/1", "1/1", "1/1"]
        assert transcript(app).selected is transcript(app).entries[0]
        await pilot.press("alt+left")
        await until(pilot, lambda: "first version" in toasts(app))
        await pilot.press("alt+right")
        await until(pilot, lambda: len(said(app)) == 2)
        assert versions(app) == ["2/2", "1/1"]


async def test_an_edit_that_is_left_gives_the_draft_back_and_loses_nothing(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await write(pilot, "draft")
        await pilot.press("f4")
        assert composer(app).text == "Can you give me the formula in Python?"
        await write(pilot, "!")
        await pilot.press("escape")
        assert composer(app).text == "draft" and not app.session.turns
        composer(app).replace_text("")
        await pilot.press("up")
        assert composer(app).text == "Can you give me the formula in Python?!"


async def test_only_own_messages_are_edited(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("alt+up", "f4")
        await pilot.pause()
        assert "Only what you wrote" in toasts(app) and composer(app).text == ""


async def test_a_refused_edit_can_be_gone_on_with(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(n_ctx=600)
    async with running(app) as pilot:
        before = said(app)
        await pilot.press("f4")
        text = "word " * 2000
        composer(app).replace_text(text)
        await pilot.press("enter")
        await until(pilot, lambda: bool(toasts(app)) and composer(app).text == text)
        await until(pilot, lambda: said(app) == before)
        assert composer(app).has_class("-editing")
        await pilot.press("escape")
        assert composer(app).text == ""


async def test_versions_of_a_reply_are_changed_with_the_mouse(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app(conversation_id="c-1", replies=["Another one."])
    async with running(app) as pilot:
        old = said(app)[-1]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "Another one.")
        assert versions(app) == ["1/1", "2/2"]
        view = transcript(app)

        def place(sign: str) -> tuple[int, int]:
            rows = [view.render_line(y).text for y in range(view.size.height)]
            y = next(y for y, row in enumerate(rows) if sign in row)
            return rows[y].index(sign), y

        await pilot.click(view, offset=place("‹ 2/2"))
        await until(pilot, lambda: said(app)[-1] == old)
        x, y = place("1/2 ›")
        await pilot.click(view, offset=(x + 4, y))
        await until(pilot, lambda: said(app)[-1] == "Another one.")


async def test_versions_stand_still_while_a_reply_is_written(
    picture: ModuleType, running: Running, until: Until
) -> None:
    gate = Gate()
    app = picture.sample_app(replies=["one", "two three four five"], fails=gate)
    async with running(app) as pilot:
        gate.open()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "one")
        gate.shut()
        await write(pilot, "Go")
        await pilot.press("enter")
        await until(pilot, lambda: app.session.turn is not None and app.session.turn.has_begun)
        await pilot.press("alt+left")
        await until(pilot, lambda: "being written" in toasts(app))
        await pilot.press("f4", "f9")
        await pilot.pause()
        assert not composer(app).has_class("-editing") and app.session.current_id == "c-0"
        gate.open()
        await until(pilot, idle(app))


async def test_a_cut_reply_is_gone_on_with(
    picture: ModuleType, running: Running, until: Until
) -> None:
    gate = Gate()
    app = picture.sample_app(conversation_id="c-1", replies=[" arrives later, write."], fails=gate)
    async with running(app) as pilot:
        cut = said(app)[-1]
        assert "Ctrl+G goes on" in transcript(app).entries[-1].note
        await pilot.press("ctrl+g")
        await until(pilot, lambda: app.session.turn is not None and app.session.turn.has_begun)
        assert said(app)[-1] == cut
        gate.open()
        await until(pilot, idle(app))
        assert said(app)[-1] == f"{cut} arrives later, write." == app.session.messages[-1].text
        assert versions(app) == ["1/1", "2/2"]
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "was not cut" in toasts(app))


async def test_a_fork_begins_with_what_was_said_up_to_the_selected_message(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        whole = said(app)
        await pilot.press("alt+up", "alt+up", "alt+up", "f9")
        await until(pilot, lambda: app.session.current_id != "c-0")
        assert said(app) == whole[:2] and app.session.info.title == "Shipping to Norway (fork)"
        await until(pilot, lambda: len(listed(app)) == len(picture.SAMPLES) + 1)
        app.chat.go_to("c-0")
        await until(pilot, lambda: said(app) == whole)


async def test_a_conversation_is_saved_as_markdown_and_as_json(
    picture: ModuleType, running: Running, until: Until, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    app = picture.sample_app(replies=["Again."])
    async with running(app) as pilot:
        await pilot.press("ctrl+r")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "Again.")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, ExportScreen))
        await pilot.press("enter")
        file = tmp_path / "shipping-to-norway.md"
        await until(pilot, file.exists)
        text = file.read_text(encoding="utf-8")
        assert "# Shipping to Norway" in text and "**bot**: Again." in text
        assert picture.CODE not in text
        file.write_text("mine")
        await until(pilot, lambda: "Saved as" in toasts(app))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, ExportScreen))
        await pilot.press("enter")
        note = app.screen.query_one("#export-note", Static)
        await until(pilot, lambda: "once more" in str(note.render()))
        assert file.read_text() == "mine"
        await pilot.press("tab", "enter")
        saved = tmp_path / "shipping-to-norway.json"
        await until(pilot, saved.exists)
        told = json.loads(saved.read_text(encoding="utf-8"))
        assert {"Again.", picture.CODE} <= {message["text"] for message in told["messages"]}
        assert file.read_text() == "mine"


async def test_a_file_that_cannot_be_written_is_told(
    picture: ModuleType, running: Running, until: Until, tmp_path: Path
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, ExportScreen))
        note = app.screen.query_one("#export-note", Static)
        for name, told in (
            ("chat.txt", ".md or in .json"),
            (str(tmp_path / "none" / "chat.md"), "no folder"),
        ):
            app.screen.query_one(Input).value = name
            await pilot.press("enter")
            await until(pilot, lambda told=told: told in str(note.render()))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.chat)


# Conversations


async def test_the_last_conversation_is_open_again(picture: ModuleType, running: Running) -> None:
    app = picture.sample_app(conversation_id="c-2")
    async with running(app):
        assert app.session.current_id == "c-2" and "头盔" in said(app)[0]


async def test_a_conversation_that_is_gone_gives_a_new_one(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app(conversation_id="c-gone")
    async with running(app):
        assert app.session.info is None and app.chat.query_one(Welcome).display


async def test_a_new_conversation_is_begun(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.session.info is None)
        assert said(app) == [] and app.focused is composer(app)
        assert len(listed(app)) == len(picture.SAMPLES)


async def test_a_conversation_is_opened_from_the_list(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        app.chat.query_one("#list", OptionList).focus()
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.session.current_id == "c-1")
        assert "refund" in said(app)[0] and app.focused is composer(app)
        assert "Stopped here" in transcript(app).entries[-1].note


async def test_everything_that_was_said_is_searched(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+f")
        await write(pilot, "customs")
        await until(pilot, lambda: listed(app) == ["c-0"])
        await pilot.press("escape")
        await until(pilot, lambda: len(listed(app)) == len(picture.SAMPLES))
        assert app.focused is composer(app)


async def test_enter_in_the_search_opens_the_first_that_was_found(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+f")
        await write(pilot, "warranty")
        await until(pilot, lambda: listed(app) == ["c-5"])
        await pilot.press("enter")
        await until(pilot, lambda: app.session.current_id == "c-5")


async def test_a_search_without_a_find_says_so(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+f")
        await write(pilot, "xyzzy")
        await until(pilot, lambda: listed(app) == [])
        note = app.chat.query_one("#list-note")
        assert note.display and "Nothing found" in str(note.render())


async def test_a_conversation_is_renamed_in_its_place(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("f2")
        field = app.chat.query_one("#rename", Input)
        await until(pilot, lambda: field.has_focus)
        row = app.chat.query_one("#list", OptionList).region.y
        assert field.value == "Shipping to Norway" and field.region.y > row
        await write(pilot, "Norway")
        await pilot.press("enter")
        await until(pilot, lambda: app.session.info.title == "Norway")
        await until(pilot, lambda: app.focused is composer(app))
        assert not field.display
        assert "Norway" in str(app.chat.query_one("#title", Static).render())


async def test_escape_keeps_the_old_title(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("f2")
        field = app.chat.query_one("#rename", Input)
        await until(pilot, lambda: field.has_focus)
        await write(pilot, "x")
        await pilot.press("escape")
        await until(pilot, lambda: not field.display)
        assert app.session.info.title == "Shipping to Norway" and app.focused is composer(app)


async def test_a_deleted_conversation_is_brought_back(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("f8")
        await until(pilot, lambda: "c-0" not in listed(app))
        assert "Deleted “Shipping to Norway”. Ctrl+Z" in toasts(app)
        assert app.session.info is None and said(app) == []
        await pilot.press("ctrl+z")
        await until(pilot, lambda: "c-0" in listed(app))
        await until(pilot, lambda: app.session.current_id == "c-0")
        assert said(app)[-1] == picture.CODE


async def test_undo_belongs_to_the_text_once_something_was_typed(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("f8")
        await until(pilot, lambda: "c-0" not in listed(app))
        await write(pilot, "abc")
        await pilot.press("ctrl+z")
        await pilot.pause()
        assert composer(app).text == "" and "c-0" not in listed(app)


async def test_a_conversation_is_deleted_from_the_list(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        app.chat.query_one("#list", OptionList).focus()
        await pilot.press("down", "delete")
        await until(pilot, lambda: "c-1" not in listed(app))
        assert app.session.current_id == "c-0"


async def test_a_reply_in_another_conversation_is_marked(
    picture: ModuleType, running: Running, until: Until
) -> None:
    gate = Gate()
    app = picture.sample_app(replies=["one two three four five six"], fails=gate)
    async with running(app) as pilot:
        await write(pilot, "Go")
        await pilot.press("enter")
        await until(pilot, lambda: app.session.turn is not None and app.session.turn.has_begun)
        await pilot.press("f7")
        await until(pilot, lambda: app.session.current_id == "c-1")
        shown = said(app)
        gate.open()
        await until(pilot, idle(app))
        assert said(app) == shown and app.session.unread == {"c-0"}
        await pilot.press("f6")
        await until(pilot, lambda: app.session.current_id == "c-0")
        assert said(app)[-1] == "one two three four five six"


async def test_coming_back_in_the_middle_of_a_reply_shows_all_of_it(
    picture: ModuleType, running: Running, until: Until
) -> None:
    gate = Gate()
    app = picture.sample_app(replies=["one two three four five six seven"], fails=gate)
    async with running(app) as pilot:
        await write(pilot, "Go")
        await pilot.press("enter")
        gate.allow(3)
        await until(pilot, lambda: "one" in said(app)[-1])
        await pilot.press("f7")
        await until(pilot, lambda: app.session.current_id == "c-1")
        await pilot.press("f6")
        await until(pilot, lambda: app.session.current_id == "c-0")
        assert app.session.turn is not None and app.session.turn.stage is Stage.WRITING
        assert said(app)[-1].startswith("one")
        gate.open()
        await until(pilot, idle(app))
        assert said(app)[-2:] == ["Go", "one two three four five six seven"]


# Around it


async def test_the_list_is_hidden_and_shown_with_a_key(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        sidebar = app.chat.query_one(ConversationList)
        assert sidebar.display
        await pilot.press("ctrl+l")
        assert not sidebar.display and app.focused is composer(app)
        await pilot.press("ctrl+l")
        assert sidebar.display


async def test_eighty_columns_have_no_list_until_it_is_asked_for(
    picture: ModuleType, running: Running
) -> None:
    app = picture.sample_app()
    async with running(app, (80, 24)) as pilot:
        sidebar = app.chat.query_one(ConversationList)
        assert not sidebar.display
        assert transcript(app).size.height >= 16
        await pilot.press("ctrl+l")
        assert sidebar.display and transcript(app).size.width >= 40


@pytest.mark.parametrize("size", [(39, 24), (80, 9), (20, 5), (1, 1)])
async def test_a_terminal_that_is_too_small_says_so_and_grows_back(
    picture: ModuleType, running: Running, size: tuple[int, int]
) -> None:
    app = picture.sample_app()
    async with running(app, (80, 24)) as pilot:
        await write(pilot, "kept")
        await pilot.resize_terminal(*size)
        await pilot.pause()
        told = app.chat.query_one("#too-small", Static)
        assert told.display and "40×10" in str(told.render())
        assert not app.chat.query_one("#body").display
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert not told.display and app.chat.query_one("#body").display
        assert composer(app).text == "kept" and transcript(app).entries


@pytest.mark.parametrize("size", [(40, 10), (60, 15), (80, 24), (99, 30), (160, 48), (300, 90)])
async def test_every_part_is_inside_the_screen(
    picture: ModuleType, running: Running, size: tuple[int, int]
) -> None:
    app = picture.sample_app()
    async with running(app, size) as pilot:
        await pilot.pause()
        for part in ("#transcript", "#composer", "#status", "#keys", "#title"):
            widget = app.chat.query_one(part)
            assert widget.region.height > 0 and widget.region in app.chat.region, part
        assert transcript(app).size.height >= 2


async def test_the_palette_has_every_action_and_finds_conversations(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: CommandPalette.is_open(app))
        commands = app.screen.query_one("CommandList", OptionList)
        await until(pilot, lambda: commands.option_count > 15)
        names = "\n".join(str(option.prompt) for option in commands.options)
        hidden = {"send", "newline", "palette", "interrupt", "page_up", "page_down"}
        for action in ACTIONS:
            assert (action.title in names) == (action.id not in hidden)
        await write(pilot, "warranty")
        await until(
            pilot,
            lambda: any("Open: Warranty" in str(option.prompt) for option in commands.options),
        )
        await pilot.press("enter")
        await until(pilot, lambda: app.session.current_id == "c-5")


async def test_the_palette_runs_an_action(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: CommandPalette.is_open(app))
        await write(pilot, "new conv")
        commands = app.screen.query_one("CommandList", OptionList)
        await until(
            pilot,
            lambda: (
                "New conversation" in str(commands.options[:1])
                or (
                    commands.option_count > 0
                    and "New conversation" in str(commands.get_option_at_index(0).prompt)
                )
            ),
        )
        await pilot.press("enter")
        await until(pilot, lambda: app.session.info is None)


async def test_the_palette_changes_the_theme_and_it_is_remembered(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: CommandPalette.is_open(app))
        await write(pilot, "theme: nord")
        commands = app.screen.query_one("CommandList", OptionList)
        await until(
            pilot,
            lambda: (
                commands.option_count > 0 and "nord" in str(commands.get_option_at_index(0).prompt)
            ),
        )
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "nord")
        assert app.memory.state.theme == "nord"
        await pilot.press("ctrl+t")
        assert app.theme == "quietdesk-light"


def test_a_theme_chosen_in_the_app_holds_until_the_settings_change() -> None:
    def theme(wanted: str) -> str:
        settings = Settings.model_validate({"app": {"theme": wanted}})
        return QuietdeskApp(Session(settings), memory, KeyMap()).theme

    memory = Memory(None)
    memory.state.theme, memory.state.theme_in_settings = "nord", "quietdesk-dark"
    assert theme("quietdesk-dark") == "nord"
    assert theme("quietdesk-light") == "quietdesk-light"


async def test_the_help_shows_every_action_with_the_keys_in_force(
    picture: ModuleType, running: Running, until: Until
) -> None:
    settings = Settings.model_validate({"app": {"keys": {"regenerate": "alt+r"}}})
    app = picture.sample_app(settings=settings)
    async with running(app) as pilot:
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        text = "\n".join(str(static.render()) for static in app.screen.query(Static))
        for action in ACTIONS:
            assert action.title in text and app.key_map.names(action.id) in text
        assert "Alt+R" in text and "Ctrl+R" not in text and "config.toml" in text
        await pilot.press("f1")
        await pilot.pause()
        assert app.screen is app.chat


async def test_own_keys_do_what_they_are_for(
    picture: ModuleType, running: Running, until: Until
) -> None:
    keys = {"regenerate": "alt+r", "send": "alt+s", "newline": "enter", "quit": "f10"}
    settings = Settings.model_validate({"app": {"keys": keys}})
    app = picture.sample_app(settings=settings, replies=["Again.", "Sent."])
    async with running(app) as pilot:
        await pilot.press("ctrl+r")
        await pilot.pause()
        assert not app.session.turns
        await pilot.press("alt+r")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "Again.")
        await write(pilot, "a")
        await pilot.press("enter")
        await write(pilot, "b")
        assert composer(app).text == "a\nb"
        await pilot.press("alt+s")
        await until(pilot, lambda: not app.session.turns and said(app)[-1] == "Sent.")
        await pilot.press("ctrl+q")
        assert app._exit is False
        await leave(app, "f10")


async def test_a_click_on_the_line_of_keys_does_what_it_says(
    picture: ModuleType, running: Running, until: Until
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:
        row = app.chat.query_one("#keys").render_line(0).text
        await pilot.click("#keys", offset=(row.index("New") + 1, 0))
        await until(pilot, lambda: app.session.info is None)


# Starting and ending


class SlowModel:
    """A model that is loaded when the test lets it."""

    def __init__(self, picture: ModuleType, **runner: Any) -> None:
        self.go = threading.Event()
        self.told: list[bool] = []
        self._make = lambda: picture.scripted_engine(**runner)

    def __call__(self, tell: Callable[[float], bool]) -> Backend:
        while not self.go.wait(0.005):
            if not tell(0.25):
                raise ModelFileError("x.gguf", "loading was stopped.")
        return self._make()  # type: ignore[no-any-return]


async def test_the_screen_is_there_while_the_model_loads(
    picture: ModuleType, running: Running, until: Until
) -> None:
    model = SlowModel(picture, replies=["At last."])
    app = picture.sample_app(conversation_id="", engine=model)
    async with running(app, wait=False) as pilot:
        await until(pilot, lambda: app.session.phase is Phase.LOADING)
        await until(
            pilot, lambda: "Loading smollm2-135m" in app.chat.query_one("#status").status.text
        )
        await write(pilot, "Early")
        await pilot.press("enter")
        await until(pilot, lambda: said(app) == ["Early", ""])
        await pilot.pause(0.15)
        assert "Waiting for the model" in transcript(app).entries[-1].progress
        model.go.set()
        await until(pilot, lambda: not app.session.turns and said(app) == ["Early", "At last."])


async def test_a_message_sent_early_can_be_taken_back(
    picture: ModuleType, running: Running, until: Until
) -> None:
    model = SlowModel(picture)
    app = picture.sample_app(conversation_id="", engine=model)
    async with running(app, wait=False) as pilot:
        await until(pilot, lambda: app.session.phase is Phase.LOADING)
        await write(pilot, "Early")
        await pilot.press("enter")
        await until(pilot, lambda: bool(app.session.turns))
        await pilot.press("escape")
        await until(pilot, lambda: composer(app).text == "Early")
        assert said(app) == []
        model.go.set()


async def test_a_model_that_cannot_be_loaded_is_told_and_tried_again(
    picture: ModuleType, running: Running, until: Until
) -> None:
    tries: list[int] = []

    def model(tell: Callable[[float], bool]) -> Backend:
        tries.append(1)
        if len(tries) == 1:
            raise ModelFileError("/models/x.gguf", "it is cut short: 3 of 105 MB.")
        return picture.scripted_engine()  # type: ignore[no-any-return]

    app = picture.sample_app(engine=model)
    async with running(app) as pilot:
        notice = app.chat.query_one(Notice)
        await until(pilot, lambda: bool(notice.display))
        text = str(notice.query_one(Static).render())
        assert "could not be loaded" in text and "it is cut short" in text and "F5" in text
        assert said(app)[-1] == picture.CODE and len(listed(app)) == len(picture.SAMPLES)
        await write(pilot, "Hello")
        await pilot.press("enter")
        await pilot.pause()
        assert composer(app).text == "Hello" and "no model" in toasts(app)
        await pilot.press("f7")
        await until(pilot, lambda: app.session.current_id == "c-1")
        await pilot.press("f5")
        await until(pilot, lambda: app.session.phase is Phase.READY)
        await until(pilot, lambda: not notice.display)


@pytest.mark.parametrize("key", ["ctrl+q", "ctrl+c"])
async def test_quitting_in_the_middle_of_a_reply_keeps_it(
    picture: ModuleType, running: Running, until: Until, key: str
) -> None:
    store = picture.sample_store()
    kept: list[str] = []
    store.close = lambda: kept.append(store.messages("c-0")[-1].text)
    gate = Gate()
    app = picture.sample_app(store=store, replies=["one two three four five six seven"], fails=gate)
    async with running(app) as pilot:
        await write(pilot, "Go")
        await pilot.press("enter")
        gate.allow(3)
        await until(pilot, lambda: "one" in said(app)[-1])
        app.simulate_key(key)
        await until(pilot, lambda: app.session.phase is Phase.CLOSED)
        gate.open()
        await leave(app, key)
    async with asyncio.timeout(60):
        while not kept:
            await asyncio.sleep(0.01)
    assert app.return_value == 0 and kept[0].startswith("one") and "seven" not in kept[0]


async def test_quitting_while_the_model_loads_does_not_wait_for_it(
    picture: ModuleType, running: Running, until: Until
) -> None:
    model = SlowModel(picture)
    app = picture.sample_app(engine=model)
    async with running(app, wait=False) as pilot:
        await until(pilot, lambda: app.session.progress == 0.25)
        await leave(app, "ctrl+q")
    assert app.return_value == 0 and app.session.wait_for_loading(5)


async def test_a_draft_is_there_after_quitting(
    picture: ModuleType, running: Running, until: Until, tmp_path: Path
) -> None:
    app = picture.sample_app()
    app.memory = app.chat_memory = Memory(tmp_path)
    async with running(app) as pilot:
        app.chat.memory = app.memory
        await write(pilot, "not sent")
        await leave(app, "ctrl+q")
    assert Memory(tmp_path).state.drafts == {"c-0": "not sent"}
    assert Memory(tmp_path).state.conversation_id == ""


async def test_a_bug_in_the_background_is_told_and_survived(
    picture: ModuleType, running: Running, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    app = picture.sample_app()
    async with running(app) as pilot:

        async def broken(query: str = "") -> None:
            raise RuntimeError("a bug")

        app.session.conversations = broken
        await pilot.press("f7")
        await until(pilot, lambda: "Something went wrong" in toasts(app))
        assert "a bug" in caplog.text and app._exit is False
        caplog.clear()


async def test_thousands_of_messages_open_at_once(
    picture: ModuleType, running: Running, until: Until
) -> None:
    """Only what is in view is laid out, so that the length of a conversation costs nothing."""
    store = picture.sample_store()
    turns = tuple((f"Question {n}", picture.NORWAY, FinishReason.STOP) for n in range(1500))
    store.import_conversations(
        [picture.conversation("c-long", "Long", picture.NOW, turns, reports=False)]
    )
    app = picture.sample_app(store=store, conversation_id="c-long")
    async with running(app) as pilot:
        await until(pilot, lambda: app.session.current_id == "c-long")
        view = transcript(app)
        laid_out = sum(entry._width > 0 for entry in view.entries)
        assert len(view.entries) > 3000 and laid_out < 30
        started = time.perf_counter()
        await pilot.press("ctrl+home")
        await pilot.pause()
        top = "".join(view.render_line(y).text for y in range(8))
        assert "Question 0" in top
        assert sum(entry._width > 0 for entry in view.entries) < 60
        assert time.perf_counter() - started < 30
