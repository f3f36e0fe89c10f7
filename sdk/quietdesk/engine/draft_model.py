"""DraftModel: a small model that guesses ahead what the large one will say.

It keeps its own memory of a few sequences. Before it guesses, each is cut back to what it has in
common with the text so far, and the rest is read; so it does not have to be told when the text
takes another turn than its guesses, is preempted, or comes back in another slot.

Source: Y. Leviathan, M. Kalman, Y. Matias, Fast Inference from Transformers via Speculative
Decoding (2023); here a guess is verified by sampling as always and comparing, so that the text is
the same for every kind of sampling.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from quietdesk.engine.batch import Batch, Segment
from quietdesk.engine.pace import Pace
from quietdesk.engine.runner import SPARE_OUTPUTS, Runner
from quietdesk.engine.sampling import Sampling
from quietdesk.errors import DraftModelError

GUESSED_SEQUENCES = 4
"""More that generate at the same time fill a step as it is: a row is then as dear as a step was."""
MOST_GUESSES = 8
"""For a sequence: of more the last ones hardly ever come true."""
READ_ROWS = 256
"""Tokens of prompts read at once: what they may add to the time between others' tokens."""
KEPT_UP = 16
"""Tokens that it may be behind for each sequence and still guess at once: what it did not guess
itself, or guessed wrong. More are a prompt, which is read in steps of their own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A text to guess ahead of."""

    id: int
    """The same for the same text as it grows."""
    tokens: list[int]
    """All of it, the prompt too."""
    room: int
    """Guesses that can be used at most."""
    left: int
    """Tokens that may still be said."""


@dataclass(slots=True)
class _Held:
    """What one of the draft model's sequences holds."""

    tokens: list[int]
    id: int = -1
    used_at: int = 0


class DraftModel:
    """Guesses for the sequences that generate; used by the engine's thread only."""

    def __init__(
        self,
        runner: Runner,
        target: Runner,
        *,
        pace: Callable[[int], Pace] = Pace,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take a runner over: it is closed with this.

        Args:
            runner: The small model, with the same vocabulary.
            target: The model that verifies.
            pace: Makes what chooses how many guesses are made, from their largest number.
            clock: Seconds.

        Raises:
            DraftModelError: one of the two cannot take back what was evaluated in vain.
        """
        reasons = [
            f"the memory of {each.info.name!r} ({each.info.architecture}) cannot be cut back after "
            "a wrong guess"
            for each in (target, runner)
            if not each.can_trim
        ]
        if reasons:
            raise DraftModelError(runner.info.name, target.info.name, reasons)
        self._runner = runner
        self._clock = clock
        self._n_said, self._n_read = (
            each.info.n_vocab or 2**31 for each in (target, runner)
        )  # Of padded vocabularies one may be a little larger.
        self.n_seq = min(runner.n_seq, GUESSED_SEQUENCES)
        """Sequences that it can guess for at the same time."""
        self._held = [_Held([]) for _ in range(runner.n_seq)]
        self._sampler = runner.open_sampler(Sampling(), [])
        self._paces = {
            k: pace(min(MOST_GUESSES, SPARE_OUTPUTS // k)) for k in range(1, self.n_seq + 1)
        }
        self._uses = 0
        self._guessing_s = 0.0
        """Spent on the guesses that are to be verified."""
        self.spent_s = 0.0
        """Spent in all."""

    def guess(self, asked: Seq[Asked]) -> list[tuple[int, ...]]:
        """Guesses at what follows each text; often none.

        Args:
            asked: Every sequence that generates, 1 to `n_seq` of them.

        Raises:
            Exception: what its runner raises.
        """
        pace = self._paces[len(asked)]
        texts = dict(zip(self._place(asked), asked, strict=True))
        room = {place: self._room(one) for place, one in texts.items()}
        known = {
            place: _common(self._held[place].tokens, one.tokens)
            for place, one in texts.items()
            if room[place]
        }
        n_unread = sum(len(texts[place].tokens) - n for place, n in known.items())
        reads = n_unread > KEPT_UP * len(known)
        n_left = max(one.left for one in asked)
        n = pace.choose(n_unread if reads else 0, n_left) if known else 0
        if not n:
            return [()] * len(asked)
        started = self._clock()
        self._cut_back(known)
        if reads:
            pace.read(self._read(texts, known), self._clock() - started)
            guesses: dict[int, list[int]] = {}
        else:
            guesses = self._say(texts, {place: min(n, room[place]) for place in known})
            self._guessing_s = self._clock() - started
        self.spent_s += self._clock() - started
        return [self._sayable(guesses.get(place, [])) for place in texts]

    def learn(self, verifying_s: float, outcome: Seq[tuple[int, int]]) -> None:
        """Take notice of a step.

        Args:
            verifying_s: How long it took.
            outcome: For each sequence that generated how many guesses it had, and how many of them
                came true.
        """
        pace = self._paces.get(len(outcome))
        if pace is None:
            return
        n = max(n_guesses for n_guesses, _ in outcome)
        if n:
            pace.guessed(n, self._guessing_s, verifying_s, outcome)
        else:
            pace.stepped(verifying_s)

    def forget(self) -> None:
        """Forget every text, in memory too; what is asked again is read again."""
        for place, held in enumerate(self._held):
            if held.tokens:
                held.tokens = []
                self._runner.remove(place, 0)

    def close(self) -> None:
        """Free everything; once."""
        self._runner.close()

    def _place(self, asked: Seq[Asked]) -> list[int]:
        """A sequence for each text: its own, else the one that has the most in common with it."""
        self._uses += 1
        places = {held.id: place for place, held in enumerate(self._held)}
        mine = {one.id: places[one.id] for one in asked if one.id in places}
        for one in asked:
            if one.id not in mine:
                free = set(range(len(self._held))) - set(mine.values())
                mine[one.id] = max(
                    free,
                    key=lambda place: (
                        _common(self._held[place].tokens, one.tokens),
                        -self._held[place].used_at,
                    ),
                )
            held = self._held[mine[one.id]]
            held.id, held.used_at = one.id, self._uses
        return [mine[one.id] for one in asked]

    def _room(self, one: Asked) -> int:
        """Guesses that can be made for a text; 0 where it holds what the draft model has not."""
        if max(one.tokens) >= self._n_read:
            return 0
        return max(0, min(one.room, self._runner.n_ctx - len(one.tokens)))

    def _cut_back(self, known: dict[int, int]) -> None:
        for place, n in known.items():
            held = self._held[place].tokens
            if n < len(held):
                # Unknown until it is done: a failure must not leave a wrong belief.
                self._held[place].tokens = []
                self._runner.remove(place, n)
                self._held[place].tokens = held[:n]

    def _read(self, texts: dict[int, Asked], known: dict[int, int]) -> int:
        """Read on in the texts, as much as one step may; how much that was."""
        room = min(READ_ROWS, self._runner.n_batch)
        pieces = []
        for place, n in known.items():
            piece = tuple(texts[place].tokens[n : n + room])
            room -= len(piece)
            if piece:
                pieces.append(Segment(place, n, piece, sample=False))
        self._evaluate(Batch(prefill=tuple(pieces)))
        return sum(len(piece.tokens) for piece in pieces)

    def _say(self, texts: dict[int, Asked], wanted: dict[int, int]) -> dict[int, list[int]]:
        """So many likely next tokens of each text, or fewer where its end is likely."""
        said: dict[int, list[int]] = {place: [] for place in wanted}
        more = list(wanted)
        while more:
            pieces = []
            for place in more:
                start = len(self._held[place].tokens)
                text = [*texts[place].tokens, *said[place]]
                piece = tuple(text[start:])
                pieces.append(Segment(place, start, piece, sample=True, sampler=self._sampler))
            for place, (token,) in zip(
                more, self._evaluate(Batch(decode=tuple(pieces))), strict=True
            ):
                said[place].append(token)
            more = [
                place
                for place in more
                if len(said[place]) < wanted[place] and not self._runner.is_end(said[place][-1])
            ]
        return said

    def _evaluate(self, batch: Batch) -> list[list[int]]:
        answer = self._runner.decode(batch)
        for segment in batch.segments:
            self._held[segment.seq_id].tokens.extend(segment.tokens)
        return answer

    def _sayable(self, guesses: list[int]) -> tuple[int, ...]:
        """The guesses before the first one that the large model has no token for."""
        n = next((i for i, token in enumerate(guesses) if token >= self._n_said), len(guesses))
        return tuple(guesses[:n])


def _common(held: list[int], tokens: list[int]) -> int:
    """Leading tokens of a text that are held, without its last one, which has to be evaluated."""
    n = min(len(held), len(tokens) - 1)
    if held[:n] == tokens[:n]:
        return n
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held[:middle] == tokens[:middle] else (low, middle)
    return low
