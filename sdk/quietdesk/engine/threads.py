"""ThreadGovernor: fewer threads while the machine is busy with something else.

llama.cpp's threads meet at a barrier after every operation, a thousand times a step. When another
program holds one of the cores, each meeting waits until the scheduler lets the late thread run, and
a step takes tens of times as long; with fewer threads than free cores it only takes its share.
Whether that happens can be seen from outside: the engine's thread then sleeps at barriers, so that
its CPU time falls behind the wall time.
"""

from dataclasses import dataclass

WINDOW_S = 0.15
"""Wall time over which the share is taken: several steps of a small model, one of a large one."""
CROWDED = 0.7
"""Share of CPU time in wall time below which threads are given up; on an idle machine it is .97 and
above, and with one busy core of two it was measured at .2 to .5."""
FREE = 0.9
"""Share from which the threads are tried again, after the time of quiet."""
QUIET_S = 2.0
LONGEST_QUIET_S = 30.0


@dataclass(slots=True)
class ThreadGovernor:
    """Chooses the number of threads from how the last steps went."""

    n_max: int
    """Threads when the machine is ours."""
    n_threads: int = 0
    """Threads to use now."""
    _wall_s: float = 0.0
    _cpu_s: float = 0.0
    _quiet_s: float = QUIET_S
    _since_s: float = 0.0

    def __post_init__(self) -> None:
        """Start with all."""
        self.n_threads = self.n_max

    def add(self, wall_s: float, cpu_s: float) -> int:
        """How many threads the next step should use.

        Args:
            wall_s: How long the last step took.
            cpu_s: CPU time of the calling thread in it.
        """
        self._wall_s += wall_s
        self._cpu_s += cpu_s
        self._since_s += wall_s
        if self._wall_s < WINDOW_S:
            return self.n_threads
        share = self._cpu_s / self._wall_s
        self._wall_s = self._cpu_s = 0.0
        if share < CROWDED and self.n_threads > 1:
            if self.n_threads == self.n_max and self._since_s < QUIET_S:
                # It was tried again too early: wait longer before the next time.
                self._quiet_s = min(self._quiet_s * 2, LONGEST_QUIET_S)
            self.n_threads = max(1, self.n_threads // 2)
            self._since_s = 0.0
        elif self.n_threads < self.n_max and share >= FREE and self._since_s >= self._quiet_s:
            self.n_threads = self.n_max
            self._since_s = 0.0
        elif self.n_threads == self.n_max and self._since_s >= LONGEST_QUIET_S:
            self._quiet_s = QUIET_S
        return self.n_threads
