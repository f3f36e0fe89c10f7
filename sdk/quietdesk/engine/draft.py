"""Drafter: guesses at the next tokens from what stands in the conversation already.

An answer that copies from its passage repeats a run of tokens; where the last few tokens have stood
before, what followed them then is a good guess at what follows now. A guess is verified by the
model, so the text never changes, but it costs a row of the batch: about two fifths of a step for
a lone sequence on a CPU. So the number of guesses follows their luck.

Source: A. Saxena, Prompt Lookup Decoding (2023).
"""

from collections.abc import Sequence

RUN = 3
"""Tokens that must have stood before. Two stand nearly anywhere; four miss the start of a copy."""
FIRST_GUESSES = 1
"""A single guess is cheap to be wrong about; a copy doubles it to the most within four steps."""
PAUSE = 24
"""Tokens without guesses after luck has run out; twice as many each time it does so again."""
LEAST_LUCK = 0.5
"""Share of guesses that must come true: below it rows cost more than steps are saved."""


class Drafter:
    """Guesses for one sequence, whose tokens only grow."""

    def __init__(self, n_max: int) -> None:
        """A drafter that has seen nothing.

        Args:
            n_max: Guesses at most.
        """
        self._n_max = n_max
        self._n = min(FIRST_GUESSES, n_max)
        self._followers: dict[tuple[int, ...], int] = {}
        self._seen = RUN
        self._luck = 1.0
        self._resume_at = 0
        self._pause = PAUSE

    def guess(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Guesses at what follows tokens; often none.

        Args:
            tokens: The prompt and everything generated, from the beginning.
        """
        n = len(tokens)
        # The run that ends the text has no follower yet, so it is not there to be found.
        for end in range(self._seen, n):
            self._followers[tuple(tokens[end - RUN : end])] = end
        self._seen = max(self._seen, n)
        if n < max(RUN, self._resume_at):
            return ()
        found = self._followers.get(tuple(tokens[n - RUN : n]))
        return () if found is None else tuple(tokens[found : found + self._n])

    def learn(self, n_guessed: int, n_right: int, n_tokens: int) -> None:
        """Take notice of what became of the last guesses.

        Args:
            n_guessed: How many there were, at least 1.
            n_right: How many of them came true.
            n_tokens: Length of the sequence now.
        """
        self._luck += 0.3 * (n_right / n_guessed - self._luck)
        if n_right == n_guessed:
            self._n = min(self._n * 2, self._n_max)
            self._pause = PAUSE
        elif n_right * 2 < n_guessed:
            self._n = max(1, self._n // 2)
        if self._luck < LEAST_LUCK:
            self._resume_at = n_tokens + self._pause
            self._pause *= 2
            self._luck = (1.0 + LEAST_LUCK) / 2
            self._n = min(FIRST_GUESSES, self._n_max)
