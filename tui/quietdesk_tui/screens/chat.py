"""The chat screen: conversations, the open one, the composer; it shows what the session says."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import OptionList, Static, TextArea
from textual.worker import Worker, WorkerState

from quietdesk import Author, ConversationInfo, Message, QuietdeskError
from quietdesk.config import scores_folder
from quietdesk_tui import keys, messages, words
from quietdesk_tui.keys import KeyMap
from quietdesk_tui.memory import Memory
from quietdesk_tui.screens.context import ContextScreen
from quietdesk_tui.screens.export import ExportScreen
from quietdesk_tui.screens.scores import ScoresScreen
from quietdesk_tui.session import (
    NEW,
    Began,
    Ended,
    Event,
    Phase,
    Refused,
    Said,
    Session,
    Stage,
    Turn,
    last_reply,
)
from quietdesk_tui.widgets.composer import Composer
from quietdesk_tui.widgets.conversations import ConversationList
from quietdesk_tui.widgets.notice import Notice
from quietdesk_tui.widgets.status import KeyLine, Status, StatusLine
from quietdesk_tui.widgets.transcript import Entry, Transcript, column
from quietdesk_tui.widgets.welcome import Welcome

_log = logging.getLogger(__name__)

SMALLEST = (40, 10)
"""Columns and rows below which there is no room for a chat."""
LIST_FROM = 100
"""Columns from which the list shows unless it was hidden by hand."""
UNDO_S = 10.0
"""How long the toast after deleting stays."""
REPORTS_UP_TO = 60
"""Messages up to which the last reply's context report is read when a conversation is opened."""


class ChatScreen(Screen[None]):
    """Everything that one sees most of the time."""

    BINDINGS: ClassVar[list[BindingType]] = [*keys.bindings("screen")]
    AUTO_FOCUS = "#composer"

    def __init__(
        self,
        session: Session,
        memory: Memory,
        key_map: KeyMap,
        *,
        log_file: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """The screen of a session that is not opened yet.

        Args:
            session: What it shows.
            memory: What was left from the last run.
            key_map: The keys in force.
            log_file: Where errors are written, to name it.
            now: The time; for tests.
        """
        super().__init__()
        self.session = session
        self.memory = memory
        self.key_map = key_map
        self._log_file = log_file
        self._now = now
        self._query = ""
        self._undo_until_edit = False
        self._saving = False
        self._editing: Message | None = None
        self._set_aside = ""

    def compose(self) -> ComposeResult:
        """List on the left, the open conversation on the right, two lines below."""
        with Horizontal(id="body"):
            yield ConversationList(id="conversations")
            with Vertical(id="main"):
                yield Static(id="title")
                yield Transcript(id="transcript")
                yield Welcome(self.key_map, self.session.model_name, id="welcome")
                with Vertical(id="writing"):
                    yield Notice(id="notice")
                    yield Composer(self.memory.history, self.key_map, id="composer")
        yield StatusLine(id="status")
        yield KeyLine(id="keys")
        yield Static(id="too-small")

    def on_mount(self) -> None:
        """Show the screen at once, and open everything behind it."""
        self.query_one("#notice").display = False
        self._show_conversation()
        self.set_interval(0.2, self._tick)
        self._start()

    # The parts

    @property
    def _list(self) -> ConversationList:
        return self.query_one("#conversations", ConversationList)

    @property
    def _transcript(self) -> Transcript:
        return self.query_one("#transcript", Transcript)

    @property
    def _composer(self) -> Composer:
        return self.query_one("#composer", Composer)

    # Starting

    @work(group="start", exit_on_error=False)
    async def _start(self) -> None:
        session = self.session
        await session.open_database()
        if session.phase is Phase.FAILED:
            self._show_problem()
            self._restore_draft(self._composer.text)
            return
        remembered = self.memory.state.conversation_id
        try:
            if remembered and await session.open(remembered, if_idle=True):
                self._show_conversation()
                self._read_reports_if_short()
        except QuietdeskError as error:
            self.complain(error)
        self._restore_draft(self._composer.text)
        await self._refresh_list()
        await self._load_model()

    async def _load_model(self) -> None:
        self._tick()
        await self.session.load_model()
        if self.session.phase is Phase.FAILED:
            self._show_problem()
        else:
            self.query_one("#notice").display = False
        self._tick()

    def _show_problem(self) -> None:
        problem = self.session.problem
        what = (
            "The model could not be loaded"
            if self.session.has_store
            else "The database could not be opened"
        )
        hints = words.advice(problem, self._log_file)
        hints.append(f"{self.key_map.name('retry')} tries again.")
        if self.session.has_store:
            hints.append("Your conversations can be read meanwhile.")
        self.query_one("#notice", Notice).show(what, str(problem), hints)
        self._tick()

    @work(group="start", exclusive=True, exit_on_error=False)
    async def _retry(self) -> None:
        self.query_one("#notice").display = False
        if self.session.has_store:
            await self._load_model()
        else:
            self._start()

    # The list

    async def _refresh_list(self) -> None:
        try:
            infos = await self.session.conversations(self._query)
        except QuietdeskError as error:
            self.complain(error)
            return
        self._list.show(
            infos,
            open_id=self.session.current_id,
            busy=frozenset(self.session.turns),
            unread=frozenset(self.session.unread),
            now=self._now(),
            query=self._query,
        )

    @work(group="list", exclusive=True, exit_on_error=False)
    async def _refresh_list_soon(self) -> None:
        await self._refresh_list()

    @on(messages.SearchChanged)
    def _search(self, event: messages.SearchChanged) -> None:
        self._query = event.query
        self._refresh_list_soon()

    @on(messages.ConversationChosen)
    def _choose(self, event: messages.ConversationChosen) -> None:
        self.go_to(event.conversation_id)

    @work(group="open", exclusive=True, exit_on_error=False)
    async def go_to(self, conversation_id: str) -> None:
        """Open a conversation and have the cursor in the composer."""
        if await self._open(conversation_id):
            self._restore_draft()
            self._composer.focus()
        await self._refresh_list()

    async def _open(self, conversation_id: str) -> bool:
        self._end_edit()
        self._keep_draft()
        try:
            found = await self.session.open(conversation_id)
        except QuietdeskError as error:
            self.complain(error)
            return False
        if found:
            self.memory.state.conversation_id = self.session.current_id
            self._save_soon()
            self._show_conversation()
            self._read_reports_if_short()
        return found

    def _read_reports_if_short(self) -> None:
        if 0 < len(self.session.messages) <= REPORTS_UP_TO:
            self._read_reports()

    @work(group="reports", exclusive=True, exit_on_error=False)
    async def _read_reports(self) -> None:
        try:
            await self.session.context()
        except QuietdeskError as error:
            self.complain(error)
        self._tick()

    # The conversation

    def _show_conversation(self) -> None:
        """Show the open conversation from scratch, with what is under way in it."""
        entries = self._entries(self.session.messages)
        turn = self.session.turn
        if turn is not None:
            stored = {message.id for message in self.session.messages}
            if turn.reply is not None and turn.reply.id in stored:
                # The store has the open reply up to its last checkpoint; the turn has all of it.
                entries = [entry for entry in entries if entry.key != turn.reply.id]
            elif turn.question is None and entries and entries[-1].kind == "bot":
                entries.pop()
            elif turn.question is not None:
                keys_shown = [entry.key for entry in entries]
                if turn.replaces in keys_shown:
                    del entries[keys_shown.index(turn.replaces) :]
                entries.append(self._question_entry(turn))
            entries.append(self._reply_entry(turn))
        self._transcript.show(entries)
        if turn is not None and turn.stage is not Stage.WRITING:
            self._await_reply(turn)
        self._show_frame()

    def _show_frame(self) -> None:
        """Title, or the welcome text where there is nothing."""
        self._show_title()
        is_empty = not self._transcript.entries
        self.query_one("#welcome").display = is_empty
        self._transcript.display = not is_empty
        self._tick()

    def _show_title(self) -> None:
        info = self.session.info
        title = info.title if info is not None and info.title else "New conversation"
        width = max(self.query_one("#title").size.width, 1)
        self.query_one("#title", Static).update(
            Content(" ".join(title.split())).truncate(width, ellipsis=True)
        )

    def _entries(self, said: list[Message]) -> list[Entry]:
        entries: list[Entry] = []
        today = self._now().astimezone().date()
        day: date | None = today
        last_id = said[-1].id if said else ""
        for message in said:
            new_day = message.created_at.astimezone().date()
            if new_day != day:
                day = new_day
                entries.append(Entry(f"day-{day}", "day", words.day_words(day, today)))
            entries.append(self._entry(message, is_last=message.id == last_id))
        return entries

    def _entry(self, message: Message, *, is_last: bool) -> Entry:
        note, style = self._end_note(message) if is_last else words.end_note(message)
        entry = Entry(
            message.id,
            message.author.value,
            message.text,
            name=words.NAMES[message.author],
            time_of_day=words.time_words(message.created_at),
            note=note,
            note_style=style,
        )
        self._tell_version(entry)
        return entry

    def _end_note(self, message: Message, error: QuietdeskError | None = None) -> tuple[str, str]:
        """What to say below the last reply, and in which style."""
        again, go_on = (self.key_map.name(action) for action in ("regenerate", "go_on"))
        return words.end_note(message, again_key=again, go_on_key=go_on, error=error)

    def _tell_version(self, entry: Entry) -> None:
        ids = self.session.siblings.get(entry.key, (entry.key,))
        entry.set_version(ids.index(entry.key) + 1, len(ids))

    def _question_entry(self, turn: Turn) -> Entry:
        return Entry(
            "question",
            Author.CUSTOMER.value,
            turn.question or "",
            name=words.NAMES[Author.CUSTOMER],
            time_of_day=words.time_words(self._now()),
        )

    def _reply_entry(self, turn: Turn) -> Entry:
        return Entry(
            turn.reply.id if turn.reply is not None else "reply",
            Author.BOT.value,
            turn.text,
            name=words.NAMES[Author.BOT],
            time_of_day=words.time_words(self._now()),
            streaming=True,
        )

    def _await_reply(self, turn: Turn) -> None:
        def what() -> str:
            now = self.session.clock()
            sign = words.spinner(now)
            if turn.stage is Stage.WAITING:
                return f"{sign} Waiting for the model"
            if turn.reply is None or not turn.has_begun:
                return f"{sign} Preparing the prompt"
            tokens = words.count(turn.reply.context.prompt_tokens, "token")
            return f"{sign} Reading {tokens}  {now - turn.began:.1f} s"

        self._transcript.spin(what)

    # Turns

    @on(messages.Submitted)
    def _submit(self, event: messages.Submitted) -> None:
        text = event.text
        if not text.strip():
            return
        session = self.session
        if session.turn is not None:
            key = self.key_map.name("cancel")
            self.notify(f"The reply is still being written; {key} stops it.", timeout=4)
            return
        if session.phase is Phase.FAILED:
            self.notify(
                f"There is no model. {self.key_map.name('retry')} tries to load it again.",
                severity="warning",
            )
            return
        self.memory.add_to_history(text)
        if (edited := self._editing) is not None:
            self._end_edit()
            self._take_turn(session.edit(edited.id, text))
            return
        self._composer.replace_text("")
        # Until the question is kept by the store, it is kept as a draft.
        self.memory.state.drafts[session.current_id] = text
        self._save_soon()
        self._take_turn(session.say(text))

    def _take_turn(self, turn: Turn) -> None:
        """Show what was just sent, and go on showing what becomes of it."""
        self._show_conversation()
        self._follow(turn)

    @work(group="turns", exit_on_error=False)
    async def _follow(self, turn: Turn) -> None:
        async for event in self.session.follow(turn):
            self._apply(event)

    def _apply(self, event: Event) -> None:
        turn = event.turn
        is_shown = turn.conversation_id == self.session.current_id
        match event:
            case Began():
                self.memory.state.drafts.pop(NEW, None)
                self.memory.state.drafts.pop(turn.conversation_id, None)
                if is_shown:
                    self.memory.state.conversation_id = turn.conversation_id
                    self._show_frame()
                    assert turn.reply is not None
                    self._transcript.entries[-1].key = turn.reply.id
                self._save_soon()
                self._refresh_list_soon()
            case Said():
                if is_shown:
                    self._transcript.feed(event.text)
            case Ended():
                self._end_turn(event, is_shown)
            case Refused():
                self._refuse(event, is_shown)

    def _end_turn(self, event: Ended, is_shown: bool) -> None:
        note, style = self._end_note(event.message, event.error)
        if is_shown:
            self._transcript.finish(note=note, note_style=style)
            self._take_ids()
        else:
            self.notify("The reply in another conversation is ready.", timeout=4)
        if event.error is not None:
            self.complain(event.error)
        self._refresh_list_soon()
        self.call_later(self._show_frame)

    def _take_ids(self) -> None:
        """Give what was shown while it was written the ids that it has in the store."""
        shown = [entry for entry in self._transcript.entries if entry.kind != "day"]
        for entry, message in zip(reversed(shown), reversed(self.session.messages), strict=False):
            entry.key = message.id
            self._tell_version(entry)
        self._transcript.refresh()

    def _refuse(self, event: Refused, is_shown: bool) -> None:
        question = event.turn.question
        if question is not None:
            edited = self._message(event.turn.replaces)
            if is_shown and edited is not None:
                self._begin_edit(edited, question)
            elif is_shown:
                typed = self._composer.text
                self._composer.replace_text(f"{question}\n\n{typed}" if typed else question)
            else:
                self.memory.state.drafts[event.turn.conversation_id] = question
        if event.error is not None:
            self.complain(event.error, words.refusal(event.error) if question else "")
        self._save_soon()
        self.call_later(self._show_conversation)
        self._refresh_list_soon()

    # Actions

    def action_cancel(self) -> None:
        """Esc: end what is open, else stop the reply, else go back to writing."""
        if self._list.end_rename():
            self._composer.focus()
        elif self._editing is not None:
            self._end_edit()
            self._composer.focus()
        elif self.session.cancel():
            self._tick()
        elif self._list.is_searching:
            self._list.end_search()
            self._composer.focus()
        else:
            self._transcript.select(None)
            self._composer.focus()

    def action_new(self) -> None:
        """Begin a new conversation."""
        self.go_to(NEW)

    def action_search(self) -> None:
        """Search in everything that was said."""
        self._show_list(True)
        self._list.focus_search()

    def action_list(self) -> None:
        """Show or hide the list, or go there when it shows and nothing else is to be done."""
        self._show_list(not self._list.display)
        if self._list.display:
            self._list.query_one("#list", OptionList).focus()
        else:
            self._composer.focus()

    def _show_list(self, shown: bool) -> None:
        self.memory.state.list_shown = shown
        self._save_soon()
        self._list.display = shown
        self.call_after_refresh(self._align)

    def action_previous_conversation(self) -> None:
        """Open the conversation above."""
        self._go_beside(-1)

    def action_next_conversation(self) -> None:
        """Open the conversation below."""
        self._go_beside(1)

    def _go_beside(self, direction: int) -> None:
        if other := self._list.neighbour(self.session.current_id, direction):
            self.go_to(other)

    def action_rename(self) -> None:
        """Edit the title in the list."""
        conversation_id = self._list.chosen_id or self.session.current_id
        if conversation_id == NEW:
            self.notify("There is nothing to rename yet.", timeout=4)
            return
        self._show_list(True)
        self.call_after_refresh(self._rename, conversation_id)

    def _rename(self, conversation_id: str) -> None:
        if not self._list.rename(conversation_id):
            self._list.end_search()
            self.notify("The conversation is not among those found; try again.", timeout=4)

    @on(messages.Renamed)
    async def _renamed(self, event: messages.Renamed) -> None:
        try:
            await self.session.rename(event.conversation_id, event.title)
        except QuietdeskError as error:
            self.complain(error)
        self._composer.focus()
        self._show_frame()
        await self._refresh_list()

    @work(group="delete", exit_on_error=False)
    async def action_delete(self) -> None:
        """Delete the highlighted or the open conversation."""
        in_list = self._list.chosen_id
        conversation_id = in_list or self.session.current_id
        if conversation_id == NEW:
            self.notify("There is nothing to delete.", timeout=4)
            return
        was_open = conversation_id == self.session.current_id
        beside = self._list.neighbour(conversation_id, 1) or self._list.neighbour(
            conversation_id, -1
        )
        try:
            info = await self.session.delete(conversation_id)
        except QuietdeskError as error:
            self.complain(error)
            return
        self._undo_until_edit = True
        self.notify(
            f"Deleted “{_short(info)}”. {self.key_map.name('undo')} brings it back.",
            timeout=UNDO_S,
        )
        if was_open:
            await self._open(beside if beside and in_list else NEW)
            self._restore_draft()
        await self._refresh_list()

    @work(group="delete", exit_on_error=False)
    async def action_undo(self) -> None:
        """Bring back what was deleted, unless something was typed since: then undo that."""
        focused = self.focused
        if isinstance(focused, TextArea) and (focused.text and not self._undo_until_edit):
            focused.undo()
            return
        try:
            info = await self.session.undo()
        except QuietdeskError as error:
            self.complain(error)
            return
        if info is None:
            if isinstance(focused, TextArea):
                focused.undo()
            return
        self.notify(f"“{_short(info)}” is back.", timeout=4)
        if await self._open(info.id):
            self._restore_draft()
        await self._refresh_list()

    def action_regenerate(self) -> None:
        """Write the last reply again."""
        if not self.session.can_regenerate:
            why = (
                "There is no reply yet."
                if not self.session.messages
                else "That is not possible now."
            )
            self.notify(why, timeout=4)
            return
        self._take_turn(self.session.regenerate())

    def action_go_on(self) -> None:
        """Go on with the last reply where it was cut."""
        if self.session.can_go_on:
            self._take_turn(self.session.go_on())
        else:
            self.notify("The last reply was not cut.", timeout=4)

    # Branches

    def _message(self, message_id: str) -> Message | None:
        """A message of the open conversation, as it stands."""
        found = (message for message in self.session.messages if message.id == message_id)
        return next(found, None)

    def action_edit(self) -> None:
        """Have the selected message of the customer in the composer, or the last one."""
        if self.session.turn is not None:
            key = self.key_map.name("cancel")
            self.notify(f"The reply is still being written; {key} stops it.", timeout=4)
            return
        selected = self._transcript.selected
        written = [m for m in self.session.messages if m.author is Author.CUSTOMER]
        if selected is not None:
            written = [message for message in written if message.id == selected.key]
        if written:
            self._begin_edit(written[-1], written[-1].text)
        elif selected is not None:
            self.notify("Only what you wrote yourself can be edited.", timeout=4)
        else:
            self.notify("There is nothing to edit yet.", timeout=4)

    def _begin_edit(self, message: Message, text: str) -> None:
        if self._editing is None:
            self._set_aside = self._composer.text
        self._editing = message
        self._composer.border_title = (
            f" Your message of {words.time_words(message.created_at)}, edited · "
            f"{self.key_map.name('cancel')} leaves it as it is "
        )
        self._composer.add_class("-editing")
        self._composer.replace_text(text)
        self._transcript.select_key(message.id)
        self._composer.focus()

    def _end_edit(self) -> None:
        """Leave the message as it is; what was typed meanwhile can be had back with Up."""
        if self._editing is None:
            return
        typed = self._composer.text
        if typed.strip() and typed != self._editing.text:
            self.memory.add_to_history(typed)
        self._editing = None
        self._composer.border_title = ""
        self._composer.remove_class("-editing")
        self._composer.replace_text(self._set_aside)
        self._transcript.select(None)

    def action_previous_version(self) -> None:
        """Show the version before of the selected message, or of the last one with several."""
        self._show_version(-1)

    def action_next_version(self) -> None:
        """Show the version after."""
        self._show_version(1)

    def _show_version(self, direction: int) -> None:
        entry = self._transcript.selected
        if entry is None:
            several = [entry for entry in self._transcript.entries if entry.versions > 1]
            entry = several[-1] if several else None
        if entry is None:
            self.notify("There is one version of each message here.", timeout=4)
        else:
            self._switch(entry.key, direction)

    @on(messages.VersionWanted)
    def _version_wanted(self, event: messages.VersionWanted) -> None:
        self._switch(event.message_id, event.direction)

    @work(group="open", exclusive=True, exit_on_error=False)
    async def _switch(self, message_id: str, direction: int) -> None:
        ids = self.session.siblings.get(message_id, (message_id,))
        place = ids.index(message_id) + direction
        if not 0 <= place < len(ids):
            which = "only" if len(ids) == 1 else "first" if direction < 0 else "last"
            self.notify(f"This is the {which} version.", timeout=3)
            return
        self._end_edit()
        try:
            await self.session.select(ids[place])
        except QuietdeskError as error:
            self.complain(error)
            return
        self._show_conversation()
        self._transcript.select_key(ids[place])
        self._read_reports_if_short()
        await self._refresh_list()

    @work(group="open", exclusive=True, exit_on_error=False)
    async def action_fork(self) -> None:
        """A new conversation with what was said up to the selected message, or all of it."""
        if not self.session.messages:
            self.notify("There is nothing to fork yet.", timeout=4)
            return
        entry = self._transcript.selected
        try:
            fork_id = await self.session.fork(entry.key if entry is not None else None)
        except QuietdeskError as error:
            self.complain(error)
            return
        if await self._open(fork_id):
            self._restore_draft()
            self._composer.focus()
            self.notify("This is a fork; the conversation it comes from stays as it is.")
        await self._refresh_list()

    def action_export(self) -> None:
        """Ask for a file's name, and save the conversation there."""
        info = self.session.info
        if info is None:
            self.notify("There is nothing to save yet.", timeout=4)
            return
        self.app.push_screen(ExportScreen(info.title or info.id, Path.cwd()), self._save_as)

    def _save_as(self, path: Path | None) -> None:
        if path is not None:
            self._export(path)

    @work(group="export", exit_on_error=False)
    async def _export(self, path: Path) -> None:
        try:
            await self.session.export(path)
        except QuietdeskError as error:
            self.complain(error)
        else:
            self.notify(f"Saved as {path}.", markup=False)

    # Copying

    def action_copy_reply(self) -> None:
        """Copy the selected message, or the last reply."""
        entry = self._entry_to_copy()
        if entry is None or not entry.text:
            self.notify("There is nothing to copy yet.", timeout=4)
            return
        self.app.copy_to_clipboard(entry.text)
        what = "your message" if entry.kind == Author.CUSTOMER.value else "the reply"
        self.notify(f"Copied {what}.", timeout=3)

    def action_copy_code(self) -> None:
        """Copy the code in the selected message, or in the last reply."""
        entry = self._entry_to_copy()
        if entry is None or not entry.code:
            self.notify("There is no code in it.", timeout=4)
            return
        self.app.copy_to_clipboard(entry.code)
        self.notify("Copied the code.", timeout=3)

    def _entry_to_copy(self) -> Entry | None:
        if self._transcript.selected is not None:
            return self._transcript.selected
        replies = [entry for entry in self._transcript.entries if entry.kind == "bot"]
        return next((entry for entry in reversed(replies) if entry.text), None)

    def action_previous_message(self) -> None:
        """Select the message before."""
        self._transcript.action_select_previous()

    def action_next_message(self) -> None:
        """Select the message after."""
        self._transcript.action_select_next()

    def action_top(self) -> None:
        """To the beginning of the conversation."""
        self._transcript.scroll_home()

    def action_bottom(self) -> None:
        """To its end."""
        self._transcript.action_scroll_end()

    def _align(self) -> None:
        """Have title and composer stand where the text of the transcript stands."""
        width = self.query_one("#main").size.width
        left, text = column(width - 1)
        for part in ("#title", "#writing"):
            self.query_one(part).styles.padding = (0, width - left - text, 0, left)
        self.call_after_refresh(self._show_title)

    @on(messages.ScrollWanted)
    def _scroll(self, event: messages.ScrollWanted) -> None:
        if event.direction < 0:
            self._transcript.scroll_page_up()
        else:
            self._transcript.scroll_page_down()

    @work(group="context", exclusive=True, exit_on_error=False)
    async def action_context(self) -> None:
        """Show what the model saw."""
        entry = self._transcript.selected
        wanted = entry.key if entry is not None and entry.kind == "bot" else ""
        try:
            found = await self.session.context(wanted)
        except QuietdeskError as error:
            self.complain(error)
            return
        if found is None:
            self.notify("There is no reply whose context could be shown.", timeout=4)
            return
        report, said = found
        self.app.push_screen(ContextScreen(report, said))

    def action_scores(self) -> None:
        """Show the saved runs of the scorer."""
        self.app.push_screen(ScoresScreen(scores_folder()))

    def action_retry(self) -> None:
        """Try again to open what could not be opened."""
        if self.session.phase is Phase.FAILED:
            self._retry()

    def action_theme(self) -> None:
        """Change between our dark and our light theme."""
        dark = self.app.current_theme.dark
        self.app.theme = "quietdesk-light" if dark else "quietdesk-dark"

    def action_help(self) -> None:
        """The help; for the line of keys."""
        self.app.call_later(self.app.run_action, "help")

    def action_palette(self) -> None:
        """The command palette; for the line of keys."""
        self.app.call_later(self.app.run_action, "palette")

    def action_quit(self) -> None:
        """Quit; for the line of keys."""
        self.app.call_later(self.app.run_action, "quit")

    @on(messages.ExampleChosen)
    def _take_example(self, event: messages.ExampleChosen) -> None:
        self._composer.replace_text(event.text)
        self._composer.focus()

    # Drafts

    @on(TextArea.Changed, "#composer")
    def _typed(self) -> None:
        self._undo_until_edit = False
        self._save_soon()

    def _keep_draft(self) -> None:
        # Before the database is open, what is typed belongs to no conversation yet.
        if self.session.phase is Phase.OPENING:
            return
        typed = self._composer.text
        if self._editing is not None:
            # Another run does not go on with an edit, so that both are kept as one draft.
            edited = typed if typed != self._editing.text else ""
            typed = "\n\n".join(filter(None, (self._set_aside, edited)))
        if self.session.turn is None or typed:
            self.memory.state.drafts[self.session.current_id] = typed

    def _restore_draft(self, typed: str = "") -> None:
        """Put what was not sent here into the composer, what was typed meanwhile after it."""
        draft = self.memory.state.drafts.get(self.session.current_id, "")
        if typed and typed != draft:
            draft = f"{draft}\n{typed}" if draft else typed
        if self.session.turn is None and draft != self._composer.text:
            self._composer.replace_text(draft)

    def _save_soon(self) -> None:
        if not self._saving:
            self._saving = True
            self.set_timer(1.0, self.save)

    def save(self) -> None:
        """Remember drafts and what is open."""
        self._saving = False
        self._keep_draft()
        self.memory.save()

    # What is always there

    def _tick(self) -> None:
        """Bring title, figures and keys up to date."""
        session = self.session
        composer = self._composer
        match session.phase:
            case Phase.OPENING:
                status = Status(self._spinner(), "$primary", "Opening the conversations")
            case Phase.LOADING:
                elapsed = session.clock() - session.started
                share = f" {session.progress:.0%}".replace("%", " %") if session.progress else ""
                text = f"Loading {session.model_name}{share} · {elapsed:.0f} s"
                status = Status(self._spinner(), "$primary", text)
            case Phase.FAILED:
                status = Status("✗", "$error", "No model")
            case Phase.CLOSED:
                status = Status(self._spinner(), "$primary", "Closing")
            case Phase.READY:
                figures = session.figures()
                mark = ("●", "$success")
                if (turn := session.turn) is not None:
                    mark = (self._spinner(), "$primary")
                    if turn.stage is Stage.READING:
                        figures = None
                text = session.model_name
                status = Status(*mark, text, figures, self.key_map.name("context"))
        self.query_one("#status", StatusLine).status = status
        if composer.placeholder != (text := self._placeholder()):
            composer.placeholder = text
        if composer.border_subtitle != (text := self._composer_hint()):
            composer.border_subtitle = text
        self.query_one("#keys", KeyLine).items = self._key_items()

    def _spinner(self) -> str:
        return words.spinner(self.session.clock() / 2)

    def _placeholder(self) -> str:
        if self.session.phase is Phase.FAILED:
            return "The model is not there; what you write is kept."
        if self.session.phase is not Phase.READY:
            return "Write already: it is sent when the model is loaded."
        return "Write a message"

    def _composer_hint(self) -> str:
        if not self._composer.text:
            return ""
        newline = self.key_map.keys("newline")
        line_key = "ctrl+j" if "ctrl+j" in newline else newline[0]
        send = self.key_map.name("send")
        return f" {send} sends · {keys.name_key(line_key)} new line "

    def _key_items(self) -> tuple[tuple[str, str, str], ...]:
        session = self.session
        hidden = set()
        if session.turn is None:
            hidden.add("cancel")
        if not session.can_regenerate:
            hidden.add("regenerate")
        if not session.can_go_on:
            hidden.add("go_on")
        if last_reply(session.messages) is None:
            hidden |= {"copy_reply", "context"}
        if not session.messages or session.turn is not None:
            hidden |= {"edit", "fork"}
        if session.info is None and not self._list.chosen_id:
            hidden |= {"rename", "delete", "export"}
        shown = sorted(
            (action for action in keys.ACTIONS if action.rank and action.id not in hidden),
            key=lambda action: action.rank,
        )
        items = [(self.key_map.name(action.id), action.label, action.id) for action in shown]
        if session.phase is Phase.FAILED:
            items.insert(0, (self.key_map.name("retry"), "Try again", "retry"))
        return tuple(items)

    @on(Resize)
    def _fit(self, event: Resize) -> None:
        """Hide the list where it takes too much room; say so where there is none at all."""
        width, height = event.size
        too_small = width < SMALLEST[0] or height < SMALLEST[1]
        self.set_class(too_small, "-too-small")
        self.set_class(width >= 140, "-wide")
        self.set_class(height < 18, "-low")
        self.set_class(height >= 32, "-tall")
        if too_small:
            self.query_one("#too-small", Static).update(
                f"{width}×{height} is too small.\nMake it {SMALLEST[0]}×{SMALLEST[1]} or more."
            )
        by_hand = self.memory.state.list_shown
        shown = width >= LIST_FROM if by_hand is None else by_hand
        self._list.display = shown and width >= 60
        self.call_after_refresh(self._align)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Our own bug in something that went on in the background: log it, and go on."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            _log.error("%s failed.", event.worker.name, exc_info=event.worker.error)
            where = f" The details are in {self._log_file}." if self._log_file else ""
            self.complain(event.worker.error, f"Something went wrong.{where}")

    def complain(self, error: BaseException, sentence: str = "") -> None:
        """Tell about an error in a toast; the session has written it into the log."""
        self.notify(sentence or str(error), severity="error", timeout=8, markup=False)


def _short(info: ConversationInfo) -> str:
    title = info.title or "Untitled"
    return title if len(title) <= 40 else f"{title[:39]}…"
