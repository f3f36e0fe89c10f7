"""Scorer: metrics and slices over one batch after the other, to rows and one tally that adds up.

The contract of whatever runs it, in one process or on a cluster: a RecordBatch in; a RecordBatch of
rows, and a `Tally` of int64, out. Tallies are added in the order in which their conversations were
read; the sums do not depend on it, nor on how the conversations were cut into batches.
"""

import hashlib
import heapq
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quietdesk.columns import schema
from quietdesk.errors import UsageError
from quietdesk.scoring.base import (
    N_BUCKETS,
    N_SLICE_BUCKETS,
    Conversations,
    FloatArray,
    IntArray,
    Measurement,
    Metric,
    Remark,
    State,
    Unit,
    check_names,
)
from quietdesk.types import Author

SLICE_LIMIT = 200
"""Values that a field may have to be sliced by; a field with more is left out, and named."""
N_WORST = 50
"""Conversations that are kept whole, worst first."""
N_REMARKS = 1000
"""Kinds of remarks that are kept: the first by their text, whatever the order of reading."""
N_EXAMPLES = 5
"""Places that are kept of each kind of remark."""
UNKNOWN = ""
"""The slice of conversations that do not have the field."""
_FORMAT = 1


class Scorer:
    """Metrics, and fields to slice by.

    Args:
        metrics: What to measure.
        slices: Fields as `Conversations.field` knows them.
        skip: Metrics that are left out of the count of how bad a conversation was.

    Raises:
        UsageError: two metrics of one name.
    """

    def __init__(self, metrics: Sequence[Metric], slices: Sequence[str] = ()) -> None:
        check_names(metrics)
        self.metrics = tuple(metrics)
        self.slices = tuple(dict.fromkeys(slices))

    @property
    def fingerprint(self) -> str:
        """Changes when the scores of the same conversations could."""
        parts = [str(_FORMAT), str(N_BUCKETS), str(N_SLICE_BUCKETS), *self.slices]
        parts += [f"{metric.name}={metric.fingerprint}" for metric in self.metrics]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def read(self, batch: pa.RecordBatch) -> "Reading":
        """What the metrics find in a batch.

        Raises:
            UsageError: the batch has no columns of conversations.
        """
        missing = [name for name in schema().names if name not in batch.schema.names]
        if missing:
            raise UsageError(
                f"These columns are not conversations: {missing!r} are missing. "
                "`quietdesk convert` brings other files into that form."
            )
        conversations = Conversations(batch)
        found = [metric.measure(conversations) for metric in self.metrics]
        conversations.forget()
        return Reading(self, conversations, found)


@dataclass
class Reading:
    """What a scorer found in one batch: rows for those who want them, and the tally."""

    scorer: Scorer
    conversations: Conversations
    measurements: Sequence[Measurement]

    def _whose(self, metric: Metric, measurement: Measurement) -> IntArray:
        """The conversation of each unit."""
        if metric.unit is Unit.CONVERSATION:
            return measurement.index
        return self.conversations.conversation_of[measurement.index]

    @cached_property
    def _means(self) -> list[FloatArray]:
        """For each metric, each conversation's mean over its units; NaN without one."""
        return [
            self._mean(self._whose(metric, found), found.values)
            for metric, found in zip(self.scorer.metrics, self.measurements, strict=True)
        ]

    def _mean(self, whose: IntArray, values: FloatArray) -> FloatArray:
        known = ~np.isnan(values)
        n = self.conversations.n
        counts = np.bincount(whose[known], minlength=n)
        sums = np.bincount(whose[known], weights=values[known], minlength=n)
        means = np.full(n, np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means

    @cached_property
    def badness(self) -> FloatArray:
        """How bad each conversation was: what the metrics that have a say add up to.

        Each adds the mean over its units of a number from 0 (good) to 1 (bad).
        """
        total = np.zeros(self.conversations.n)
        for metric, found in zip(self.scorer.metrics, self.measurements, strict=True):
            bad = metric.badness(found.values)
            if bad is not None:
                total += np.nan_to_num(self._mean(self._whose(metric, found), bad))
        return total

    @cached_property
    def rows(self) -> pa.RecordBatch:
        """One row per conversation.

        `id`, `customer`, `started`, `messages` (how many), the slices' fields, `badness`, then for
        each metric the conversation's mean (null where not measured), then `causes`: metric and
        place of the messages that caused a figure.
        """
        conversations = self.conversations
        names = ["id", "customer", "started", "messages", *self.scorer.slices, "badness"]
        arrays = [
            conversations.ids,
            conversations.batch["customer"],
            conversations.starts,
            pa.array(np.diff(conversations.offsets)),
            *(conversations.field(name) for name in self.scorer.slices),
            pa.array(self.badness),
        ]
        for metric, means in zip(self.scorer.metrics, self._means, strict=True):
            names.append(metric.name)
            arrays.append(pa.array(means, mask=np.isnan(means)))
        names.append("causes")
        arrays.append(self._causes(np.arange(conversations.n)))
        return pa.RecordBatch.from_arrays(arrays, names=_distinct(names))

    def _causes(self, chosen: IntArray) -> pa.Array:
        """The causes in some conversations, a list for each of them."""
        none = np.zeros(0, np.int64)
        causes = [none if found.causes is None else found.causes for found in self.measurements]
        which = np.repeat(np.arange(len(causes)), [len(rows) for rows in causes])
        message = np.concatenate([none, *causes])
        place = np.full(self.conversations.n, -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        whose = place[self.conversations.conversation_of[message]]
        kept = np.flatnonzero(whose >= 0)
        which, message, whose = which[kept], message[kept], whose[kept]
        order = np.lexsort([message, which, whose])
        which, message, whose = which[order], message[order], whose[order]
        offsets = np.searchsorted(whose, np.arange(len(chosen) + 1)).astype(np.int32)
        metrics = pa.array([metric.name for metric in self.scorer.metrics], pa.string())
        structs = pa.StructArray.from_arrays(
            [
                metrics.take(pa.array(which)),
                pa.array(self.conversations.position_of[message]),
            ],
            names=["metric", "message"],
        )
        return pa.ListArray.from_arrays(pa.array(offsets), structs)

    @cached_property
    def turns(self) -> pa.RecordBatch:
        """One row per message and metric that gave it a figure.

        `conversation`, `message` (place from 0), `message_id`, `metric`, `value`.
        """
        conversations, parts = self.conversations, []
        for metric, found in zip(self.scorer.metrics, self.measurements, strict=True):
            if metric.unit is Unit.MESSAGE:
                kept = np.flatnonzero(found.measured)
                parts.append((metric.name, found.index[kept], found.values[kept]))
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows, _ in parts)])
        names = np.repeat(
            [name for name, _, _ in parts] or [""], [len(r) for _, r, _ in parts] or [0]
        )
        values = np.concatenate([np.zeros(0), *(values for _, _, values in parts)])
        return pa.RecordBatch.from_arrays(
            [
                conversations.ids.take(pa.array(conversations.conversation_of[rows])),
                pa.array(conversations.position_of[rows]),
                conversations.rows["id"].take(pa.array(rows)),
                pa.array(names.tolist(), pa.string()),
                pa.array(values),
            ],
            names=["conversation", "message", "message_id", "metric", "value"],
        )

    @cached_property
    def tally(self) -> "Tally":
        """What the batch adds."""
        conversations, scorer = self.conversations, self.scorer
        tally = Tally(scorer.fingerprint)
        tally.n_conversations = conversations.n
        tally.n_messages = conversations.n_messages
        tally.n_named = conversations.n - conversations.batch["customer"].null_count
        buckets = conversations.buckets
        tally.population = np.bincount(buckets, minlength=N_BUCKETS)
        np.add.at(tally.inputs, buckets, _input_digests(conversations))
        groups = [(name, *_codes(conversations.field(name))) for name in scorer.slices]
        for name, _, values in groups:
            if len(values) > SLICE_LIMIT:
                tally.dropped.add(name)
        for metric, found in zip(scorer.metrics, self.measurements, strict=True):
            whose = self._whose(metric, found)
            tally.whole[metric.name] = State.of(metric, found, whose, buckets[whose], N_BUCKETS)
            for name, codes, values in groups:
                if name not in tally.dropped:
                    self._add_slices(tally, metric, found, whose, name, codes, values)
            tally.note(found.remarks)
        tally.worst = self._worst()
        return tally

    def _add_slices(
        self,
        tally: "Tally",
        metric: Metric,
        found: Measurement,
        whose: IntArray,
        name: str,
        codes: IntArray,
        values: Sequence[str],
    ) -> None:
        buckets = (
            codes[whose] * N_SLICE_BUCKETS + self.conversations.buckets[whose] % N_SLICE_BUCKETS
        )
        state = State.of(metric, found, whose, buckets, N_SLICE_BUCKETS * len(values))
        for code, value in enumerate(values):
            part = slice(code * N_SLICE_BUCKETS, (code + 1) * N_SLICE_BUCKETS)
            cells = {
                column: sums[part].copy()
                for column, sums in state.cells.items()
                if len(sums) == N_SLICE_BUCKETS * len(values) and not column.startswith("total ")
            }
            tally.parts.setdefault((name, value), {})[metric.name] = State(cells)

    def _worst(self) -> pa.Table:
        ids = self.conversations.ids.to_pylist()
        badness = self.badness.tolist()
        chosen = heapq.nsmallest(
            N_WORST, range(len(ids)), key=lambda place: (-badness[place], ids[place])
        )
        places = np.array(chosen, np.int64)
        table = pa.Table.from_batches([self.conversations.batch.take(pa.array(places))])
        table = table.append_column("score badness", pa.array(self.badness[places]))
        for metric, means in zip(self.scorer.metrics, self._means, strict=True):
            values = pa.array(means[places], mask=np.isnan(means[places]))
            table = table.append_column(f"score {metric.name}", values)
        return table.append_column("score causes", self._causes(places))


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that were there before."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return distinct


def _codes(column: pa.Array) -> tuple[IntArray, list[str]]:
    """Each conversation's place among the values of a field, and these."""
    encoded = pc.fill_null(column.cast(pa.string()), UNKNOWN).dictionary_encode()
    codes = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)
    return codes, encoded.dictionary.to_pylist()


def _input_digests(conversations: Conversations) -> IntArray:
    """40 bits for each conversation that depend on its id and the customer's first message.

    Two runs are over the same inputs where these agree; 40 bits, so that they can be summed.
    """
    said = conversations.said_by(Author.CUSTOMER)
    whose = conversations.conversation_of[said]
    first = said[np.diff(whose, prepend=-1) != 0]
    opened = [""] * conversations.n
    texts = conversations.texts.take(pa.array(first)).to_pylist()
    for place, text in zip(conversations.conversation_of[first].tolist(), texts, strict=True):
        opened[place] = text
    pairs = zip(conversations.ids.to_pylist(), opened, strict=True)
    return np.fromiter(
        (
            int.from_bytes(
                hashlib.blake2b(f"{i}\0{text}".encode(), digest_size=5).digest(), "little"
            )
            for i, text in pairs
        ),
        np.int64,
        conversations.n,
    )


@dataclass
class Remarks:
    """How often something was remarked, and where first."""

    count: int = 0
    examples: list[Remark] = field(default_factory=list)


class Tally:
    """What any number of conversations add up to.

    Attributes:
        fingerprint: The scorer's; tallies of different ones cannot be added.
        n_conversations: Conversations read.
        n_messages: Messages in them.
        n_named: Conversations whose customer is known.
        population: Conversations in each bucket.
        inputs: In each bucket, the sum of digests of conversations' ids and first questions.
        whole: Metric to its state.
        parts: (field, value) to metric to its state in that slice; `UNKNOWN` for no value.
        dropped: Fields with too many values to slice by.
        remarks: What metrics had to say about the data.
        worst: The worst conversations whole, with their scores; a table, or None before the first.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.n_conversations = 0
        self.n_messages = 0
        self.n_named = 0
        self.population: IntArray = np.zeros(N_BUCKETS, np.int64)
        self.inputs: IntArray = np.zeros(N_BUCKETS, np.int64)
        self.whole: dict[str, State] = {}
        self.parts: dict[tuple[str, str], dict[str, State]] = {}
        self.dropped: set[str] = set()
        self.remarks: dict[str, Remarks] = {}
        self.worst: pa.Table | None = None

    def add(self, later: "Tally") -> None:
        """Take in the tally of conversations that were read later.

        Raises:
            UsageError: it comes from a scorer with other metrics or slices.
            OverflowError: a sum left the range of int64.
        """
        if later.fingerprint != self.fingerprint:
            raise UsageError("These scores come from other metrics or slices and cannot be added.")
        self.n_conversations += later.n_conversations
        self.n_messages += later.n_messages
        self.n_named += later.n_named
        self.population = self.population + later.population
        self.inputs = self.inputs + later.inputs
        _add_states(self.whole, later.whole)
        for key, states in later.parts.items():
            _add_states(self.parts.setdefault(key, {}), states)
        self.dropped |= later.dropped
        self._drop()
        for text, remarks in later.remarks.items():
            mine = self.remarks.setdefault(text, Remarks())
            mine.count += remarks.count
            mine.examples = [*mine.examples, *remarks.examples][:N_EXAMPLES]
        self._forget_remarks()
        if self.worst is None:
            self.worst = later.worst
        elif later.worst is not None:
            both = pa.concat_tables([self.worst, later.worst])
            order = pc.sort_indices(both, [("score badness", "descending"), ("id", "ascending")])
            self.worst = both.take(order[:N_WORST])

    def _drop(self) -> None:
        counts: dict[str, int] = {}
        for name, _ in self.parts:
            counts[name] = counts.get(name, 0) + 1
        self.dropped |= {name for name, count in counts.items() if count > SLICE_LIMIT}
        for key in [key for key in self.parts if key[0] in self.dropped]:
            del self.parts[key]

    def note(self, remarks: Sequence[Remark]) -> None:
        """Count remarks, and keep the first of each kind."""
        for remark in remarks:
            mine = self.remarks.setdefault(remark.text, Remarks())
            mine.count += 1
            if len(mine.examples) < N_EXAMPLES:
                mine.examples.append(remark)
        self._forget_remarks()

    def _forget_remarks(self) -> None:
        if len(self.remarks) > N_REMARKS:
            kept = sorted(self.remarks)[:N_REMARKS]
            self.remarks = {text: self.remarks[text] for text in kept}

    def _states(self) -> list[tuple[tuple[str, str, str], State]]:
        whole = [((name, "", ""), state) for name, state in self.whole.items()]
        parts = [
            ((name, *key), state)
            for key, states in self.parts.items()
            for name, state in states.items()
        ]
        return sorted(whole + parts, key=lambda item: item[0])

    @property
    def digest(self) -> str:
        """Equal for equal integers: the same for any partitioning of the same conversations."""
        hashed = hashlib.blake2b(digest_size=16)
        numbers = (self.n_conversations, self.n_messages, self.n_named)
        hashed.update(repr((self.fingerprint, numbers, sorted(self.dropped))).encode())
        hashed.update(self.population.tobytes() + self.inputs.tobytes())
        for key, state in self._states():
            for column in sorted(state.cells):
                sums = np.trim_zeros(state.cells[column], "b")
                if len(sums):
                    hashed.update(repr((key, column)).encode() + sums.tobytes())
            if state.segments is not None:
                hashed.update(state.segments.tobytes())
        return hashed.hexdigest()

    def to_bytes(self) -> bytes:
        """Everything, to keep in a file."""
        entries, arrays = [], [self.population, self.inputs]
        for key, state in self._states():
            columns = [[name, len(sums)] for name, sums in state.cells.items()]
            arrays += state.cells.values()
            shape = None if state.segments is None else list(state.segments.shape)
            if state.segments is not None:
                arrays.append(state.segments.ravel())
            entries.append([*key, columns, shape])
        worst = io.BytesIO()
        if self.worst is not None:
            with pa.ipc.new_stream(worst, self.worst.schema) as writer:
                writer.write_table(self.worst)
        header: dict[str, Any] = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "counts": [self.n_conversations, self.n_messages, self.n_named],
            "dropped": sorted(self.dropped),
            "remarks": [
                [text, found.count, [[r.conversation_id, r.message] for r in found.examples]]
                for text, found in self.remarks.items()
            ],
            "states": entries,
            "worst": worst.tell(),
        }
        head = json.dumps(header, ensure_ascii=False).encode()
        body = np.concatenate(arrays).astype("<i8").tobytes()
        packed = zlib.compress(body + worst.getvalue(), level=1)
        return b"%d\n" % len(head) + head + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tally":
        """The tally that `to_bytes` wrote.

        Raises:
            UsageError: it is none, or was written by another version.
        """
        try:
            size, _, rest = data.partition(b"\n")
            header = json.loads(rest[: int(size)])
            if header["format"] != _FORMAT:
                raise UsageError(
                    f"These scores have format {header['format']!r}, and this version reads "
                    f"{_FORMAT}. Score the conversations anew."
                )
            body = zlib.decompress(rest[int(size) :])
        except (ValueError, KeyError, TypeError, zlib.error):
            raise UsageError("These bytes are no scores, or were cut short.") from None
        end = len(body) - header["worst"]
        numbers: IntArray = np.frombuffer(body[:end], "<i8").astype(np.int64)
        tally = cls(header["fingerprint"])
        tally.n_conversations, tally.n_messages, tally.n_named = header["counts"]
        tally.dropped = set(header["dropped"])
        tally.population, tally.inputs = numbers[:N_BUCKETS], numbers[N_BUCKETS : 2 * N_BUCKETS]
        place = 2 * N_BUCKETS
        for metric, slice_field, value, columns, shape in header["states"]:
            cells = {}
            for column, length in columns:
                cells[column] = numbers[place : place + length]
                place += length
            segments = None
            if shape is not None:
                segments = numbers[place : place + shape[0] * shape[1]].reshape(shape)
                place += shape[0] * shape[1]
            states = (
                tally.parts.setdefault((slice_field, value), {}) if slice_field else tally.whole
            )
            states[metric] = State(cells, segments)
        for text, count, places in header["remarks"]:
            examples = [Remark(text, conversation, message) for conversation, message in places]
            tally.remarks[text] = Remarks(count, examples)
        if header["worst"]:
            with pa.ipc.open_stream(body[end:]) as reader:
                tally.worst = reader.read_all()
        return tally


def _add_states(mine: dict[str, State], later: Mapping[str, State]) -> None:
    for name, state in later.items():
        mine.setdefault(name, State()).add(state)
