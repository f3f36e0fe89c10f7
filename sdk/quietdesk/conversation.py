"""Conversation: what is said to the model, and what comes back.

A turn fits the history into the context, commits the customer's words, and only then starts the
model. Sync and async callers go the same way; async ones do the short blocking part in a thread and
wait for the engine without one.
"""

import asyncio
import json
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
from quietdesk.engine.calls import Calls, call_grammar
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
from quietdesk.recipe import recipe_of, sampling_of, tools_of
from quietdesk.reply import Recorder, Reply
from quietdesk.store.base import ROOT, Store
from quietdesk.tools import Tool, check_choice, tool_schemas
from quietdesk.types import (
    Author,
    CallForm,
    ContextReport,
    ConversationInfo,
    FinishReason,
    KeptScore,
    Message,
    ToolCall,
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
    tools: Sequence[Tool]
    """Functions that the model may call, typed Python ones or JSON in OpenAI's shape; what it calls
    is in `Reply.tool_calls`, and `Conversation.send_results` takes the results."""
    tool_choice: str
    """`auto`: the model decides; `required`: it calls; `none`: it does not; or what it calls."""
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

    @property
    def call_form(self) -> CallForm:
        """How the model writes calls of tools."""
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
        tools: Sequence[Mapping[str, Any]] = (),
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

    def send_results(self, results: Mapping[str, str], **options: Unpack[ReplyOptions]) -> Reply:
        """Say what came of the calls of the last reply that made some, and wait for the next reply.

        Args:
            results: The result of each of its calls, by the call's id; any text, JSON as a rule.
            **options: See `ReplyOptions`; the tools are those of the reply that called, unless
                others are given.

        Raises:
            UsageError: no call waits for a result, or one of them has none here; nothing was kept.
            UnknownNameError: no call of that id waits for a result; nothing was kept.
            Exception: what `send` raises.
        """
        return self.stream_results(results, **options).wait()

    def stream_results(self, results: Mapping[str, str], **options: Unpack[ReplyOptions]) -> Reply:
        """`send_results`; the reply is returned at once, to be iterated."""
        return self.astream_results(results, **options).begin()

    async def asend_results(
        self, results: Mapping[str, str], **options: Unpack[ReplyOptions]
    ) -> Reply:
        """`send_results`, in a task."""
        return await self.astream_results(results, **options).await_()

    def astream_results(self, results: Mapping[str, str], **options: Unpack[ReplyOptions]) -> Reply:
        """A reply to results that begins when a task iterates it."""
        return Reply(new_id("m"), lambda reply: self._go_on_by(reply, results, options))

    def _go_on_by(self, reply: Reply, results: Mapping[str, str], options: ReplyOptions) -> None:
        history = self._parts.store.messages(self.id, reports=False)
        asked = _asked(history)
        if asked is None:
            raise UsageError(f"No tool call waits for a result in conversation {self.id!r}.")
        message, calls = asked
        ids = [call.id for call in calls]
        for call_id in results:
            if call_id not in ids:
                raise UnknownNameError("tool call that waits", call_id, ids)
        for call in calls:
            if not isinstance(results.get(call.id), str):
                raise UsageError(
                    f"The call {call.id!r} of {call.name!r} has no text as its result: got "
                    f"{results.get(call.id)!r}. Give one for each call, the error where it failed."
                )
        said = tuple(
            Message(
                id=new_id("m"),
                author=Author.TOOL,
                text=_valid(results[call_id]),
                created_at=datetime.now(UTC),
                tool_call_id=call_id,
            )
            for call_id in ids
        )
        self._turn(reply, said, self._tools_again(options, message.id), history, _leaf(history))

    def _tools_again(
        self, options: ReplyOptions, reply_id: str | None, *, choice: bool = False
    ) -> ReplyOptions:
        """The options with the tools of a reply, unless they name others; its choice too if so."""
        if reply_id is None or "tools" in options:
            return options
        recipe = self._parts.store.find_message(reply_id)[1].recipe
        calls = sampling_of(recipe).calls if recipe is not None else None
        if recipe is None or calls is None:
            return options
        again: ReplyOptions = {"tools": tools_of(recipe)}
        if choice:
            again["tool_choice"] = calls.choice
        return {**again, **options}

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

        It may call the tools that the last one could, unless others are given.

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
        replaced = None
        while history and not _is_answerable(history):
            replaced = history.pop()
        if not history:
            raise UsageError(f"Nothing was said in conversation {self.id!r} yet.")
        id_ = replaced.id if replaced is not None and replaced.author is Author.BOT else None
        self._turn(reply, (), self._tools_again(options, id_, choice=True), history, leaf)

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
        if cut.finish_reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
            raise UsageError("The last reply was not cut: the model had ended it itself.")
        self._turn(reply, (), self._tools_again(options, cut.id), history, leaf, cut)

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
        return Message(
            id=new_id("m"),
            author=Author.CUSTOMER,
            text=_valid(text),
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
        tools = _tools(options)
        fitted = parts.window.fit(
            [*history, *said, *((begun,) if begun else ())],
            info.system,
            generation.max_tokens,
            tools=tools,
            continues=begun is not None,
        )
        sampling = Sampling.of(generation)
        if tools:
            sampling = replace(sampling, calls=_calls(tools, options, fitted.call_form, begun))
        if (schema := options.get("schema")) is not None:
            sampling = replace(sampling, grammar=schema_grammar(as_json_schema(schema)))
            reply.schema = schema
        if tools and sampling.grammar:
            raise UsageError(
                "A reply is by a schema or a grammar, or it calls tools. Ask for one, then for the "
                "other."
            )
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
        if said and said[0].author is Author.CUSTOMER and not info.title:
            parts.store.rename(self.id, _title(said[0].text))


def _leaf(history: Sequence[Message]) -> str:
    """The active leaf of a branch, as `begin_turn` takes it."""
    return history[-1].id if history else ROOT


def _asked(history: Sequence[Message]) -> tuple[Message, list[ToolCall]] | None:
    """The last message with calls that have no result yet, and these."""
    answered = {message.tool_call_id for message in history if message.author is Author.TOOL}
    for message in reversed(history):
        if waiting := [call for call in message.tool_calls if call.id not in answered]:
            return message, waiting
    return None


def _is_answerable(history: Sequence[Message]) -> bool:
    """Whether a reply may follow: somebody spoke, or the calls of the last reply have results."""
    last = history[-1]
    if last.author is not Author.TOOL:
        return last.author is Author.CUSTOMER
    asked = _asked(history)
    return asked is None or all(call.id != last.tool_call_id for call in asked[0].tool_calls)


def _valid(text: str) -> str:
    """The text, if it can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The message is no valid Unicode text: character {error.start} is half of a pair."
        ) from None
    return text


def _tools(options: ReplyOptions) -> list[dict[str, Any]]:
    """The tools as JSON, checked."""
    tools = tool_schemas(options.get("tools", ()))
    if "tool_choice" in options:
        check_choice(options["tool_choice"], tools)
    return tools


def _calls(
    tools: list[dict[str, Any]], options: ReplyOptions, form: CallForm, begun: Message | None
) -> Calls | None:
    """What may be called, if anything; its grammar is made here and remembered."""
    calls = Calls(json.dumps(tools, ensure_ascii=False), form, options.get("tool_choice", "auto"))
    if begun is not None:
        if calls.forced or form.trigger in begun.text:
            raise UsageError(
                "A reply that was cut within a tool call cannot be gone on with. Have it written "
                "again (regenerate), with more max_tokens."
            )
        if form.at_start:
            return None
    call_grammar(calls, begun=not calls.forced)
    return calls


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
