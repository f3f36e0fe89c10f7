"""The presenter: what is open, what is being written, what can be done. It knows no widget.

Whoever shows it calls a method and waits for what comes back; nothing here calls the screen. Every
blocking call goes through a thread, so that the screen never waits for the model or the database.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from quietdesk import (
    Assistant,
    Author,
    ContextReport,
    ConversationInfo,
    FinishReason,
    Message,
    QuietdeskError,
    Reply,
    Settings,
    Usage,
)
from quietdesk.assistant import database_key, database_place, open_store
from quietdesk.cli.output import write_whole
from quietdesk.conversation import Conversation
from quietdesk.engine.backend import Backend
from quietdesk.errors import (
    ConversationBusyError,
    EngineClosedError,
    UnknownNameError,
    UsageError,
)
from quietdesk.kept_states import open_keeper
from quietdesk.loading import open_engine
from quietdesk.store.base import Store
from quietdesk.store.document import Form, document

NEW = ""
"""The id of a conversation in which nothing was said yet."""
LIST_LIMIT = 500
"""Conversations that the list shows; a search finds the others."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """How far the start has come."""

    OPENING = "opening"
    """The database is being opened."""
    LOADING = "loading"
    """Conversations can be read; the model is being loaded."""
    READY = "ready"
    FAILED = "failed"
    """`Session.problem` tells what went wrong."""
    CLOSED = "closed"


class Act(StrEnum):
    """What a turn is."""

    SAY = "say"
    """A new message and its reply."""
    EDIT = "edit"
    """Other words in the place of an earlier message, and their reply."""
    AGAIN = "again"
    """Another version of the last reply."""
    GO_ON = "go on"
    """The last reply, which was cut, and more."""


class Stage(StrEnum):
    """How far a turn has come."""

    WAITING = "waiting"
    """For the model to be loaded."""
    READING = "reading"
    """The model waits for its turn or reads the prompt."""
    WRITING = "writing"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Turn:
    """One message and the reply to it, from the moment it was sent."""

    conversation_id: str
    """`NEW` until the conversation exists."""
    act: Act
    question: str | None
    """What was sent; None where nothing new is said."""
    started: float
    """When it was sent, on the session's clock."""
    replaces: str = ""
    """Of an edit: the message whose place it takes."""
    began: float = 0.0
    """When the model had it, on the session's clock."""
    stage: Stage = Stage.WAITING
    reply: Reply | None = None
    """Its context and usage are known once it has begun."""
    has_begun: bool = False
    cancelled: bool = False
    parts: list[str] = field(default_factory=list)
    """What was said so far, piece by piece; begins with the cut reply that is gone on with."""

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Began:
    """The question is kept and the model reads."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Said:
    """The reply goes on."""

    turn: Turn
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The reply is complete, or as complete as it will be, and kept."""

    turn: Turn
    message: Message
    error: QuietdeskError | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was started and nothing was kept: the question goes back to its writer."""

    turn: Turn
    error: QuietdeskError | None
    """None: it was cancelled."""


Event = Began | Said | Ended | Refused


@dataclass(frozen=True, slots=True)
class Figures:
    """What a reply cost, for the line of figures."""

    usage: Usage
    n_ctx: int
    """0: not known."""
    dropped: int
    """Messages that the model did not see in their own words."""

    @property
    def used(self) -> int:
        """Tokens that prompt and reply take."""
        return self.usage.prompt_tokens + self.usage.completion_tokens

    @property
    def fill(self) -> float:
        """Share of the context that prompt and reply take, 0 to 1."""
        return min(self.used / self.n_ctx, 1.0) if self.n_ctx else 0.0


class Session:
    """One run of the app.

    Attributes:
        phase: How far the start has come.
        problem: What went wrong at the start.
        progress: Share of the model that is loaded, 0 to 1.
        info: The open conversation; None: a new one, not begun.
        messages: Its messages when it was opened, and what ended since.
        siblings: The ids of each message's versions, where there are several.
        turns: What is under way, by conversation.
        unread: Conversations in which a reply ended while another one was open.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store_opener: Callable[[], Store] | None = None,
        engine_opener: Callable[[Callable[[float], bool]], Backend] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened yet.

        Args:
            settings: In force.
            store_opener: Opens the database; the settings' one if None.
            engine_opener: Loads the model, told where to report progress; the settings' if None.
            clock: Seconds; for tests.
        """
        self.settings = settings
        self.phase = Phase.OPENING
        self.problem: Exception | None = None
        self.progress = 0.0
        self.info: ConversationInfo | None = None
        self.messages: list[Message] = []
        self.siblings: dict[str, tuple[str, ...]] = {}
        self.turns: dict[str, Turn] = {}
        self.unread: set[str] = set()
        self.clock = clock
        self.started = clock()
        self._open_store = store_opener or (lambda: open_store(None, settings))
        self._open_engine = engine_opener or self._open_own_engine
        self._store: Store | None = None
        self._assistant: Assistant | None = None
        self._settled = asyncio.Event()
        self._deleted: list[ConversationInfo] = []
        self._loading: threading.Thread | None = None

    # Starting

    @property
    def model_name(self) -> str:
        """The model's name, as it calls itself or as it was asked for; of a path the last part."""
        name = self.settings.model
        if self._assistant is not None:
            name = self._assistant.model.name
        return Path(name).name

    @property
    def n_ctx(self) -> int:
        """Tokens of context; 0 until the model is loaded."""
        return self._assistant.engine.n_ctx if self._assistant is not None else 0

    @property
    def has_store(self) -> bool:
        """Whether conversations can be read."""
        return self._store is not None

    async def open_database(self) -> None:
        """Open the database; `phase` is LOADING then, or FAILED."""
        self.phase, self.problem = Phase.OPENING, None
        try:
            self._store = await self._aside(self._open_store)
        except Exception as error:
            self._fail(error)
        else:
            self.phase = Phase.LOADING

    async def load_model(self) -> None:
        """Load the model; `phase` is READY then, or FAILED. Takes seconds, or minutes."""
        if self._store is None:
            return
        self.phase, self.problem, self.progress = Phase.LOADING, None, 0.0
        self.started = self.clock()
        self._settled.clear()
        try:
            self._assistant = await self._load(self._store)
        except Exception as error:
            self._fail(error)
        else:
            self.phase = Phase.READY
            self._settled.set()

    def _fail(self, error: Exception) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.phase, self.problem = Phase.FAILED, error
        if not isinstance(error, QuietdeskError):
            _log.error("The start failed.", exc_info=error)
        else:
            _log.error("The start failed: %s", error)
        self._settled.set()

    async def _load(self, store: Store) -> Assistant:
        """Load in a thread that nothing waits for when the app is quit meanwhile."""
        result: Future[Assistant] = Future()

        # Running, it cannot be cancelled by a waiter that goes away.
        result.set_running_or_notify_cancel()

        def work() -> None:
            try:
                engine = self._open_engine(self._report)
                if self.phase is Phase.CLOSED:
                    engine.close()
                    raise EngineClosedError
                result.set_result(Assistant(engine, store, self.settings))
            except BaseException as error:
                result.set_exception(error)

        self._loading = threading.Thread(target=work, name="quietdesk-load", daemon=True)
        self._loading.start()
        return await asyncio.wrap_future(result)

    def _open_own_engine(self, tell: Callable[[float], bool]) -> Backend:
        place = database_place(None, self.settings)
        encrypted = database_key(place, self.settings) is not None
        states = open_keeper(place, self.settings, self._require_store(), encrypted=encrypted)
        return open_engine(None, self.settings, tell, states=states)

    def _report(self, share: float) -> bool:
        self.progress = share
        return self.phase is not Phase.CLOSED

    # The list

    async def conversations(self, query: str = "") -> list[ConversationInfo]:
        """Conversations with these words in them, the last used first."""
        store = self._store
        if store is None:
            return []
        found = await self._aside(lambda: store.conversations(query, limit=LIST_LIMIT))
        return [info for info in found if info.message_count or info.id in self.turns]

    async def open(self, conversation_id: str, *, if_idle: bool = False) -> bool:
        """Open a conversation, or a new one; whether that was done.

        Args:
            conversation_id: Its id; `NEW` for a new one.
            if_idle: Leave things as they are where something was sent meanwhile.
        """
        if conversation_id == NEW:
            self._leave()
            return True
        store = self._store
        if store is None:
            return False
        try:
            info, (messages, siblings) = await self._aside(
                lambda: (store.conversation(conversation_id), _read(store, conversation_id))
            )
        except UnknownNameError:
            return False
        if if_idle and self.turns:
            return False
        self.info, self.messages, self.siblings = info, messages, siblings
        self.unread.discard(info.id)
        return True

    def _leave(self) -> None:
        self.info, self.messages, self.siblings = None, [], {}

    async def rename(self, conversation_id: str, title: str) -> str:
        """Give it another title, which is returned; an empty one changes nothing."""
        title = " ".join(title.split())[:200]
        store = self._require_store()
        if title:
            await self._aside(lambda: store.rename(conversation_id, title))
        info = await self._aside(lambda: store.conversation(conversation_id))
        if self.info is not None and self.info.id == conversation_id:
            self.info = info
        return info.title

    async def delete(self, conversation_id: str) -> ConversationInfo:
        """Delete a conversation; `undo` brings it back.

        Raises:
            ConversationBusyError: a reply is being written there.
        """
        if conversation_id in self.turns:
            raise ConversationBusyError(conversation_id)
        store = self._require_store()
        info = await self._aside(lambda: store.conversation(conversation_id))
        # An assistant forgets what its engine and the disk hold of it, too.
        assistant = self._assistant
        delete = store.delete if assistant is None else assistant.delete
        await self._aside(lambda: delete(conversation_id))
        self._deleted.append(info)
        if self.info is not None and self.info.id == conversation_id:
            self._leave()
        return info

    @property
    def can_undo(self) -> bool:
        """Whether something was deleted in this run and not brought back."""
        return bool(self._deleted)

    async def undo(self) -> ConversationInfo | None:
        """Bring back what was deleted last; None if there is nothing."""
        if not self._deleted:
            return None
        store = self._require_store()
        info = self._deleted[-1]
        await self._aside(lambda: store.restore(info.id))
        self._deleted.remove(info)
        return info

    async def export(self, path: Path) -> None:
        """Write the open conversation to a file, which is replaced if it is there.

        Args:
            path: `.json` has every branch and every figure, `.md` what is said as it stands.

        Raises:
            UsageError: another ending, or it cannot be written.
        """
        forms: dict[str, Form] = {".json": "json", ".md": "markdown"}
        form = forms.get(path.suffix.lower())
        if form is None:
            raise UsageError(f"The file {str(path)!r} ends neither in .md nor in .json.")
        if self.info is None:
            raise UsageError("Nothing was said yet.")
        store, conversation_id = self._require_store(), self.info.id
        await self._aside(
            lambda: write_whole(path, document(store, conversation_id, form), force=True)
        )

    # Branches

    async def select(self, message_id: str) -> None:
        """Make the branch through a message of the open conversation the active one.

        Raises:
            ConversationBusyError: a reply is being written there.
        """
        conversation = await self._resume()
        await self._aside(lambda: conversation.select(message_id))
        await self._read_again(conversation.id)

    async def fork(self, message_id: str | None) -> str:
        """A new conversation that begins with a copy of the open one, up to a message; its id.

        Raises:
            ConversationBusyError: a reply is being written there.
        """
        conversation = await self._resume()
        title = conversation.info.title

        def work() -> str:
            copy = conversation.fork(message_id)
            self._require_store().rename(copy.id, f"{title} (fork)")
            return copy.id

        return await self._aside(work)

    async def _resume(self) -> Conversation:
        if self.turn is not None:
            raise ConversationBusyError(self.current_id)
        if self._assistant is None or self.info is None:
            raise UsageError("Branches can be used once the model is loaded.")
        assistant, conversation_id = self._assistant, self.info.id
        return await self._aside(lambda: assistant.resume(conversation_id))

    # Turns

    @property
    def current_id(self) -> str:
        """The open conversation's id; `NEW` for one that is not begun."""
        return self.info.id if self.info is not None else NEW

    @property
    def turn(self) -> Turn | None:
        """What is under way in the open conversation."""
        return self.turns.get(self.current_id)

    @property
    def can_regenerate(self) -> bool:
        """Whether there is a reply that could be written again now."""
        return bool(self.messages) and self.turn is None and self.phase is Phase.READY

    @property
    def can_go_on(self) -> bool:
        """Whether the last reply was cut and could be gone on with now."""
        return self.can_regenerate and _was_cut(self.messages[-1])

    def say(self, text: str) -> Turn:
        """Send a message in the open conversation; `follow` tells what becomes of it.

        Raises:
            ConversationBusyError: a reply is being written there already.
        """
        return self._add_turn(Act.SAY, text)

    def edit(self, message_id: str, text: str) -> Turn:
        """Say something else in the place of an earlier message; raises as `say` does."""
        turn = self._add_turn(Act.EDIT, text)
        turn.replaces = message_id
        return turn

    def regenerate(self) -> Turn:
        """Write the last reply again; raises as `say` does."""
        return self._add_turn(Act.AGAIN)

    def go_on(self) -> Turn:
        """Go on with the last reply, which was cut; raises as `say` does."""
        turn = self._add_turn(Act.GO_ON)
        turn.parts.append(self.messages[-1].text)
        return turn

    def _add_turn(self, act: Act, question: str | None = None) -> Turn:
        if self.turn is not None:
            raise ConversationBusyError(self.current_id)
        turn = Turn(self.current_id, act, question, self.clock())
        self.turns[turn.conversation_id] = turn
        return turn

    async def follow(self, turn: Turn) -> AsyncIterator[Event]:
        """What becomes of a turn, until its end; nothing happens unless it is followed."""
        try:
            async for event in self._events(turn):
                yield event
        finally:
            turn.stage = Stage.ENDED
            if self.turns.get(turn.conversation_id) is turn:
                del self.turns[turn.conversation_id]

    async def _events(self, turn: Turn) -> AsyncIterator[Event]:
        is_new = turn.conversation_id == NEW
        try:
            await self._begin(turn)
        except QuietdeskError as refused:
            await self._take_back(turn, is_new)
            _log.warning("Not sent: %s", refused)
            yield Refused(turn, refused)
            return
        if turn.reply is None:
            await self._take_back(turn, is_new)
            yield Refused(turn, None)
            return
        yield Began(turn)
        error: QuietdeskError | None = None
        try:
            async for delta in turn.reply:
                turn.stage = Stage.WRITING
                turn.parts.append(delta.text)
                yield Said(turn, delta.text)
                if len(turn.parts) % 64 == 0:
                    # Pieces that are there already come without a pause: let the screen draw.
                    await asyncio.sleep(0)
        except QuietdeskError as failed:
            _log.error("The reply failed: %s", failed)
            error = failed
        await self._remember_end(turn)
        yield Ended(turn, turn.reply.message, error)

    async def _begin(self, turn: Turn) -> None:
        """Have the model start; without a reply in the turn it was cancelled before."""
        while self._assistant is None and not turn.cancelled:
            if self.phase in {Phase.FAILED, Phase.CLOSED}:
                raise _problem(self.problem)
            await self._settled.wait()
        assistant = self._assistant
        if turn.cancelled or assistant is None:
            return
        turn.stage = Stage.READING
        if turn.conversation_id == NEW:
            conversation = await self._aside(assistant.start)
            viewed = self.info is None
            self.turns.pop(NEW, None)
            turn.conversation_id = conversation.id
            self.turns[conversation.id] = turn
            if viewed:
                self._leave()
                self.info = await self._aside(lambda: conversation.info)
        else:
            conversation = await self._aside(lambda: assistant.resume(turn.conversation_id))
        reply = turn.reply = _reply(conversation, turn)
        if turn.cancelled:
            reply.cancel()
        try:
            await self._aside(reply.begin)
        except BaseException:
            turn.reply = None
            raise
        turn.has_begun, turn.began = True, self.clock()
        if self.current_id == conversation.id:
            self.info = await self._aside(lambda: conversation.info)

    async def _take_back(self, turn: Turn, is_new: bool) -> None:
        """Leave no empty conversation behind."""
        if not is_new or turn.conversation_id == NEW:
            return
        store, empty_id = self._require_store(), turn.conversation_id
        self.turns.pop(empty_id, None)
        turn.conversation_id = NEW
        self.turns.setdefault(NEW, turn)
        if self.current_id == empty_id:
            self._leave()
        try:
            await self._aside(lambda: store.delete(empty_id))
            await self._aside(lambda: store.purge([empty_id]))
        except QuietdeskError as error:
            _log.warning("An empty conversation could not be removed: %s", error)

    async def _remember_end(self, turn: Turn) -> None:
        if self.current_id != turn.conversation_id:
            self.unread.add(turn.conversation_id)
            return
        try:
            await self._read_again(turn.conversation_id)
        except QuietdeskError as error:
            _log.warning("The conversation could not be read again: %s", error)

    async def _read_again(self, conversation_id: str) -> None:
        store = self._require_store()
        messages, siblings = await self._aside(lambda: _read(store, conversation_id))
        if self.current_id == conversation_id:
            self.messages, self.siblings = messages, siblings

    def cancel(self) -> bool:
        """Stop what is under way in the open conversation; whether there was something."""
        turn = self.turn
        if turn is None:
            return False
        self._cancel(turn)
        return True

    def _cancel(self, turn: Turn) -> None:
        turn.cancelled = True
        if turn.reply is not None:
            turn.reply.cancel()
        elif self._assistant is None:
            # It waits for the model: have it look up, and go on waiting for the others.
            waiting, self._settled = self._settled, asyncio.Event()
            waiting.set()

    # Figures

    def figures(self) -> Figures | None:
        """What the reply under way costs so far, or what the last one cost; None: no reply."""
        turn = self.turn
        if turn is not None and turn.reply is not None and turn.has_begun:
            report = turn.reply.context
            usage = turn.reply.usage
            if not usage.prompt_tokens:
                usage = usage.model_copy(update={"prompt_tokens": report.prompt_tokens})
            return Figures(usage, report.n_ctx, len(report.evicted))
        for message in reversed(self.messages):
            if message.usage is not None:
                dropped = len(message.context.evicted) if message.context else 0
                n_ctx = message.context.n_ctx if message.context else self.n_ctx
                return Figures(message.usage, n_ctx, dropped)
        return None

    async def context(self, message_id: str = "") -> tuple[ContextReport, list[Message]] | None:
        """What the model saw for a reply, the last one if no id; and the messages around it."""
        turn = self.turn
        reply = turn.reply if turn is not None and turn.has_begun else None
        if reply is not None and message_id in {"", reply.id}:
            return reply.context, self.messages
        if self.info is None:
            return None
        store, conversation_id = self._require_store(), self.info.id
        messages = await self._aside(lambda: store.messages(conversation_id))
        if self.current_id == conversation_id:
            self.messages = messages
        for message in reversed(messages):
            if message.context is not None and message_id in {"", message.id}:
                return message.context, messages
        return None

    # The end

    async def close(self) -> None:
        """Stop what is under way and keep it; close everything. Safe to call twice."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        for turn in list(self.turns.values()):
            self._cancel(turn)
        self._settled.set()
        assistant, store = self._assistant, self._store
        if assistant is not None:
            await self._aside(assistant.close)
        elif store is not None:
            await self._aside(store.close)

    def end(self) -> None:
        """Close what is still open after the app stopped otherwise than by `close`."""
        was_closed, self.phase = self.phase is Phase.CLOSED, Phase.CLOSED
        if was_closed:
            return
        if self._assistant is not None:
            self._assistant.close()
        elif self._store is not None:
            self._store.close()

    @property
    def is_loading(self) -> bool:
        """Whether the thread that loads the model is still at work."""
        return self._loading is not None and self._loading.is_alive()

    def wait_for_loading(self, timeout_s: float) -> bool:
        """Wait for that thread, in this one; False where it is still at work."""
        if self._loading is not None:
            self._loading.join(timeout_s)
        return not self.is_loading

    def _require_store(self) -> Store:
        if self._store is None:
            raise _problem(self.problem)
        return self._store

    async def _aside(self, call: Callable[[], _T]) -> _T:
        return await asyncio.to_thread(call)


def _read(store: Store, conversation_id: str) -> tuple[list[Message], dict[str, tuple[str, ...]]]:
    """The messages of a conversation as it stands, and the versions of those with several."""
    messages = store.messages(conversation_id, reports=False)
    below: dict[str | None, list[str]] = {}
    for message in store.tree(conversation_id, reports=False):
        below.setdefault(message.parent_id, []).append(message.id)
    siblings = {message.id: tuple(below.get(message.parent_id, ())) for message in messages}
    return messages, {key: ids for key, ids in siblings.items() if len(ids) > 1}


def _reply(conversation: Conversation, turn: Turn) -> Reply:
    """The reply that a turn is for, not begun."""
    match turn.act:
        case Act.SAY:
            return conversation.astream(turn.question or "")
        case Act.EDIT:
            return conversation.aedit(turn.replaces, turn.question or "")
        case Act.AGAIN:
            return conversation.aregenerate()
        case Act.GO_ON:
            return conversation.aproceed()


def _was_cut(message: Message) -> bool:
    """Whether a reply ended otherwise than by the model's own will."""
    ends = {None, FinishReason.STOP, FinishReason.TOOL_CALLS}
    return message.author is Author.BOT and message.finish_reason not in ends


def _problem(error: Exception | None) -> QuietdeskError:
    """Why nothing can be done, as an error of ours."""
    if isinstance(error, QuietdeskError):
        return error
    if error is None:
        return EngineClosedError()
    return QuietdeskError(f"{type(error).__name__}: {error}")


def last_reply(messages: Sequence[Message]) -> Message | None:
    """The last message that was not the customer's and says something."""
    for message in reversed(messages):
        if message.finish_reason is not None and message.text:
            return message
    return None
