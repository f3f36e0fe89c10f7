"""BLEU, chrF and TER against reference replies, as sacrebleu computes them; the one module with it.

The integers come from `kernels`, the computation from the sums is sacrebleu's own, so a score is
equal to sacrebleu's bit for bit and bears its signature.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quietdesk.errors import UnknownNameError, UsageError
from quietdesk.scoring.base import (
    BaseMetric,
    Better,
    Conversations,
    FloatArray,
    IntArray,
    Measurement,
    Scale,
    Signature,
    Sums,
    Unit,
)
from quietdesk.scoring.kernels import (
    Segments,
    Words,
    bleu_score,
    bleu_statistics,
    chrf_score,
    chrf_statistics,
)
from quietdesk.scoring.statistics import SEED, segment_bootstrap
from quietdesk.types import Author

TOKENIZERS = ("13a", "intl", "char", "zh", "none")
"""Tokenizers of BLEU that need nothing but sacrebleu."""
_DOWNLOADED = frozenset({"flores101", "flores200", "spm", "spBLEU-1K"})
_EXTRAS = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}
_NAMES = ("bleu", "chrf", "chrf++", "ter")
_LENGTH_UNITS = 720_720
"""TER's mean reference length in whole parts: the least number that 1 to 16 divide."""


class _SacreScore(Protocol):
    score: float


class _SacreMetric(Protocol):
    """What is used of a metric of sacrebleu."""

    num_refs: int
    n_bootstrap: int | None
    seed: str | None

    def _compute_score_from_stats(
        self, stats: Sequence[float] | npt.NDArray[np.float32]
    ) -> _SacreScore: ...
    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]
    ) -> list[list[float]]: ...
    def get_signature(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Score:
    """A score with what it was computed from."""

    name: str
    score: float
    """0 to 100; TER may be more."""
    signature: str
    """As sacrebleu writes it."""
    n: int
    """Segments."""
    statistics: tuple[float, ...]
    """The sums that it was computed from."""
    mean: float | None = None
    """Mean over bootstrap replicates, where asked for."""
    half_width: float | None = None
    """Half of the 95 per cent interval around `mean`, where asked for."""

    def __str__(self) -> str:
        """As sacrebleu prints it, to two places."""
        spread = "" if self.mean is None else f" (μ = {self.mean:.2f} ± {self.half_width:.2f})"
        return f"{self.name}|{self.signature} = {self.score:.2f}{spread}"


def corpus_score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str | None]],
    *,
    n_bootstrap: int = 0,
    **options: Any,
) -> Score:
    """The score of a whole corpus.

    Args:
        name: `bleu`, `chrf`, `chrf++` or `ter`.
        hypotheses: One text per segment.
        references: One or more sequences, each as long as the hypotheses; None where a segment has
            fewer references than others.
        n_bootstrap: Replicates for `mean` and `half_width`, 1,000 for example; sacrebleu's own
            resampling, for at most 10,000 segments.
        options: Sacrebleu's own: `tokenize`, `lowercase`, `smooth_method`, `char_order`, ...

    Raises:
        UnknownNameError: no such metric.
        UsageError: lengths differ, a segment without a reference, or an option that does not work
            offline.
    """
    _check_lengths(hypotheses, references)
    sacre = _metric(name, options)
    statistics = _statistics(name, options, sacre, hypotheses, references)
    counts = {sum(text is not None for text in texts) for texts in zip(*references, strict=True)}
    sacre.num_refs = counts.pop() if len(counts) == 1 else -1
    # Summed as Python sums a column, as sacrebleu does; the numbers of BLEU and chrF are whole.
    sums = [sum(column) for column in zip(*statistics, strict=True)]
    found = sacre._compute_score_from_stats(list(sums))
    mean = half_width = None
    if n_bootstrap:
        mean, half_width = segment_bootstrap(
            np.array(statistics),
            lambda row: sacre._compute_score_from_stats(row).score,
            n_bootstrap,
        )
        sacre.n_bootstrap, sacre.seed = n_bootstrap, str(SEED)
    signature = str(sacre.get_signature())
    return Score(name, found.score, signature, len(hypotheses), tuple(sums), mean, half_width)


def sentence_score(name: str, hypothesis: str, references: Sequence[str], **options: Any) -> Score:
    """The score of one text.

    BLEU leaves out orders that the text is too short for (`effective_order`) unless told not to,
    since it would be 0 for any text of fewer than four tokens.

    Args:
        name: `bleu`, `chrf`, `chrf++` or `ter`.
        hypothesis: The text.
        references: One or more.
        options: As for `corpus_score`.

    Raises:
        UnknownNameError: no such metric.
        UsageError: no reference, or an option that does not work offline.
    """
    if isinstance(references, str):
        raise UsageError(f"references must be a list of texts, not the text {references!r}.")
    if name == "bleu":
        options = {"effective_order": True, **options}
    return corpus_score(name, [hypothesis], [[text] for text in references], **options)


def _check_lengths(hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> None:
    for texts in (hypotheses, *references):
        if isinstance(texts, str):
            raise UsageError(
                f"The text {texts[:40]!r} stands where a list of texts belongs: hypotheses are a "
                "list, references a list of lists, each as long as the hypotheses."
            )
    if not hypotheses or not references:
        raise UsageError("There is nothing to score: give at least one hypothesis and reference.")
    for place, texts in enumerate(references):
        if len(texts) != len(hypotheses):
            raise UsageError(
                f"There are {len(hypotheses)} hypotheses and {len(texts)} texts in reference list "
                f"{place}. Give as many references as hypotheses, in the same order; None where "
                "one is missing."
            )
    if not all(isinstance(text, str) for text in hypotheses):
        place = next(i for i, text in enumerate(hypotheses) if not isinstance(text, str))
        raise UsageError(f"Hypothesis {place} is {hypotheses[place]!r}, and must be a text.")
    for place, texts in enumerate(zip(*references, strict=True)):
        if all(text is None for text in texts):
            raise UsageError(f"Segment {place} has no reference. Leave it out, or give one.")


def _metric(name: str, options: Mapping[str, Any]) -> _SacreMetric:
    """Sacrebleu's metric of that name."""
    # Sacrebleu is an optional extra, and importing it takes as long as all of the rest.
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    if name not in _NAMES:
        raise UnknownNameError("reference metric", name, _NAMES)
    tokenizer = options.get("tokenize")
    if tokenizer in _DOWNLOADED:
        raise UsageError(
            f"The tokenizer {tokenizer!r} would be downloaded, and Quietdesk works offline. Use "
            f"one of {', '.join(TOKENIZERS)}; char is the usual one for languages without spaces."
        )
    if name == "bleu" and tokenizer is not None and tokenizer not in (*TOKENIZERS, *_EXTRAS):
        raise UnknownNameError("tokenizer", str(tokenizer), (*TOKENIZERS, *_EXTRAS))
    kinds = {"bleu": BLEU, "chrf": CHRF, "chrf++": CHRF, "ter": TER}
    if name == "chrf++":
        options = {"word_order": 2, **options}
    try:
        # `force` silences a warning about text that looks tokenized; nothing else depends on it.
        given = {"force": True, **options} if name == "bleu" else options
        return cast(_SacreMetric, kinds[name](**given))
    except TypeError as error:
        raise UsageError(f"{name} does not know these options: {error}.") from None
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"The tokenizer {tokenizer!r} needs a package that is not installed: "
            f"pip install '{_EXTRAS.get(str(tokenizer), 'sacrebleu')}'."
        ) from error


def words_of(tokenizer: str) -> Words | None:
    """The tokenizer of that name for `bleu_statistics`.

    Raises:
        UnknownNameError: it is none of `TOKENIZERS`.
    """
    if tokenizer not in TOKENIZERS:
        raise UnknownNameError("tokenizer", tokenizer, TOKENIZERS)
    if tokenizer == "char":
        return None
    if tokenizer == "none":
        return Words(str, "none")
    from sacrebleu.metrics.bleu import _get_tokenizer
    from sacrebleu.tokenizers import tokenizer_zh

    one = _get_tokenizer(tokenizer)()
    if tokenizer == "13a":
        return Words(one, "13a")
    if tokenizer == "intl":
        return Words(one, "intl", at_ends=True)
    # Sacrebleu compares a character with the bounds as strings, and some bounds are two characters
    # long by accident ('\u20000'): one character is above the first one's bound, or it is below.
    spaced = [
        (ord(low[0]) + (len(low) > 1), ord(high[0])) for low, high in tokenizer_zh._UCODE_RANGES
    ]
    return Words(one, "zh", at_ends=True, spaced=spaced)


def _statistics(
    name: str,
    options: Mapping[str, Any],
    sacre: _SacreMetric,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str | None]],
) -> list[list[float]]:
    """The statistics of each segment: from the kernels where they can, else from sacrebleu."""
    tokenizer = getattr(sacre, "tokenizer_signature", "none")
    if name == "ter" or tokenizer not in TOKENIZERS or options.get("eps_smoothing"):
        return sacre._extract_corpus_statistics(hypotheses, references)
    columns = list(zip(*references, strict=True))
    flat = [text for texts in columns for text in texts if text is not None]
    counts = [sum(text is not None for text in texts) for texts in columns]
    lower = str.lower if options.get("lowercase") else str
    try:
        segments = Segments.of(
            [lower(text) for text in hypotheses],
            [lower(text) for text in flat],
            np.concatenate([[0], np.cumsum(counts)]),
        )
    except UnicodeEncodeError:
        # Half of a surrogate pair has no UTF-8, so no Arrow array can hold it.
        return sacre._extract_corpus_statistics(hypotheses, references)
    if name == "bleu":
        words = words_of(tokenizer)
        order = options.get("max_ngram_order", 4)
        return cast(list[list[float]], bleu_statistics(segments, words, order=order).tolist())
    found = chrf_statistics(
        segments,
        char_order=options.get("char_order", 6),
        word_order=options.get("word_order", 2 if name == "chrf++" else 0),
        beta=options.get("beta", 2),
        whitespace=bool(options.get("whitespace")),
    )
    return cast(list[list[float]], found.tolist())


class _Overlap(BaseMetric):
    """What the metrics against reference replies have in common."""

    unit = Unit.MESSAGE
    better = Better.HIGHER
    scale = Scale.POINTS
    keeps_segments = True
    misleads = (
        "A right reply in other words scores low, a wrong one in the same words high: on rated "
        "support replies, overlap with the reference says little about accuracy. Read it as "
        "nearness to the reference, over many replies."
    )

    def measure(self, conversations: Conversations) -> Measurement:
        """The bot's messages; those without a reference count as not measured."""
        replies = conversations.said_by(Author.BOT)
        counts = conversations.references.lengths[replies]
        measured = counts > 0
        found = np.zeros((len(replies), len(self.columns)), np.int64)
        values = np.full(len(replies), np.nan)
        if measured.any():
            segments = conversations.memo("reference segments", lambda: _segments(conversations))
            found[measured] = statistics = self.integers(segments)
            values[measured] = self.row_values(statistics)
        sums = {name: found[:, place] for place, name in enumerate(self.columns)}
        totals = {"references": np.bincount(counts[measured])}
        return Measurement(replies, measured, sums, values, totals=totals)

    @abstractmethod
    def integers(self, segments: Segments) -> IntArray:
        """The statistics of each segment, shape (n, n_columns)."""

    @abstractmethod
    def row_values(self, statistics: FloatArray | IntArray) -> FloatArray:
        """The score of each row of statistics, as for a segment of its own."""

    @abstractmethod
    def sacre(self) -> _SacreMetric:
        """Sacrebleu's metric of the same options."""

    def signature(self, totals: Mapping[str, IntArray]) -> Signature:
        """Sacrebleu's; `nrefs` is `var` until all segments are known to have the same number."""
        sacre = self.sacre()
        counts = np.flatnonzero(totals.get("references", np.zeros(0)))
        sacre.num_refs = int(counts[0]) if len(counts) == 1 else -1
        pairs = (pair.partition(":") for pair in str(sacre.get_signature()).split("|"))
        return Signature(tuple((key, value) for key, _, value in pairs))

    def exact(self, sums: Mapping[str, int]) -> Mapping[str, float]:
        """What sacrebleu computes from the sums."""
        if not sums["n"]:
            return {self.name: float("nan")}
        found = self.sacre()._compute_score_from_stats(self.sacre_sums(sums))
        return {self.name: float(found.score)}

    def sacre_sums(self, sums: Mapping[str, int]) -> list[float]:
        """The sums in sacrebleu's order."""
        return [sums[name] for name in self.columns]

    def segment_interval(self, segments: IntArray) -> tuple[float, float] | None:
        """As sacrebleu finds it."""
        sacre = self.sacre()
        return segment_bootstrap(segments, lambda row: sacre._compute_score_from_stats(row).score)

    def badness(self, values: FloatArray) -> FloatArray | None:
        """Other words than the reference's are no sign of a bad conversation."""
        return None


def _segments(conversations: Conversations) -> Segments:
    """The bot's messages that have references, with them."""
    replies = conversations.said_by(Author.BOT)
    offsets, values = conversations.references
    counts = np.diff(offsets)
    rows = replies[counts[replies] > 0]
    lengths = counts[rows]
    if int(lengths.sum()) != len(values):
        ends = np.cumsum(lengths)
        place = np.repeat(offsets[rows] - (ends - lengths), lengths) + np.arange(ends[-1])
        values = values.take(pa.array(place))
    hypotheses = conversations.texts.take(pa.array(rows))
    return Segments(hypotheses, values, np.concatenate([[0], np.cumsum(lengths)]))


def _lower(segments: Segments) -> Segments:
    """Lower-cased as Python does it: a final sigma and a dotted I depend on more than a letter."""
    hypotheses, references = (
        pa.array([text.lower() for text in texts.to_pylist()], pa.string())
        for texts in (segments.hypotheses, segments.references)
    )
    return Segments(hypotheses, references, segments.offsets)


class Bleu(_Overlap):
    """BLEU of the bot's messages against their references.

    Args:
        tokenize: One of `TOKENIZERS`.
        lowercase: Whether case is ignored.
    """

    name = "bleu"
    title = "BLEU"
    definition = (
        "Geometric mean of the share of 1- to 4-token sequences of the reply that its reference "
        "has too, less a penalty for being short; over all replies together."
    )
    source = "Papineni et al., BLEU (2002); Post, A Call for Clarity (2018), sacrebleu."
    columns = (
        "said",
        "meant",
        *(f"match{n}" for n in range(1, 5)),
        *(f"total{n}" for n in range(1, 5)),
    )

    def __init__(self, tokenize: str = "13a", *, lowercase: bool = False) -> None:
        if tokenize != "13a":
            self.name = f"bleu:{tokenize}"
            self.title = f"BLEU ({tokenize})"
        self._words = words_of(tokenize)
        self._options = {"tokenize": tokenize, "lowercase": lowercase}
        self._lower = lowercase

    def integers(self, segments: Segments) -> IntArray:
        """Lengths, matches and totals."""
        return bleu_statistics(_lower(segments) if self._lower else segments, self._words)

    def row_values(self, statistics: FloatArray | IntArray) -> FloatArray:
        """Sentence BLEU: orders that the reply is too short for are left out."""
        return bleu_score(statistics, effective=True)

    def sacre(self) -> _SacreMetric:
        """BLEU with the same options."""
        return _metric("bleu", self._options)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """BLEU of each replicate."""
        return {self.name: bleu_score(np.stack([sums[name] for name in self.columns], axis=1))}


class Chrf(_Overlap):
    """ChrF of the bot's messages against their references.

    Args:
        word_order: 2 is chrF++.
        lowercase: Whether case is ignored.
    """

    name = "chrf"
    title = "chrF"
    definition = (
        "F-score (recall counts double) of 1- to 6-character sequences shared by the reply and its "
        "reference, without white space; over all replies together."
    )
    source = "Popović, chrF (2015) and chrF++ (2017); Post, A Call for Clarity (2018), sacrebleu."

    def __init__(self, word_order: int = 0, *, lowercase: bool = False) -> None:
        self.name = "chrf" + "+" * word_order
        self.title = "chrF" + "+" * word_order
        orders = [f"c{n}" for n in range(1, 7)] + [f"w{n}" for n in range(1, word_order + 1)]
        self.columns = tuple(f"{side}.{n}" for n in orders for side in ("said", "meant", "match"))
        self._options = {"word_order": word_order, "lowercase": lowercase}
        self._word_order = word_order
        self._lower = lowercase

    def integers(self, segments: Segments) -> IntArray:
        """N-grams of both sides and matches."""
        segments = _lower(segments) if self._lower else segments
        return chrf_statistics(segments, word_order=self._word_order)

    def row_values(self, statistics: FloatArray | IntArray) -> FloatArray:
        """Sentence chrF."""
        return chrf_score(statistics)

    def sacre(self) -> _SacreMetric:
        """ChrF with the same options."""
        return _metric("chrf", self._options)

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """ChrF of each replicate."""
        return {self.name: chrf_score(np.stack([sums[name] for name in self.columns], axis=1))}


class Ter(_Overlap):
    """Edits (with shifts) that turn the bot's messages into their references, by reference length.

    Sacrebleu's own search; about a thousand replies per second.
    """

    name = "ter"
    title = "TER"
    definition = (
        "Words inserted, deleted, replaced and blocks shifted to turn the reply into its nearest "
        "reference, per hundred words of reference; over all replies together."
    )
    source = "Snover et al., TER (2006); Post, A Call for Clarity (2018), sacrebleu."
    better = Better.LOWER
    columns = ("edits", "length")

    def integers(self, segments: Segments) -> IntArray:
        """Edits, and the references' mean length in 720,720ths: whole for up to 16 references."""
        bounds = segments.offsets.tolist()
        flat = segments.references.to_pylist()
        width = max(np.diff(segments.offsets))
        texts: list[list[str | None]] = [
            [*flat[bounds[i] : bounds[i + 1]], *[None] * (width - bounds[i + 1] + bounds[i])]
            for i in range(len(bounds) - 1)
        ]
        found = self.sacre()._extract_corpus_statistics(
            segments.hypotheses.to_pylist(), [list(column) for column in zip(*texts, strict=True)]
        )
        whole: IntArray = np.rint(np.array(found) * [1, _LENGTH_UNITS]).astype(np.int64)
        return whole

    def row_values(self, statistics: FloatArray | IntArray) -> FloatArray:
        """TER of each row."""
        edits, length = statistics[:, 0].astype(np.float64), statistics[:, 1] / _LENGTH_UNITS
        return 100 * np.divide(edits, length, out=(edits > 0).astype(np.float64), where=length > 0)

    def sacre(self) -> _SacreMetric:
        """TER."""
        return _metric("ter", {})

    def values(self, sums: Sums) -> Mapping[str, FloatArray]:
        """TER of each replicate."""
        return {self.name: self.row_values(np.stack([sums["edits"], sums["length"]], axis=1))}

    def sacre_sums(self, sums: Mapping[str, int]) -> list[float]:
        """Edits and length in words."""
        return [sums["edits"], sums["length"] / _LENGTH_UNITS]

    def segment_interval(self, segments: IntArray) -> tuple[float, float] | None:
        """As sacrebleu finds it, which counts lengths in words."""
        sacre = self.sacre()
        words = segments / [1, _LENGTH_UNITS]
        return segment_bootstrap(words, lambda row: sacre._compute_score_from_stats(row).score)


def metrics() -> tuple[BaseMetric, ...]:
    """One of each metric, with sacrebleu's defaults."""
    return (Bleu(), Chrf(), Chrf(2), Ter())
