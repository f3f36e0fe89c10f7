"""Draft: guesses at the next tokens from what stands in the prompt already.

An answer that copies from its passage repeats a run of tokens; where the last few tokens have
stood before, what followed them then is a good guess at what follows now. A guess costs one row of
the batch each and is verified by the model, so the text never changes.

Source: A. Saxena, Prompt Lookup Decoding (2023).
"""

from collections.abc import Sequence

LONGEST = 4
"""Tokens of the run that is looked for first."""
SHORTEST = 2
"""A single token has stood nearly anywhere before; its guesses are wrong more often than right."""


def look_up(tokens: Sequence[int], n_draft: int) -> tuple[int, ...]:
    """At most n_draft guesses at what follows tokens; often none.

    Args:
        tokens: The prompt and what was generated.
        n_draft: Guesses at most.
    """
    n = len(tokens)
    for length in range(LONGEST, SHORTEST - 1, -1):
        if n <= length:
            continue
        tail = tuple(tokens[n - length :])
        for at in range(n - length - 1, -1, -1):
            if tokens[at] == tail[0] and tuple(tokens[at : at + length]) == tail:
                return tuple(tokens[at + length : at + length + n_draft])
    return ()
