"""Engine: the thread that owns the runner; a step is schedule, decode, deliver.

The runner is opened on that thread too. llama.cpp computes with OpenMP, whose pool belongs to the
thread that first computes: with a second pool in the process there are more threads than cores, GNU
libgomp then no longer spins at barriers, of which a step has a thousand, and steps were measured to
take 1.4 times as long.
"""

import atexit
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from quietdesk.engine.backend import ChatMessage
from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.calls import control_tokens, parse_calls
from quietdesk.engine.detokenize import Detokenizer
from quietdesk.engine.draft_model import DraftModel
from quietdesk.engine.metrics import EngineMetrics, Timings
from quietdesk.engine.prefix_cache import WORTH_KEEPING, PrefixCache, Tokens
from quietdesk.engine.reading import READING_PRIORITY, Reading, ReadingResult
from quietdesk.engine.runner import AbortedError, ModelInfo, Runner
from quietdesk.engine.sampling import Limits, Sampling, check_tokens
from quietdesk.engine.scheduler import Admission, Scheduler
from quietdesk.engine.sequence import Sequence, State
from quietdesk.engine.slots import Slots
from quietdesk.engine.speculation import Speculation
from quietdesk.engine.states.keeper import KeptState, StateKeeper
from quietdesk.engine.stream import Stream
from quietdesk.errors import (
    ContextError,
    DeadlineError,
    DecodeError,
    EngineClosedError,
    EngineError,
    QueueFullError,
    UsageError,
)
from quietdesk.types import FinishReason, ToolCall

T = TypeVar("T")

READING_SHARE = 0.1
"""Of the time, what texts that are only read may take while somebody waits for an answer."""
IDLE_S = 2.0
"""Nothing to do for so long: time to write what a crash would cost."""


class Engine:
    """Runs many requests on one runner.

    Any thread may submit, cancel and read. The engine opens the runner and closes it.
    """

    def __init__(
        self,
        open_runner: Callable[[], Runner],
        *,
        n_prefill: int = 256,
        queue_limit: int = 256,
        parked_bytes: int = 512 * 2**20,
        n_draft: int = 12,
        states: StateKeeper | None = None,
        open_draft: Callable[[Runner], DraftModel] | None = None,
        give_up: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the engine's thread, and wait until its runner is open.

        Args:
            open_runner: Called once, on the engine's thread.
            n_prefill: Prompt tokens at most in a step that also generates.
            queue_limit: Requests that may wait; one more is refused.
            parked_bytes: Memory for states of conversations that hold no slot.
            n_draft: Tokens guessed ahead by prompt look-up for a lone sequence; 0: none.
            states: Keeps states on disk; closed with the engine.
            open_draft: Called after open_runner, on the engine's thread, with what that opened:
                the model that guesses where look-up has no guess. It is closed with the engine.
            give_up: Has open_runner return or raise soon: nobody wants the runner any more.
            clock: Seconds; for tests.

        Raises:
            Exception: what open_runner or open_draft raises.
        """
        self._clock = clock
        self._n_prefill = n_prefill
        self._parked_bytes = parked_bytes
        self._n_draft = n_draft
        self._states = states
        self._fetched: deque[tuple[Sequence, KeptState, bytes | None]] = deque()
        self._to_forget: deque[str] = deque()
        self._unsaved = False
        """Whether a quiet moment is worth a look for states to write."""
        self._wake = threading.Condition()
        self._arrived: deque[Sequence] = deque()
        self._queue_limit = queue_limit
        self._closing = False
        self._failure: BaseException | None = None
        """Why it ended by itself, if it did."""
        self._in_decode: frozenset[int] = frozenset()
        """Ids of the sequences whose prompt is being read in the decode under way."""
        self._gives_way = False
        """Whether the decode under way reads on the side, and stops when somebody asks."""
        self._reading_debt_s = 0.0
        """How long answers have to be worked on before there is time for reading again."""
        self._next_id = 0
        self._counts = dict.fromkeys(EngineMetrics.__dataclass_fields__, 0)
        self._timings = Timings()
        self._busy_s = 0.0
        self._give_up = give_up
        self._opened: Future[Runner] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(open_runner, open_draft), name="quietdesk-engine", daemon=True
        )
        # When the interpreter exits, C++ destroys what llama.cpp computes with. A thread that is
        # still inside then reads freed memory, and the process ends with a segmentation fault.
        atexit.register(self.close)
        try:
            self._thread.start()
            self._opened.result()
        except BaseException:
            # Also when the wait is interrupted: then the thread closes what it has opened.
            self.close()
            raise

    @property
    def model(self) -> ModelInfo:
        """What the model says of itself."""
        return self._runner.info

    @property
    def n_ctx(self) -> int:
        """Tokens that one conversation can hold, its reply included."""
        return self._runner.n_ctx

    @property
    def n_seq(self) -> int:
        """Requests that are evaluated at the same time at most."""
        return self._runner.n_seq

    @property
    def unsupported(self) -> frozenset[str]:
        """Nothing: every parameter is applied."""
        return frozenset()

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text; see `Runner.tokenize`."""
        return self._runner.tokenize(text, special=special, begin=begin)

    def piece(self, token: int) -> bytes:
        """The bytes of a token; see `Runner.piece`."""
        return self._runner.piece(token)

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
        """Have the model go on from prompt.

        Args:
            prompt: Token ids, at least one, and fewer than the context holds.
            messages: Not read: the prompt is rendered.
            sampling: How tokens are chosen; greedy if None.
            limits: When it ends.
            priority: Higher goes first; a running request of a lower one makes room.
            deadline_s: Seconds from now until it has to be finished.
            owner: Whose words they are. Only what has an owner is kept on disk.

        Raises:
            UsageError: an empty prompt, a token that the model does not have, or a grammar that
                does not compile.
            ContextError: the prompt fills the context.
            QueueFullError: too many requests wait; nothing was started.
            EngineClosedError: the engine is closed.
        """
        del messages
        if not prompt:
            raise UsageError("A prompt needs at least one token; this one has none.")
        if len(prompt) >= self._runner.n_ctx:
            raise ContextError("The prompt", len(prompt), self._runner.n_ctx - 1)
        sampling, limits = sampling or Sampling(), limits or Limits()
        check_tokens(sampling, limits, self.model.n_vocab)
        if sampling.grammar:
            self._runner.check_grammar(sampling.grammar)
        return self._accept(prompt, sampling, limits, priority, deadline_s, owner=owner)

    def read_logprobs(
        self,
        tokens: Seq[int],
        start: int,
        *,
        keeps: bool = False,
        priority: int = READING_PRIORITY,
        deadline_s: float | None = None,
    ) -> ReadingResult:
        """How likely the model finds given tokens, each after all those before it.

        It takes its turn behind everybody who waits for an answer. What stands before `start` is
        evaluated once for readings that have it in common, one after the other.

        Args:
            tokens: What is read, at most as much as the context holds.
            start: Position of the first token that is asked about, from 1.
            keeps: Leave all of it for the readings that come next and part from it somewhere, not
                only what stands before `start`. One that starts where it parts, or one token
                later, evaluates nothing twice; in the last bits its figures depend on that.
            priority: Higher goes first.
            deadline_s: Seconds from now until it has to be finished.

        Raises:
            UsageError: nothing is asked about, or there is nothing before it.
            ContextError: it is longer than the context.
            QueueFullError: too many requests wait; nothing was started.
            EngineClosedError: the engine is closed.
        """
        if not 1 <= start < len(tokens):
            raise UsageError(
                f"The first token asked about is number {start} of {len(tokens)}: at least one has "
                "to stand before it, and it has to be there."
            )
        reading = Reading.of_logprobs(len(tokens), start, keeps=keeps)
        return self._read(tokens, reading, priority, deadline_s)

    def read_hidden(
        self,
        tokens: Seq[int],
        *,
        priority: int = READING_PRIORITY,
        deadline_s: float | None = None,
    ) -> ReadingResult:
        """What the model's last layer makes of given tokens, their mean; see `read_logprobs`.

        Raises:
            UsageError: there are no tokens.
            ContextError: it is longer than the context.
            QueueFullError: too many requests wait; nothing was started.
            EngineClosedError: the engine is closed.
        """
        if not tokens:
            raise UsageError("A text needs at least one token; this one has none.")
        return self._read(tokens, Reading.of_hidden(len(tokens)), priority, deadline_s)

    def _read(
        self, tokens: Seq[int], reading: Reading, priority: int, deadline_s: float | None
    ) -> ReadingResult:
        if len(tokens) > self._runner.n_ctx:
            raise ContextError("The text", len(tokens), self._runner.n_ctx)
        stream = self._accept(tokens, None, None, priority, deadline_s, reading)
        return ReadingResult(stream, reading)

    def _accept(
        self,
        prompt: Seq[int],
        sampling: Sampling | None,
        limits: Limits | None,
        priority: int,
        deadline_s: float | None,
        reading: Reading | None = None,
        *,
        owner: str = "",
    ) -> Stream:
        limits = limits or Limits()
        calls = sampling.calls if sampling is not None else None
        marks: dict[int, bytes] = {}
        detokenizer = Detokenizer(limits.stop)
        if calls is not None and calls.trigger:
            form = calls.form
            marks = control_tokens(form, self._runner.tokenize, self._runner.piece)
            detokenizer = Detokenizer(limits.stop, calls.trigger, at_start=form.at_start)
        now = self._clock()
        with self._wake:
            if self._closing:
                raise EngineClosedError from self._failure
            sequence = Sequence(
                id=self._next_id,
                tokens=list(prompt),
                n_prompt=len(prompt),
                sampling=sampling or Sampling(),
                limits=limits,
                stream=Stream(
                    lambda: self._cancel(sequence),
                    lambda: sequence.usage(),
                    lambda: sequence.tokens[sequence.n_prompt :],
                    lambda: sequence.detokenizer.call,
                ),
                detokenizer=detokenizer,
                marks=marks,
                submitted_at=now,
                priority=priority,
                deadline_at=None if deadline_s is None else now + deadline_s,
                deadline_s=deadline_s or 0.0,
                reading=reading,
                owner=owner,
            )
            if len(self._arrived) + len(self._scheduler.waiting) >= self._queue_limit:
                raise QueueFullError(self._queue_limit)
            self._next_id += 1
            self._arrived.append(sequence)
            self._counts["requests_total"] += 1
            self._wake.notify()
            gives_way = self._gives_way and reading is None
        if gives_way:
            self._runner.abort()
        return sequence.stream

    def forget(self, owner: str) -> None:
        """Erase what is kept of an owner's words.

        On disk it is gone when this returns; in memory before anything else is evaluated. A reply
        that is under way goes on, and nothing of it is kept.
        """
        with self._wake:
            self._to_forget.append(owner)
            self._wake.notify()
        if self._states is not None:
            self._states.forget(owner)

    def metrics(self) -> EngineMetrics:
        """What was done so far, and how things stand."""
        held = {slot.id: len(slot.tokens) for slot in self._cache.slots}
        held |= {one.slot: one.n_computed for one in list(self._scheduler.running) if one.slot >= 0}
        values: dict[str, Any] = {**self._counts, **self._timings.snapshot()}
        values |= {
            "n_batch": self._runner.n_batch,
            "kv_cells": self._runner.n_seq * self._runner.n_ctx,
            "kv_cells_used": sum(held.values()),
            "n_waiting": len(self._arrived) + len(self._scheduler.waiting),
            "n_running": len(self._scheduler.running),
            "n_slots": self._runner.n_seq,
            "parked_states": self._cache.parked_count,
            "parked_bytes": self._cache.parked_bytes,
            "decode_s": self._runner.evaluated_s,
            "busy_s": self._busy_s,
        }
        values |= self._speculation.counts
        if self._states is not None:
            values |= {
                "states_written": self._states.written,
                "states_loaded": self._states.loaded,
                "states_refused": self._states.refused,
                "states_skipped": self._states.skipped,
            }
        return EngineMetrics(**values)

    def close(self) -> None:
        """Stop; requests under way end as cancelled, waiting ones too. Safe to call twice."""
        self._closing = True
        self._give_up()
        if not self._thread.is_alive():
            return  # So it is in a fork too, where nobody would ever release the lock.
        with self._wake:
            self._wake.notify()
        if self._opened.done() and self._opened.exception() is None:
            self._runner.abort()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        """The engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # From here on: the engine's thread, except for _cancel.

    def _cancel(self, sequence: Sequence) -> None:
        with self._wake:
            sequence.cancelled = True
            # A step that only generates is over in moments; a prompt may be long.
            reading = sequence.id in self._in_decode
            self._wake.notify()
        if reading:
            self._runner.abort()

    def _open(
        self,
        open_runner: Callable[[], Runner],
        open_draft: Callable[[Runner], DraftModel] | None,
    ) -> Runner:
        runner = self._runner = open_runner()
        try:
            draft_model = open_draft(runner) if open_draft is not None else None
        except BaseException:
            runner.close()
            raise
        # A guess that comes false has to be taken out of the memory again.
        n_lookup = self._n_draft if runner.can_trim else 0
        self._speculation = Speculation(runner.n_ctx, n_lookup, draft_model)
        if self._states is not None:
            self._states.open(runner.state_key)
        self._cache = PrefixCache(
            runner.n_seq, can_trim=runner.can_trim, parked_bytes=self._parked_bytes
        )
        self._slots = Slots(runner, self._cache, self._states)
        self._scheduler = Scheduler(
            self._cache,
            n_batch=max(runner.n_batch, runner.n_seq),
            n_prefill=self._n_prefill,
        )
        return runner

    def _run(
        self,
        open_runner: Callable[[], Runner],
        open_draft: Callable[[Runner], DraftModel] | None,
    ) -> None:
        try:
            self._opened.set_result(self._open(open_runner, open_draft))
        except BaseException as error:
            self._opened.set_exception(error)
        else:
            self._serve()
        atexit.unregister(self.close)

    def _serve(self) -> None:
        try:
            while True:
                with self._wake:
                    idle = not self._has_work() and not self._wake.wait_for(
                        lambda: self._closing or self._has_work(), IDLE_S if self._unsaved else None
                    )
                    if self._closing:
                        break
                    arrived = [self._arrived.popleft() for _ in range(len(self._arrived))]
                started = time.perf_counter()
                try:
                    if idle:
                        self._unsaved = self._slots.save_one()
                        continue
                    self._unsaved = self._states is not None
                    for sequence in arrived:
                        self._scheduler.add(sequence)
                        self._look_for_state(sequence)
                    self._take_fetched()
                    self._forget_all()
                    self._step()
                except Exception as error:
                    self._fail_running(error)
                self._busy_s += time.perf_counter() - started
        except BaseException as error:
            self._failure = error
            self._end(FinishReason.FAILED, _as_engine_error(error))
        else:
            self._end(FinishReason.CANCELLED)

    def _end(self, reason: FinishReason, error: EngineError | None = None) -> None:
        with self._wake:
            self._closing = True
            rest = [*self._arrived, *self._scheduler.waiting, *self._scheduler.running]
        for sequence in rest:
            # A runner that fails even here is closed next; the stream has ended all the same.
            with contextlib.suppress(Exception):
                self._finish(sequence, reason, error)
        if self._states is not None:
            if error is None:
                self._slots.save_all()
            self._states.close()
        self._speculation.close()
        self._runner.close()

    def _fail_running(self, error: Exception) -> None:
        """End what runs, after a failure that cannot be laid to one request; go on with the rest.

        Raises:
            Exception: nothing runs, or slots cannot even be emptied; then the engine ends.
        """
        if not self._scheduler.running:
            raise error
        for sequence in list(self._scheduler.running):
            self._lose(sequence, error)

    def _has_work(self) -> bool:
        return bool(
            self._arrived
            or self._fetched
            or self._to_forget
            or self._scheduler.running
            or any(
                not sequence.fetching or sequence.cancelled for sequence in self._scheduler.waiting
            )
        )

    def _step(self) -> None:
        now = self._clock()
        self._drop_ended(now)
        while (swap := self._scheduler.preempt(now)) is not None:
            self._counts["preemptions"] += 1
            self._leave_slot(swap.victim)
            self._start(self._scheduler.admit(swap.successor), now)
        while (admission := self._scheduler.next_admission(now)) is not None:
            self._start(admission, now)
        self._speculation.ask_model(self._scheduler.answering)
        batch = self._scheduler.batch()
        if not batch.segments:
            self._reading_debt_s = 0.0
            self._read_on(gives_way=True)
            return
        started = self._clock()
        self._answer(batch)
        if self._scheduler.reading is not None:
            self._reading_debt_s -= self._clock() - started
            if self._reading_debt_s <= 0.0:
                started = self._clock()
                self._read_on(gives_way=False)
                taken = self._clock() - started
                self._reading_debt_s = taken * (1.0 / READING_SHARE - 1.0)

    def _answer(self, batch: Batch) -> None:
        by_slot = {sequence.slot: sequence for sequence in self._scheduler.answering}
        reading = frozenset(by_slot[segment.seq_id].id for segment in batch.prefill)
        with self._wake:
            if self._closing or any(by_slot[s.seq_id].cancelled for s in batch.prefill):
                return
            self._in_decode = reading
        started = self._clock()
        try:
            sampled = self._decode(batch)
        except AbortedError:
            self._go_back(batch, by_slot)
            return
        except Exception as error:
            self._isolate(batch, by_slot, error)
            return
        finally:
            with self._wake:
                self._in_decode = frozenset()
        self._speculation.stepped(batch, by_slot, sampled, self._clock() - started)
        self._deliver(batch, by_slot, sampled)

    def _decode(self, batch: Batch) -> list[list[int]]:
        return self._counted(self._runner.decode, batch)

    def _counted(self, evaluate: Callable[[Batch], list[T]], batch: Batch) -> list[T]:
        try:
            return evaluate(batch)
        finally:
            self._counts["steps"] += 1
            self._counts["evaluated_tokens"] += batch.n_rows
            self._timings.rows.observe(batch.n_rows)

    def _drop_ended(self, now: float) -> None:
        for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
            if sequence.cancelled:
                self._finish(sequence, FinishReason.CANCELLED)
            elif sequence.deadline_at is not None and now >= sequence.deadline_at:
                self._finish(sequence, FinishReason.FAILED, DeadlineError(sequence.deadline_s))

    # Slots.

    def _start(self, admission: Admission | None, now: float) -> None:
        assert admission is not None, "a slot was free"
        try:
            self._place(admission, now)
        except Exception as error:
            self._finish(admission.sequence, FinishReason.FAILED, _as_engine_error(error))

    def _place(self, admission: Admission, now: float) -> None:
        """Give the sequence its slot, with as much of its prompt as is there already."""
        sequence, placement = admission.sequence, admission.placement
        shared = self._cache.shared(np.array(sequence.tokens, np.int32))
        self._cache.take(placement.slot)
        length = placement.length
        if sequence.reading is not None:
            length = sequence.reading.resumes_at(length, self._runner.n_outputs)
        held = sequence.n_computed = self._slots.place(placement, length)
        # A memory that cannot be cut back to what two prompts share stops there while it reads the
        # second one, so that the third begins with it.
        pays = sequence.reading is None and self._cache.can_park and shared - held >= WORTH_KEEPING
        sequence.checkpoint_at = shared if pays else 0
        self._note_content(sequence)
        if sequence.started_at is None:
            sequence.started_at = now
            self._timings.queue.observe(now - sequence.submitted_at)
            sequence.n_cached = held
            self._counts["prompt_tokens"] += sequence.n_prompt
            self._counts["cached_tokens"] += held
        if sequence.sampler < 0 and sequence.reading is None:
            prompt = sequence.tokens[: sequence.n_prompt]
            sequence.sampler = self._runner.open_sampler(sequence.sampling, prompt)

    def _note_content(self, sequence: Sequence) -> None:
        known = min(sequence.n_computed, sequence.n_prompt)
        self._cache.hold(sequence.slot, np.array(sequence.tokens[:known], np.int32))

    def _leave_slot(self, sequence: Sequence) -> None:
        if sequence.slot < 0:
            return
        if sequence.reading is not None:
            self._leave_beginning(sequence, sequence.reading)
        else:
            content: Tokens = np.array(sequence.tokens[: sequence.n_computed], np.int32)
            self._cache.release(sequence.slot, content, sequence.owner)
        sequence.slot = -1
        sequence.n_computed = 0
        sequence.draft = ()

    # States on disk.

    def _look_for_state(self, sequence: Sequence) -> None:
        """Have a state fetched where one on disk saves more than what is in memory."""
        if self._states is None or sequence.reading is not None:
            return
        kept = self._slots.find(np.array(sequence.tokens, np.int32), sequence.owner)
        if kept is None:
            return
        sequence.fetching = True

        def done(state: bytes | None) -> None:
            with self._wake:
                self._fetched.append((sequence, kept, state))
                self._wake.notify()

        self._states.fetch(kept, done)

    def _take_fetched(self) -> None:
        while self._fetched:
            sequence, kept, state = self._fetched.popleft()
            sequence.fetching = False
            if state is not None and sequence.state is not State.FINISHED:
                self._slots.park(kept.tokens, state, kept.owner)

    def _forget_all(self) -> None:
        while self._to_forget:
            owner = self._to_forget.popleft()
            for sequence in (*self._scheduler.waiting, *self._scheduler.running):
                if sequence.owner == owner:
                    sequence.owner = ""
            self._slots.forget(owner)
            self._speculation.forget()

    # After a decode.

    def _deliver(
        self, batch: Batch, by_slot: dict[int, Sequence], sampled: list[list[int]]
    ) -> None:
        now = self._clock()
        alone = len(by_slot) == 1
        for segment, tokens in zip(batch.segments, sampled, strict=True):
            try:
                self._deliver_one(segment, by_slot[segment.seq_id], tokens, now, alone=alone)
            except Exception as error:
                self._lose(by_slot[segment.seq_id], error)

    def _deliver_one(
        self, segment: Segment, sequence: Sequence, tokens: list[int], now: float, *, alone: bool
    ) -> None:
        sequence.n_computed = segment.stop - segment.n_draft
        if not segment.sample:
            self._note_content(sequence)
            if sequence.n_computed == sequence.checkpoint_at:
                self._checkpoint(sequence, shared=True)
            return
        if segment.n_draft:
            right = len(tokens) - 1
            self._speculation.verified(sequence, segment.n_draft, right)
            sequence.n_computed += right
            if sequence.n_computed < segment.stop:
                self._runner.remove(segment.seq_id, sequence.n_computed)
        if not sequence.n_generated:
            sequence.first_token_at = now
            self._note_content(sequence)
            if not self._runner.can_trim:
                self._checkpoint(sequence)
        self._say(sequence, tokens, now)
        self._speculation.look_up(sequence, alone=alone)

    def _checkpoint(self, sequence: Sequence, *, shared: bool = False) -> None:
        """Park the state here, where the next turn, or others if shared, can start again."""
        tokens: Tokens = np.array(sequence.tokens[: sequence.n_computed], np.int32)
        state = self._runner.save(sequence.slot)
        self._slots.park(tokens, state, sequence.owner, shared=shared)

    def _say(self, sequence: Sequence, tokens: list[int], now: float) -> None:
        """Append tokens, show what may be shown, end where it has to end."""
        limits = sequence.limits
        said: list[str] = []
        reason: FinishReason | None = None
        count = 0
        for token in tokens:
            sequence.tokens.append(token)
            count += 1
            ends = self._runner.is_end(token) and not limits.ignore_end
            if ends or token in limits.stop_tokens:
                reason = FinishReason.STOP
                break
            piece = sequence.marks.get(token) or self._runner.piece(token)
            said.append(sequence.detokenizer.push(piece))
            if sequence.detokenizer.stopped:
                reason = FinishReason.STOP
                break
            full = len(sequence.tokens) >= self._runner.n_ctx
            if sequence.n_generated >= limits.max_tokens or full:
                reason = FinishReason.LENGTH
                break
        self._counts["generated_tokens"] += count
        self._timings.tokens(count, now, sequence.submitted_at, sequence.last_token_at)
        sequence.last_token_at = now
        if sequence.n_computed > len(sequence.tokens):
            # Tokens after the end were verified in vain; they are not in the conversation.
            sequence.n_computed = len(sequence.tokens)
            self._runner.remove(sequence.slot, sequence.n_computed)
        text = "".join(said)
        if text:
            sequence.stream.put(text, count)
        if reason is not None:
            self._finish(sequence, reason)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, error: EngineError | None = None
    ) -> None:
        if sequence.state is State.FINISHED:
            return
        rest = sequence.detokenizer.flush()
        tool_calls: tuple[ToolCall, ...] = ()
        if (call := sequence.detokenizer.call) and sequence.sampling.calls is not None:
            if reason is FinishReason.STOP:
                tool_calls = parse_calls(sequence.sampling.calls.form, call)
            if tool_calls:
                reason = FinishReason.TOOL_CALLS
            else:
                rest += call  # Half a call calls nothing; as text it is not lost.
        if rest:
            sequence.stream.put(rest, 0)
        sequence.state = State.FINISHED
        self._scheduler.remove(sequence)
        self._leave_slot(sequence)
        kind = {FinishReason.CANCELLED: "cancelled", FinishReason.FAILED: "failed"}
        self._counts[f"requests_{kind.get(reason, 'finished')}"] += 1
        try:
            if sequence.sampler >= 0:
                self._runner.close_sampler(sequence.sampler)
        finally:
            sequence.stream.end(reason, sequence.usage(), error, tool_calls)

    def _lose(self, sequence: Sequence, error: Exception) -> None:
        """End a request whose slot holds nobody knows what."""
        sequence.n_computed = 0
        try:
            if sequence.slot >= 0:
                self._runner.remove(sequence.slot, 0)
        finally:
            self._finish(sequence, FinishReason.FAILED, _as_engine_error(error))

    # Texts that are only read.

    def _read_on(self, *, gives_way: bool) -> None:
        """Evaluate the next rows of the text that is only read, if there is one.

        Args:
            gives_way: Whether it stops when somebody asks for an answer meanwhile.
        """
        batch = self._scheduler.reading_batch(self._runner.n_outputs)
        sequence = self._scheduler.reading
        if sequence is None or sequence.reading is None:
            return
        with self._wake:
            if self._closing or sequence.cancelled:
                return
            if gives_way and any(other.reading is None for other in self._arrived):
                return
            self._in_decode = frozenset((sequence.id,))
            self._gives_way = gives_way
        try:
            hidden = sequence.reading.hidden
            (output,) = self._counted(self._runner.hidden if hidden else self._runner.score, batch)
        except AbortedError:
            self._go_back(batch, {sequence.slot: sequence})
        except Exception as error:
            self._go_back(batch, {sequence.slot: sequence})
            self._finish(sequence, FinishReason.FAILED, _as_engine_error(error))
        else:
            (segment,) = batch.prefill
            sequence.reading.add(segment, output)
            sequence.n_computed = segment.stop
            self._note_content(sequence)
            if segment.stop == sequence.reading.stop:
                self._finish(sequence, FinishReason.STOP)
        finally:
            with self._wake:
                self._in_decode = frozenset()
                self._gives_way = False

    def _leave_beginning(self, sequence: Sequence, reading: Reading) -> None:
        """Leave what stood before the rows asked for: other readings may begin with it."""
        length = min(sequence.n_computed, 0 if reading.hidden else reading.first + 1)
        if reading.keeps:
            length = sequence.n_computed
        if length < WORTH_KEEPING and sequence.n_computed:
            length = 0
        held = (
            self._slots.trim(sequence.slot, length)
            if self._runner.can_trim
            else sequence.n_computed
        )
        content: Tokens = np.array(sequence.tokens[:held], np.int32)
        self._cache.release(sequence.slot, content, passing=True)
        if sequence.n_computed < reading.stop:
            reading.start_over()

    # When a decode did not come to its end.

    def _go_back(self, batch: Batch, by_slot: dict[int, Sequence]) -> None:
        """Put every slot of the batch back to where its segment started."""
        for segment in batch.segments:
            sequence = by_slot[segment.seq_id]
            try:
                sequence.n_computed = self._slots.trim(segment.seq_id, segment.start)
            except Exception as error:
                self._lose(sequence, error)
                continue
            if sequence.reading is not None and not sequence.n_computed:
                sequence.reading.start_over()
            sequence.draft = ()
            self._note_content(sequence)

    def _isolate(self, batch: Batch, by_slot: dict[int, Sequence], error: Exception) -> None:
        """Find whose fault it was: go back, then evaluate each segment alone."""
        self._go_back(batch, by_slot)
        for segment in batch.segments:
            sequence = by_slot[segment.seq_id]
            # Only a failure that the runner has named leaves samplers where they were: after
            # another one a grammar or a random state may be ahead of the text.
            lost = segment.sample and not sequence.sampling.is_greedy
            if len(batch.segments) == 1 or (lost and not isinstance(error, DecodeError)):
                self._lose(sequence, error)
        for segment in batch.segments if len(batch.segments) > 1 else ():
            sequence = by_slot[segment.seq_id]
            if sequence.state is State.FINISHED or sequence.n_computed != segment.start:
                continue  # Where its memory could not go back it is read again in the next step.
            alone = Batch(prefill=(_without_draft(segment),))
            try:
                sampled = self._decode(alone)
            except AbortedError:
                self._go_back(alone, by_slot)
            except Exception as own:
                self._isolate(alone, by_slot, own)
            else:
                self._deliver(alone, by_slot, sampled)


def _without_draft(segment: Segment) -> Segment:
    own = segment.tokens[: len(segment.tokens) - segment.n_draft]
    return Segment(segment.seq_id, segment.start, own, segment.sample, 0, segment.sampler)


def _as_engine_error(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return DecodeError(f"The runner failed: {type(error).__name__}: {error}")
