"""Fakes for tests, ours and users': a runner that says what it is told, without a model.

Example:
    from quietdesk.testing import scripted_assistant

    with scripted_assistant(replies=["We ship to Norway."]) as assistant:
        assert assistant.start().send("Do you?").text == "We ship to Norway."
"""

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quietdesk.assistant import Assistant, open_store
from quietdesk.config import Settings
from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.engine import Engine
from quietdesk.engine.runner import AbortedError, ModelInfo
from quietdesk.engine.sampling import Sampling
from quietdesk.errors import DecodeError
from quietdesk.store.memory import MemoryStore

END = 0
"""The token that ends a reply."""
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")
N_BABBLE = 500
"""Words that a runner without a script chooses from."""

Script = Sequence[str] | Callable[[str], str]
"""Replies in turn, the last one again and again; or what to say to a prompt's text."""


class ScriptedRunner:
    """A runner whose tokens are words, and whose replies are given.

    It keeps each sequence's tokens and checks every position, so that an engine that loses or
    doubles one is found out. Without a script each token is a function of all tokens before it, so
    that a wrong memory gives a wrong text.
    """

    def __init__(
        self,
        replies: Script | None = None,
        *,
        n_seq: int = 4,
        n_ctx: int = 4096,
        n_batch: int = 512,
        delay_s: float = 0.0,
        prompt_delay_s: float = 0.0,
        can_trim: bool = True,
        fails: Callable[[Batch], bool] | None = None,
    ) -> None:
        """A runner with empty sequences.

        Args:
            replies: What it says; None: words that depend on everything before them.
            n_seq: Sequences.
            n_ctx: Tokens of each.
            n_batch: Rows of a batch.
            delay_s: Taken by every step.
            prompt_delay_s: Taken by every prompt row; `abort` cuts it short.
            can_trim: Whether a part of a sequence can be dropped.
            fails: Tells which batches fail with a DecodeError.
        """
        self.n_seq, self.n_ctx, self.n_batch, self.can_trim = n_seq, n_ctx, n_batch, can_trim
        self._replies = replies
        self._delay_s, self._prompt_delay_s, self._fails = delay_s, prompt_delay_s, fails
        self._words: list[str] = [*SPECIAL, *(f" w{i}" for i in range(N_BABBLE))]
        self._ids: dict[str, int] = {word: i for i, word in enumerate(self._words)}
        self._lock = threading.Lock()
        self._abort = threading.Event()
        self._samplers: dict[int, list[int] | None] = {}
        self._opened = 0
        self._scripted = 0
        self.memory: list[list[int]] = [[] for _ in range(n_seq)]
        """What each sequence holds."""
        self.batches: list[Batch] = []
        """Every batch that was evaluated."""
        self.closed = False
        self.n_outputs = min(16, n_batch)
        self.evaluated_s = 0.0
        self.state_key = f"scripted, {n_ctx} tokens"
        self.info = ModelInfo(
            name="scripted",
            architecture="scripted",
            path="",
            size_bytes=0,
            n_params=0,
            n_ctx_train=n_ctx,
            n_vocab=0,
            quantisation="none",
            chat_template=None,
            bos_token="",
            eos_token=SPECIAL[END],
            adds_bos=False,
            special_tokens=SPECIAL,
            max_piece_bytes=2**20,
            fingerprint="scripted",
        )

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """A token per word, with the space before it."""
        del begin
        pattern = r"\s*\S+|\s+"
        if special:
            marks = "|".join(map(re.escape, SPECIAL))
            pattern = rf"{marks}|\s*?(?:(?!{marks})\S)+|\s+"
        with self._lock:
            return [self._id(word) for word in re.findall(pattern, text)]

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]

    def piece(self, token: int) -> bytes:
        """The word; nothing for a control token."""
        return b"" if token < len(SPECIAL) else self._words[token].encode()

    def is_end(self, token: int) -> bool:
        """Whether it is one of the tokens that end a turn."""
        return token in (END, 2)

    def check_grammar(self, grammar: str) -> None:
        """A script keeps to no grammar."""

    def open_sampler(self, sampling: Sampling, prompt: Sequence[int]) -> int:
        """A sampler that says the next reply of the script."""
        del sampling
        self._opened += 1
        script: list[int] | None = None
        if self._replies is not None:
            if callable(self._replies):
                said = self._replies("".join(self._words[token] for token in prompt))
            else:
                said = self._replies[min(self._scripted, len(self._replies) - 1)]
                self._scripted += 1
            script = [*self.tokenize(said, special=False, begin=False), END]
        self._samplers[self._opened] = script
        return self._opened

    def close_sampler(self, sampler: int) -> None:
        """Forget it."""
        del self._samplers[sampler]

    def decode(self, batch: Batch) -> list[list[int]]:
        """Check positions, remember tokens, say what comes next."""
        self._take_time(batch)
        return [self._evaluate(segment) for segment in batch.segments]

    def _take_time(self, batch: Batch) -> None:
        if self._fails is not None and self._fails(batch):
            raise DecodeError("The scripted runner was told to fail.")
        n_prompt = sum(len(segment.tokens) for segment in batch.prefill)
        pause = self._delay_s + self._prompt_delay_s * n_prompt
        if pause and self._abort.wait(pause):
            self._abort.clear()
            raise AbortedError
        self.batches.append(batch)

    def score(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Log-probabilities that depend on the target and on everything before it."""
        self._take_time(batch)
        answer = []
        for segment in batch.segments:
            self._evaluate(segment)
            if sum(len(each.targets) for each in batch.segments) > self.n_outputs:
                raise AssertionError("more rows are asked for than there is room for")
            told = [
                -(_mix([*self.memory[segment.seq_id][: stop + 1], target]) % 20_000) / 1000
                for stop, target in enumerate(segment.targets, segment.stop - len(segment.targets))
            ]
            answer.append(np.array(told, np.float32))
        return answer

    def hidden(self, batch: Batch) -> list[NDArray[np.float32]]:
        """Eight numbers for each row that depend on it and on everything before it."""
        self._take_time(batch)
        if batch.n_rows > self.n_outputs:
            raise AssertionError("more rows are asked for than there is room for")
        answer = []
        for segment in batch.segments:
            self._evaluate(segment)
            memory = self.memory[segment.seq_id]
            seeds = [_mix(memory[: at + 1]) for at in range(segment.start, segment.stop)]
            rows = [[(seed >> shift) % 251 / 125 - 1 for shift in range(8)] for seed in seeds]
            answer.append(np.array(rows, np.float32).reshape(-1, 8))
        return answer

    def _evaluate(self, segment: Segment) -> list[int]:
        memory = self.memory[segment.seq_id]
        if segment.start != len(memory) or segment.stop > self.n_ctx:
            raise AssertionError(f"{segment} does not follow {len(memory)} positions")
        memory.extend(segment.tokens)
        if not segment.sample:
            return []
        said: list[int] = []
        for kept in range(segment.n_draft, -1, -1):
            end = len(memory) - kept
            token = self._next(memory[:end], segment.sampler)
            said.append(token)
            if kept and memory[end] != token:
                break
        return said

    def _next(self, tokens: list[int], sampler: int) -> int:
        script = self._samplers[sampler]
        if script is not None:
            return script.pop(0) if script else END
        mixed = _mix(tokens)
        if mixed % 40 == 0:
            return END
        return len(SPECIAL) + mixed % N_BABBLE

    def remove(self, seq_id: int, start: int) -> bool:
        """Forget positions from start on."""
        if start and start < len(self.memory[seq_id]) and not self.can_trim:
            return False
        del self.memory[seq_id][start:]
        return True

    def save(self, seq_id: int) -> bytes:
        """The sequence's tokens as bytes."""
        return b"".join(token.to_bytes(4, "little") for token in self.memory[seq_id])

    def load(self, seq_id: int, state: bytes) -> bool:
        """Replace the sequence's tokens."""
        self.memory[seq_id] = [
            int.from_bytes(state[at : at + 4], "little") for at in range(0, len(state), 4)
        ]
        return True

    def abort(self) -> None:
        """Cut the step under way short."""
        self._abort.set()

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


def _mix(tokens: Sequence[int]) -> int:
    mixed = 17
    for token in tokens:
        mixed = (mixed * 1_000_003 + token) % 2_147_483_647
    return mixed


def scripted_assistant(
    replies: Script = ("Yes.",),
    *,
    database: str | Path | None = None,
    settings: Settings | None = None,
    **runner: Any,
) -> Assistant:
    """An assistant on a `ScriptedRunner`.

    Args:
        replies: What it says.
        database: As `Assistant.open` takes it; None: in memory only.
        settings: The defaults if None; no file and no environment is read.
        **runner: Further arguments of `ScriptedRunner`.
    """
    settings = settings or Settings()
    store = MemoryStore() if database is None else open_store(database, settings)
    return Assistant(Engine(lambda: ScriptedRunner(replies, **runner)), store, settings)
