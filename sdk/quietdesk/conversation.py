"""Conversation: what is said to the model, and what comes back.

A turn fits the history into the context, commits the customer's words, and only then starts the
model. Sync and async callers go the same way; async ones do the short blocking part in a thread and
wait for the engine without one.
"""

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, Protocol, TypedDict, Unpack

from pydantic import BaseModel

from quietdesk.config import TRUNCATION, Generation, Settings
from quietdesk.engine.backend import Backend, ChatMessage
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.engine.schema.grammar import as_json_schema, schema_grammar
from quietdesk.errors import (
    ConversationBusyError,
    ConversationMovedError,
    EmptyMessageError,
    EngineError,
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


_GIVE_WAY_S = 60.0
"""How long another process may take to end a reply that is no longer wanted."""
_WATCH_S = 0.25
"""How often it is looked whether another process said more."""
_LOOK_S = 0.05


class _After(Enum):
    LATER = "later"


_LATER: Literal[_After.LATER] = _After.LATER


class ReplyOptions(TypedDict, total=False):
    """What can be set for one reply; what is left out comes from the settings.

    `quietdesk.config.Generation` has what each field down to `seed` means, and its range.
    """

    max_tokens: int
    stop: Sequence[str]
    stop_tokens: Collection[int]
    ignore_end: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    grammar: str
    seed: int
    schema: type[BaseModel] | Mapping[str, Any]
    """The reply is JSON that validates; `Reply.parsed` has the value."""
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
    def messages(self) -> Sequence[ChatMessage]:
        """What it was rendered from."""
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

    def say(self, text: str, **options: Unpack[ReplyOptions]) -> Reply | None:
        """Say one of several messages in a row, and wait for the one reply to all of them.

        For customers who write in pieces, from one process or several: each piece is kept at
        once, and the model answers when none has come for `debounce_s`. A piece that comes while
        the reply is written has it cancelled and written anew; what was written until then stands
        beside the active branch. Nothing of it may be shown before it is whole, so the pieces of a
        reply cannot be iterated here.

        Args:
            text: The customer's words.
            **options: See `ReplyOptions`.

        Returns:
            The reply, to exactly one of those who said a piece: send it to the customer. None to
            the others, whose piece was followed by another before the reply was finished.

        Raises:
            ConversationBusyError: a reply that had to give way was not ended within a minute.
            Exception: what `send` raises; but what was said is kept.
        """
        said = self._interject(text)
        time.sleep(self._parts.settings.debounce_s)
        deadline = time.monotonic() + _GIVE_WAY_S
        while (reply := self._answer_all(said, options, deadline)) is _LATER:
            time.sleep(_LOOK_S)
        if not isinstance(reply, Reply):
            return None
        while not reply.stream.wait(_WATCH_S):
            self._give_way(reply)
        try:
            reply.wait()
        except EngineError:
            if self._overtaken(reply):
                return None
            raise
        return None if self._overtaken(reply) else reply

    async def asay(self, text: str, **options: Unpack[ReplyOptions]) -> Reply | None:
        """`say`, in a task."""
        said = await asyncio.to_thread(self._interject, text)
        await asyncio.sleep(self._parts.settings.debounce_s)
        deadline = time.monotonic() + _GIVE_WAY_S
        while True:
            reply = await asyncio.to_thread(self._answer_all, said, options, deadline)
            if reply is not _LATER:
                break
            await asyncio.sleep(_LOOK_S)
        if not isinstance(reply, Reply):
            return None
        ended = asyncio.ensure_future(reply.await_())
        try:
            while not (await asyncio.wait({ended}, timeout=_WATCH_S))[0]:
                await asyncio.to_thread(self._give_way, reply)
        finally:
            if not ended.done():
                ended.cancel()
        try:
            await ended
        except EngineError:
            if await asyncio.to_thread(self._overtaken, reply):
                return None
            raise
        return None if await asyncio.to_thread(self._overtaken, reply) else reply

    def _interject(self, text: str) -> Message:
        """Keep a customer's words, and have a reply that is being written here give way."""
        said = self._words(text)
        store = self._parts.store
        gives_way = store.interject(self.id, said)
        if gives_way is not None:
            self._parts.recorder.cancel(self.id, gives_way)
        if not self.info.title:
            store.rename(self.id, _title(text))
        return said

    def _answer_all(
        self, said: Message, options: ReplyOptions, deadline: float
    ) -> "Reply | Literal[_After.LATER] | None":
        """Begin the reply to everything said; None if a later message has taken that over."""
        reply = Reply(new_id("m"), lambda reply: None)
        try:
            history = self._parts.store.messages(self.id, reports=False)
            if _leaf(history) != said.id:
                return None
            self._turn(reply, (), options, history, said.id)
        except ConversationMovedError:
            return None
        except ConversationBusyError:
            # Of another process, which looks from time to time whether it has to give way.
            if time.monotonic() > deadline:
                raise
            return _LATER
        return reply

    def _give_way(self, reply: Reply) -> None:
        """Cancel a reply that is no longer wanted: somebody said more, elsewhere."""
        if self._parts.store.leaf(self.id) != reply.id and self._overtaken(reply):
            reply.cancel()

    def _overtaken(self, reply: Reply) -> bool:
        """Whether a reply had to give way, and does not stand in the conversation."""
        history = self._parts.store.messages(self.id, reports=False)
        return all(message.id != reply.id for message in history)

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
        sampling = Sampling.of(generation)
        if (schema := options.get("schema")) is not None:
            sampling = replace(sampling, grammar=schema_grammar(as_json_schema(schema)))
            reply.schema = schema
        if begun is not None and sampling.grammar:
            kept = "grammar" if schema is None else "schema"
            raise UsageError(f"A cut reply cannot be gone on with by a {kept}; ask again.")
        limits = Limits.of(generation, fitted.stop)
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
                messages=fitted.messages,
                sampling=sampling,
                limits=limits,
                priority=options.get("priority", 0),
                deadline_s=options.get("deadline_s"),
                owner=self.id,
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
    asked = {name: value for name, value in options.items() if name in Generation.model_fields}
    if options.get("schema") is not None:
        if asked.get("grammar"):
            raise UsageError("A reply keeps to a schema or to a grammar: leave one of them out.")
        asked["grammar"] = ""
    given = settings.model_fields_set & Generation.model_fields.keys()
    if asked.get("mirostat_tau"):
        given -= TRUNCATION.keys()
    generation = Generation.checked({name: getattr(settings, name) for name in given} | asked)
    if generation.seed is None:
        generation = generation.model_copy(update={"seed": secrets.randbelow(2**32 - 1)})
    return generation
