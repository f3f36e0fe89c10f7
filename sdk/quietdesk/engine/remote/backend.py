"""RemoteBackend: any OpenAI-compatible server behind the same stream as the engine in this process.

One thread with an event loop serves all requests of a backend: a task for each, which waits for its
turn, asks, and passes on what comes. Cancelling a request cancels its task, which closes its
connection, which is how servers learn of it.

A server whose template and tokeniser are both known (llama-server) gets prompts as tokens, made
here, so that everything holds that holds for a model in this process: counted is evaluated, a
customer's words are never control tokens, a cut reply is gone on with. Any other server gets
messages, and tokens are estimates that are marked as such.
"""

import asyncio
import contextlib
import heapq
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from collections.abc import Sequence as Seq
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from quietdesk.engine.backend import ChatMessage
from quietdesk.engine.detokenize import Detokenizer
from quietdesk.engine.metrics import EngineMetrics, Timings
from quietdesk.engine.remote.connection import END, Connection, Patience, error_words
from quietdesk.engine.remote.dialect import body, unsupported
from quietdesk.engine.remote.endpoint import (
    ASSUMED_CTX,
    ASSUMED_SEQ,
    CONTROL_TEXTS,
    Address,
    Facts,
    Json,
    Kind,
)
from quietdesk.engine.remote.estimate import estimate_tokens
from quietdesk.engine.runner import ModelInfo
from quietdesk.engine.sampling import Limits, Sampling, check_tokens
from quietdesk.engine.stream import Stream
from quietdesk.errors import (
    ConfigError,
    ContextError,
    DeadlineError,
    EndpointCutError,
    EndpointError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EngineClosedError,
    EngineError,
    QueueFullError,
    UnknownNameError,
    UnsupportedOptionError,
    UsageError,
)
from quietdesk.types import FinishReason, Usage

Result = TypeVar("Result")

MAX_STOPS = 4
"""Strings that OpenAI's API takes; the others are watched for here."""
WORD_JOINER = "\u2060"
"""Breaks up a control token's text for servers that would take it for the token itself."""
_REASONS = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}

_End: TypeAlias = tuple[FinishReason, EngineError | None]
_CANCELLED: _End = (FinishReason.CANCELLED, None)


@dataclass(slots=True, eq=False)
class _Request:
    """One request on its way."""

    body: dict[str, Json]
    n_prompt: int
    detokenizer: Detokenizer
    priority: int
    deadline_s: float | None
    submitted_at: float
    stream: Stream = field(init=False)
    task: "asyncio.Task[_End] | None" = None
    started_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    n_pieces: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """What the server counted, by the names of `Usage`."""
    thinking: bool = False
    reason: FinishReason | None = None

    def usage(self) -> Usage:
        """What it cost so far."""
        first, last, started = self.first_token_at, self.last_token_at, self.started_at
        counts = {"prompt_tokens": self.n_prompt, "completion_tokens": self.n_pieces}
        return Usage(
            **(counts | self.counted),
            queue_s=0.0 if started is None else started - self.submitted_at,
            first_token_s=0.0 if first is None else first - self.submitted_at,
            decode_s=0.0 if first is None or last is None else last - first,
            estimated=not self.counted,
        )


class RemoteBackend:
    """A model on a server. Any thread may submit, cancel and read."""

    def __init__(
        self,
        address: Address,
        *,
        key: str = "",
        proxy: str | None = None,
        patience: Patience | None = None,
        n_ctx: int = 0,
        n_seq: int = 0,
        queue_limit: int = 256,
    ) -> None:
        """Ask the server what it is and what it has.

        Args:
            address: Where it stands.
            key: Its key.
            proxy: A proxy on the way to it; None for none.
            patience: How long it is waited for.
            n_ctx: Tokens of one conversation; what the server tells if 0.
            n_seq: Requests that it is given at the same time; what the server tells if 0.
            queue_limit: Requests that may wait here; one more is refused.

        Raises:
            EndpointError: it is not there, refuses, or is no such server.
            UnknownNameError: it has no model of that name, or several and none was named.
            ConfigError: n_ctx is more than it holds, or the key cannot be sent.
        """
        self.address = address
        self.patience = patience or Patience()
        self._queue_limit = queue_limit
        self._lock = threading.Lock()
        self._closed = False
        self._counts = dict.fromkeys(EngineMetrics.__dataclass_fields__, 0)
        self._timings = Timings()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="quietdesk-remote", daemon=True
        )
        self._thread.start()
        try:
            self._call(self._open(key, proxy, n_ctx, n_seq))
        except BaseException:
            self.close()
            raise

    async def _open(self, key: str, proxy: str | None, n_ctx: int, n_seq: int) -> None:
        # A request beside the replies is that of a tokeniser; there are never many.
        self._connection = Connection(
            self.address, self.patience, key=key, proxy=proxy, n_connections=(n_seq or 256) + 8
        )
        self.facts = facts = await _look(self._connection)
        if n_ctx and facts.n_ctx and n_ctx > facts.n_ctx:
            raise ConfigError(
                f"n_ctx is {n_ctx:,}, and the model's server at {self.address.url} holds "
                f"{facts.n_ctx:,} tokens of one conversation. Set n_ctx to that or to 0."
            )
        self.n_ctx = n_ctx or facts.n_ctx or ASSUMED_CTX
        self.n_seq = n_seq or facts.n_seq or ASSUMED_SEQ
        info = facts.model_info(self.address)
        if not (n_ctx or facts.n_ctx):
            told = f"It does not tell its context; {ASSUMED_CTX:,} tokens are assumed (n_ctx)."
            info = _with_notes(info, told)
        self._info = info
        self._gate = _Gate(self.n_seq)

    @property
    def model(self) -> ModelInfo:
        """What the server says of the model."""
        return self._info

    @property
    def unsupported(self) -> frozenset[str]:
        """Names of fields of `Sampling` and `Limits` that the server cannot be asked for."""
        return unsupported(self.facts.kind)

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text, from the server; of one that has no tokeniser as many as estimated.

        Raises:
            EndpointError: the server does not answer.
        """
        if not self.facts.has_tokenizer:
            return [0] * estimate_tokens(text)
        return self._call(self._count_tokens(text, special=special, begin=begin))

    def submit(
        self,
        prompt: Seq[int],
        *,
        messages: Seq[ChatMessage] = (),
        sampling: Sampling | None = None,
        limits: Limits | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
        owner: str = "",
    ) -> Stream:
        """Have the model go on from prompt; see `Backend.submit`.

        Raises:
            UsageError: an empty prompt, no messages for a server that renders them, or a token that
                the model does not have.
            UnsupportedOptionError: the server cannot be asked for that.
            ContextError: the prompt fills the context.
            QueueFullError: too many requests wait; nothing was started.
            EngineClosedError: the backend is closed.
        """
        if not prompt:
            raise UsageError("A prompt needs at least one token; this one has none.")
        if len(prompt) >= self.n_ctx:
            raise ContextError("The prompt", len(prompt), self.n_ctx - 1)
        sampling, limits = (sampling or Sampling()).within(self.n_ctx), limits or Limits()
        check_tokens(sampling, limits, self.model.n_vocab)
        request = _Request(
            body=self._body(prompt, messages, sampling, limits),
            n_prompt=len(prompt),
            detokenizer=Detokenizer(limits.stop),
            priority=priority,
            deadline_s=deadline_s,
            submitted_at=time.monotonic(),
        )
        request.stream = Stream(lambda: self._cancel(request), request.usage)
        with self._lock:
            if self._closed:
                raise EngineClosedError
            if self._counts["n_waiting"] >= self._queue_limit:
                raise QueueFullError(self._queue_limit)
            self._counts["n_waiting"] += 1
            self._counts["requests_total"] += 1
            self._loop.call_soon_threadsafe(self._start, request)
        return request.stream

    def metrics(self) -> EngineMetrics:
        """What was done so far, and how things stand."""
        with self._lock:
            values: dict[str, Any] = {**self._counts, **self._timings.snapshot()}
        return EngineMetrics(**values | {"n_slots": self.n_seq})

    def forget(self, owner: str) -> None:
        """Nothing is kept here; what the server keeps is the server's."""

    def close(self) -> None:
        """Close every connection; requests under way end as cancelled. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(EngineClosedError):
            self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        """The backend."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What a coroutine gives on the backend's loop; from any other thread."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise EngineClosedError from None
        try:
            return future.result()
        except CancelledError:
            # The loop ends while this waits.
            raise EngineClosedError from None
        except BaseException:
            future.cancel()
            raise

    def _body(
        self, prompt: Seq[int], messages: Seq[ChatMessage], sampling: Sampling, limits: Limits
    ) -> dict[str, Json]:
        facts = self.facts
        out = body(facts.kind, self.address.url, sampling, limits, limits.stop[:MAX_STOPS])
        out |= {"stream": True, "stream_options": {"include_usage": True}}
        if facts.model_id:
            out["model"] = facts.model_id
        if facts.kind is Kind.LLAMA_SERVER:
            # So that also a reply that is cancelled knows what was cached.
            out["timings_per_token"] = True
        if facts.takes_tokens:
            return out | {"prompt": list(prompt)}
        if not messages:
            raise UsageError(f"{self.address.url} renders prompts itself, and needs messages.")
        if messages[-1].get("role") == "assistant":
            if facts.kind is not Kind.VLLM:
                raise UnsupportedOptionError(
                    "proceed",
                    self.address.url,
                    f"{facts.kind} servers cannot go on with a cut reply.",
                )
            out |= {"continue_final_message": True, "add_generation_prompt": False}
        return out | {"messages": [_harmless(message) for message in messages]}

    # From here on: the loop's thread.

    async def _count_tokens(self, text: str, *, special: bool, begin: bool) -> list[int]:
        facts, root = self.facts, self.address.root
        clean = text.encode("utf-8", "replace").decode()
        if facts.kind is Kind.LLAMA_SERVER:
            asked = {"content": clean, "add_special": begin, "parse_special": special}
            answer = await self._connection.post(f"{root}/tokenize", asked)
        else:
            asked = {"model": facts.model_id, "prompt": clean, "add_special_tokens": begin}
            answer = await self._connection.post(f"{root}/tokenize", asked)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list):
            raise EndpointCutError(self.address.url, "does not tell the tokens of a text.")
        return tokens

    def _start(self, request: _Request) -> None:
        def finish(task: "asyncio.Task[_End]") -> None:
            # One that is cancelled before its first step never runs.
            self._finish(request, *(_CANCELLED if task.cancelled() else task.result()))

        request.task = self._loop.create_task(self._serve(request))
        request.task.add_done_callback(finish)

    def _cancel(self, request: _Request) -> None:
        """Stop a request; from any thread."""

        def stop() -> None:
            if request.task is not None:
                request.task.cancel()

        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(stop)

    async def _serve(self, request: _Request) -> _End:
        """How the request ended."""
        try:
            async with (
                asyncio.timeout(request.deadline_s),
                self._gate.turn(request.priority),
            ):
                self._note_start(request)
                await self._connection.retried(
                    lambda: self._answer(request), lambda: request.first_token_at is not None
                )
        except TimeoutError:
            return FinishReason.FAILED, DeadlineError(request.deadline_s or 0.0)
        except EndpointError as error:
            return _broken(request), error
        except Exception as error:
            what = f"answered what cannot be read: {type(error).__name__}: {error}"
            return _broken(request), EndpointCutError(self.address.url, what)
        return request.reason or FinishReason.STOP, None

    def _note_start(self, request: _Request) -> None:
        request.started_at = time.monotonic()
        self._timings.queue.observe(request.started_at - request.submitted_at)
        with self._lock:
            self._counts["n_waiting"] -= 1
            self._counts["n_running"] += 1

    def _finish(self, request: _Request, reason: FinishReason, error: EngineError | None) -> None:
        rest = request.detokenizer.flush()
        if request.thinking:
            rest += "</think>"
        if rest:
            request.stream.put(rest, 0)
        usage = request.usage()
        kind = {FinishReason.CANCELLED: "cancelled", FinishReason.FAILED: "failed"}
        kind[FinishReason.INTERRUPTED] = "failed"
        with self._lock:
            counts = self._counts
            counts["n_waiting" if request.started_at is None else "n_running"] -= 1
            counts[f"requests_{kind.get(reason, 'finished')}"] += 1
            if request.first_token_at is not None:
                counts["prompt_tokens"] += usage.prompt_tokens
                counts["cached_tokens"] += usage.cached_tokens
                counts["generated_tokens"] += usage.completion_tokens
                counts["evaluated_tokens"] += usage.evaluated_tokens + usage.completion_tokens
        request.stream.end(reason, usage, error)

    async def _answer(self, request: _Request) -> None:
        """Ask once, and pass on what is said."""
        path = "completions" if "prompt" in request.body else "chat/completions"
        events = self._connection.events(f"{self.address.url}/{path}", request.body)
        waited = asyncio.timeout(self.patience.first_token_s)
        try:
            async with waited, contextlib.aclosing(events):
                async for data in events:
                    if data == END:
                        break
                    before = request.n_pieces
                    self._read(request, data)
                    if request.n_pieces > before:
                        waited.reschedule(self._loop.time() + self.patience.next_token_s)
                    if request.detokenizer.stopped:
                        request.reason = FinishReason.STOP
                        return
        except EndpointCutError:
            if request.reason is None:
                raise
        except TimeoutError:
            if not waited.expired():
                raise
            raise self._late(request) from None
        if request.reason is None:
            raise EndpointCutError(
                self.address.url, "stopped in mid-reply without saying why.", may_retry=True
            )

    def _late(self, request: _Request) -> EndpointTimeoutError:
        url, patience = self.address.url, self.patience
        if request.first_token_at is None:
            what = "begin to answer"
            return EndpointTimeoutError(url, what, "endpoint_first_token_s", patience.first_token_s)
        what = "go on with its answer"
        return EndpointTimeoutError(url, what, "endpoint_next_token_s", patience.next_token_s)

    def _read(self, request: _Request, data: str) -> None:
        """Take in the data of one event."""
        try:
            event = json.loads(data)
        except ValueError:
            raise EndpointCutError(
                self.address.url, f"sent an event that is no JSON: {data[:80]!r}."
            ) from None
        if not isinstance(event, dict):
            raise EndpointCutError(self.address.url, f"sent an event of no use: {data[:80]!r}.")
        if event.get("error"):
            raise self._told(event)
        request.counted |= _counted(event)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            text = delta.get("content") or choice.get("text") or ""
            self._say(request, thought, text)
            if (why := choice.get("finish_reason")) is not None:
                self._note_end(request, str(why))

    def _told(self, event: dict[str, Json]) -> EndpointRefusedError:
        """The error that an event tells."""
        error = event["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 200
        return self._connection.refused(status, error_words(json.dumps(event)))

    def _note_end(self, request: _Request, why: str) -> None:
        if (reason := _REASONS.get(why)) is not None:
            request.reason = reason
            return
        raise EndpointRefusedError(self.address.url, 200, f"the reply ended as {why!r}")

    def _say(self, request: _Request, thought: str, text: str) -> None:
        """Pass text on; thoughts that come apart from it stand in the marks that models write."""
        if not (thought or text):
            return
        now = time.monotonic()
        self._timings.tokens(1, now, request.submitted_at, request.last_token_at)
        request.first_token_at = request.first_token_at or now
        request.last_token_at = now
        request.n_pieces += 1
        if thought and not request.thinking:
            thought = f"<think>{thought}"
            request.thinking = True
        elif text and request.thinking:
            thought += "</think>"
            request.thinking = False
        whole = (thought + text).encode("utf-8", "replace")
        if said := request.detokenizer.push(whole):
            request.stream.put(said, 1)

    async def _end(self) -> None:
        """Cancel what is under way, then close the pool."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "_connection"):
            await self._connection.close()


class _Gate:
    """Lets so many in at a time: the highest priority first, then who came first."""

    def __init__(self, n_free: int) -> None:
        self._n_free = n_free
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @contextlib.asynccontextmanager
    async def turn(self, priority: int) -> AsyncIterator[None]:
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: int) -> None:
        if self._n_free:
            self._n_free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Its turn came in the same moment: the next one has it.
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._n_free += 1


async def _look(connection: Connection) -> Facts:
    """Find out what stands at an address, from what it says of itself."""
    address = connection.address
    listed = await _models(connection)
    model = _choose(address, listed)
    model_id = str(model.get("id", address.model))
    props = await _try(connection.get(f"{address.root}/props"))
    if isinstance(props, dict) and "total_slots" in props:
        meta = model.get("meta")
        settings = props.get("default_generation_settings")
        n_ctx = settings.get("n_ctx") if isinstance(settings, dict) else None
        return Facts(
            kind=Kind.LLAMA_SERVER,
            model_id=model_id,
            n_ctx=n_ctx if isinstance(n_ctx, int) else 0,
            n_seq=int(props["total_slots"]),
            chat_template=str(props.get("chat_template") or ""),
            bos_token=str(props.get("bos_token") or ""),
            eos_token=str(props.get("eos_token") or ""),
            meta=meta if isinstance(meta, dict) else {},
        )
    if model.get("owned_by") == "vllm":
        longest = model.get("max_model_len")
        return Facts(Kind.VLLM, model_id, n_ctx=longest if isinstance(longest, int) else 0)
    if model.get("owned_by") == "me":
        about = await _try(connection.get(f"{address.root}/openapi.json"))
        if isinstance(about, dict) and "/extras/tokenize" in about.get("paths", ()):
            # It has one context behind a lock: more requests would only wait there.
            return Facts(Kind.LLAMA_CPP_PYTHON, model_id, n_seq=1)
    return Facts(Kind.OTHER, model_id)


async def _models(connection: Connection) -> list[dict[str, Json]]:
    """What a server lists; nothing where a model was named and it does not list any."""
    try:
        answer = await connection.get(f"{connection.address.url}/models")
    except EndpointRefusedError as error:
        if connection.address.model and error.status in (404, 405, 501):
            return []
        raise
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise EndpointCutError(
            connection.address.url, "lists no models: it does not speak OpenAI's API."
        )
    return [model for model in data if isinstance(model, dict) and "id" in model]


def _choose(address: Address, listed: list[dict[str, Json]]) -> dict[str, Json]:
    """The model that is meant."""
    names = [str(model["id"]) for model in listed]
    if not address.model:
        if len(listed) == 1:
            return listed[0]
        hint = f"Name one of {', '.join(names[:8])}: {address.url}#NAME" if names else ""
        raise UnknownNameError("model without a name at", address.url, (), hint)
    for model in listed:
        if address.model == model["id"] or address.model in model.get("aliases", ()):
            return model
    if listed:
        raise UnknownNameError("model", address.model, names, f"{address.url} has it not.")
    return {"id": address.model}


async def _try(asking: Coroutine[Any, Any, Json]) -> Json:
    """What a server answers to a question that it need not know."""
    try:
        return await asking
    except (EndpointRefusedError, EndpointCutError):
        return None


def _counted(event: dict[str, Json]) -> dict[str, int]:
    """What an event tells of the tokens, by the names of `Usage`."""
    counts: dict[str, int] = {}
    timings, usage = event.get("timings"), event.get("usage")
    if isinstance(timings, dict) and isinstance(timings.get("cache_n"), int):
        cached, read = timings["cache_n"], timings.get("prompt_n", 0)
        counts = {"cached_tokens": cached, "prompt_tokens": cached + read}
        counts["completion_tokens"] = timings.get("predicted_n", 0)
    if isinstance(usage, dict):
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage.get(name), int):
                counts[name] = usage[name]
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            counts["cached_tokens"] = details["cached_tokens"]
    return counts


def _broken(request: _Request) -> FinishReason:
    """How a reply ends whose server failed."""
    return FinishReason.FAILED if request.first_token_at is None else FinishReason.INTERRUPTED


def _harmless(message: ChatMessage) -> dict[str, Json]:
    """A message whose text holds no control token's text."""
    out = dict(message)
    content = out.get("content")
    if isinstance(content, str):
        for text in CONTROL_TEXTS:
            if text in content:
                content = content.replace(text, text[0] + WORD_JOINER + text[1:])
        out["content"] = content
    return out


def _with_notes(info: ModelInfo, *notes: str) -> ModelInfo:
    return replace(info, notes=(*info.notes, *notes))
