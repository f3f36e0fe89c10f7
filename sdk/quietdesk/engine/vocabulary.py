"""Vocabulary: whether two models mean the same by the same token."""

from collections.abc import Sequence
from dataclasses import dataclass

SIZES_APART = 128
"""Some models pad their vocabulary; what is beyond the shorter one is never guessed or read.
llama.cpp's own speculative decoding allows as much."""
FIRST_COMPARED = 5
"""The first tokens are control tokens that fine-tunes name anew; llama.cpp leaves them out too."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokens."""

    kind: str
    """How text is cut into them, as the GGUF names it: `gpt2`, `llama`, ..."""
    n_tokens: int
    texts: Sequence[bytes] = ()
    """As the file has them; empty where only the header was read."""


def differences(target: Vocabulary, draft: Vocabulary) -> list[str]:
    """Why guesses of a draft model would be other tokens to the model; empty where they are not."""
    told = []
    if target.kind != draft.kind:
        told.append(f"the kind of vocabulary is {target.kind!r} and {draft.kind!r}")
    if abs(target.n_tokens - draft.n_tokens) > SIZES_APART:
        told.append(f"there are {target.n_tokens:,} and {draft.n_tokens:,} tokens")
    n = min(len(target.texts), len(draft.texts))
    other = [
        token for token in range(FIRST_COMPARED, n) if target.texts[token] != draft.texts[token]
    ]
    if other:
        shown = ", ".join(
            f"token {token} is {_shown(target.texts[token])} and {_shown(draft.texts[token])}"
            for token in other[:SHOWN]
        )
        rest = f" and {len(other) - SHOWN:,} more" if len(other) > SHOWN else ""
        told.append(f"{shown}{rest}")
    return told


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
