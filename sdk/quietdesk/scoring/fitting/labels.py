"""Labels: people's ratings of messages and conversations, as fitting sees them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from quietdesk.errors import UsageError
from quietdesk.scoring.base import Conversations, FloatArray, IntArray, Unit
from quietdesk.scoring.reading import reading

MAX_LEVELS = 11
"""Ratings on a finer scale are gathered into `FEWER_LEVELS` levels of equal size."""


FEWER_LEVELS = 5


class Votes(NamedTuple):
    """Ratings of some cases, several raters each.

    Attributes:
        values: All ratings, flat.
        offsets: Shape (n + 1,): case i has the ratings offsets[i] to offsets[i + 1]; it may have
            none.
    """

    values: FloatArray
    offsets: IntArray

    @property
    def size(self) -> IntArray:
        """Ratings of each case, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def mean(self) -> FloatArray:
        """Mean rating of each case, shape (n,); NaN without one."""
        n = len(self.offsets) - 1
        case = np.repeat(np.arange(n), self.size)
        total = np.bincount(case, weights=self.values, minlength=n)
        return np.where(self.size > 0, total / np.maximum(self.size, 1), np.nan)

    def take(self, cases: IntArray) -> "Votes":
        """The ratings of some cases."""
        size = self.size[cases]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
        row = np.repeat(self.offsets[cases] - offsets[:-1], size) + np.arange(int(size.sum()))
        return Votes(self.values[row], offsets)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Conversations with ratings, as fitting and evaluating see them.

    Attributes:
        conversations: All of them.
        side: `customer` or `agent`: whose messages are rated.
        rows: Rows of all messages of that side.
        turns: Ratings of these messages.
        whole: Ratings of the conversations.
        groups: Shape (n_conversations,): the customer, or the conversation where none is known.
        scale: Levels of the ratings, ascending.
    """

    conversations: Conversations
    side: str
    rows: IntArray
    turns: Votes
    whole: Votes
    groups: IntArray
    scale: FloatArray
    sets: IntArray
    """Shape (n_conversations,): the collection that each comes from. What sets two collections
    apart teaches nothing about their turns: features and ratings are compared within one."""


def labelled(conversations: Conversations, label: str | None = None) -> Labelled:
    """The ratings in a batch.

    Args:
        conversations: The conversations, all labels in one batch.
        label: A label's name to read instead of the ratings: numbers, or yes and no in any of the
            usual words, which become 1 and 0.

    Raises:
        UsageError: no ratings, ratings of both sides' messages, or labels that are no numbers.
    """
    seen = reading(conversations)
    if label is None:
        of_messages = _votes(conversations.ratings.values, conversations.ratings.offsets)
        column = conversations.batch["ratings"]
        size = np.array([len(item) for item in column.to_pylist()], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
        of_whole = _votes(column.flatten(), offsets)
    else:
        of_messages = _label_votes(conversations, label, Unit.MESSAGE)
        of_whole = _label_votes(conversations, label, Unit.CONVERSATION)
    rated = of_messages.size > 0
    by_customer, by_agent = int((rated & seen.customer).sum()), int((rated & seen.agent).sum())
    if not by_customer and not by_agent and not (of_whole.size > 0).any():
        where = "have ratings" if label is None else f"have the label {label!r}"
        raise UsageError(
            f"No message and no conversation {where}. `ratings` of messages or conversations are "
            "read; name another label with --label."
        )
    if by_customer and by_agent and min(by_customer, by_agent) * 20 > max(by_customer, by_agent):
        raise UsageError(
            f"Ratings stand on {by_customer} customer messages and on {by_agent} agent messages. "
            "An estimator learns one of them: leave the others out."
        )
    side = "agent" if by_agent > by_customer else "customer"
    rows = np.flatnonzero(seen.customer if side == "customer" else seen.agent)
    turns = of_messages.take(rows)
    scale = _scale(turns, of_whole)
    one = np.zeros(conversations.n, np.int64)
    return Labelled(conversations, side, rows, turns, of_whole, _groups(conversations), scale, one)


def _votes(values: Any, offsets: IntArray) -> Votes:
    return Votes(np.asarray(values.to_numpy(zero_copy_only=False), np.float64), offsets)


_YES = {"yes", "true", "y", "1", "satisfied", "resolved", "good", "positive", "up"}


_NO = {"no", "false", "n", "0", "dissatisfied", "unresolved", "bad", "negative", "down"}


def _label_votes(conversations: Conversations, label: str, unit: Unit) -> Votes:
    lists = conversations.labels(label, unit=unit)
    values = np.empty(len(lists.values))
    for i, text in enumerate(lists.values.to_pylist()):
        word = text.strip().lower()
        if word in _YES or word in _NO:
            values[i] = float(word in _YES)
            continue
        try:
            values[i] = float(word)
        except ValueError:
            raise UsageError(
                f"The label {label!r} has the value {text!r}, which is no rating. Ratings are "
                "numbers, or yes and no."
            ) from None
    return Votes(values, lists.offsets)


def _groups(conversations: Conversations) -> IntArray:
    customers = conversations.batch["customer"].to_pylist()
    ids = conversations.ids.to_pylist()
    names = [("c", c) if c is not None else ("i", i) for c, i in zip(customers, ids, strict=True)]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _scale(turns: Votes, whole: Votes) -> FloatArray:
    values = np.unique(np.concatenate([turns.values, whole.values]))
    if not np.isfinite(values).all() or (values < 0).any():
        raise UsageError("A rating is negative or no number. Ratings start at 0 or above.")
    if len(values) < 2:
        raise UsageError(f"Every rating is {values[0]:g}. There is nothing to learn from them.")
    if len(values) > MAX_LEVELS:
        every = np.concatenate([turns.values, whole.values])
        edges = np.quantile(every, np.linspace(0, 1, FEWER_LEVELS + 1))
        which = np.clip(np.searchsorted(edges[1:-1], every, side="right"), 0, FEWER_LEVELS - 1)
        values = np.unique([every[which == k].mean() for k in np.unique(which)])
    return values


def classes_of(mean: FloatArray, scale: FloatArray) -> IntArray:
    """0 dissatisfied, 1 neutral, 2 satisfied: half a level below the scale's middle, or above it.

    On a scale of 1 to 5: a mean of at most 2.5, and of at least 3.5. On yes and no: below and above
    one half.
    """
    middle = (scale[0] + scale[-1]) / 2
    half = (scale[-1] - scale[0]) / (len(scale) - 1) / 2
    if len(scale) == 2:
        return np.where(mean < middle, 0, np.where(mean > middle, 2, 1)).astype(np.int64)
    low, high = middle - half + 1e-9, middle + half - 1e-9
    return np.where(mean <= low, 0, np.where(mean >= high, 2, 1)).astype(np.int64)
