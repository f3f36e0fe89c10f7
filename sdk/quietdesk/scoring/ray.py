"""Ray: the machines of a cluster that score parts; the only module that imports Ray.

What cuts logs and what adds their scores stays here; a part goes to the cluster, and its rows and
integers come back. The machines must reach the logs under the same paths or addresses, and have
this version of Quietdesk. Ray's own usage statistics are switched off before it is imported.
"""

import os
from pathlib import Path
from typing import Any

from quietdesk.errors import QuietdeskError, UsageError
from quietdesk.scoring.parts import Done, Output, Recipe, Task, work

TRIES = 3


class Cluster:
    """A Ray cluster, or one that is started on this machine for the time of a run.

    Args:
        address: `ray://host:10001`, `host:6379` or `auto`; empty: start one here. Where this
            process is connected to one already, that one is used.
        jobs: How many parts to work on at once; 0: one per core of the cluster.
    """

    def __init__(self, address: str = "", jobs: int = 0) -> None:
        self._address = address
        self._wanted = jobs
        self.jobs = jobs or 1
        self._ray: Any = None
        self._score: Any = None
        self._recipe: Any = None
        self._started = False
        self._tasks: dict[Any, Task] = {}

    @property
    def room(self) -> int:
        """So that each core has one part, and one more waits for it."""
        return 2 * self.jobs - len(self._tasks)

    @property
    def busy(self) -> int:
        """Parts that were sent and are not back."""
        return len(self._tasks)

    def start(self, recipe: Recipe, folder: Path) -> None:
        """Connect.

        Raises:
            UsageError: Ray is not installed, or no cluster answers.
        """
        del folder
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ImportError:
            raise UsageError("Ray is missing: pip install 'quietdesk[ray]'.") from None
        self._ray = ray
        if not ray.is_initialized():
            self._connect()
            self._started = True
        if not self._wanted:
            self.jobs = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._score = self._ray.remote(num_cpus=1, max_retries=TRIES - 1)(_score)
        self._recipe = self._ray.put(recipe)

    def _connect(self) -> None:
        try:
            if self._address:
                self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
            else:
                self._ray.init(
                    num_cpus=self._wanted or None,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            where = self._address or "this machine"
            raise UsageError(f"Ray at {where!r} does not answer: {error}") from None

    def submit(self, task: Task) -> None:
        """Send it to the cluster."""
        self._tasks[self._score.remote(self._recipe, task.part)] = task

    def wait(self, timeout_s: float) -> list[Done]:
        """What came back meanwhile.

        Raises:
            QuietdeskError: a part cannot be read or scored.
        """
        if not self._tasks:
            return []
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout_s)
        done = []
        for reference in ready:
            task = self._tasks.pop(reference)
            try:
                output: Output = self._ray.get(reference)
            except QuietdeskError:
                raise
            except self._ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, QuietdeskError):
                    raise cause from None
                reason = str(cause or error).strip().splitlines()[-1]
                raise QuietdeskError(f"{task.part.where} cannot be scored: {reason}") from error
            done.append(Done(task.index, len(output.ids), output))
        return done

    def under_way(self) -> tuple[int, float]:
        """Not known."""
        return 0, 0.0

    def close(self) -> None:
        """Cancel what is under way, and stop the cluster if it was started here."""
        if self._ray is None:
            return
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._tasks = {}
        if self._started:
            self._ray.shutdown()


def _score(recipe: Recipe, part: Any) -> Output:
    """What a machine of the cluster does."""
    return work(recipe.scorer(), recipe, part)
