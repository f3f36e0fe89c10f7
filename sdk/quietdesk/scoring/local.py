"""Local: worker processes of this machine that score parts, with bounded work in flight.

Each process reads and scores one part at a time and keeps what it gave itself. A process that dies
(killed for its memory, say) is replaced and its part is tried again; Ctrl-C ends all of them.
"""

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from quietdesk import errors
from quietdesk.errors import QuietdeskError
from quietdesk.scoring.kept import keep
from quietdesk.scoring.parts import Done, Pool, Recipe, Task, work

TRIES = 3
"""How often a part is given to a process when the process dies over it."""
SMALL_BYTES = 8 << 20
"""Less than this is not worth the start of a process."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_for(jobs: int, total_bytes: int | None) -> Pool:
    """Where to score logs of this size.

    Args:
        jobs: Processes; 0: one per core, as far as the logs are large enough.
        total_bytes: Of the logs; None where that is not known.
    """
    if not jobs:
        jobs = available_cores()
        if total_bytes is not None:
            jobs = min(jobs, total_bytes // SMALL_BYTES)
        return Processes(jobs) if jobs else Here()
    # One process too, unless that would be over before it is there: this one then shows progress.
    small = jobs == 1 and total_bytes is not None and total_bytes < SMALL_BYTES
    return Here() if small else Processes(jobs)


class Here:
    """No other process: parts are scored in this one, when they are submitted."""

    jobs = 1

    def __init__(self) -> None:
        self._done: list[Done] = []

    @property
    def room(self) -> int:
        """One, when nothing is done that was not asked for."""
        return 1 - len(self._done)

    @property
    def busy(self) -> int:
        """What is done and was not asked for."""
        return len(self._done)

    def start(self, recipe: Recipe, folder: Path) -> None:
        """Make the scorer."""
        self._recipe, self._folder, self._scorer = recipe, folder, recipe.scorer()

    def submit(self, task: Task) -> None:
        """Score it now."""
        output = work(self._scorer, self._recipe, task.part)
        keep(self._folder, task.key, output)
        self._done.append(Done(task.index, len(output.ids)))

    def wait(self, timeout_s: float) -> list[Done]:
        """What was done; at once."""
        del timeout_s
        done, self._done = self._done, []
        return done

    def under_way(self) -> tuple[int, float]:
        """Nothing."""
        return 0, 0.0

    def close(self) -> None:
        """Nothing to end."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task | None = None
    n_conversations: int = 0
    share: float = 0.0


class Processes:
    """Worker processes.

    Args:
        jobs: How many.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._workers: list[_Worker] = []
        self._queue: deque[Task] = deque()
        self._tries: dict[int, int] = {}

    @property
    def room(self) -> int:
        """So that each process has one part, and one more waits for it."""
        return 2 * self.jobs - self.busy

    @property
    def busy(self) -> int:
        """Parts that wait or are being scored."""
        return len(self._queue) + sum(worker.task is not None for worker in self._workers)

    def start(self, recipe: Recipe, folder: Path) -> None:
        """Remember what the processes need; they start with the first tasks."""
        self._recipe, self._folder = recipe, folder

    def submit(self, task: Task) -> None:
        """Give it to a process that has nothing to do, or let it wait."""
        self._queue.append(task)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._queue:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) >= self.jobs:
                    return
                idle = self._begin()
            task = self._queue.popleft()
            idle.task, idle.n_conversations, idle.share = task, 0, 0.0
            try:
                idle.connection.send(task)
            except OSError:
                self._lost(idle)

    def _begin(self) -> _Worker:
        # A fork would copy threads' locks, Arrow's among them.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._recipe, self._folder, os.getpid())
        process = context.Process(target=_serve, args=arguments, daemon=True)
        # Ctrl-C reaches all processes of a terminal, and only this one decides what it means; the
        # new one has the signal blocked from its first instruction on. Python's own tracker, which
        # would be started on the way, unblocks it.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def wait(self, timeout_s: float) -> list[Done]:
        """What was done meanwhile.

        Raises:
            QuietdeskError: a part cannot be read or scored, or processes die over it.
        """
        done: list[Done] = []
        ready = wait([worker.connection for worker in self._workers], timeout_s)
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._lost(worker)
                continue
            assert worker.task is not None
            if message[0] == "at":
                _, worker.n_conversations, worker.share = message
            elif message[0] == "done":
                done.append(Done(worker.task.index, message[1]))
                worker.task = None
            else:
                raise _error(worker.task, *message[1:])
        self._hand_out()
        return done

    def _lost(self, worker: _Worker) -> None:
        """A process is gone: another one gets its part."""
        worker.process.join(timeout=5)
        self._workers.remove(worker)
        worker.connection.close()
        task = worker.task
        if task is None:
            return
        self._tries[task.index] = self._tries.get(task.index, 0) + 1
        if self._tries[task.index] >= TRIES:
            code = worker.process.exitcode
            how = f"was killed by signal {-code}" if code and code < 0 else f"ended with {code}"
            raise QuietdeskError(
                f"{task.part.where}: each process that scored it {how}. If memory is short, use "
                "fewer --jobs."
            )
        self._queue.appendleft(task)

    def under_way(self) -> tuple[int, float]:
        """Conversations and bytes of parts that are being scored, as the processes told last."""
        at_work = [worker for worker in self._workers if worker.task is not None]
        n_conversations = sum(worker.n_conversations for worker in at_work)
        sizes = [w.share * w.task.part.size_bytes for w in at_work if w.task is not None]
        return n_conversations, sum(sizes)

    def close(self) -> None:
        """End the processes; what they were at is lost, what they had done is kept."""
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
        self._workers = []


def _error(task: Task, name: str, text: str, trace: str) -> QuietdeskError:
    """The error of another process, of its own class where that is one of ours."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, QuietdeskError):
        error = kind.__new__(kind)
        Exception.__init__(error, text)
        return error
    unknown = QuietdeskError(f"{task.part.where} cannot be scored: {name}: {text}")
    unknown.add_note(trace)
    return unknown


def _serve(connection: Connection, recipe: Recipe, folder: Path, parent: int) -> None:
    """What a worker process does."""
    scorer = recipe.scorer()
    told = 0.0

    def tell(n_conversations: int, share: float) -> None:
        nonlocal told
        if os.getppid() != parent:
            # The run was killed; another one may be at this part by now.
            os._exit(1)
        if time.monotonic() - told > 0.25:
            told = time.monotonic()
            connection.send(("at", n_conversations, share))

    while True:
        try:
            task: Task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            output = work(scorer, recipe, task.part, tell)
            keep(folder, task.key, output)
            connection.send(("done", len(output.ids)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            if os.getppid() != parent:
                return
            connection.send(("failed", type(error).__name__, str(error), traceback.format_exc()))
