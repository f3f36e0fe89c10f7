"""Runner: the seam between the engine and whatever evaluates tokens.

A runner owns a model, its vocabulary and a memory of `n_seq` sequences. It is used by one thread,
the engine's, except for `abort` and the vocabulary's methods (`tokenize`, `piece`, `is_end`), which
any thread may call.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from quietdesk.engine.batch import Batch
from quietdesk.engine.sampling import Sampling

if TYPE_CHECKING:  # Naming the seam must not cost the import of numpy.
    import numpy as np
    from numpy.typing import NDArray


SPARE_OUTPUTS = 16
"""Rows from which tokens are sampled beyond one per sequence: what all guesses of a step may be."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model says of itself."""

    name: str
    architecture: str
    """As in the GGUF: `llama`, `gpt2`, `gemma3`, ..."""
    path: str
    """The file; empty where there is none."""
    size_bytes: int
    n_params: int
    n_ctx_train: int
    """Context length that it was trained with, in tokens."""
    n_vocab: int
    quantisation: str
    chat_template: str | None
    """Jinja source; None where the model carries none."""
    bos_token: str
    """Text of the begin-of-sequence token; empty where there is none."""
    eos_token: str
    adds_bos: bool
    """Whether the vocabulary wants the begin token before a prompt."""
    special_tokens: tuple[str, ...]
    """Texts of the control tokens; in a customer's words they are only words."""
    max_piece_bytes: int
    """Bytes of the longest token at most: a text of n bytes has at least n / this tokens."""
    fingerprint: str
    """Changes with the weights: a digest of the file's metadata and tensor table."""
    engine: str = ""
    """What evaluates it, with its version; empty where that is not known."""
    options: tuple[tuple[str, int | str], ...] = ()
    """How it is run, as far as a reply may depend on it: name and value."""
    server: str = ""
    """What kind of server has it; empty in this process."""
    renders: bool = False
    """Whether that server puts messages into the model's form itself: then tokens are estimates."""
    notes: tuple[str, ...] = ()
    """Sentences for a reader on what is special about it."""


class Runner(Protocol):
    """Evaluates batches for many sequences and samples their next tokens."""

    info: ModelInfo
    n_seq: int
    """Sequences that it holds, numbered from 0."""
    n_ctx: int
    """Tokens that each sequence can hold."""
    n_batch: int
    """Rows that one batch can have."""
    n_outputs: int
    """Rows of one `score` or `hidden`."""
    evaluated_s: float
    """Seconds spent in evaluation itself so far; the rest of `decode` is overhead."""
    state_key: str
    """What a saved state depends on: a runner with the same one can load it, no other may."""
    can_trim: bool
    """Whether `remove` can drop only a part of a sequence; recurrent memories cannot."""

    def tokenize(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text.

        Args:
            text: Any text.
            special: Whether the texts of control tokens become these tokens.
            begin: Whether the begin token is put in front, where the model wants one.
        """
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token; not always whole characters; empty for a control token."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the model's turn."""
        ...

    def check_grammar(self, grammar: str) -> None:
        """Refuse GBNF that does not compile; from any thread.

        Raises:
            UsageError: it does not, or has no rule named `root`.
        """
        ...

    def open_sampler(self, sampling: Sampling, prompt: Seq[int]) -> int:
        """A fresh sampler's number; its penalties look back on the prompt too.

        Raises:
            DecodeError: the grammar does not compile.
        """
        ...

    def close_sampler(self, sampler: int) -> None:
        """Free a sampler."""
        ...

    def decode(self, batch: Batch) -> list[list[int]]:
        """Evaluate every row; sample for each segment that asks for it.

        Returns:
            One list per segment of the batch: empty for a segment that did not ask. A segment
            without a draft gets one token. A segment whose last `n_draft` tokens are a draft gets
            the drafted tokens that sampling agrees with, then one token more.

        Raises:
            AbortedError: `abort` was called; positions from each segment's start on are unknown.
            DecodeError: the model could not evaluate it; the same is true of the positions.
        """
        ...

    def score(self, batch: Batch) -> "list[NDArray[np.float32]]":
        """Evaluate every row; the log-probabilities of each segment's targets, in nats.

        Returns:
            One array per segment, as long as its `targets`.

        Raises:
            AbortedError: as `decode`.
            DecodeError: as `decode`.
        """
        ...

    def hidden(self, batch: Batch) -> "list[NDArray[np.float32]]":
        """Evaluate every row; what the model's last layer makes of it.

        Returns:
            One array per segment, shape (rows, n_embd). Raises as `score`.
        """
        ...

    def remove(self, seq_id: int, start: int) -> bool:
        """Forget positions from start on; False where the memory cannot drop only a part.

        `start` 0 always works.
        """
        ...

    def save(self, seq_id: int) -> bytes:
        """The sequence's state, for `load`."""
        ...

    def load(self, seq_id: int, state: bytes) -> bool:
        """Replace the sequence's content; False where the state does not fit this runner."""
        ...

    def abort(self) -> None:
        """Stop the `decode` under way, if any, soon; from any thread."""
        ...

    def close(self) -> None:
        """Free everything; once."""
        ...


class AbortedError(Exception):
    """`Runner.decode` stopped because `abort` was called. Never leaves the engine."""
