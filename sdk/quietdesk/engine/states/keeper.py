"""State keeper: the thread that reads and writes state files, so that the engine's never waits.

The engine hands a state over and goes on; what has not reached the disk yet is found here too, in
memory. When more is handed over than the disk takes, states are skipped and counted: nothing is
lost but the time to read a prompt again.
"""

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from quietdesk.engine.prefix_cache import Tokens
from quietdesk.engine.states.files import Reach, StateFile, StateFolder
from quietdesk.errors import QuietdeskError

PENDING_BYTES = 128 * 2**20
"""States that may wait for the disk; a few conversations of a small model."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptState:
    """A state that would help a prompt."""

    owner: str
    tokens: Tokens
    length: int
    """Tokens of the prompt that need not be evaluated."""
    state: bytes | None
    """None while it is only on disk."""
    file: StateFile | None


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    tokens: Tokens
    state: bytes


class StateKeeper:
    """Keeps states in a folder. Any thread may use it."""

    def __init__(
        self, folder: StateFolder, *, exists: Callable[[str], bool] = lambda owner: True
    ) -> None:
        """Nothing is read before `open`.

        Args:
            folder: Where to.
            exists: Whether there still is such an owner: the states of others are removed, and
                none is written. Asked on the keeper's thread.
        """
        self._folder = folder
        self._exists = exists
        self._changed = threading.Condition()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._pending_bytes = 0
        self._wanted: deque[tuple[KeptState, Callable[[bytes | None], None]]] = deque()
        self._forgotten: set[str] = set()
        """Owners that were forgotten while something of theirs was being written."""
        self._writing = ""
        self._closing = False
        self.written = self.loaded = self.refused = self.skipped = 0
        """States so far: on disk, brought back, found damaged, and not written."""
        self._thread: threading.Thread | None = None

    def open(self, key: str) -> None:
        """Learn what is there for a runner, and begin."""
        self._folder.open(key)
        self._thread = threading.Thread(target=self._run, name="quietdesk-states", daemon=True)
        self._thread.start()

    def find(self, prompt: Tokens, owner: str, reach: Reach) -> KeptState | None:
        """The state that saves the most tokens of a prompt."""
        best: KeptState | None = None
        with self._changed:
            for name, pending in self._pending.items():
                length = reach(pending.tokens, prompt)
                if length and (best is None or length > best.length):
                    best = KeptState(name, pending.tokens, length, pending.state, None)
        found = self._folder.find(prompt, owner, reach)
        if found is not None and (best is None or found[1] > best.length):
            file, length = found
            return KeptState(file.owner, file.tokens, length, None, file)
        return best

    def held(self, owner: str) -> Tokens | None:
        """The tokens of what is kept of an owner."""
        with self._changed:
            if (pending := self._pending.get(owner)) is not None:
                return pending.tokens
        file = self._folder.of(owner)
        return None if file is None else file.tokens

    def fetch(self, kept: KeptState, done: Callable[[bytes | None], None]) -> None:
        """Have a state read; done is told it, or None where it is no good, on any thread."""
        if kept.state is not None:
            done(kept.state)
            return
        with self._changed:
            self._wanted.append((kept, done))
            self._changed.notify_all()

    def save(self, owner: str, tokens: Tokens, state: bytes, *, wait: bool = False) -> bool:
        """Have a state written.

        Args:
            owner: Whose it is.
            tokens: What it stands for.
            state: It.
            wait: Until there is room for it, instead of skipping it.
        """
        with self._changed:
            former = self._pending.pop(owner, None)
            self._pending_bytes -= 0 if former is None else len(former.state)
            while self._pending and self._pending_bytes + len(state) > PENDING_BYTES:
                if not wait:
                    self.skipped += 1
                    return False
                self._changed.wait()
            self._pending[owner] = _Pending(tokens, state)
            self._pending_bytes += len(state)
            self._changed.notify_all()
        return True

    def forget(self, owner: str) -> None:
        """Remove what is kept of an owner; it is gone when this returns."""
        with self._changed:
            if (pending := self._pending.pop(owner, None)) is not None:
                self._pending_bytes -= len(pending.state)
            if self._writing == owner:
                self._forgotten.add(owner)
        self._folder.erase(owner)

    def close(self) -> None:
        """Write what is pending, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # The keeper's thread.

    def _run(self) -> None:
        # Where it cannot be told who exists, nothing is removed.
        with contextlib.suppress(QuietdeskError, OSError):
            self._folder.sweep(self._exists)
        while True:
            with self._changed:
                while not (self._wanted or self._pending or self._closing):
                    self._changed.wait()
                if self._wanted:
                    kept, done = self._wanted.popleft()
                elif self._pending:
                    owner, pending = next(iter(self._pending.items()))
                    self._writing, done = owner, None
                else:
                    return
            if done is not None:
                done(self._read(kept))
            else:
                self._write(owner, pending)

    def _read(self, kept: KeptState) -> bytes | None:
        assert kept.file is not None
        state = self._folder.read(kept.file)
        if state is None:
            self.refused += 1
        else:
            self.loaded += 1
        return state

    def _write(self, owner: str, pending: _Pending) -> None:
        written = False
        try:
            if self._exists(owner):
                written = self._folder.write(owner, pending.tokens, pending.state)
                # Whoever erased it meanwhile looked before it was there.
                if written and not self._exists(owner):
                    self.forget(owner)
                    written = False
        except (OSError, QuietdeskError):
            written = False  # A full disk: counted as skipped, and the prompt is read again.
        with self._changed:
            if self._pending.get(owner) is pending:
                del self._pending[owner]
                self._pending_bytes -= len(pending.state)
            self._writing = ""
            if owner in self._forgotten:
                self._forgotten.discard(owner)
                written = False
                self._folder.erase(owner)
            self.written += written
            self.skipped += not written
            self._changed.notify_all()
