"""Stream: what a request has said so far, for readers in threads and in tasks.

The engine's thread writes; any number of readers read, each from the beginning. Nothing is lost
when nobody reads: the pieces stay until the stream is dropped.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from quietdesk.errors import EngineError
from quietdesk.types import Delta, FinishReason, ToolCall, Usage


class Stream:
    """The pieces of one reply, and how it ended."""

    def __init__(
        self,
        cancel: Callable[[], None],
        usage: Callable[[], Usage] = Usage,
        tokens: Callable[[], Sequence[int]] = tuple,
        call: Callable[[], str] = str,
    ) -> None:
        """An empty stream.

        Args:
            cancel: Called when a reader cancels; from any thread, more than once.
            usage: Tells what it cost so far, until it has ended; from any thread.
            tokens: Tells the ids generated so far; from any thread.
            call: Tells what was written so far of a call; from any thread.
        """
        self._cancel = cancel
        self._usage_so_far = usage
        self._tokens = tokens
        self._call = call
        self._tool_calls: tuple[ToolCall, ...] = ()
        self._changed = threading.Condition()
        self._pieces: list[tuple[str, int]] = []
        self._waiting_tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._on_end: list[Callable[[], None]] = []
        self._usage: Usage | None = None
        self._finish_reason: FinishReason | None = None
        self._error: EngineError | None = None

    # The engine's side.

    def put(self, text: str, tokens: int) -> None:
        """Add a piece: whole characters, and how many tokens they took."""
        with self._changed:
            self._pieces.append((text, tokens))
            self._wake()

    def end(
        self,
        reason: FinishReason,
        usage: Usage,
        error: EngineError | None = None,
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> None:
        """Close it.

        Args:
            reason: Why it ended.
            usage: What it cost.
            error: The cause where the reason is FAILED or INTERRUPTED.
            tool_calls: What the model calls where the reason is TOOL_CALLS.
        """
        with self._changed:
            if self._finish_reason is not None:
                return
            self._usage = usage
            self._error = error
            self._tool_calls = tool_calls
            self._finish_reason = reason
            callbacks, self._on_end = self._on_end, []
            self._wake()
        for callback in callbacks:
            callback()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiting_tasks:
            waiting, self._waiting_tasks = self._waiting_tasks, []
            for loop, event in waiting:
                # A reader's loop may be closed already: then nobody waits there any more.
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    # The readers' side.

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it goes on."""
        return self._finish_reason

    @property
    def error(self) -> EngineError | None:
        """The cause, where the reason is FAILED or INTERRUPTED."""
        return self._error

    @property
    def usage(self) -> Usage:
        """What it cost so far."""
        return self._usage or self._usage_so_far()

    @property
    def tokens(self) -> Sequence[int]:
        """Ids generated so far, the end marker's included; none where they are not known."""
        return self._tokens()

    @property
    def text(self) -> str:
        """Everything said so far."""
        return "".join(text for text, _ in self._pieces)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """What the model calls; none before the end."""
        return self._tool_calls

    @property
    def begun_call(self) -> str:
        """What was written so far of a call that is no text yet; empty after the end.

        When a reply ends within a call, this has become text.
        """
        with self._changed:
            return "" if self._finish_reason is not None else self._call()

    def cancel(self) -> None:
        """Stop soon; what was said stays. No effect on a stream that has ended."""
        if self._finish_reason is None:
            self._cancel()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have callback called once when it ends, at once if it has; from the engine's thread."""
        with self._changed:
            if self._finish_reason is None:
                self._on_end.append(callback)
                return
        callback()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False where the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finish_reason is not None, timeout_s)

    async def await_end(self) -> None:
        """Wait for the end, without holding a thread."""
        while self._finish_reason is None:
            await self._await_change(len(self._pieces))

    def __iter__(self) -> Iterator[Delta]:
        """Pieces from the first one on, until the end."""
        position = 0
        while True:
            with self._changed:
                while position == len(self._pieces) and self._finish_reason is None:
                    self._changed.wait()
                fresh = self._pieces[position:]
            if not fresh:
                return
            position += len(fresh)
            for text, tokens in fresh:
                yield Delta(text=text, tokens=tokens)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The same, in a task."""
        position = 0
        while True:
            await self._await_change(position)
            fresh = self._pieces[position:]
            if not fresh:
                return
            position += len(fresh)
            for text, tokens in fresh:
                yield Delta(text=text, tokens=tokens)

    async def _await_change(self, position: int) -> None:
        """Until there are more than position pieces, or the end."""
        with self._changed:
            if position < len(self._pieces) or self._finish_reason is not None:
                return
            event = asyncio.Event()
            self._waiting_tasks.append((asyncio.get_running_loop(), event))
        await event.wait()
