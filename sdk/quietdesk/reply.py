"""Reply: reads the engine's stream, gathers the text, and has it kept in the store.

One object serves sync, async and streaming callers. A reply is kept even when nobody reads it: a
recorder, one thread per assistant, checkpoints open replies at most once a second and finishes
each in one transaction.
"""

import asyncio
import json
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Self

from pydantic import BaseModel

from quietdesk.engine.stream import Stream
from quietdesk.errors import ConversationBusyError, QuietdeskError, UnparsedReplyError, UsageError
from quietdesk.store.base import Store
from quietdesk.types import ContextReport, Delta, FinishReason, Message, Recipe, ToolCall, Usage

CHECKPOINT_S = 1.0
"""Least time between two checkpoints of a reply."""
HEARTBEAT_S = 5.0
"""Most time without a sign of life for the store, also while nothing is said."""


class Reply:
    """An answer, while it is written and afterwards.

    Iterating gives the pieces as they come; leaving the loop early cancels the reply. At the end of
    the iteration, and when `wait` returns, it is kept in the store.
    """

    def __init__(self, reply_id: str, begin: Callable[["Reply"], None]) -> None:
        """A reply that has not begun; made by `Conversation`.

        Args:
            reply_id: The message's id.
            begin: Has the model start, and calls `opened`.
        """
        self.id = reply_id
        self._begin = begin
        self._beginning = threading.Lock()
        self._opened: tuple[Message, ContextReport, Stream] | None = None
        self.schema: type[BaseModel] | Mapping[str, Any] | None = None
        """What its text validates against, where that was asked for."""
        self._kept: Future[None] = Future()
        self._cancelled = False

    def begin(self) -> Self:
        """Start it if it has not begun; raises what `Conversation.send` raises then."""
        with self._beginning:
            if self._opened is None:
                self._begin(self)
        return self

    def opened(self, draft: Message, context: ContextReport, stream: Stream) -> None:
        """It has begun: the open message in the store, what the model sees, where it writes."""
        self._opened = (draft, context, stream)
        if self._cancelled:
            stream.cancel()

    @property
    def stream(self) -> Stream:
        """What the engine writes into.

        Raises:
            UsageError: it has not begun; one of `astream` begins when it is iterated or awaited.
        """
        return self._open[2]

    @property
    def _open(self) -> tuple[Message, ContextReport, Stream]:
        if self._opened is None:
            raise UsageError(f"The reply {self.id!r} has not begun. Iterate it or await it first.")
        return self._opened

    @property
    def text(self) -> str:
        """What was said so far."""
        return self._opened[0].text + self._opened[2].text if self._opened else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the model calls; none while it is written, and none of a reply that was cut.

        Whoever has made the calls gives their results to `Conversation.send_results`.
        """
        return self._opened[2].tool_calls if self._opened else ()

    @property
    def parsed(self) -> Any:
        """The value of a reply by a schema: an instance of the Pydantic model, or JSON.

        Raises:
            UsageError: no schema was asked for.
            UnparsedReplyError: it has not come to its end, or the model's own checks refuse it.
        """
        if self.schema is None:
            raise UsageError("The reply was not asked for by a schema; `text` has what was said.")
        if self.finish_reason is not FinishReason.STOP:
            reason = self.finish_reason or "still being written"
            raise UnparsedReplyError(
                self.text, f"it is incomplete ({reason}). Raise max_tokens if it was too long."
            )
        try:
            if isinstance(self.schema, Mapping):
                return json.loads(self.text)
            return self.schema.model_validate_json(self.text)
        except ValueError as error:
            raise UnparsedReplyError(self.text, f"it does not validate: {error}") from None

    @property
    def usage(self) -> Usage:
        """What it cost so far."""
        return self._opened[2].usage if self._opened else Usage()

    @property
    def context(self) -> ContextReport:
        """What the model saw, and what it did not see; raises as `stream` does."""
        return self._open[1].model_copy(update={"cached_tokens": self.usage.cached_tokens})

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it is being written."""
        return self._opened[2].finish_reason if self._opened else None

    @property
    def error(self) -> QuietdeskError | None:
        """What went wrong, in the engine or when it was to be kept; None if nothing did."""
        if self._kept.done() and isinstance(kept := self._kept.exception(), QuietdeskError):
            return kept
        return self._opened[2].error if self._opened else None

    @property
    def message(self) -> Message:
        """The reply as a message of the conversation, as it stands now."""
        done = self.finish_reason is not None
        return self._open[0].model_copy(
            update={
                "text": self.text,
                "tool_calls": self.tool_calls,
                "finish_reason": self.finish_reason,
                "usage": self.usage if done else None,
                "context": self.context,
                "recipe": self._recipe(done),
            }
        )

    def _recipe(self, done: bool) -> Recipe | None:
        recipe = self._open[0].recipe
        if recipe is None or not done:
            return recipe
        return recipe.model_copy(update={"tokens": tuple(self.stream.tokens)})

    def cancel(self) -> None:
        """Stop soon; what was said is kept. From any thread; no effect after the end."""
        self._cancelled = True
        if self._opened is not None:
            self._opened[2].cancel()

    def wait(self) -> Self:
        """Wait until it has ended and is kept.

        Raises:
            EngineError: the engine could not finish it; what was said is kept.
            StoreError: it could not be kept; `text` still has it.
        """
        self.begin()
        try:
            self._kept.result()
        except BaseException:
            # Whoever waits no more, as after Ctrl-C, wants no more of it.
            self.cancel()
            raise
        self._raise_error()
        return self

    async def await_(self) -> Self:
        """Begin it if need be and wait until it is kept, in a task; raises as `wait` does."""
        await self._begin_aside()
        try:
            await asyncio.shield(asyncio.wrap_future(self._kept))
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_error()
        return self

    async def _begin_aside(self) -> None:
        """Begin in a thread: fitting and committing take milliseconds that a loop has not."""
        if self._opened is None:
            try:
                await asyncio.to_thread(self.begin)
            except asyncio.CancelledError:
                self.cancel()
                raise

    def _raise_error(self) -> None:
        if (error := self.stream.error) is not None:
            raise error

    def __iter__(self) -> Iterator[Delta]:
        """The pieces from the first one on; raises as `wait` does."""
        self.begin()
        return self._pieces()

    def _pieces(self) -> Generator[Delta]:
        try:
            yield from self.stream
        except BaseException:
            # Among them GeneratorExit: the reader has left the loop.
            self.cancel()
            raise
        self.wait()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The pieces from the first one on, in a task; raises as `wait` does."""
        await self._begin_aside()
        try:
            async for delta in self.stream:
                yield delta
        except BaseException:
            self.cancel()
            raise
        await self.await_()


class Recorder:
    """Keeps replies in a store while they are written."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """A recorder; its thread starts with the first reply.

        Args:
            store: Where to.
            clock: Seconds; for tests.
        """
        self._store = store
        self._clock = clock
        self._events: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        self._open: dict[str, tuple[Reply, list[float | int]]] = {}
        self._by_conversation: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def make_way(self, conversation_id: str) -> None:
        """Return when no reply of ours is open in the conversation.

        A cancelled one is waited for, moments; one that is being written is an error.

        Raises:
            ConversationBusyError: a reply is being written there.
        """
        with self._lock:
            reply = self._by_conversation.get(conversation_id)
        if reply is None:
            return
        if not reply._cancelled and reply.finish_reason is None:
            raise ConversationBusyError(conversation_id)
        reply._kept.exception()

    def cancel(self, conversation_id: str, reply_id: str) -> None:
        """Cancel a reply if it is one of ours that is being written there."""
        with self._lock:
            reply = self._by_conversation.get(conversation_id)
        if reply is not None and reply.id == reply_id:
            reply.cancel()

    def record(self, conversation_id: str, reply: Reply) -> None:
        """Keep a reply whose open message is in the store already."""
        with self._lock:
            self._by_conversation[conversation_id] = reply
            self._open[reply.id] = (reply, [self._clock(), 0])
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="quietdesk-recorder", daemon=True
                )
                self._thread.start()
        reply.stream.when_ended(lambda: self._events.put(reply))

    def close(self) -> None:
        """Keep what is still open as it stands, then stop. The engine must have ended it all."""
        if self._thread is not None:
            self._events.put(None)
            self._thread.join()

    def _run(self) -> None:
        closing = False
        while True:
            try:
                reply = self._events.get(timeout=CHECKPOINT_S)
                closing = closing or reply is None
            except queue.Empty:
                reply = None
            if reply is not None:
                self._finish(reply)
            with self._lock:
                rest = list(self._open.values())
            if closing and not rest:
                return
            for open_reply, mark in rest:
                self._checkpoint(open_reply, mark)

    def _checkpoint(self, reply: Reply, mark: list[float | int]) -> None:
        if reply.finish_reason is not None:
            return
        # Of a process that dies within a call, what was written of it is kept as text too.
        now, text = self._clock(), reply.text + reply.stream.begun_call
        wait = CHECKPOINT_S if len(text) > mark[1] else HEARTBEAT_S
        if now - mark[0] < wait:
            return
        mark[:] = now, len(text)
        try:
            self._store.checkpoint(reply.id, text)
        except QuietdeskError as error:
            # Nobody could keep the rest either: stop, and tell the reader.
            reply.cancel()
            self._settle(reply, error)

    def _finish(self, reply: Reply) -> None:
        with self._lock:
            if reply.id not in self._open:
                return
        try:
            self._store.finish(reply.message)
        except Exception as error:
            self._settle(reply, error)
        else:
            self._settle(reply, None)

    def _settle(self, reply: Reply, error: Exception | None) -> None:
        with self._lock:
            self._open.pop(reply.id, None)
            for conversation_id, other in list(self._by_conversation.items()):
                if other is reply:
                    del self._by_conversation[conversation_id]
        if reply._kept.done():
            return
        if error is None:
            reply._kept.set_result(None)
        else:
            reply._kept.set_exception(error)
