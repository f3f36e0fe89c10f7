"""Conversation: what is said to the model, and what comes back.

A turn fits the history into the context, commits the customer's words, and only then starts the
model. Sync and async callers go the same way; async ones do the short blocking part in a thread and
wait for the engine without one.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol, TypedDict, Unpack

from pydantic import ValidationError

from quietdesk.config import Generation, Settings
from quietdesk.engine.backend import Backend
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.errors import (
    ConversationMovedError,
    EmptyMessageError,
    QuietdeskError,
    UnknownNameError,
    UsageError,
)
from quietdesk.recipe import recipe_of
from quietdesk.reply import Recorder, Reply
from quietdesk.store.base import ROOT, Store
from quietdesk.types import (
    Author,
    ContextReport,
    ConversationInfo,
    FinishReason,
    KeptScore,
    Message,
)

TITLE_LENGTH = 60
"""Characters of the first message that become the title."""
_CHANCES = 5
"""How often a turn is prepared again when something else was said meanwhile."""


class ReplyOptions(TypedDict, total=False):
    """What can be set for one reply; what is left out comes from the settings."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int
    stop: Sequence[str]
    """Strings that end the reply and are not part of it."""
    priority: int
    """Higher goes first."""
    deadline_s: float
    """Seconds that it may take, the queue counted in."""


class FittedPrompt(Protocol):
    """A prompt that fits into the context; `prompt.window.Fitted` is one."""

    @property
    def tokens(self) -> Sequence[int]:
        """What the model reads."""
        ...

    @property
    def report(self) -> ContextReport:
        """What became of every message."""
        ...

    @property
    def stop(self) -> Sequence[str]:
        """Strings that end the reply with this template."""
        ...


class PromptWindow(Protocol):
    """Fits messages into the context; `prompt.window.Window` is one.

    Named here by what it does, since importing it costs a template engine.
    """

    def fit(
        self,
        messages: Sequence[Message],
        system: str,
        max_tokens: int,
        *,
        continues: bool = False,
    ) -> FittedPrompt:
        """The prompt for these messages; see `Window.fit`."""
        ...


class Parts:
    """What every conversation of an assistant works with."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Backend,
        recorder: Recorder,
        window: PromptWindow,
    ) -> None:
        """Just gathers them."""
        self.settings = settings
        self.store = store
        self.engine = engine
        self.recorder = recorder
        self.window = window


class Conversation:
    """One customer's conversation. Any thread or task may use it; replies come one at a time."""

    def __init__(self, conversation_id: str, parts: Parts) -> None:
        """Made by `Assistant.start` and `Assistant.resume`."""
        self.id = conversation_id
        self._parts = parts

    @property
    def info(self) -> ConversationInfo:
        """Title, customer, system prompt and the rest, as the store has them now."""
        return self._parts.store.conversation(self.id)

    @property
    def messages(self) -> list[Message]:
        """What was said, in order, on the active branch."""
        return self._parts.store.messages(self.id)

    @property
    def scores(self) -> list[KeptScore]:
        """What `quietdesk score --keep` last found in it, the whole conversation first."""
        return self._parts.store.scores(self.id)

    def send(self, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """Say something and wait for the whole reply.

        Args:
            text: The customer's words.
            **options: See `ReplyOptions`.

        Raises:
            EmptyMessageError: there is nothing in it; nothing was kept.
            ContextError: it cannot fit into the context; nothing was kept.
            ConversationBusyError: a reply is still being written here, or others say something
                all the time; nothing was kept.
            QueueFullError: too many requests wait; nothing was kept.
            EngineError: the engine could not finish; what was said is kept.
            StoreError: the database refused it.
        """
        return self.stream(text, **options).wait()

    def stream(self, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """Say something; the reply is returned at once, to be iterated. Raises as `send` does."""
        return self.astream(text, **options).begin()

    async def asend(self, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """`send`, in a task."""
        return await self.astream(text, **options).await_()

    def astream(self, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """A reply that begins when a task iterates it: `async for delta in c.astream(...)`."""
        return Reply(new_id("m"), lambda reply: self._answer(reply, self._words(text), options))

    def _answer(self, reply: Reply, said: Message, options: ReplyOptions) -> None:
        for chance in range(_CHANCES, 0, -1):
            self._parts.recorder.make_way(self.id)
            history = self._parts.store.messages(self.id, reports=False)
            try:
                self._turn(reply, (said,), options, history, _leaf(history))
            except ConversationMovedError:
                # Somebody else's words came between: they belong into what the model sees.
                if chance == 1:
                    raise
            else:
                return

    def regenerate(self, **options: Unpack[ReplyOptions]) -> Reply:
        """Another version of the last reply, beside it; streams.

        Raises:
            UsageError: nothing was said yet.
        """
        return self.aregenerate(**options).begin()

    def aregenerate(self, **options: Unpack[ReplyOptions]) -> Reply:
        """`regenerate`, beginning when a task iterates it."""
        return Reply(new_id("m"), lambda reply: self._again(reply, options))

    def _again(self, reply: Reply, options: ReplyOptions) -> None:
        history = self.messages
        leaf = _leaf(history)
        while history and history[-1].author is not Author.CUSTOMER:
            history.pop()
        if not history:
            raise UsageError(f"Nothing was said in conversation {self.id!r} yet.")
        self._turn(reply, (), options, history, leaf)

    def edit(self, message_id: str, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """Say something else in the place of an earlier message; the old branch stays.

        Args:
            message_id: A customer's message on the active branch.
            text: The new words.
            **options: See `ReplyOptions`.

        Raises:
            UnknownNameError: it is not on the active branch.
        """
        return self.aedit(message_id, text, **options).begin()

    def aedit(self, message_id: str, text: str, **options: Unpack[ReplyOptions]) -> Reply:
        """`edit`, beginning when a task iterates it."""
        return Reply(new_id("m"), lambda reply: self._instead(reply, message_id, text, options))

    def _instead(self, reply: Reply, message_id: str, text: str, options: ReplyOptions) -> None:
        history = self.messages
        ids = [message.id for message in history]
        if message_id not in ids:
            raise UnknownNameError("message", message_id, ids)
        at = ids.index(message_id)
        said = self._words(text, parent_id=ids[at - 1] if at else ROOT)
        self._turn(reply, (said,), options, history[:at], _leaf(history))

    def proceed(self, **options: Unpack[ReplyOptions]) -> Reply:
        """Go on with the last reply where it was cut; the longer version stands beside it.

        The new reply's text begins with the old one's; iterating it gives what is added.

        Raises:
            UsageError: the last message is no reply, or the model had ended it itself.
        """
        return self.aproceed(**options).begin()

    def aproceed(self, **options: Unpack[ReplyOptions]) -> Reply:
        """`proceed`, beginning when a task iterates it."""
        return Reply(new_id("m"), lambda reply: self._go_on(reply, options))

    def _go_on(self, reply: Reply, options: ReplyOptions) -> None:
        history = self.messages
        leaf = _leaf(history)
        cut = history.pop() if history else None
        if cut is None or cut.author is not Author.BOT or not history:
            raise UsageError(f"There is no reply to go on with in conversation {self.id!r}.")
        if cut.finish_reason is FinishReason.STOP:
            raise UsageError("The last reply was not cut: the model had ended it itself.")
        self._turn(reply, (), options, history, leaf, cut)

    def fork(self, message_id: str | None = None) -> "Conversation":
        """A new conversation that begins with a copy of this one.

        Args:
            message_id: The last message that is copied; all of the active branch if None.

        Raises:
            UnknownNameError: it is not on the active branch.
        """
        history = self.messages
        if message_id is not None:
            ids = [message.id for message in history]
            if message_id not in ids:
                raise UnknownNameError("message", message_id, ids)
            history = history[: ids.index(message_id) + 1]
        now = datetime.now(UTC)
        info = self.info
        copied = info.model_copy(update={"id": new_id("c"), "created_at": now, "updated_at": now})
        parent: str | None = None
        messages = []
        for message in history:
            own = message.model_copy(update={"id": new_id("m"), "parent_id": parent})
            messages.append(own)
            parent = own.id
        self._parts.store.import_conversations([(copied, messages)])
        return Conversation(copied.id, self._parts)

    def versions(self, message_id: str) -> list[Message]:
        """A message and its siblings, in the order of writing.

        Raises:
            UnknownNameError: there is no such message.
        """
        tree = self._parts.store.tree(self.id)
        found = [message for message in tree if message.id == message_id]
        if not found:
            raise UnknownNameError("message", message_id, [message.id for message in tree])
        return [message for message in tree if message.parent_id == found[0].parent_id]

    def select(self, message_id: str) -> None:
        """Make the branch through a message the active one, down to its newest message.

        Raises:
            UnknownNameError: there is no such message.
        """
        tree = self._parts.store.tree(self.id)
        leaf = message_id
        while below := [message.id for message in tree if message.parent_id == leaf]:
            leaf = below[-1]
        self._parts.store.select(self.id, leaf)

    def _words(self, text: str, parent_id: str | None = None) -> Message:
        if not text.strip():
            raise EmptyMessageError("The message is empty. Write something first.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"The message is no valid Unicode text: character {error.start} is half of a pair."
            ) from None
        return Message(
            id=new_id("m"),
            author=Author.CUSTOMER,
            text=text,
            created_at=datetime.now(UTC),
            parent_id=parent_id,
        )

    def _turn(
        self,
        reply: Reply,
        said: tuple[Message, ...],
        options: ReplyOptions,
        history: Sequence[Message],
        after: str,
        begun: Message | None = None,
    ) -> None:
        """Fit, commit, submit.

        Args:
            reply: To be opened.
            said: What is new.
            options: The caller's.
            history: What it goes on from.
            after: The active leaf that the caller saw, `ROOT` for none.
            begun: The cut reply that is gone on with.

        Raises:
            ConversationMovedError: another leaf is active meanwhile; nothing was kept.
        """
        parts = self._parts
        parts.recorder.make_way(self.id)
        generation = _generation(parts.settings, options)
        info = self.info
        fitted = parts.window.fit(
            [*history, *said, *((begun,) if begun else ())],
            info.system,
            generation.max_tokens,
            continues=begun is not None,
        )
        sampling = _sampling(generation)
        limits = Limits(generation.max_tokens, (*fitted.stop, *options.get("stop", ())))
        draft = Message(
            id=reply.id,
            author=Author.BOT,
            text=begun.text if begun else "",
            created_at=datetime.now(UTC),
            parent_id=(said or history)[-1].id,
            model=parts.engine.model.name,
            context=fitted.report,
            recipe=recipe_of(
                parts.engine.model,
                fitted.tokens,
                sampling,
                limits,
                continues=begun.id if begun else "",
            ),
        )
        parts.store.begin_turn(self.id, said, draft, after=after)
        try:
            stream = parts.engine.submit(
                fitted.tokens,
                sampling=sampling,
                limits=limits,
                priority=options.get("priority", 0),
                deadline_s=options.get("deadline_s"),
            )
        except QuietdeskError:
            parts.store.undo_turn(draft.id, tuple(message.id for message in said))
            raise
        reply.opened(draft, fitted.report, stream)
        parts.recorder.record(self.id, reply)
        if said and not info.title:
            parts.store.rename(self.id, _title(said[0].text))


def _leaf(history: Sequence[Message]) -> str:
    """The active leaf of a branch, as `begin_turn` takes it."""
    return history[-1].id if history else ROOT


def new_id(kind: str) -> str:
    """A new id: `c-` for conversations, `m-` for messages, and 16 hexadecimal digits."""
    return f"{kind}-{secrets.token_hex(8)}"


def _title(text: str) -> str:
    words = " ".join(text.split())
    if len(words) <= TITLE_LENGTH:
        return words
    return words[:TITLE_LENGTH].rsplit(" ", 1)[0].rstrip(",.;:") + "…"


def _generation(settings: Settings, options: ReplyOptions) -> Generation:
    """The settings' generation parameters with the caller's on top, checked."""
    known = set(ReplyOptions.__annotations__)
    for name in options:
        if name not in known:
            raise UnknownNameError("option", name, known)
    if isinstance(options.get("stop"), str) or "" in options.get("stop", ()):
        raise UsageError(f"stop is a list of strings, none empty; got {options['stop']!r}.")
    asked = {name: value for name, value in options.items() if name in Generation.model_fields}
    values = {name: getattr(settings, name) for name in Generation.model_fields}
    try:
        generation = Generation.model_validate({**values, **asked})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(
            f"Bad value {problem['input']!r} for {problem['loc'][0]!r}: {problem['msg']}."
        ) from None
    if generation.seed is None:
        generation = generation.model_copy(update={"seed": secrets.randbits(32)})
    return generation


def _sampling(generation: Generation) -> Sampling:
    if generation.temperature == 0.0:
        return Sampling(repeat_penalty=generation.repeat_penalty)
    return Sampling(
        temperature=generation.temperature,
        top_k=generation.top_k,
        top_p=generation.top_p,
        min_p=generation.min_p,
        repeat_penalty=generation.repeat_penalty,
        seed=generation.seed or 0,
    )
