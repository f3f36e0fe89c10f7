"""Guesses are made where they are faster, and trying them where they are not costs little."""

import random
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from quietdesk.engine.pace import ALLOWANCE, LEAST_GAIN, Pace

STEP_S = 0.005


@dataclass
class Machine:
    """Two models whose times are known, in steps of the large one without guesses."""

    guess: float
    """A step of the draft model."""
    row: float
    """One row more to verify."""
    luck: float
    """How often a guess comes true."""
    unread: float = 0.0
    """The draft model's time to read a token of a prompt."""
    noise: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.pace = Pace(8)
        self.worst_s = 0.0

    def takes(self, steps: float) -> float:
        return STEP_S * steps * (1.0 + self.noise * self.random.uniform(-1.0, 1.0))

    def reply(self, n_tokens: int, n_prompt: int = 0) -> float:
        """Seconds that a reply takes, after so many tokens that the draft model does not know."""
        total, said, unread = 0.0, 0, n_prompt
        while said < n_tokens:
            n = self.pace.choose(unread if unread > 16 else 0, n_tokens - said)
            if n and unread > 16:
                read_s = self.takes(self.unread * min(unread, 256))
                self.pace.read(min(unread, 256), read_s)
                total, unread, n = total + read_s, unread - min(unread, 256), 0
            n = min(n, n_tokens - said - 1)  # As the engine does: one token more is said.
            if n <= 0:
                step_s = self.takes(1.0)
                self.pace.stepped(step_s)
                total, said, unread = total + step_s, said + 1, unread + 1
                continue
            right = 0
            while right < n and self.random.random() < self.luck:
                right += 1
            guessing_s, verifying_s = self.takes(n * self.guess), self.takes(1.0 + n * self.row)
            self.pace.guessed(n, guessing_s, verifying_s, [(n, right)])
            total, said, unread = total + guessing_s + verifying_s, said + 1 + right, 0
        return total

    def best(self) -> float:
        """Speed over that without guesses, with the best number of them."""
        speeds = [1.0]
        for n in range(1, 9):
            tokens = sum(self.luck**i for i in range(n + 1))
            speeds.append(tokens / (1.0 + n * (self.guess + self.row)))
        return max(speeds)


machines = st.builds(
    Machine,
    guess=st.floats(0.02, 1.5),
    row=st.floats(0.0, 0.6),
    luck=st.floats(0.0, 1.0),
    unread=st.floats(0.0, 0.2),
    noise=st.floats(0.0, 0.3),
    seed=st.integers(0, 9),
)


@given(machines, st.integers(20, 200), st.integers(0, 600))
@settings(max_examples=40, deadline=None)
def test_guessing_never_costs_more_than_the_allowance_and_one_first_try(
    machine: Machine, n_tokens: int, n_prompt: int
) -> None:
    n_replies = 4000 // n_tokens
    took = sum(machine.reply(n_tokens, n_prompt) for _ in range(n_replies))
    plain = STEP_S * n_replies * n_tokens
    # One prompt read in vain, and the rounds until luck is known: each is a loss that one reply
    # may show; what is lost over many of them is the allowance.
    once = STEP_S * (machine.unread * n_prompt + 12 * (1.0 + 8 * (machine.guess + machine.row)))
    assert took <= plain * (1.0 + ALLOWANCE + 0.01) + once


@given(machines)
@settings(max_examples=40, deadline=None)
def test_most_of_what_can_be_gained_is_gained(machine: Machine) -> None:
    took = sum(replace(machine, seed=seed).reply(4000) for seed in range(6))
    speed = STEP_S * 6 * 4000 / took
    gained, possible = speed - 1.0, machine.best() - 1.0
    assert gained >= 0.75 * possible - 0.08


def test_after_what_was_read_for_a_trial_the_trial_comes() -> None:
    """A draft model that had bad luck at first and has fallen behind, and is a good one."""
    machine = Machine(guess=0.166, row=0.034, luck=0.646, unread=0.03, seed=6)
    took = machine.reply(4000)
    assert STEP_S * 4000 / took - 1.0 >= 0.75 * (machine.best() - 1.0)


def test_a_prompt_is_not_read_for_a_reply_that_it_cannot_pay_for() -> None:
    machine = Machine(guess=0.05, row=0.0, luck=0.95, unread=0.05)
    machine.reply(400, 200)
    assert machine.pace.choose(0, 100) > 1
    assert machine.pace.choose(2000, 50) == 0
    assert machine.pace.choose(200, 500) > 0


def test_a_draft_model_as_slow_as_the_model_is_tried_ever_more_seldom() -> None:
    machine = Machine(guess=1.0, row=0.3, luck=1.0)
    lost = [machine.reply(2000) - STEP_S * 2000 for _ in range(4)]
    assert lost[-1] < lost[0]
    assert lost[-1] <= STEP_S * 2000 * 0.005


def test_luck_that_comes_later_is_found() -> None:
    machine = Machine(guess=0.1, row=0.05, luck=0.0)
    machine.reply(1000)
    machine.luck = 0.9
    machine.reply(4000)
    assert STEP_S * 1000 / machine.reply(1000) > 1.5
    assert machine.best() > LEAST_GAIN
