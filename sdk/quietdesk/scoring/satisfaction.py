"""Satisfaction: how content a customer is, estimated by turn and by conversation, in numpy.

An estimator is data: a JSON header and arrays, in one file that holds nothing that could run. It
first scores each message of the side that people rated, from four looks at it (weighted features,
the weighted text around it, its words with the story so far, trees over the features), then
lets its neighbours' scores correct it, and turns the score into a probability for every level of
the scale. A conversation is scored from the scores of its turns, from their features, from all of
its words and by trees of its own. `fitting` makes estimators; scikit-learn is needed only there.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from quietdesk.columns import to_batch
from quietdesk.errors import UsageError
from quietdesk.scoring.base import (
    BaseMetric,
    Better,
    BoolArray,
    Conversations,
    FloatArray,
    IntArray,
    Mean,
    Scale,
    Signature,
    Unit,
    Units,
)
from quietdesk.scoring.features import (
    N_SIGN_BUCKETS,
    N_WORD_BUCKETS,
    Grams,
    context_grams,
    conversation_grams,
    features,
    sign_grams,
    tool_before,
    turn_features,
    word_grams,
)
from quietdesk.scoring.reading import Reading, reading

FORMAT = 2
"""Of the file; raised when an old reader could not make sense of a new file."""
N_CLASSES = 3
"""Dissatisfied, neutral, satisfied."""
_DECIDING = ("format", "scale", "side", "ahead", "language", "features")
"""What an estimate depends on in the header; the rest is for readers."""
_MAX_BYTES = 256 * 2**20
"""Larger arrays than any estimator has are refused before they are read."""
_CLIP = 5.0
"""Standard deviations that a feature counts for at most."""
NEIGHBOURS = (
    ("score", False),
    ("features", False),
    ("text", False),
    ("story", False),
    ("trees", False),
    ("previous", False),
    ("fading past", False),
    ("mean so far", False),
    ("next", True),
    ("fading future", True),
    ("mean", True),
    ("lowest", True),
    ("last", True),
)
"""What corrects a turn's score, and whether it looks ahead."""
WHOLE = (
    "mean",
    "lowest",
    "highest",
    "last",
    "mean of last three",
    "mean of first three",
    "mean of lowest quarter",
    "spread",
    "lowest of last three",
    "length",
)
"""What a conversation's score is computed from, besides the means of its turns' features."""
TEXT_LOOKS = {
    "text": ("words", "words before", "tool words", "signs"),
    "story": ("words", "context"),
}
"""Looks at text, and the kinds of text features that each weighs: words of the message, of the
other side's last one and of the tool's result just before, the message's characters, and the words
of all messages before."""
KINDS = ("words", "words before", "tool words", "signs", "context")


BAGS = ("customer words", "agent words")
"""Kinds of text features of a whole conversation: all that either side says in it."""


class Wholes(NamedTuple):
    """What conversations are scored from.

    Attributes:
        means: Shape (n, 2 * n_features): the turns' mean features and the last turn's.
        table: Shape (n, len(WHOLE)): from the turns' scores; None where turns have none.
        bags: The conversations' words by their names in `BAGS`; may be missing where nothing is
            weighed in them.
    """

    means: FloatArray
    table: FloatArray | None
    bags: Mapping[str, Grams]


class Levels(NamedTuple):
    """Estimates for some turns or conversations.

    Attributes:
        score: Shape (n,): on no scale, higher is better.
        expected: Shape (n,): the expected rating, on the scale of the ratings.
        dissatisfied: Shape (n,): probability that people are dissatisfied, calibrated.
        classes: Shape (n,): 0 dissatisfied, 1 neutral, 2 satisfied, as common as in the labels.
        probabilities: Shape (n, n_levels): of each level of the scale.
    """

    score: FloatArray
    expected: FloatArray
    dissatisfied: FloatArray
    classes: IntArray
    probabilities: FloatArray


@dataclass(frozen=True, slots=True)
class Estimates:
    """An estimator's view of a batch.

    Attributes:
        rows: Rows of the messages that have an estimate, ascending.
        turns: Their levels; None where the estimator knows only conversations.
        conversations: Shape (n,): levels of every conversation; None where it knows only turns.
        measured: Shape (n_conversations,): there is something to estimate from, in a language that
            the estimator was fitted on.
        pulls: Shape of `rows`: how far each turn pulls its conversation's score up or down.
    """

    rows: IntArray
    turns: Levels | None
    conversations: Levels | None
    measured: BoolArray
    pulls: FloatArray


@dataclass(frozen=True, eq=False)
class Estimator:
    """A fitted estimate of satisfaction.

    Attributes:
        header: What it is: `format`, `scale` (levels of the ratings), `side` (`customer` or
            `agent`: whose messages were rated), `ahead` (it looks at later turns), `language`
            (`en`, or `any`), and, for readers, `fitted_on`, `licence`, `agreement`.
        arrays: Its numbers by name.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]]

    @property
    def scale(self) -> FloatArray:
        """The levels of the ratings, ascending."""
        return np.array(self.header["scale"], np.float64)

    @property
    def ahead(self) -> bool:
        """Whether it looks at what was said later."""
        return bool(self.header["ahead"])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with everything that an estimate depends on."""
        digest = hashlib.blake2b(digest_size=8)
        told = {name: self.header[name] for name in _DECIDING}
        digest.update(json.dumps(told, sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write it to a file, the same bytes for the same estimator."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            text = json.dumps(self.header, indent=1, sort_keys=True, allow_nan=False)
            _put(archive, "header.json", text.encode())
            for name in sorted(self.arrays):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, self.arrays[name], allow_pickle=False)
                _put(archive, f"{name}.npy", buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> "Estimator":
        """Read it from a file.

        Raises:
            UsageError: it is no file of an estimator, or of a newer version.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                estimator = cls._read(archive)
            # What is missing, or does not fit together, shows on no conversations at all.
            estimator.estimate(Conversations(to_batch([])))
        except (OSError, zipfile.BadZipFile, ValueError, TypeError, LookupError, EOFError) as error:
            raise UsageError(
                f"{str(path)!r} is no estimator: {error}. `quietdesk fit` makes one."
            ) from None
        return estimator

    @classmethod
    def _read(cls, archive: zipfile.ZipFile) -> "Estimator":
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise ValueError("it is far larger than any estimator")
        header = json.loads(archive.read("header.json"))
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else header
            raise ValueError(f"its format is {found!r} and this version reads {FORMAT}")
        arrays = {}
        for entry in archive.namelist():
            if entry.endswith(".npy"):
                buffer = io.BytesIO(archive.read(entry))
                array = np.lib.format.read_array(buffer, allow_pickle=False)
                if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                    raise ValueError(f"{entry} holds something else than finite numbers")
                arrays[entry.removesuffix(".npy")] = array
        estimator = cls(header, arrays)
        estimator._check()
        return estimator

    def _check(self) -> None:
        names = [feature.name for feature in features()]
        if self.header["features"] != names:
            raise ValueError("it was fitted with other features; fit it again")
        if self.header["side"] not in {"customer", "agent"}:
            raise ValueError(f"side is {self.header['side']!r}")
        for key, width in (("turn.x.weights", len(names)), ("whole.m.weights", 2 * len(names))):
            if key in self.arrays and self.arrays[key].shape != (width,):
                raise ValueError(f"{key} has the shape {self.arrays[key].shape}")
        buckets = dict.fromkeys((*KINDS, *BAGS), N_WORD_BUCKETS) | {"signs": N_SIGN_BUCKETS}
        for key, array in self.arrays.items():
            kind = key.rpartition(".")[0].rpartition(".")[2]
            if kind in buckets and array.shape not in {(0,), (buckets[kind],)}:
                raise ValueError(f"{key} has the shape {array.shape}")
        n_columns = {"turn": len(names), "whole": 2 * len(names)}
        for unit in (unit for unit in n_columns if f"{unit}.trees.value" in self.arrays):
            n = len(self.arrays[f"{unit}.trees.value"])
            for side in ("left", "right"):
                child = self.arrays[f"{unit}.trees.{side}"]
                if len(child) != n or (child < 0).any() or (child >= n).any():
                    raise ValueError("its trees point outside")
            root = self.arrays[f"{unit}.trees.root"]
            if (root < 0).any() or (root >= n).any():
                raise ValueError("its trees have no root")
            column = self.arrays[f"{unit}.trees.feature"]
            if len(column) != n or (column < 0).any() or (column >= n_columns[unit]).any():
                raise ValueError("its trees ask for unknown features")

    def part(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays whose names begin with a prefix, without it."""
        return {
            name.removeprefix(prefix): array
            for name, array in self.arrays.items()
            if name.startswith(prefix)
        }

    def estimate(self, conversations: Conversations) -> Estimates:
        """The estimates of a batch."""
        key = f"estimates {self.fingerprint}"
        return conversations.memo(key, lambda: self._estimate(reading(conversations)))

    def _estimate(self, seen: Reading) -> Estimates:
        conversations = seen.conversations
        side = seen.customer if self.header["side"] == "customer" else seen.agent
        rows = np.flatnonzero(side)
        of = conversations.conversation_of[rows]
        measured = np.bincount(of, minlength=conversations.n) > 0
        if self.header["language"] == "en":
            measured &= seen.english
        x = turn_features(seen, rows)
        turns, score = None, None
        if "turn.blend" in self.arrays:
            part = self.part("turn.")
            kinds = [kind for kind in KINDS if len(part[f"{kind}.idf"])]
            looks = first_looks(part, x, text_grams(seen, rows, kinds))
            context = neighbours(looks, of, ahead=self.ahead)
            score = context @ self.arrays["turn.blend"] + float(self.arrays["turn.bias"][0])
            turns = to_levels(self.part("turn.levels."), self.scale, score)
        whole, pulls = None, np.zeros(len(rows))
        if "whole.bias" in self.arrays:
            part = self.part("whole.")
            bags = bag_grams(seen) if any(len(part[f"{kind}.idf"]) for kind in BAGS) else {}
            total = whole_score(part, wholes(score, x, of, conversations.n, bags))
            whole = to_levels(self.part("whole.levels."), self.scale, total)
            pulls = whole_pulls(self.part("whole."), score, x, of, conversations.n)
        return Estimates(rows, turns, whole, measured, pulls)

    def reasons(self, seen: Reading, row: int, k: int = 3) -> list[tuple[str, float]]:
        """The k features that move a turn's score most, with how far; negative is worse.

        Only the weighted features are told; text and trees have no words for what they saw.
        """
        key = "turn.x." if "turn.x.weights" in self.arrays else "whole.m."
        part = self.part(key)
        x = turn_features(seen, np.array([row], np.int64))
        width = len(features())
        moved = (standard(x, part["mean"][:width], part["spread"][:width])) * part["weights"][
            :width
        ]
        order = np.argsort(-np.abs(moved[0]), kind="stable")[:k]
        return [(features()[i].name, float(moved[0, i])) for i in order if moved[0, i] != 0]


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: an estimator that is made again is the same file.
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)


def text_grams(seen: Reading, rows: IntArray, kinds: Iterable[str] = KINDS) -> dict[str, Grams]:
    """The text features of some messages, by their names in `KINDS`."""
    other = np.where(seen.customer, seen.before(seen.agent), seen.before(seen.customer))
    makers = {
        "words": lambda: word_grams(seen, rows),
        "words before": lambda: word_grams(seen, other[rows]),
        "tool words": lambda: word_grams(seen, tool_before(seen)[rows]),
        "signs": lambda: sign_grams(seen, rows),
        "context": lambda: context_grams(seen, rows),
    }
    return {kind: makers[kind]() for kind in kinds}


def bag_grams(seen: Reading) -> dict[str, Grams]:
    """All words of each conversation, by their names in `BAGS`."""
    return {
        "customer words": conversation_grams(seen, seen.customer),
        "agent words": conversation_grams(seen, seen.agent),
    }


def standard(
    x: npt.NDArray[Any], mean: npt.NDArray[Any], spread: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Features in standard deviations from the training set's mean; constant ones are 0."""
    scaled = (x - mean) / np.where(spread > 0, spread, 1.0)
    scaled[:, spread == 0] = 0.0
    clipped: npt.NDArray[np.float64] = np.clip(scaled, -_CLIP, _CLIP).astype(np.float64)
    return clipped


def first_looks(
    part: Mapping[str, npt.NDArray[Any]], x: npt.NDArray[np.float32], grams: Mapping[str, Grams]
) -> FloatArray:
    """Four scores of each turn by itself, shape (n, 4): features, text, story, trees.

    Args:
        part: The arrays of an estimator's turns.
        x: Shape (n, n_features).
        grams: The kinds of text features that the estimator weighs; it may have none.
    """
    by_features = standard(x, part["x.mean"], part["x.spread"]) @ part["x.weights"]
    looks = [by_features + float(part["x.bias"][0])]
    for look, kinds in TEXT_LOOKS.items():
        total = np.full(len(x), float(part[f"{look}.bias"][0]))
        for kind in kinds:
            if kind in grams:
                total += weigh(grams[kind], part[f"{kind}.idf"], part[f"{look}.{kind}.weights"])
        looks.append(total)
    looks.append(climb(part, x))
    return np.stack(looks, axis=1)


def weigh(grams: Grams, idf: npt.NDArray[Any], weights: npt.NDArray[Any]) -> FloatArray:
    """The weighted sum of each text's features, which have the length 1 together."""
    share = idf[grams.buckets].astype(np.float64) * grams.weight
    under = np.bincount(grams.owner, weights=share * share, minlength=grams.n_texts)
    total = np.bincount(
        grams.owner, weights=share * weights[grams.buckets], minlength=grams.n_texts
    )
    return np.asarray(total / np.sqrt(np.maximum(under, 1e-12)), np.float64)


def climb(part: Mapping[str, npt.NDArray[Any]], x: npt.NDArray[np.float32]) -> FloatArray:
    """The mean of all trees' leaves for each row, or the bias where there are no trees.

    A tree's node n asks whether feature[n] is at most threshold[n], and goes left[n] or right[n];
    a leaf leads to itself.
    """
    total = np.zeros(len(x))
    feature, threshold = part["trees.feature"], part["trees.threshold"]
    left, right, value = part["trees.left"], part["trees.right"], part["trees.value"]
    rows = np.arange(len(x))
    for root, depth in zip(part["trees.root"], part["trees.depth"], strict=True):
        node = np.full(len(x), root, np.int64)
        for _ in range(int(depth)):
            low = x[rows, feature[node]] <= threshold[node]
            node = np.where(low, left[node], right[node])
        total += value[node]
    return total / max(1, len(part["trees.root"])) + float(part["trees.bias"][0])


def neighbours(looks: FloatArray, of: IntArray, *, ahead: bool) -> FloatArray:
    """What a turn's own scores and those around it say, shape (n, n_columns).

    Args:
        looks: Shape (n, 4), from `first_looks`; the turns of a conversation together, in order.
        of: Shape (n,): each turn's conversation, ascending.
        ahead: Whether to look at later turns; their columns are left out otherwise.
    """
    score = looks.mean(axis=1)
    n = len(score)
    spans = _spans(of)
    columns = {
        "score": score,
        "features": looks[:, 0],
        "text": looks[:, 1],
        "story": looks[:, 2],
        "trees": looks[:, 3],
        "previous": np.empty(n),
        "next": np.empty(n),
        "fading past": np.empty(n),
        "fading future": np.empty(n),
        "mean so far": np.empty(n),
        "mean": np.empty(n),
        "lowest": np.empty(n),
        "last": np.empty(n),
    }
    first = np.repeat(spans[:, 0], spans[:, 1] - spans[:, 0])
    stop = np.repeat(spans[:, 1], spans[:, 1] - spans[:, 0])
    rows = np.arange(n)
    columns["previous"] = score[np.maximum(rows - 1, first)]
    columns["next"] = score[np.minimum(rows + 1, stop - 1)]
    running = np.concatenate([np.zeros(1), np.cumsum(score)])
    columns["mean so far"] = (running[rows + 1] - running[first]) / (rows + 1 - first)
    if n:
        columns["mean"] = (running[stop] - running[first]) / (stop - first)
        columns["lowest"] = np.repeat(
            np.minimum.reduceat(score, spans[:, 0]), spans[:, 1] - spans[:, 0]
        )
        columns["last"] = score[stop - 1]
    columns["fading past"] = _fade(score, first)
    columns["fading future"] = _fade(score[::-1], (n - stop)[::-1])[::-1]
    return np.stack([columns[name] for name, later in NEIGHBOURS if ahead or not later], axis=1)


_FADE = 0.6
_FADE_STEPS = 12
"""After so many turns a score has faded to .2 per cent."""


def _fade(score: FloatArray, first: IntArray) -> FloatArray:
    """A mean of the scores up to each turn that forgets by `_FADE` per turn."""
    rows = np.arange(len(score))
    total, weight = np.zeros(len(score)), np.zeros(len(score))
    for step in range(_FADE_STEPS):
        there = rows - step >= first
        total += np.where(there, score[np.maximum(rows - step, 0)], 0.0) * _FADE**step
        weight += there * _FADE**step
    return total / np.maximum(weight, 1e-12)


def _spans(of: IntArray) -> IntArray:
    """(first, stop) of each run of equal numbers, shape (n_runs, 2)."""
    if not len(of):
        return np.zeros((0, 2), np.int64)
    first = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
    return np.stack([first, np.append(first[1:], len(of))], axis=1).astype(np.int64)


def wholes(
    score: FloatArray | None,
    x: npt.NDArray[np.float32],
    of: IntArray,
    n: int,
    bags: Mapping[str, Grams],
) -> Wholes:
    """What n conversations are scored from; zeros for one without a turn.

    Args:
        score: Shape (n_turns,): the turns' scores, if they have any.
        x: Shape (n_turns, n_features).
        of: Shape (n_turns,): each turn's conversation, ascending.
        n: Conversations.
        bags: Their words.
    """
    spans = _spans(of)
    table = None if score is None else np.zeros((n, len(WHOLE)))
    means = np.zeros((n, 2 * x.shape[1]))
    if len(spans):
        which = of[spans[:, 0]]
        size = (spans[:, 1] - spans[:, 0]).astype(np.float64)
        means[which, : x.shape[1]] = np.add.reduceat(x, spans[:, 0], axis=0) / size[:, None]
        means[which, x.shape[1] :] = x[spans[:, 1] - 1]
        if score is not None and table is not None:
            table[which] = _summaries(score, spans)
    return Wholes(means, table, bags)


def _summaries(score: FloatArray, spans: IntArray) -> FloatArray:
    """The columns of `WHOLE` for each run of turns, shape (n_runs, len(WHOLE))."""
    first, stop = spans[:, 0], spans[:, 1]
    size = stop - first
    run = np.repeat(np.arange(len(spans)), size)
    place = np.arange(len(score)) - first[run]

    def mean_of(chosen: BoolArray, values: FloatArray = score) -> FloatArray:
        total = np.bincount(run[chosen], weights=values[chosen], minlength=len(spans))
        return total / np.maximum(np.bincount(run[chosen], minlength=len(spans)), 1)

    late = place >= (size - 3)[run]
    rising = score[np.lexsort((score, run))]
    mean = mean_of(np.ones(len(score), np.bool_))
    spread = mean_of(np.ones(len(score), np.bool_), (score - mean[run]) ** 2)
    columns = (
        mean,
        np.minimum.reduceat(score, first),
        np.maximum.reduceat(score, first),
        score[stop - 1],
        mean_of(late),
        mean_of(place < 3),
        mean_of(place < np.maximum(1, size // 4)[run], rising),
        np.sqrt(spread),
        np.minimum.reduceat(np.where(late, score, np.inf), first),
        np.log1p(size),
    )
    return np.stack(columns, axis=1)


def whole_looks(part: Mapping[str, npt.NDArray[Any]], seen: Wholes) -> FloatArray:
    """Scores of each conversation, shape (n, 3 or 5).

    By its turns' features, by its words, by trees; where turns have scores also by these in
    `WHOLE`, and their mean.
    """
    n = len(seen.means)
    by_means = standard(seen.means, part["m.mean"], part["m.spread"]) @ part["m.weights"]
    by_words = np.full(n, float(part["bag.bias"][0]))
    for kind, grams in seen.bags.items():
        if len(part[f"{kind}.idf"]):
            by_words += weigh(grams, part[f"{kind}.idf"], part[f"bag.{kind}.weights"])
    by_trees = climb(part, seen.means.astype(np.float32))
    looks = [by_means + part["m.bias"], by_words, by_trees]
    if seen.table is not None:
        turns = standard(seen.table, part["d.mean"], part["d.spread"]) @ part["d.weights"]
        looks += [turns + part["d.bias"], seen.table[:, 0]]
    return np.stack(looks, axis=1)


def whole_score(part: Mapping[str, npt.NDArray[Any]], seen: Wholes) -> FloatArray:
    """The score of each conversation, shape (n,)."""
    total: FloatArray = whole_looks(part, seen) @ part["blend"] + float(part["bias"][0])
    return total


def whole_pulls(
    part: Mapping[str, npt.NDArray[Any]],
    score: FloatArray | None,
    x: npt.NDArray[np.float32],
    of: IntArray,
    n: int,
) -> FloatArray:
    """How far each turn's features pull its conversation's score, shape (len(x),).

    With turn scores: the turn's distance from the mean turn of the training set. Without: its share
    of the weighted mean of features.
    """
    if score is not None:
        return score - float(part["d.mean"][0])
    width = x.shape[1]
    own = standard(x, part["m.mean"][:width], part["m.spread"][:width])
    moved: FloatArray = own @ part["m.weights"][:width]
    return moved / np.maximum(np.bincount(of, minlength=n)[of], 1)


def to_levels(part: Mapping[str, npt.NDArray[Any]], scale: FloatArray, score: FloatArray) -> Levels:
    """Probabilities of the levels by proportional odds, and what follows from them.

    Source: McCullagh, Regression Models for Ordinal Data (1980); Platt, Probabilistic Outputs for
    Support Vector Machines (1999) for the probability of dissatisfied.
    """
    slope, thresholds = part["slope"][0], part["thresholds"]
    above = _logistic(slope * score[:, None] - thresholds[None, :])
    edges = np.concatenate([np.ones((len(score), 1)), above, np.zeros((len(score), 1))], axis=1)
    probabilities = edges[:, :-1] - edges[:, 1:]
    risk = _logistic(part["risk"][0] * score + part["risk"][1])
    classes = (score > part["cuts"][0]).astype(np.int64) + (score > part["cuts"][1])
    return Levels(score, probabilities @ scale, risk, classes, probabilities)


def _logistic(values: FloatArray) -> FloatArray:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -40.0, 40.0)))


@cache
def shipped() -> Estimator:
    """The estimator that comes with Quietdesk; its header says what it was fitted on."""
    data = files("quietdesk.scoring").joinpath("data/satisfaction.npz").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Estimator._read(archive)


class _Estimated(Mean):
    """A mean of what an estimator says.

    Args:
        estimator: The estimator; the shipped one if None.
        fingerprint: Of the estimator that measured, where only its numbers are at hand: they are
            shown and compared under its signature, and nothing can be measured.
    """

    source = (
        "Fitted on human ratings; the task as in Sun et al., Simulating User Satisfaction for the "
        "Evaluation of Task-oriented Dialogue Systems (SIGIR 2021)."
    )
    misleads = (
        "An estimator knows the people and the topics that it was fitted on. Look at its agreement "
        "with your own labels (`quietdesk evaluate`) before believing it, and fit your own."
    )

    def __init__(
        self, estimator: Estimator | None = None, *, fingerprint: str | None = None
    ) -> None:
        self._given = estimator
        self._fingerprint = fingerprint

    @property
    def estimator(self) -> Estimator:
        """The estimator; the shipped one is read at the first call.

        Raises:
            UsageError: only its fingerprint is known.
        """
        if self._fingerprint is not None:
            raise UsageError(
                f"These scores come from the estimator {self._fingerprint}, which is not in them. "
                f"Name its file, as in satisfaction:FILE, to measure {self.name!r} with it."
            )
        return self._given or shipped()

    def signature(self, totals: Mapping[str, IntArray]) -> Signature:
        """The name, the version and the estimator's fingerprint."""
        pairs = super().signature(totals).pairs
        return Signature((*pairs, ("estimator", self._fingerprint or self.estimator.fingerprint)))

    def under(self, signature: str) -> BaseMetric:
        """The metric itself, or one that bears the fingerprint of the signature's estimator."""
        told = dict(pair.partition(":")[::2] for pair in signature.split("|"))
        if "estimator" not in told or str(self.signature({})) == signature:
            return self
        return type(self)(fingerprint=told["estimator"])


class Satisfaction(_Estimated):
    """Estimated rating of conversations."""

    name = "satisfaction"
    title = "Satisfaction (estimate)"
    definition = (
        "The rating that people would give the conversation, estimated from its words: the "
        "expected level on the scale of the estimator's labels."
    )
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """Expected ratings of conversations."""
        found = self.estimator.estimate(conversations)
        levels = found.conversations
        if levels is None:
            none = np.zeros(0, np.int64)
            return Units(none, np.zeros(0))
        some = np.arange(conversations.n)
        return Units(some, levels.expected, found.measured, _drivers(conversations, found))


class Dissatisfied(_Estimated):
    """Estimated share of dissatisfied customers."""

    name = "dissatisfied"
    title = "Dissatisfied (estimate)"
    definition = (
        "The mean probability that people would rate the conversation half a level or more below "
        "the middle of the scale. 0 to 1, calibrated on the estimator's labels."
    )
    better = Better.LOWER
    scale = Scale.SHARE

    def look(self, conversations: Conversations) -> Units:
        """Probabilities of conversations."""
        found = self.estimator.estimate(conversations)
        levels = found.conversations
        if levels is None:
            none = np.zeros(0, np.int64)
            return Units(none, np.zeros(0))
        some = np.arange(conversations.n)
        return Units(some, levels.dissatisfied, found.measured, _drivers(conversations, found))


class TurnSatisfaction(_Estimated):
    """Estimated rating of turns."""

    name = "turn_satisfaction"
    title = "Satisfaction by turn (estimate)"
    definition = (
        "The rating that people would give at each message of the side that the estimator's labels "
        "rate, estimated from its words and its neighbours."
    )
    unit = Unit.MESSAGE
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """Expected ratings of turns."""
        found = self.estimator.estimate(conversations)
        if found.turns is None:
            none = np.zeros(0, np.int64)
            return Units(none, np.zeros(0))
        measured = found.measured[conversations.conversation_of[found.rows]]
        bad = found.rows[measured & (found.turns.classes == 0)]
        return Units(found.rows, found.turns.expected, measured, bad)


def _drivers(conversations: Conversations, found: Estimates) -> IntArray:
    """The turn that pulls each dissatisfied conversation down most."""
    levels = found.conversations
    if levels is None or not len(found.rows):
        return np.zeros(0, np.int64)
    of = conversations.conversation_of[found.rows]
    order = np.lexsort((found.rows, found.pulls, of))
    first = np.r_[True, of[order][1:] != of[order][:-1]]
    lowest = order[first]
    bad = (levels.classes == 0) & found.measured
    return np.sort(found.rows[lowest[bad[of[lowest]]]])


def metrics(estimator: Estimator | None = None) -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (Satisfaction(estimator), Dissatisfied(estimator), TurnSatisfaction(estimator))
