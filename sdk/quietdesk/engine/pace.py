"""Pace: how many tokens a draft model guesses ahead, by what its guesses have cost and saved.

A round of n guesses takes n steps of the draft model and one step of the model with n more rows,
and gives as many tokens as came true, and one. All of that is measured, so that guesses are made
where they are faster than steps without them. Where they are not, they are tried again as far as a
small share of the working time pays for it, what has to be read for a trial included, and ever more
seldom.
"""

import math
from collections.abc import Sequence as Seq

FIRST_GUESSES = 2
"""Of the first rounds, which have to be cheap: what a guess costs is not known yet."""
PRIOR_RIGHT, PRIOR_TRIED = 1.2, 2.0
"""Guesses that count as seen before the first: a draft model is given because it is often right."""
MEMORY = 0.99
"""What a round counts after the next one; a hundred rounds are remembered."""
SMOOTHING = 0.2
"""Weight of the newest measurement of a time."""
LEAST_GAIN = 1.03
"""Speed over that of steps without guesses from which guesses are worth it."""
TRIED_ROUNDS = 8
"""Rounds that are made before anything is concluded, at first and whenever a text was read for a
trial: the reading costs more than they do, and a few rounds are luck."""
DOUBT = 0.5
"""Standard errors by which rounds have to lose on the mean before they are taken to lose: more
costs where they do, less leaves what can be gained for a run of bad luck."""
ALLOWANCE = 0.02
"""Share of the time without guesses that may be lost by trying them."""
REFRESH = 32
"""Rounds after which a step without guesses is measured again."""
DEAREST = 64
"""Where rounds lose, each trial makes the next one cost twice as much of the allowance, up to
this."""


class Pace:
    """For one number of sequences that generate at the same time. Times are seconds."""

    def __init__(self, n_max: int) -> None:
        """Nothing was measured yet.

        Args:
            n_max: Guesses for each sequence at most, at least 1.
        """
        self._n_max = n_max
        self._plain_s: float | None = None
        """A step without guesses."""
        self._guess_s = 0.0
        """A step of the draft model."""
        self._row_s = 0.0
        """What one guess for each sequence adds to the step that verifies it."""
        self._unread_s = 0.0
        """What the draft model takes to read a token of a text that it does not know."""
        self._right = self._tried = 0.0
        self._earned_s = self._spent_s = 0.0
        self._lost_s2 = self._weight = 0.0
        """Of the remembered rounds: the sum of the squares of what each lost, and their number."""
        self._rounds = 0
        self._since_plain = 0
        self._debt_s = 0.0
        """What was lost and not paid for yet by the allowance."""
        self._saved_s = 0.0
        """What of the allowance is left since then: a text is read for a trial when it is paid."""
        self._price = 1.0
        self._reading = False
        self._due = 0
        """Rounds that follow what was read for them, whatever the debt."""
        self._trying = False

    @property
    def luck(self) -> float:
        """How often a guess comes true, where the one before it did."""
        return (self._right + PRIOR_RIGHT) / (self._tried + PRIOR_TRIED)

    def choose(self, n_unread: int, n_left: int) -> int:
        """Guesses to make for each sequence now; 0: none.

        Args:
            n_unread: Tokens that the draft model has to read before; 0 where it has kept up.
            n_left: Tokens that may still be said in one of them.
        """
        self._trying = False
        if self._plain_s is None or self._since_plain >= REFRESH:
            return 0
        if self._reading and not n_unread:
            # What was read for a trial is paid for already: the trial follows.
            self._reading, self._due = False, TRIED_ROUNDS
        n = self._best(self.luck)[0]
        if self._rounds < TRIED_ROUNDS:
            n = min(FIRST_GUESSES, self._n_max)
        elif not n or self._loses():
            if self._debt_s and not self._due and not self._reading:
                return 0
            n, self._trying = n or 1, True
        if n_unread:
            saves_s = n_left * self._plain_s * (1.0 - 1.0 / self._best(1.0)[1])
            if self._trying and not self._reading:
                saves_s = min(saves_s, self._saved_s)
            wanted = n_unread * self._unread_s <= saves_s
            self._reading = wanted and (self._reading or not self._debt_s)
            return n if self._reading else 0
        return n

    def _loses(self) -> bool:
        """Whether rounds lose, and not by chance."""
        if not self._weight:
            return False
        mean = (self._spent_s - self._earned_s) / self._weight
        variance = max(0.0, self._lost_s2 / self._weight - mean**2)
        return mean > DOUBT * math.sqrt(variance / self._weight)

    def _best(self, luck: float) -> tuple[int, float]:
        """The number of guesses that is fastest with such luck, 0 for none, and its speed."""
        assert self._plain_s is not None
        cost = self._guess_s + self._row_s
        best, speed = 0, LEAST_GAIN
        tokens = 1.0
        for n in range(1, self._n_max + 1):
            tokens += luck**n
            if tokens * self._plain_s >= speed * (self._plain_s + n * cost):
                best, speed = n, tokens * self._plain_s / (self._plain_s + n * cost)
        return best, speed

    def stepped(self, seconds: float) -> None:
        """A step without guesses was made."""
        self._plain_s = _smoothed(self._plain_s, seconds)
        self._since_plain = 0
        allowed_s = ALLOWANCE * seconds
        self._saved_s = 0.0 if self._debt_s else self._saved_s + allowed_s
        self._debt_s = max(0.0, self._debt_s - allowed_s)

    def read(self, n_tokens: int, seconds: float) -> None:
        """The draft model read so much of texts that it did not know."""
        self._unread_s = _smoothed(self._unread_s or None, seconds / n_tokens)
        self._debt_s += seconds

    def guessed(
        self, n_guesses: int, guessing_s: float, verifying_s: float, right: Seq[tuple[int, int]]
    ) -> None:
        """A round came to its end.

        Args:
            n_guesses: For the sequence that had the most.
            guessing_s: Spent by the draft model.
            verifying_s: The step.
            right: For each sequence how many guesses it had, and how many of them came true.
        """
        assert self._plain_s is not None
        weight = max(SMOOTHING, 1.0 / (self._rounds + 1))
        self._guess_s += weight * (guessing_s / n_guesses - self._guess_s)
        row_s = max(0.0, verifying_s - self._plain_s) / n_guesses
        self._row_s += weight * (row_s - self._row_s)
        self._right = MEMORY * self._right + sum(n_right for _, n_right in right)
        tried = sum(n_right + (n_right < n) for n, n_right in right)
        self._tried = MEMORY * self._tried + tried
        tokens = sum(1 + n_right for _, n_right in right) / len(right)
        earned, spent = tokens * self._plain_s, guessing_s + verifying_s
        self._earned_s = MEMORY * self._earned_s + earned
        self._spent_s = MEMORY * self._spent_s + spent
        lost = spent - earned
        self._lost_s2 = MEMORY * self._lost_s2 + lost**2
        self._weight = MEMORY * self._weight + 1.0
        self._rounds += 1
        self._due = max(0, self._due - 1)
        self._since_plain += 1
        if self._trying:
            lost *= self._price if lost > 0.0 else 1.0
            if not self._due:
                self._price = min(2.0 * self._price, DEAREST)
        if not self._loses():
            self._price = 1.0
        self._debt_s = max(0.0, self._debt_s + lost)


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
