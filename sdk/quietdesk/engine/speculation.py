"""Speculation: who guesses ahead of the model, and what became of the guesses.

Look-up in the text so far guesses for a lone sequence: in a full batch a guess lengthens
everybody's step. Where it has none, the draft model guesses for the few sequences that generate.
Whatever is guessed is verified by the model, so that the text stays the same.
"""

import contextlib
import logging
from collections.abc import Mapping
from collections.abc import Sequence as Seq

from quietdesk.engine.batch import Batch
from quietdesk.engine.draft import Drafter
from quietdesk.engine.draft_model import Asked, DraftModel
from quietdesk.engine.sequence import Sequence, State

COUNTED = (
    "drafted_tokens",
    "accepted_tokens",
    "drafted_by_model",
    "accepted_by_model",
    "draft_model_failures",
)
"""Fields of `EngineMetrics`. All are there from the start, for others read while one counts."""

_log = logging.getLogger("quietdesk")


class Speculation:
    """Makes the guesses of an engine; used by its thread only, but for `counts`."""

    def __init__(self, n_ctx: int, n_lookup: int, model: DraftModel | None = None) -> None:
        """Take a draft model over: it is closed with this.

        Args:
            n_ctx: Tokens that a sequence can hold.
            n_lookup: Guesses by look-up at most; 0: none.
            model: The draft model, if there is one.
        """
        self._n_ctx = n_ctx
        self._n_lookup = n_lookup
        self._model = model
        self._dropped_s = 0.0
        """What a draft model had spent that failed."""
        self._counts = dict.fromkeys(COUNTED, 0)

    @property
    def counts(self) -> Mapping[str, float]:
        """By the names of `EngineMetrics`; from any thread."""
        model = self._model
        return {**self._counts, "draft_model_s": model.spent_s if model else self._dropped_s}

    def look_up(self, sequence: Sequence, *, alone: bool) -> None:
        """Forget a sequence's guesses; guess anew where it goes on and nobody else is there."""
        sequence.draft = ()
        if self._n_lookup and alone and sequence.state is State.RUNNING:
            sequence.drafter = sequence.drafter or Drafter(self._n_lookup)
            room = sequence.room(self._n_ctx)
            sequence.draft = sequence.drafter.guess(sequence.tokens)[:room]
            sequence.drafted_by_model = False

    def ask_model(self, sequences: Seq[Sequence]) -> None:
        """Have the draft model guess, where only a few generate and look-up has no guess.

        Args:
            sequences: All that are to be answered.
        """
        model = self._model
        if model is None or not 1 <= len(sequences) <= model.n_seq:
            return
        if any(sequence.draft or not sequence.is_decoding for sequence in sequences):
            return
        asked = [
            Asked(
                sequence.id,
                sequence.tokens,
                sequence.room(self._n_ctx),
                sequence.limits.max_tokens - sequence.n_generated,
            )
            for sequence in sequences
        ]
        try:
            guesses = model.guess(asked)
        except Exception as error:
            self._drop(model, error)
            return
        for sequence, draft in zip(sequences, guesses, strict=True):
            sequence.draft, sequence.drafted_by_model = draft, True

    def stepped(
        self,
        batch: Batch,
        by_slot: Mapping[int, Sequence],
        sampled: Seq[Seq[int]],
        seconds: float,
    ) -> None:
        """Take notice of what a step took, if the draft model's guesses or none were verified.

        Args:
            batch: What was evaluated.
            by_slot: Whose rows they were.
            sampled: The tokens of each segment: guesses that came true, and one more.
            seconds: What it took.
        """
        if self._model is None or batch.prefill:
            return
        if all(s.n_draft == 0 or by_slot[s.seq_id].drafted_by_model for s in batch.decode):
            outcome = zip(batch.decode, sampled, strict=True)
            self._model.learn(seconds, [(s.n_draft, len(said) - 1) for s, said in outcome])

    def verified(self, sequence: Sequence, n_guessed: int, n_right: int) -> None:
        """Take notice of what became of one sequence's guesses, before what was said is added."""
        self._counts["drafted_tokens"] += n_guessed
        self._counts["accepted_tokens"] += n_right
        if sequence.drafted_by_model:
            self._counts["drafted_by_model"] += n_guessed
            self._counts["accepted_by_model"] += n_right
        elif sequence.drafter is not None:
            sequence.drafter.learn(n_guessed, n_right, len(sequence.tokens) + n_right)

    def forget(self) -> None:
        """Have the draft model drop everybody's words from its memory."""
        if (model := self._model) is not None:
            try:
                model.forget()
            except Exception as error:
                self._drop(model, error)

    def close(self) -> None:
        """Close the draft model."""
        if self._model is not None:
            self._model.close()

    def _drop(self, model: DraftModel, error: Exception) -> None:
        """Go on without it: no reply fails for a guess."""
        self._dropped_s, self._model = model.spent_s, None
        self._counts["draft_model_failures"] += 1
        _log.warning(
            "The draft model failed and is switched off; replies go on without it: %s: %s",
            type(error).__name__,
            error,
        )
        with contextlib.suppress(Exception):
            model.close()
