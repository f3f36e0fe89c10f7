"""Surprisal: what a model's log-probabilities say of the replies in a sample of conversations.

A model reads far fewer conversations than a scorer, so it reads a sample, before the rest is done.
What it found is a table by conversation, and the two metrics look their figures up in it: they run
in any process and give the same for any cut of the logs. The model itself is not known here; what
reads a conversation's replies is handed in as a `ReadReplies`.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quietdesk.columns import from_batch, schema
from quietdesk.errors import UsageError
from quietdesk.scoring.base import (
    MAX_REAL,
    BaseMetric,
    Better,
    Conversations,
    FloatArray,
    IntArray,
    Mean,
    Measurement,
    Remark,
    Scale,
    Signature,
    Unit,
    Units,
)
from quietdesk.types import Transcript

FENCE = 1.5
"""Interquartile ranges from the quartiles to where a reply counts as an outlier."""

T = tuple[str, ...]


class Likelihood(NamedTuple):
    """How likely a model found one reply."""

    place: int
    """The message's place in its conversation, from 0."""
    n_tokens: int
    logprob: float
    """Natural logarithm of its probability after the conversation so far; NaN: not measured."""
    without: float
    """The same without the customer's last message; NaN where it was not measured."""
    answers: bool
    """Whether a customer said something before it."""
    n_cut: int
    """Older messages that had no room in the context."""
    reason: str = ""
    """Why something was not measured."""


class ReadReplies(Protocol):
    """The seam to a model: how likely it finds the replies of a conversation."""

    def __call__(self, conversation: Transcript) -> Sequence[Likelihood]:
        """One for each reply that is asked about, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What the figures depend on besides the conversations: all of it stands in the signature."""

    model: str
    weights: str
    """Fingerprint of the model's weights."""
    context: int
    """Tokens of conversation and reply together."""
    prompt: str
    """What was said to the model in front, as a digest."""
    replies: str
    """Whose replies were read: `bot`, `human` or `bot,human`."""
    sample: int = 0
    """Conversations, at most."""
    seed: int = 0

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """For a signature."""
        return (
            ("model", self.model.replace("|", "/")),
            ("weights", self.weights),
            ("context", str(self.context)),
            ("prompt", self.prompt),
            ("replies", self.replies),
            ("sample", str(self.sample)),
            ("seed", str(self.seed)),
        )

    @classmethod
    def of_signature(cls, signature: str) -> "Terms | None":
        """The terms that stand in a signature; None where there are none."""
        pairs = dict(part.partition(":")[::2] for part in signature.split("|"))
        try:
            return cls(
                pairs["model"],
                pairs["weights"],
                int(pairs["context"]),
                pairs["prompt"],
                pairs["replies"],
                int(pairs["sample"]),
                int(pairs["seed"]),
            )
        except (KeyError, ValueError):
            return None


class Sample:
    """The conversations with the smallest seeded hashes of their ids.

    So a conversation is in it or not whatever the order of reading, and a sample of the logs with
    more of them in it shares what is still among the smallest.

    Args:
        size: How many, at least 1.
        seed: Another one gives another sample.

    Raises:
        UsageError: a size below 1, or a seed that is none.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise UsageError(f"A sample of {size} conversations is none: give at least 1.")
        if not 0 <= seed < 2**63:
            raise UsageError(f"The seed {seed} is not from 0 to 2^63 - 1.")
        self.size = size
        self.seed = seed
        self.n_seen = 0
        """Conversations that it was taken from."""
        self._hashes = np.zeros(0, np.uint64)
        self._rows = pa.Table.from_batches([], schema())

    def take(self, batch: pa.RecordBatch) -> None:
        """Look at more conversations."""
        self.n_seen += batch.num_rows
        hashes = np.fromiter(map(self._hash, batch["id"].to_pylist()), np.uint64, batch.num_rows)
        if len(self._hashes) == self.size:
            kept = np.flatnonzero(hashes <= self._hashes[-1])
        else:
            kept = np.arange(len(hashes))
        if not len(kept):
            return
        if len(kept) > self.size:
            top = np.partition(hashes[kept], self.size - 1)[self.size - 1]
            kept = kept[hashes[kept] <= top]
        rows = pa.Table.from_batches([batch.take(pa.array(kept))])
        rows = pa.concat_tables([self._rows, rows]).combine_chunks()
        hashes = np.concatenate([self._hashes, hashes[kept]])
        digests = [_key(said) for said in _said(rows)]
        order = sorted(range(len(hashes)), key=lambda row: (hashes[row], digests[row]))
        order = order[: self.size]
        self._hashes, self._rows = hashes[order], rows.take(pa.array(order))

    def _hash(self, conversation_id: str) -> int:
        key = self.seed.to_bytes(8, "little")
        digest = hashlib.blake2b(conversation_id.encode(), digest_size=8, key=key, person=b"sample")
        return int.from_bytes(digest.digest(), "little")

    def conversations(self) -> list[Transcript]:
        """The conversations, the smallest hash first."""
        return [one for batch in self._rows.to_batches() for one in from_batch(batch)]


def _said(rows: pa.Table) -> list[tuple[str, T, T]]:
    """Of each conversation its id, and authors and texts of its messages."""
    found: list[tuple[str, T, T]] = []
    for batch in rows.to_batches():
        conversations = Conversations(batch)
        authors = conversations.rows["author"].to_pylist()
        texts, bounds = conversations.texts.to_pylist(), conversations.offsets.tolist()
        for row, name in enumerate(conversations.ids.to_pylist()):
            part = slice(bounds[row], bounds[row + 1])
            found.append((name, tuple(authors[part]), tuple(texts[part])))
    return found


def _key(said: tuple[str, T, T]) -> bytes:
    """A short name for a conversation with these very words: an id may come twice in a log."""
    digest = hashlib.blake2b(digest_size=16)
    name, authors, texts = said
    for text in (name, *authors, *texts):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class Readings:
    """What a model found in a sample.

    Args:
        terms: Under which terms.
        found: Conversation to its replies; see `read_sample`.
        ids: The conversations' ids.
    """

    def __init__(
        self, terms: Terms, found: Mapping[bytes, Sequence[Likelihood]], ids: Sequence[str]
    ) -> None:
        self.terms = terms
        self.found = dict(found)
        self.ids = pa.array(sorted(set(ids)), pa.string())

    @cached_property
    def digest(self) -> str:
        """Changes with the figures."""
        told = repr(sorted((key.hex(), list(replies)) for key, replies in self.found.items()))
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    def of(self, conversations: Conversations) -> list[tuple[int, Sequence[Likelihood]]]:
        """Row of each conversation of the sample in a batch, and its replies; read once a batch."""

        def look() -> list[tuple[int, Sequence[Likelihood]]]:
            hits = pc.is_in(conversations.ids, value_set=self.ids)
            rows = np.flatnonzero(hits.to_numpy(zero_copy_only=False))
            batch = pa.Table.from_batches([conversations.batch.take(pa.array(rows))])
            keys = map(_key, _said(batch))
            pairs = zip(rows.tolist(), keys, strict=True)
            return [(row, self.found[key]) for row, key in pairs if key in self.found]

        return conversations.memo(f"likelihood {self.digest}", look)

    def fences(self, figure: Callable[[Likelihood], float]) -> tuple[float, float]:
        """Below and above what a reply's figure is an outlier of the sample.

        Source: Tukey, Exploratory Data Analysis (1977), outer values beyond 1.5 hinge spreads.
        """
        figures = np.array([figure(one) for replies in self.found.values() for one in replies])
        figures = figures[~np.isnan(figures)]
        if not len(figures):
            return -math.inf, math.inf
        low, high = np.quantile(figures, [0.25, 0.75])
        return float(low - FENCE * (high - low)), float(high + FENCE * (high - low))


def read_sample(
    sample: Sample,
    read: ReadReplies,
    terms: Terms,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Readings:
    """Have a model read a sample.

    Args:
        sample: The conversations.
        read: What reads one.
        terms: Of the reading; sample and seed are filled in.
        on_progress: Told how many conversations are read, of how many.
    """
    chosen = sample.conversations()
    found = {}
    for n_done, conversation in enumerate(chosen):
        on_progress(n_done, len(chosen))
        said = conversation.messages
        authors, texts = tuple(m.author.value for m in said), tuple(m.text for m in said)
        found[_key((conversation.id, authors, texts))] = list(read(conversation))
    on_progress(len(chosen), len(chosen))
    terms = replace(terms, sample=sample.size, seed=sample.seed)
    return Readings(terms, found, [conversation.id for conversation in chosen])


def surprisal_of(reply: Likelihood) -> float:
    """Nats per token; NaN where not measured."""
    return -reply.logprob / reply.n_tokens if reply.n_tokens else math.nan


def relevance_of(reply: Likelihood) -> float:
    """Nats per token that the customer's last message makes it likelier; NaN if not measured."""
    return (reply.logprob - reply.without) / reply.n_tokens if reply.n_tokens else math.nan


class _OfModel(Mean):
    """A mean over replies of what a model found.

    Args:
        readings: The model's.
        terms: Of figures that were measured before; then nothing can be measured.
    """

    unit = Unit.MESSAGE
    scale = Scale.NATS
    figure: Callable[[Likelihood], float]

    def __init__(self, readings: Readings | None = None, terms: Terms | None = None) -> None:
        self.readings = readings
        self.terms = terms if readings is None else readings.terms

    def signature(self, totals: Mapping[str, IntArray]) -> Signature:
        """The name, the version and the terms."""
        pairs = super().signature(totals).pairs
        return Signature(pairs if self.terms is None else (*pairs, *self.terms.pairs()))

    @property
    def fingerprint(self) -> str:
        """With the figures: another sample under the same terms gives others."""
        return f"{super().fingerprint}|{self.readings.digest if self.readings else ''}"

    def under(self, signature: str) -> BaseMetric:
        """The metric with the terms of a signature."""
        return type(self)(None, Terms.of_signature(signature))

    def notes(self, totals: Mapping[str, IntArray], n_conversations: int) -> list[str]:
        """How many conversations the model read, and which model."""
        if self.terms is None:
            return []
        n_read = int(totals["sampled"].sum()) if "sampled" in totals else 0
        terms = self.terms
        chosen = "all of them"
        if n_read < n_conversations:
            chosen = f"those whose hashed ids come first (seed {terms.seed})"
        whose = terms.replies.replace(",", " and ")
        return [
            f"Surprisal and relevance: {terms.model} (weights {terms.weights[:12]}, "
            f"{terms.context:,} tokens of context) read the {whose} replies of {n_read:,} of "
            f"{n_conversations:,} conversations, {chosen}."
        ]

    def concerns(self, reply: Likelihood) -> bool:
        """Whether a reply is one of the metric's units."""
        return True

    @abstractmethod
    def is_cause(self, figures: FloatArray) -> npt.NDArray[np.bool_]:
        """Which figures, shape (n,), readers are shown the messages of."""

    def _replies(self, conversations: Conversations) -> list[tuple[int, Likelihood]]:
        """Row of each reply that the metric concerns, and what was found."""
        if self.readings is None:
            raise UsageError(
                f"{self.name!r} needs a model: `quietdesk score LOGS --model NAME`, or "
                "`quietdesk.score(..., model=NAME)`."
            )
        offsets = conversations.offsets.tolist()
        return [
            (offsets[row] + reply.place, reply)
            for row, replies in self.readings.of(conversations)
            for reply in replies
            if self.concerns(reply)
        ]

    def look(self, conversations: Conversations) -> Units:
        """The replies' figures."""
        replies = self._replies(conversations)
        index = np.array([row for row, _ in replies], np.int64)
        figures = np.array([type(self).figure(reply) for _, reply in replies], np.float64)
        measured = ~np.isnan(figures)
        causes = index[measured & self.is_cause(figures)]
        return Units(index, figures, measured, causes)

    def measure(self, conversations: Conversations) -> Measurement:
        """The figures, why some are not there, and how many conversations were read."""
        found = super().measure(conversations)
        names, whose = conversations.ids.to_pylist(), conversations.conversation_of
        remarks = []
        for row, reply in self._replies(conversations):
            name = names[whose[row]]
            if math.isnan(type(self).figure(reply)):
                text = f"{self.name} not measured: {reply.reason}"
                remarks.append(Remark(text, name, reply.place))
            elif reply.n_cut:
                text = f"{self.name}: older messages had no room in the model's context"
                remarks.append(Remark(text, name, reply.place))
        assert self.readings is not None
        sampled = np.array([len(self.readings.of(conversations))], np.int64)
        return replace(found, totals={**found.totals, "sampled": sampled}, remarks=remarks)


class Surprisal(_OfModel):
    """How unlikely a model finds the replies."""

    name = "surprisal"
    title = "Surprisal (nats per token)"
    definition = (
        "Minus the natural logarithm of the probability that a local model gives the reply after "
        "the conversation so far, by the reply's tokens; the mean over replies, in a sample of "
        "the conversations. From 0 on."
    )
    source = (
        "Shannon, A Mathematical Theory of Communication (1948); a language model's perplexity is "
        "its exponential."
    )
    misleads = (
        "It tells how usual a reply is for this model, not how good: boilerplate and loops score "
        "low, names, numbers and short replies high. It says nothing of whether a reply is right. "
        "Figures of two models cannot be compared. The causes are the outliers of the sample, of "
        "which there are some in any."
    )
    figure = staticmethod(surprisal_of)

    def is_cause(self, figures: FloatArray) -> npt.NDArray[np.bool_]:
        """What is unusually surprising in this sample."""
        assert self.readings is not None
        return np.asarray(figures > self.readings.fences(surprisal_of)[1])


class Relevance(_OfModel):
    """How much likelier the customer's last message makes the replies."""

    name = "relevance"
    title = "Relevance (nats per token)"
    definition = (
        "The logarithm of the probability that a local model gives the reply after the "
        "conversation so far, less that without the customer's last message, by the reply's "
        "tokens; the mean over replies that follow a customer's message, in a sample of the "
        "conversations. Below 0 where the message makes the reply less likely."
    )
    source = (
        "Pointwise mutual information, as in Li et al., A Diversity-Promoting Objective Function "
        "for Neural Conversation Models (2016), by the reply's tokens."
    )
    misleads = (
        "It tells whether a reply takes up the customer's words, not whether it is right: "
        "repeating the question scores high, a wrong answer about the right thing too; a short "
        "`Yes` or a next step that the earlier turns settle scores near 0. Among sensible replies "
        "it says nothing of which is the better one; the figure of a single reply is noisy, and "
        "many good replies are below 0. The causes are the outliers of the sample."
    )
    better = Better.HIGHER
    lowest = -MAX_REAL
    figure = staticmethod(relevance_of)

    def concerns(self, reply: Likelihood) -> bool:
        """Whether it answers a customer."""
        return reply.answers

    def is_cause(self, figures: FloatArray) -> npt.NDArray[np.bool_]:
        """What the message makes unusually much less likely, for this sample."""
        assert self.readings is not None
        low = self.readings.fences(relevance_of)[0]
        return np.asarray((figures < 0.0) & (figures < low))


def metrics(readings: Readings | None = None) -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (Surprisal(readings), Relevance(readings))
