"""Garbage: Python's full collections, which stop everything, happen while nobody waits.

A full collection looks at every object there is. With all that an app imports this takes a tenth of
a second and more, and while a reply streams it would come every two seconds. So what is there after
the start is set aside for good, and what comes later is looked at when nothing moves.
"""

import gc
import time
from collections.abc import Callable

REST_S = 2.0
"""Seconds without a key, a click or a reply from which the app is at rest."""
WORTH = 5
"""Collections of the middle generation from which a full one is worth its time."""
LAST_RESORT = 1000
"""Collections of the middle generation after which Python does not wait any more.

Some millions of objects: far more than the longest reply leaves.
"""


class Garbage:
    """When full collections happen in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is changed until `settle`.

        Args:
            clock: Seconds; for tests.
        """
        self._clock = clock
        self._moved = clock()

    def settle(self) -> None:
        """Set aside what is there now, and have no full collection happen by itself."""
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, LAST_RESORT)
        gc.freeze()

    def moved(self) -> None:
        """Somebody typed, or a reply goes on."""
        self._moved = self._clock()

    def rest(self) -> bool:
        """Collect if nothing has moved for some time and it is worth it; whether it was done."""
        if self._clock() - self._moved < REST_S or gc.get_count()[2] < WORTH:
            return False
        gc.collect()
        return True
