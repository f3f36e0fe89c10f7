r"""Metric: the seam between logged conversations and numbers; a batch in, rows and integers out.

A metric reads one batch of conversations at a time and gives, for each conversation or message that
it concerns (a *unit*), a few integers that add up: matches and lengths for BLEU, hits for a rate,
millionths for a mean. Everything after that is addition, which does not depend on order or on how
the conversations were cut into batches, and one computation of the values from the sums.

Sums are kept in hash buckets: every unit falls into one of `N_BUCKETS` by a hash of its customer,
or of its conversation where no customer is known. What one customer says stays together, so that
intervals computed by resampling buckets are clustered by customer, and any number of replicates
costs one matrix product.

An own metric is a class with one method. This one is the share of replies that thank::

    import pyarrow.compute as pc
    from quietdesk.scoring.base import Better, Conversations, Rate, Unit, Units

    class Thanks(Rate):
        name = "thanks"
        title = "Replies that thank"
        definition = "Share of bot messages with the word 'thank' or 'thanks'."
        misleads = "Sarcasm counts."
        unit = Unit.MESSAGE
        better = Better.HIGHER

        def look(self, conversations: Conversations) -> Units:
            replies = conversations.said_by("bot")
            texts = conversations.texts.take(replies)
            hits = pc.match_substring_regex(texts, r"(?i)\bthanks?\b")
            return Units(replies, hits.to_numpy(zero_copy_only=False))

    quietdesk.scoring.score(conversations, metrics=[Thanks(), "chrf"])

A module of metrics in this room has a function `metrics()` that gives one of each, for the
catalogue of names.

`Rate` (yes or no), `Mean` (reals), `Category` (one of several) and `Ratio` (so many of so
many) do the rest: integers, rows, values, interval, number of units not measured, slices. A metric
of another shape derives from `BaseMetric` and says itself what its integers are (`measure`) and
what they amount to (`values`).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quietdesk.columns import list_offsets, message_rows
from quietdesk.errors import UsageError
from quietdesk.types import Author

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
T = TypeVar("T")

N_BUCKETS = 4096
"""Hash buckets of the whole."""
N_SLICE_BUCKETS = 512
"""Hash buckets of a slice; a divisor of `N_BUCKETS`, so that a slice's bucket is the remainder."""
MILLION = 1_000_000
"""Reals are kept as whole millionths: an amount of 9.2e12 fits into one sum."""
MAX_REAL = 1e9
"""The largest real that one unit may have; more is not measured, so that no sum overflows."""
SEGMENT_LIMIT = 10_000
"""Segments whose own integers are kept beside the buckets, for sacrebleu's own bootstrap."""
AUTHORS = tuple(Author)
"""Authors in the order of their codes in `Conversations.authors`."""
NO_TIME = np.iinfo(np.int64).min
"""In `Conversations.times`: the log does not say when."""


class Unit(StrEnum):
    """What a metric gives one figure for."""

    CONVERSATION = "conversation"
    MESSAGE = "message"


class Better(StrEnum):
    """Which way is good; it decides what `worst` and a gate's margin mean."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Scale(StrEnum):
    """How a value is read."""

    SHARE = "share"
    """0 to 1, shown in per cent."""
    POINTS = "points"
    """0 to 100, as BLEU is."""
    SECONDS = "seconds"
    NUMBER = "number"
    """From 0."""
    NATS = "nats"
    """Natural logarithms, mostly some units from 0; the only scale that goes below it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a score depends on besides the text, in sacrebleu's form: `key:value|key:value`."""

    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """The pairs in their order."""
        return "|".join(f"{key}:{value}" for key, value in self.pairs)


class Lists(NamedTuple):
    """A list for each row, flat."""

    offsets: IntArray
    """Shape (n_rows + 1,): row i has the values offsets[i] to offsets[i + 1]."""
    values: pa.Array

    @property
    def lengths(self) -> IntArray:
        """How many values each row has, shape (n_rows,)."""
        return np.diff(self.offsets)


class Conversations:
    """A batch of conversations, read by columns: no object per message.

    Attributes:
        batch: With the schema of `quietdesk.columns.schema()`.
        n: Conversations in the batch.
        rows: The messages of all of them, flat, one row each.
        offsets: Shape (n + 1,): conversation i has the messages offsets[i] to offsets[i + 1].
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.n: int = batch.num_rows
        self.rows, self.offsets = message_rows(batch)
        self._memo: dict[str, Any] = {}

    def memo(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, computed once per batch, so that metrics can share their reading."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    def forget(self) -> None:
        """Drop what `memo` kept.

        What metrics remember often refers to the batch, and such a circle of many megabytes would
        stay until the garbage collector comes by, which counts objects and not bytes.
        """
        self._memo.clear()

    @property
    def n_messages(self) -> int:
        """Messages in the batch."""
        return int(self.offsets[-1])

    @property
    def conversation_of(self) -> IntArray:
        """Shape (n_messages,): the conversation that each message belongs to."""
        return self.memo(
            "conversation_of", lambda: np.repeat(np.arange(self.n), np.diff(self.offsets))
        )

    @property
    def position_of(self) -> IntArray:
        """Shape (n_messages,): each message's place in its conversation, from 0."""
        return self.memo(
            "position_of", lambda: np.arange(self.n_messages) - self.offsets[self.conversation_of]
        )

    @property
    def texts(self) -> pa.Array:
        """Shape (n_messages,): strings."""
        return self.rows["text"]

    @property
    def authors(self) -> npt.NDArray[np.int8]:
        """Shape (n_messages,): the author's place in `AUTHORS`; -1 for another one."""
        return self.memo("authors", self._authors)

    def _authors(self) -> npt.NDArray[np.int8]:
        encoded = self.rows["author"].dictionary_encode()
        known = {author.value: code for code, author in enumerate(AUTHORS)}
        # One code more, for the batch without a message, whose dictionary is empty.
        names = [*encoded.dictionary.to_pylist(), ""]
        codes = np.array([known.get(name, -1) for name in names], np.int8)
        authors: npt.NDArray[np.int8] = codes[encoded.indices.to_numpy(zero_copy_only=False)]
        return authors

    def said_by(self, *authors: str) -> IntArray:
        """The rows of the messages by any of these authors, ascending."""
        codes = [AUTHORS.index(Author(author)) for author in authors]
        return self.memo(
            f"said_by {codes}",
            lambda: np.flatnonzero(np.isin(self.authors, codes)).astype(np.int64),
        )

    @property
    def times(self) -> IntArray:
        """Shape (n_messages,): microseconds since 1970 UTC, `NO_TIME` where the log has none."""
        return self.memo("times", self._times)

    def _times(self) -> IntArray:
        column = self.rows["created_at"].cast(pa.int64())
        return np.asarray(pc.fill_null(column, NO_TIME).to_numpy(zero_copy_only=False), np.int64)

    @property
    def references(self) -> Lists:
        """The reference replies of each message: strings."""
        return self.memo("references", lambda: self._lists("references"))

    @property
    def passages(self) -> Lists:
        """The passages of each message: structs with id, text, source, line, score."""
        return self.memo("passages", lambda: self._lists("passages"))

    @property
    def ratings(self) -> Lists:
        """The human ratings of each message: reals."""
        return self.memo("ratings", lambda: self._lists("ratings"))

    def _lists(self, name: str) -> Lists:
        column = self.rows[name]
        return Lists(list_offsets(column), column.flatten())

    def labels(self, name: str, *, unit: Unit, predicted: bool = False) -> Lists:
        """The labels of one name for each conversation or message: strings; empty where none.

        Args:
            name: The label's name, `intent` for example.
            unit: Whose labels: the conversations' or the messages'.
            predicted: The predicted ones instead of the true ones.
        """
        kind = "predictions" if predicted else "labels"
        return self.memo(f"{kind} {unit} {name}", lambda: self._labels(kind, name, unit))

    def _labels(self, kind: str, name: str, unit: Unit) -> Lists:
        column = (self.batch if unit is Unit.CONVERSATION else self.rows)[kind]
        entries = column.flatten()
        names, values = entries.flatten()
        wanted = np.flatnonzero(pc.equal(names, name).to_numpy(zero_copy_only=False))
        owner = np.repeat(np.arange(len(column)), np.diff(list_offsets(column)))[wanted]
        chosen = values.take(pa.array(wanted))
        lengths = np.zeros(len(column), np.int64)
        np.add.at(lengths, owner, np.diff(list_offsets(chosen)))
        offsets = np.zeros(len(column) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Lists(offsets, chosen.flatten())

    @property
    def ids(self) -> pa.Array:
        """Shape (n,): the conversations' ids."""
        return self.batch["id"]

    @property
    def buckets(self) -> IntArray:
        """Shape (n,): each conversation's bucket, 0 to N_BUCKETS - 1, by its customer or its id."""
        return self.memo("buckets", self._buckets)

    def _buckets(self) -> IntArray:
        pairs = zip(self.ids.to_pylist(), self.batch["customer"].to_pylist(), strict=True)
        return np.fromiter(
            (bucket_of(customer, conversation) for conversation, customer in pairs),
            np.int64,
            self.n,
        )

    def field(self, name: str) -> pa.Array:
        """Shape (n,): the value of any field as text, null where a conversation has none.

        `week` (ISO), `month` and `day` come from the first message's time; `customer` and `id` are
        themselves; any other name is looked up in the metadata (dots go deeper), then among the
        conversation's labels, then among its predictions.
        """
        return self.memo(f"field {name}", lambda: self._field(name))

    def _field(self, name: str) -> pa.Array:
        if name in {"id", "customer"}:
            return self.batch[name]
        if name in _CALENDAR:
            return pc.strftime(self.starts, format=_CALENDAR[name])
        found: list[str | None] = [None] * self.n
        for predicted in (True, False):
            lists = self.labels(name, unit=Unit.CONVERSATION, predicted=predicted)
            values, bounds = lists.values.to_pylist(), lists.offsets.tolist()
            for i in np.flatnonzero(lists.lengths).tolist():
                found[i] = ", ".join(sorted(values[bounds[i] : bounds[i + 1]]))
        path = name.split(".")
        for i, metadata in enumerate(self.batch["metadata"].to_pylist()):
            value = _look_up(metadata, path) if metadata != "{}" else None
            if value is not None:
                found[i] = value
        return pa.array(found, pa.string())

    @property
    def starts(self) -> pa.Array:
        """Shape (n,): the first known time of each conversation, null where none is known."""
        return self.memo("starts", self._starts)

    def _starts(self) -> pa.Array:
        times = np.full(self.n, np.iinfo(np.int64).max)
        known = self.times != NO_TIME
        np.minimum.at(times, self.conversation_of[known], self.times[known])
        unknown = times == np.iinfo(np.int64).max
        return pa.array(times, pa.int64(), mask=unknown).cast(pa.timestamp("us", tz="UTC"))


_CALENDAR = {"week": "%G-W%V", "month": "%Y-%m", "day": "%Y-%m-%d"}


def _look_up(metadata: str, path: Sequence[str]) -> str | None:
    value: Any = json.loads(metadata)
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def bucket_of(customer: str | None, conversation_id: str) -> int:
    """The bucket of a conversation, 0 to N_BUCKETS - 1; the same in every process and version."""
    if customer is None:
        digest = hashlib.blake2b(conversation_id.encode(), digest_size=8, person=b"conversation")
    else:
        digest = hashlib.blake2b(customer.encode(), digest_size=8, person=b"customer")
    return int.from_bytes(digest.digest(), "little") % N_BUCKETS


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """One figure for each conversation or message that a metric concerns."""

    index: IntArray
    """Shape (n,): rows of the batch's conversations or messages, ascending, each at most once."""
    figures: npt.NDArray[Any]
    """Shape (n,): truth values, reals or codes, as the metric's kind says."""
    measured: BoolArray | None = None
    """Shape (n,): False where the unit concerns the metric and could not be measured; None: all."""
    causes: IntArray | None = None
    """Rows of the messages that caused the figures, for readers; any number, ascending."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a reader must know about the data, with its place."""

    text: str
    """The same for all of its kind, so that they can be counted: `unseen label 'refnd'`."""
    conversation_id: str
    message: int | None = None
    """The message's place in the conversation, from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What a metric found in one batch."""

    index: IntArray
    """Shape (n,): rows of the units, as in `Units`."""
    measured: BoolArray
    """Shape (n,)."""
    sums: Mapping[str, IntArray]
    """Column to one integer per unit, shape (n,), 0 where not measured."""
    values: FloatArray
    """Shape (n,): what a reader is shown for each unit; NaN where not measured."""
    codes: Mapping[str, IntArray] = field(default_factory=dict)
    """A code from 0 for each unit, shape (n,), -1 for none: a column `<name><code>` counts each."""
    totals: Mapping[str, IntArray] = field(default_factory=dict)
    """Additive integers of the whole batch that need no buckets: a histogram, a confusion cell."""
    causes: IntArray | None = None
    """As in `Units`."""
    remarks: Sequence[Remark] = ()


Sums = Mapping[str, FloatArray]
"""Column to sums, shape (n_replicates,): one replicate for the value, a thousand for its interval.
`n` (units measured) is always among them; a column that never occurred is not."""


class Metric(Protocol):
    """The seam: reads a batch into additive integers, and computes values from their sums."""

    name: str
    """Short, lower case: the command line's name for it."""
    title: str
    definition: str
    """One or two sentences for a reader."""
    source: str
    """Where the definition comes from; empty for our own."""
    misleads: str
    """When not to believe it."""
    unit: Unit
    better: Better
    scale: Scale
    columns: tuple[str, ...]
    """The columns of `Measurement.sums` that are known beforehand, in the order of `segments`."""
    keeps_segments: bool
    """Whether up to `SEGMENT_LIMIT` units keep their own integers, in reading order."""

    def signature(self, totals: Mapping[str, IntArray]) -> Signature:
        """What the values depend on; without totals, what is known before reading."""
        ...

    def measure(self, conversations: Conversations) -> Measurement:
        """The units of a batch and their integers."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when what `measure` finds in the same conversations could."""
        ...

    def under(self, signature: str) -> "Metric":
        """The metric as it was when its values bore a signature, to show and compare them."""
        ...

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """The values by name, each of shape (n_replicates,); NaN where there is none.

        The main value bears the metric's own name and comes first.
        """
        ...

    def exact(self, sums: Mapping[str, int]) -> Mapping[str, float]:
        """The values of the whole, as they are reported; equal to `values` but for rounding."""
        ...

    def shares(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """The values that are a share: name to its columns of hits and of trials.

        They get Wilson's interval.
        """
        ...

    def ratios(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str, float]]:
        """The values that are a ratio of two columns: name to both columns and a factor.

        They get an interval for ratios; values that are neither are resampled as they are.
        """
        ...

    def scale_of(self, name: str) -> Scale:
        """How one of the values is read."""
        ...

    def better_of(self, name: str) -> Better:
        """Which way is good for one of the values."""
        ...

    def settled(self, remarks: Iterable[str], sums: Mapping[str, int]) -> set[str]:
        """Which remarks of all batches still hold when all is summed."""
        ...

    def notes(self, totals: Mapping[str, IntArray], n_conversations: int) -> list[str]:
        """Sentences that a reader of the values must know, about how they came to be."""
        ...

    def segment_interval(self, segments: IntArray) -> tuple[float, float] | None:
        """Mean and half-width of the main value over resampled segments; None if not wanted."""
        ...

    def badness(self, values: FloatArray) -> FloatArray | None:
        """How bad each unit's value is, 0 to 1; None where the metric does not say."""
        ...


class BaseMetric(ABC):
    """What metrics have in common; the abstract half of the seam."""

    name: str
    title: str = ""
    definition: str = ""
    source: str = ""
    misleads: str = ""
    unit: Unit = Unit.CONVERSATION
    better: Better = Better.NEITHER
    scale: Scale = Scale.NUMBER
    columns: tuple[str, ...] = ()
    keeps_segments: bool = False
    version: str = "1"
    """Raise it when the definition changes, so that old and new scores are not compared."""

    def signature(self, totals: Mapping[str, IntArray]) -> Signature:
        """The name and the version; override to add parameters."""
        return Signature((("metric", self.name), ("version", self.version)))

    @property
    def fingerprint(self) -> str:
        """The signature; override where the figures depend on more."""
        return str(self.signature({}))

    def under(self, signature: str) -> Metric:
        """The metric itself; override where parameters are known from the signature only."""
        return self

    @abstractmethod
    def measure(self, conversations: Conversations) -> Measurement:
        """The units of a batch and their integers."""

    @abstractmethod
    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """The values by name, each of shape (n_replicates,)."""

    def exact(self, sums: Mapping[str, int]) -> Mapping[str, float]:
        """The values of the whole, from `values`."""
        single = {name: np.array([value], np.float64) for name, value in sums.items()}
        return {name: float(value[0]) for name, value in self.values(single).items()}

    def shares(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """None of the values is a share."""
        return {}

    def ratios(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str, float]]:
        """None of the values is a ratio."""
        return {}

    def scale_of(self, name: str) -> Scale:
        """All of them as the metric says."""
        return self.scale

    def better_of(self, name: str) -> Better:
        """For all of them as the metric says."""
        return self.better

    def settled(self, remarks: Iterable[str], sums: Mapping[str, int]) -> set[str]:
        """All of them."""
        return set(remarks)

    def notes(self, totals: Mapping[str, IntArray], n_conversations: int) -> list[str]:
        """None."""
        return []

    def segment_interval(self, segments: IntArray) -> tuple[float, float] | None:
        """None is wanted: intervals come from buckets."""
        return None

    def badness(self, values: FloatArray) -> FloatArray | None:
        """By direction, for values from 0 to 1 or 0 to 100; None for others."""
        top = {Scale.SHARE: 1.0, Scale.POINTS: 100.0}.get(Scale(self.scale))
        if top is None or self.better is Better.NEITHER:
            return None
        share = np.clip(values / top, 0.0, 1.0)
        return share if self.better is Better.LOWER else 1.0 - share


def divide(over: FloatArray, under: FloatArray) -> FloatArray:
    """The quotient, NaN where `under` is 0."""
    result = np.full(np.broadcast_shapes(over.shape, under.shape), np.nan)
    np.divide(over, under, out=result, where=under != 0)
    return result


class Rate(BaseMetric):
    """A share of units: yes or no for each. Integers: `hits` and `n`."""

    scale = Scale.SHARE
    columns = ("hits",)

    @abstractmethod
    def look(self, conversations: Conversations) -> Units:
        """Truth values for the units."""

    def measure(self, conversations: Conversations) -> Measurement:
        """One hit for each yes."""
        units = self.look(conversations)
        measured = _measured(units)
        hits = (units.figures.astype(np.bool_) & measured).astype(np.int64)
        values = np.where(measured, hits, np.nan)
        return Measurement(units.index, measured, {"hits": hits}, values, causes=units.causes)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """Hits by units measured."""
        return {self.name: divide(sums["hits"], sums["n"])}

    def shares(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """The rate is one."""
        return {self.name: ("hits", "n")}


class Ratio(BaseMetric):
    """So many of so many, summed before dividing: words supported of words said, for example.

    Integers: `over`, `under` and `n`. Figures: shape (n, 2), whole numbers from 0. A unit with
    0 under counts as not measured.
    """

    scale = Scale.SHARE
    columns = ("over", "under")

    @abstractmethod
    def look(self, conversations: Conversations) -> Units:
        """(over, under) for the units."""

    def measure(self, conversations: Conversations) -> Measurement:
        """Both counts of each unit."""
        units = self.look(conversations)
        pairs = units.figures.reshape(-1, 2).astype(np.int64)
        measured = _measured(units) & (pairs[:, 1] > 0)
        pairs = np.where(measured[:, None], pairs, 0)
        sums = {"over": pairs[:, 0], "under": pairs[:, 1]}
        values = divide(pairs[:, 0].astype(np.float64), pairs[:, 1].astype(np.float64))
        return Measurement(units.index, measured, sums, values, causes=units.causes)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """The sums' ratio."""
        return {self.name: divide(sums["over"], sums["under"])}

    def ratios(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str, float]]:
        """The value is one."""
        return {self.name: ("over", "under", 1.0)}


class Mean(BaseMetric):
    """A mean of reals up to `MAX_REAL`, kept in whole millionths; quantiles where asked.

    Integers: `sum` (millionths), `n`, and `bin<i>` for quantiles: counts on a scale of
    `BINS_PER_OCTAVE` bins per doubling, so that a quantile is right to 2.2 per cent. A figure below
    `lowest`, an infinite or larger one, or NaN, counts as not measured.
    """

    columns = ("sum",)
    lowest: float = 0.0
    """The smallest figure there can be; below 0 only on the scale `NATS` and without quantiles."""
    quantiles: tuple[float, ...] = ()
    """Which quantiles to give: 0.5 is reported as `<name>.p50`."""

    @abstractmethod
    def look(self, conversations: Conversations) -> Units:
        """Reals for the units."""

    def measure(self, conversations: Conversations) -> Measurement:
        """Each unit's figure in millionths, and its bin."""
        units = self.look(conversations)
        figures = units.figures.astype(np.float64)
        measured = _measured(units) & (figures >= self.lowest) & (figures <= MAX_REAL)
        figures = np.where(measured, figures, 0.0)
        sums = {"sum": np.rint(figures * MILLION).astype(np.int64)}
        codes = {"bin": bin_of(figures)} if self.quantiles else {}
        values = np.where(measured, figures, np.nan)
        return Measurement(units.index, measured, sums, values, codes, causes=units.causes)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """The mean, then the quantiles."""
        found = {self.name: divide(sums["sum"] / MILLION, sums["n"])}
        if self.quantiles:
            codes = sorted(int(column[3:]) for column in sums if column.startswith("bin"))
            counts = np.array([sums[f"bin{code}"] for code in codes]).reshape(len(codes), -1)
            for q in self.quantiles:
                found[f"{self.name}.p{100 * q:g}"] = _quantile(codes, counts, q)
        return found

    def ratios(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str, float]]:
        """The mean is one."""
        return {self.name: ("sum", "n", 1 / MILLION)}


BINS_PER_OCTAVE = 16


def bin_of(figures: FloatArray) -> IntArray:
    """The quantile bin of each real from 0: 0 below a thousandth, then 16 bins per doubling."""
    octaves = np.log2(np.maximum(figures, 1e-3) / 1e-3)
    return np.where(figures < 1e-3, 0, 1 + np.floor(octaves * BINS_PER_OCTAVE)).astype(np.int64)


def bin_middle(code: int) -> float:
    """The real in the (geometric) middle of a bin."""
    return 0.0 if code == 0 else 1e-3 * float(2 ** ((code - 0.5) / BINS_PER_OCTAVE))


def _quantile(codes: list[int], counts: FloatArray, q: float) -> FloatArray:
    """The middle of the bin where each replicate's q-quantile falls; counts: (n_bins, n)."""
    if not codes:
        return np.full(counts.shape[-1], np.nan)
    below = np.cumsum(counts, axis=0)
    place = np.minimum((below < q * below[-1]).sum(axis=0), len(codes) - 1)
    middles = np.array([bin_middle(code) for code in codes])
    return np.where(below[-1] > 0, middles[place], np.nan)


class Category(BaseMetric):
    """One of several for each unit: the share of each, and the mean level where levels have one.

    Integers: `n.<category>` and `n`. Figures: places in `categories`; -1 counts as not measured.
    """

    scale = Scale.SHARE
    categories: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    """A number for each category of an ordered scale; the main value is then their mean."""

    @abstractmethod
    def look(self, conversations: Conversations) -> Units:
        """Category codes for the units."""

    def measure(self, conversations: Conversations) -> Measurement:
        """One count in each unit's category."""
        units = self.look(conversations)
        codes = units.figures.astype(np.int64)
        measured = _measured(units) & (codes >= 0)
        sums = {
            f"n.{name}": ((codes == code) & measured).astype(np.int64)
            for code, name in enumerate(self.categories)
        }
        levels = np.array(self.levels or range(len(self.categories)), np.float64)
        values = np.where(measured, levels[np.maximum(codes, 0)], np.nan)
        totals = {"histogram": np.bincount(codes[measured], minlength=len(self.categories))}
        return Measurement(units.index, measured, sums, values, totals=totals, causes=units.causes)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """The mean level if there are levels, then each category's share."""
        found = {}
        if self.levels:
            total = sum(
                level * sums[f"n.{name}"]
                for level, name in zip(self.levels, self.categories, strict=True)
            )
            found[self.name] = divide(np.asarray(total), sums["n"])
        for name in self.categories:
            found[f"{self.name}.{name}"] = divide(sums[f"n.{name}"], sums["n"])
        return found

    def shares(self, columns: Iterable[str]) -> Mapping[str, tuple[str, str]]:
        """Every category's share is one."""
        return {f"{self.name}.{name}": (f"n.{name}", "n") for name in self.categories}

    def scale_of(self, name: str) -> Scale:
        """The mean level is a number, the rest are shares."""
        return Scale.NUMBER if self.levels and name == self.name else Scale.SHARE

    def better_of(self, name: str) -> Better:
        """Of a single category, neither: a subclass knows which are good."""
        return self.better if name == self.name else Better.NEITHER

    def badness(self, values: FloatArray) -> FloatArray | None:
        """By the level's place between the first and the last level."""
        if not self.levels or self.better is Better.NEITHER:
            return None
        low, high = min(self.levels), max(self.levels)
        share = (values - low) / (high - low)
        return share if self.better is Better.LOWER else 1.0 - share


def _measured(units: Units) -> BoolArray:
    return np.ones(len(units.index), np.bool_) if units.measured is None else units.measured


_TOTAL = "total "
"""Before the names of cells that are no bucketed columns."""
FAMILY = "\x1f"
"""In a column's name after its family: columns that the data name, such as a label's classes."""
FAMILY_LIMIT = 1500
"""Bucketed columns that a family may have; a larger one is left out, so that memory is bounded."""
_LEFT_OUT = f"{_TOTAL}left out "
HISTOGRAM_BINS = 20
"""Bins of equal width for shares and points; reals have those of `bin_of`."""
NATS_BIN = 0.1
"""Width of a bin of nats."""
NATS_RANGE = (-5.0, 15.0)
"""What lies outside is counted in the first or the last bin."""


def histogram(values: FloatArray, scale: Scale) -> IntArray:
    """How many values lie in each bin of their scale."""
    if scale is Scale.NATS:
        low, high = NATS_RANGE
        n_bins = round((high - low) / NATS_BIN)
        bins = np.clip(np.floor((values - low) / NATS_BIN), 0, n_bins - 1).astype(np.int64)
        return np.bincount(bins, minlength=n_bins)
    top = {Scale.SHARE: 1.0, Scale.POINTS: 100.0}.get(scale)
    if top is None:
        return np.bincount(bin_of(np.clip(values, 0.0, MAX_REAL)))
    bins = np.clip(values * (HISTOGRAM_BINS / top), 0, HISTOGRAM_BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=HISTOGRAM_BINS)


class State:
    """What one metric adds up to over any number of conversations, whole or in one slice.

    Attributes:
        cells: Column to sums in buckets, int64. `n` counts the units measured, `missing` those that
            were not; a name that begins with `total ` is no bucketed column but a total.
        segments: The integers of each measured unit in reading order, shape (n, n_columns), while
            there are at most `SEGMENT_LIMIT`; None beyond, and where the metric keeps none.
    """

    __slots__ = ("cells", "segments")

    def __init__(
        self, cells: dict[str, IntArray] | None = None, segments: IntArray | None = None
    ) -> None:
        self.cells = {} if cells is None else cells
        self.segments = segments

    @classmethod
    def of(
        cls,
        metric: Metric,
        measurement: Measurement,
        conversations: IntArray,
        buckets: IntArray,
        n_buckets: int,
    ) -> "State":
        """The state of one batch.

        Args:
            metric: The metric.
            measurement: What it found.
            conversations: Shape (n,): each unit's conversation, ascending.
            buckets: Shape (n,): each unit's bucket.
            n_buckets: How many buckets there are.
        """
        measured = measurement.measured
        kept: IntArray | slice = slice(None) if measured.all() else np.flatnonzero(measured)
        some = buckets[kept]
        cells = {
            name: _add_up(sums[kept], some, n_buckets) for name, sums in measurement.sums.items()
        }
        for name, codes in measurement.codes.items():
            cells.update(_count_codes(name, codes[kept], some, n_buckets))
        cells["n"] = np.bincount(some, minlength=n_buckets).astype(np.int64)
        gone = buckets[~measured]
        cells["missing"] = np.bincount(gone, minlength=n_buckets).astype(np.int64)
        whose = conversations[kept]
        cells[f"{_TOTAL}conversations"] = np.array([(np.diff(whose, prepend=-1) != 0).sum()])
        if "histogram" not in measurement.totals:
            cells[f"{_TOTAL}histogram"] = histogram(measurement.values[kept], metric.scale)
        for name, total in measurement.totals.items():
            cells[_TOTAL + name] = np.array(total, np.int64)
        segments = None
        if metric.keeps_segments and len(some) <= SEGMENT_LIMIT:
            segments = np.stack([measurement.sums[name][kept] for name in metric.columns], axis=1)
        state = cls(cells, segments)
        state._leave_out_large_families()
        return state

    def add(self, later: "State") -> None:
        """Take in the state of conversations that were read later.

        Sums do not mind the order; `segments` are kept in reading order, so shards are added in
        the order of their list.

        Raises:
            OverflowError: a sum left the range of int64.
        """
        if not self.cells:
            self.segments = later.segments
        elif self.segments is not None:
            if later.segments is None or len(self.segments) + len(later.segments) > SEGMENT_LIMIT:
                self.segments = None
            else:
                self.segments = np.concatenate([self.segments, later.segments])
        for name, sums in later.cells.items():
            mine = self.cells.get(name)
            if mine is None:
                self.cells[name] = sums.copy()
            elif len(mine) >= len(sums):
                _add_into(mine[: len(sums)], sums)
            else:
                longer = sums.copy()
                _add_into(longer[: len(mine)], mine)
                self.cells[name] = longer
        self._leave_out_large_families()

    def _leave_out_large_families(self) -> None:
        """Drop families with too many columns; the same ones in the end, whatever the order."""
        gone = {name.removeprefix(_LEFT_OUT) for name in self.cells if name.startswith(_LEFT_OUT)}
        if len(self.cells) > FAMILY_LIMIT:
            sizes = Counter(family_of(name) for name in self.cells if is_bucketed(name))
            gone |= {family for family, size in sizes.items() if family and size > FAMILY_LIMIT}
        if gone:
            for name in [name for name in self.cells if family_of(name) in gone]:
                del self.cells[name]
            self.cells.update({_LEFT_OUT + name: np.ones(1, np.int64) for name in gone})

    @property
    def left_out(self) -> list[str]:
        """The families that were dropped."""
        return sorted(
            name.removeprefix(_LEFT_OUT) for name in self.cells if name.startswith(_LEFT_OUT)
        )

    @property
    def sums(self) -> dict[str, int]:
        """Column to its sum over all buckets, `n` included."""
        return {name: int(cells.sum()) for name, cells in self.cells.items() if is_bucketed(name)}

    @property
    def totals(self) -> dict[str, IntArray]:
        """The totals by name."""
        return {
            name.removeprefix(_TOTAL): cells
            for name, cells in self.cells.items()
            if name.startswith(_TOTAL)
        }


def family_of(name: str) -> str:
    """The family of a cell; empty for one that has none."""
    family, mark, _ = name.removeprefix(_TOTAL).partition(FAMILY)
    return family if mark else ""


def is_bucketed(name: str) -> bool:
    """Whether a cell of a state is a column in buckets that values are computed from."""
    return name != "missing" and not name.startswith(_TOTAL)


def _add_up(column: IntArray, buckets: IntArray, n_buckets: int) -> IntArray:
    sums = np.zeros(n_buckets, np.int64)
    some = np.flatnonzero(column)
    if 4 * len(some) < len(column):
        column, buckets = column[some], buckets[some]
    np.add.at(sums, buckets, column)
    return sums


def _count_codes(
    name: str, codes: IntArray, buckets: IntArray, n_buckets: int
) -> dict[str, IntArray]:
    """A column of counts for each code that occurs."""
    some = np.flatnonzero(codes >= 0)
    known, places = np.unique(codes[some], return_inverse=True)
    counts = np.bincount(places * n_buckets + buckets[some], minlength=len(known) * n_buckets)
    counts = counts.reshape(len(known), n_buckets)
    return {f"{name}{code}": counts[place] for place, code in enumerate(known.tolist())}


def _add_into(mine: IntArray, other: IntArray) -> None:
    before = mine.copy()
    mine += other
    # Only a sum that left the range has another sign than both that were added.
    if (((before ^ mine) & (other ^ mine)) < 0).any():
        raise OverflowError(
            "A sum left the range of 64-bit integers. Split the conversations into several runs."
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number with everything that is needed to believe it or not."""

    metric: str
    name: str
    """The metric's name, or `<metric>.<part>`."""
    value: float
    """NaN where nothing was measured."""
    low: float
    """Lower end of the 95 per cent interval; NaN where there is none."""
    high: float
    method: str
    """How the interval was found, in words."""
    n: int
    """Units measured."""
    n_missing: int
    """Units concerned that could not be measured; neither failed nor averaged in."""
    n_clusters: int
    """Customers (or conversations) that the interval rests on, up to the number of buckets."""
    signature: str
    slice_field: str = ""
    slice_value: str = ""
    segment_mean: float | None = None
    """Of text metrics up to `SEGMENT_LIMIT` segments: the mean that sacrebleu's bootstrap gives."""
    segment_half_width: float | None = None
    """The half-width that it gives, with segments taken for independent of each other."""


def check_names(metrics: Sequence[Metric]) -> None:
    """Refuse two metrics of one name.

    Raises:
        UsageError: naming it.
    """
    seen: set[str] = set()
    for metric in metrics:
        if metric.name in seen:
            raise UsageError(f"Two metrics are called {metric.name!r}. Give one another name.")
        seen.add(metric.name)
