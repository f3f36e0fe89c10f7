"""Sufficient statistics of BLEU and chrF for many segments at once, equal to sacrebleu's integers.

The work is counting n-grams that two texts share. A symbol is a token's or a character's number;
all n-grams of a segment that begin at one place are packed into one integer, first symbol highest.
One sort of a segment's integers, the hypothesis' and the references' together, then serves every
order: n-grams that are equal up to order n stand side by side, and a run ends where two neighbours
differ in the upper bits. A run of h n-grams from the hypothesis and r from the reference holds
min(h, r) matches; with one sign for each side, the sum over runs of |h - r| is all that is needed.

Texts are split by Arrow, and every distinct word goes through sacrebleu's own tokenizer once: what
these tokenizers do to a word depends on nothing beyond the white space around it, but for whether
it begins or ends the line.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quietdesk.errors import UsageError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Symbols = npt.NDArray[np.unsignedinteger]
Places = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]

BLOCK = 1 << 16
"""Integers sorted at a time: half a megabyte, so that they stay in the second-level cache."""
CHUNK = 4096
"""Segments read at a time; more of them share more words, and need more memory."""
MEMO_LIMIT = 1 << 17
"""Distinct words remembered; beyond, the memory is cleared, since order numbers never come back."""
_KEY_BITS = 62
"""Bits of a packed n-gram with the side it comes from; the value above all of them is filler."""
_FILLER = np.uint64(2**64 - 1)


class Ragged(NamedTuple):
    """Texts as symbols, flat."""

    symbols: npt.NDArray[np.integer]
    """Numbers from 0."""
    offsets: IntArray
    """Shape (n_texts + 1,): text i has the symbols offsets[i] to offsets[i + 1]."""

    @property
    def lengths(self) -> IntArray:
        """Symbols of each text, shape (n_texts,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class Segments:
    """Hypotheses with their references, any number each.

    Attributes:
        hypotheses: Shape (n,).
        references: All references, those of segment i at offsets[i] to offsets[i + 1].
        offsets: Shape (n + 1,).
    """

    hypotheses: pa.Array
    references: pa.Array
    offsets: IntArray

    @classmethod
    def of(
        cls,
        hypotheses: Sequence[str] | pa.Array,
        references: Sequence[str] | pa.Array,
        offsets: Iterable[int] | None = None,
    ) -> "Segments":
        """Checked segments; without offsets, one reference each.

        Raises:
            UsageError: there are more of one than of the other, or a segment has no reference.
        """
        if offsets is None:
            if len(hypotheses) != len(references):
                raise UsageError(
                    f"There are {len(hypotheses)} hypotheses and {len(references)} references. "
                    "Give as many references as hypotheses, in the same order."
                )
            bounds = np.arange(len(hypotheses) + 1, dtype=np.int64)
        else:
            bounds = np.asarray(offsets, np.int64)
            if len(bounds) != len(hypotheses) + 1 or bounds[-1] - bounds[0] != len(references):
                raise UsageError(
                    f"The offsets speak of {len(bounds) - 1} hypotheses and "
                    f"{bounds[-1] - bounds[0]} references; there are {len(hypotheses)} and "
                    f"{len(references)}."
                )
            if len(hypotheses) and np.diff(bounds).min() < 1:
                place = int(np.argmin(np.diff(bounds)))
                raise UsageError(f"Segment {place} has no reference. Leave it out, or give one.")
            bounds = bounds - bounds[0]
        return cls(_strings(hypotheses), _strings(references), bounds)

    def chunks(self) -> Iterable["Segments"]:
        """The segments in pieces of `CHUNK`."""
        for start in range(0, len(self.hypotheses), CHUNK):
            bounds = self.offsets[start : start + CHUNK + 1]
            low, high = int(bounds[0]), int(bounds[-1])
            yield Segments(
                self.hypotheses.slice(start, CHUNK),
                self.references.slice(low, high - low),
                bounds - low,
            )

    @property
    def texts(self) -> pa.Array:
        """The hypotheses, then the references."""
        return pa.concat_arrays([self.hypotheses, self.references])

    @property
    def owner(self) -> IntArray:
        """The segment of each reference, shape (n_references,)."""
        return np.repeat(np.arange(len(self.hypotheses)), np.diff(self.offsets))


def _strings(texts: Sequence[str] | pa.Array) -> pa.Array:
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    return array if array.type == pa.string() else array.cast(pa.string())


class Words:
    """Splits texts into the tokens of one of sacrebleu's tokenizers, remembering words.

    Args:
        tokenize: Sacrebleu's tokenizer for a line: a line in, tokens with spaces between them out.
        name: The tokenizer's name. `13a` also removes a hyphen at a line's end, across white space.
        at_ends: Whether a word at the line's beginning or end may be split in another way.
        spaced: Code points from and to, each of which stands for itself with spaces around.
    """

    def __init__(
        self,
        tokenize: Callable[[str], str],
        name: str,
        *,
        at_ends: bool = False,
        spaced: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._tokenize = tokenize
        self._name = name
        self._at_ends = at_ends
        spans = "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in spaced)
        self._spaced = f"([{spans}])" if spans else ""
        self._forget()

    def _forget(self) -> None:
        self._vocabulary = _Numbering()
        # One memory for each position: inside the line, at its beginning, at its end, at both.
        self._memory = tuple(_Splits(self._split, place) for place in range(4))

    def _split(self, word: str, place: int) -> tuple[int, ...]:
        if not word:
            return ()
        # A letter of its own keeps the white space beside the word from being stripped.
        before = "" if place & 1 or not self._at_ends else "x "
        after = "" if place & 2 or not self._at_ends else " x"
        tokens = self._tokenize(f"{before}{word}{after}").split()
        tokens = tokens[bool(before) : len(tokens) - bool(after)]
        return tuple(self._vocabulary[token] for token in tokens)

    def split(self, texts: pa.Array) -> Ragged:
        """The tokens of each text; equal tokens have equal numbers within one call."""
        if len(self._vocabulary) > MEMO_LIMIT or sum(map(len, self._memory)) > MEMO_LIMIT:
            self._forget()
        texts, whole = self._set_aside(texts)
        if self._spaced:
            texts = pc.replace_substring_regex(texts, self._spaced, r" \1 ")
        lists = pc.utf8_split_whitespace(texts)
        offsets = _int64(lists.offsets)
        offsets -= offsets[0]
        encoded = lists.flatten().dictionary_encode()
        codes, words = _int64(encoded.indices), encoded.dictionary.to_pylist()
        if self._at_ends:
            codes = codes * 4 + self._places(codes, offsets, words)
            used = np.flatnonzero(np.bincount(codes, minlength=4 * len(words)))
            splits = [self._memory[code & 3][words[code >> 2]] for code in used.tolist()]
            renumbered = np.zeros(4 * len(words), np.int64)
            renumbered[used] = np.arange(len(used))
            codes = renumbered[codes]
        else:
            splits = list(map(self._memory[0].__getitem__, words))
        if whole:
            # A line set aside is one word, whose tokens are known already.
            rows = np.array(list(whole))
            codes = np.insert(codes, offsets[rows + 1], len(splits) + np.arange(len(rows)))
            splits += [tuple(self._vocabulary[token] for token in whole[row]) for row in whole]
            extra = np.zeros(len(offsets), np.int64)
            extra[rows + 1] = 1
            offsets = offsets + np.cumsum(extra)
        return _expand(codes, offsets, splits)

    def _set_aside(self, texts: pa.Array) -> tuple[pa.Array, dict[int, list[str]]]:
        """Lines with a hyphen at a line's end, tokenized whole; empty in their place."""
        if self._name != "13a":
            return texts, {}
        if ord("\n") not in _bytes_of(texts)[0]:
            return texts, {}
        broken = pc.match_substring_regex(texts, r"-(<skipped>)*\n")
        rows = np.flatnonzero(broken.to_numpy(zero_copy_only=False)).tolist()
        if not rows:
            return texts, {}
        lines = texts.take(pa.array(rows)).to_pylist()
        tokens = [self._tokenize(line.rstrip()).split() for line in lines]
        return pc.if_else(broken, "", texts), dict(zip(rows, tokens, strict=True))

    def _places(self, codes: IntArray, offsets: IntArray, words: list[str]) -> IntArray:
        """1 for a text's first word, 2 for its last, 3 for both, if they touch the text's ends.

        White space at the beginning is a neighbour and leaves an empty word there; white space at
        the end was stripped, so the last word that is not empty is at the end.
        """
        blank = np.array([not word for word in words], np.bool_)
        if self._spaced:
            return self._inner_places(codes, offsets, blank)
        places = np.zeros(len(codes), np.int64)
        some = np.diff(offsets) > 0
        places[offsets[:-1][some]] |= 1
        filled = np.flatnonzero(~blank[codes]) if len(codes) else np.zeros(0, np.int64)
        places[self._last(filled, offsets)] |= 2
        return places

    def _inner_places(
        self, codes: IntArray, offsets: IntArray, blank: npt.NDArray[np.bool_]
    ) -> IntArray:
        """As `_places`, where white space was stripped at both ends."""
        places = np.zeros(len(codes), np.int64)
        if len(codes):
            filled = np.flatnonzero(~blank[codes])
            first = np.searchsorted(filled, offsets[:-1])
            some = first < np.searchsorted(filled, offsets[1:])
            places[filled[first[some]]] |= 1
            places[self._last(filled, offsets)] |= 2
        return places

    @staticmethod
    def _last(filled: IntArray, offsets: IntArray) -> IntArray:
        end = np.searchsorted(filled, offsets[1:])
        some = end > np.searchsorted(filled, offsets[:-1])
        return filled[end[some] - 1]


class _Numbering(dict[str, int]):
    """Numbers for strings, in the order of asking."""

    def __missing__(self, token: str) -> int:
        number = self[token] = len(self)
        return number


class _Splits(dict[str, tuple[int, ...]]):
    """The tokens of words at one place in the line."""

    def __init__(self, split: Callable[[str, int], tuple[int, ...]], place: int) -> None:
        super().__init__()
        self._split = split
        self._place = place

    def __missing__(self, word: str) -> tuple[int, ...]:
        tokens = self[word] = self._split(word, self._place)
        return tokens


def _expand(codes: IntArray, offsets: IntArray, splits: list[tuple[int, ...]]) -> Ragged:
    """The tokens behind each word's code, with numbers that leave no gaps."""
    counts = np.fromiter(map(len, splits), np.int64, len(splits))
    flat = np.fromiter(chain.from_iterable(splits), np.int64, int(counts.sum()))
    _, flat = np.unique(flat, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
    lengths = counts[codes]
    ends = np.cumsum(lengths)
    bounds = np.concatenate([[0], ends])[offsets]
    total = int(bounds[-1])
    place = np.arange(total) + np.repeat(starts[codes] - (ends - lengths), lengths)
    return Ragged(flat[place], bounds)


_SPACES = [*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]
_SPACES += [0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
"""Code points at which `str.split` splits."""


def characters(texts: pa.Array, *, whitespace: bool = False) -> Ragged:
    """The code points of each text; white space left out, as `str.split` knows it, unless asked."""
    data, offsets = _bytes_of(texts)
    points: npt.NDArray[np.unsignedinteger] = data
    if len(data) and data.max() >= 0x80:
        offsets = _without(offsets, (data & 0xC0) == 0x80)
        points = np.frombuffer(data.tobytes().decode().encode("utf-32-le"), np.uint32)
    if not whitespace:
        top = int(points.max()) if len(points) else 0
        blanks = np.zeros(max(top, max(_SPACES)) + 1, np.bool_)
        blanks[_SPACES] = True
        blank = blanks[points]
        offsets = _without(offsets, blank)
        points = np.compress(~blank, points)
    return Ragged(points, offsets)


def _bytes_of(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], IntArray]:
    """The bytes of all texts, and where each begins."""
    _, places, buffer = texts.buffers()
    offsets = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    offsets = offsets.astype(np.int64)
    data = np.frombuffer(b"" if buffer is None else buffer, np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


def _without(offsets: IntArray, gone: npt.NDArray[np.bool_]) -> IntArray:
    """The offsets when the marked items are gone."""
    return offsets - np.searchsorted(np.flatnonzero(gone), offsets)


def bleu_statistics(segments: Segments, words: Words | None, *, order: int = 4) -> IntArray:
    """BLEU's integers: lengths of hypothesis and closest reference, matches, totals.

    Args:
        segments: Hypotheses and references, lower-cased already where that is wanted.
        words: The tokenizer; None for sacrebleu's `char`: every character but white space.
        order: The longest n-gram.

    Returns:
        Shape (n, 2 + 2 * order).

    Source: Papineni et al., BLEU (2002); the closest reference length as sacrebleu takes it.
    """
    parts = [_bleu_chunk(chunk, words, order) for chunk in segments.chunks()]
    return np.concatenate([np.zeros((0, 2 + 2 * order), np.int64), *parts])


def _bleu_chunk(segments: Segments, words: Words | None, order: int) -> IntArray:
    texts = characters(segments.texts) if words is None else words.split(segments.texts)
    n = len(segments.hypotheses)
    said, meant = texts.lengths[:n], texts.lengths[n:]
    closest = meant[segments.offsets[:-1]]
    matches = np.zeros((n, order), np.int64)
    n_references = np.diff(segments.offsets)
    for count in np.unique(n_references).tolist():
        rows = np.flatnonzero(n_references == count)
        references = n + segments.offsets[rows][:, None] + np.arange(count)
        matches[rows] = count_matches(texts, np.column_stack([rows, references]), order)
        for other in meant[references - n].T[1:]:
            gap = np.abs(said[rows] - other) - np.abs(said[rows] - closest[rows])
            nearer = (gap < 0) | ((gap == 0) & (other < closest[rows]))
            closest[rows] = np.where(nearer, other, closest[rows])
    totals = np.maximum(said[:, None] - np.arange(order), 0)
    return np.column_stack([said, closest, matches, totals])


def chrf_statistics(
    segments: Segments,
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: int = 2,
    whitespace: bool = False,
) -> IntArray:
    """ChrF's integers: for each order, n-grams of both sides and matches.

    Of several references, the first with the best score counts.

    Args:
        segments: Hypotheses and references, lower-cased already where that is wanted.
        char_order: The longest n-gram of characters.
        word_order: The longest n-gram of words; 2 is chrF++.
        beta: The weight of recall, to choose among references.
        whitespace: Whether white space counts as characters.

    Returns:
        Shape (n, 3 * (char_order + word_order)).

    Source: Popović, chrF (2015) and chrF++ (2017); the choice of reference as sacrebleu takes it.
    """
    words = Words(_loose_words, "loose") if word_order else None
    parts = [
        _chrf_chunk(chunk, words, char_order, word_order, beta, whitespace)
        for chunk in segments.chunks()
    ]
    return np.concatenate([np.zeros((0, 3 * (char_order + word_order)), np.int64), *parts])


def _chrf_chunk(
    segments: Segments,
    words: Words | None,
    char_order: int,
    word_order: int,
    beta: int,
    whitespace: bool,
) -> IntArray:
    n = len(segments.hypotheses)
    members = np.column_stack([segments.owner, n + np.arange(len(segments.references))])
    texts = segments.texts
    parts = [_triples(characters(texts, whitespace=whitespace), members, char_order)]
    if words is not None:
        parts.append(_triples(words.split(texts), members, word_order))
    triples = np.concatenate(parts, axis=1)
    if len(members) == n:
        return triples.reshape(n, -1)
    scores = chrf_score(triples.reshape(len(members), -1), beta)
    # The last key of lexsort is the first to sort by: segment, then the best score, then the order.
    ranked = np.lexsort([np.arange(len(members)), -scores, segments.owner])
    return triples.reshape(len(members), -1)[ranked[segments.offsets[:-1]]]


def _triples(texts: Ragged, members: IntArray, order: int) -> IntArray:
    """(hypothesis, reference, match) for each pair and order: shape (n_pairs, order, 3)."""
    totals = np.maximum(texts.lengths[members][:, :, None] - np.arange(order), 0)
    said, meant = totals[:, 0], totals[:, 1]
    matches = count_matches(texts, members, order)
    # Sacrebleu counts no n-grams of the hypothesis where the reference has none of that order.
    return np.stack([np.where(meant > 0, said, 0), meant, matches], axis=2)


def chrf_score(statistics: npt.NDArray[np.int64 | np.float64], beta: int = 2) -> FloatArray:
    """The score of each row of `chrf_statistics`, 0 to 100, in sacrebleu's order of operations."""
    counts = statistics.reshape(len(statistics), -1, 3).astype(np.float64)
    said, meant, matches = counts[:, :, 0], counts[:, :, 1], counts[:, :, 2]
    both = (said > 0) & (meant > 0)
    precisions = np.divide(matches, said, out=np.zeros_like(matches), where=both)
    recalls = np.divide(matches, meant, out=np.zeros_like(matches), where=both)
    precision, recall = np.zeros(len(counts)), np.zeros(len(counts))
    for n in range(counts.shape[1]):
        # One order after the other, as a loop adds them: `sum` may add in another order.
        precision += precisions[:, n]
        recall += recalls[:, n]
    orders = np.maximum(both.sum(axis=1), 1)
    precision, recall = precision / orders, recall / orders
    factor = beta**2
    under = factor * precision + recall
    score = np.zeros(len(counts))
    np.divide((1 + factor) * precision * recall, under, out=score, where=under > 0)
    return 100 * score


def bleu_score(
    statistics: npt.NDArray[np.int64 | np.float64], *, effective: bool = False
) -> FloatArray:
    """BLEU of each row of `bleu_statistics`, 0 to 100, with sacrebleu's exponential smoothing.

    Args:
        statistics: Shape (n, 10).
        effective: Whether orders without a single n-gram are left out, as for one sentence.
    """
    counts = statistics.astype(np.float64)
    said, meant, matches, totals = counts[:, 0], counts[:, 1], counts[:, 2:6], counts[:, 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        penalty = np.where(said < meant, np.exp(1 - meant / said), 1.0)
        halvings = 2.0 ** np.cumsum(matches == 0, axis=1)
        precisions = np.where(matches > 0, 100 * matches / totals, 100 / (halvings * totals))
        logs = np.where(totals > 0, np.log(precisions), 0.0 if effective else -np.inf)
    orders = np.maximum((totals > 0).sum(axis=1), 1) if effective else 4
    score = np.where(said > 0, penalty, 0.0) * np.exp(logs.sum(axis=1) / orders)
    return np.where(matches.any(axis=1), score, 0.0)


_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _loose_words(word: str) -> str:
    """A word with one punctuation mark parted from its end, or else from its beginning."""
    if len(word) > 1 and word[-1] in _PUNCTUATION:
        return f"{word[:-1]} {word[-1]}"
    if len(word) > 1 and word[0] in _PUNCTUATION:
        return f"{word[0]} {word[1:]}"
    return word


def count_matches(texts: Ragged, members: IntArray, order: int) -> IntArray:
    """N-grams that the first text of a row shares with its others, each as often as in the richest.

    Args:
        texts: Symbols.
        members: Shape (n_rows, 2 or more): the texts of each row, hypothesis first.
        order: The longest n-gram.

    Returns:
        Shape (n_rows, order).
    """
    n_rows, n_sides = members.shape
    side_bits = (n_sides - 1).bit_length()
    bits = (_KEY_BITS - side_bits) // order
    limit = (1 << bits) - n_sides
    symbols, n_symbols = _number(texts.symbols, limit)
    if n_symbols > limit:
        return _count_apart(texts, members, order, n_symbols // limit)
    shape = _Shape(order, n_sides, bits, side_bits)
    kind = np.uint16 if bits <= 16 else np.uint32
    numbered: Symbols = np.add(symbols, n_sides, dtype=kind, casting="unsafe")
    starts = texts.offsets[members].astype(np.int32)
    lengths = texts.lengths[members].astype(np.int32)
    sizes = lengths.sum(axis=1)
    by_size = np.argsort(sizes, kind="stable")
    matches = np.zeros((n_rows, order), np.int64)
    count = _pair_runs if n_sides == 2 else _many_runs
    high = n_rows
    while high > 0:
        width = int(sizes[by_size[high - 1]])
        if width == 0:
            break
        low = max(high - max(BLOCK // width, 1), 0)
        rows = by_size[low:high]
        block = _keys(numbered, starts[rows], lengths[rows], shape)
        block.sort(axis=1)
        matches[rows] = count(block, shape)
        high = low
    return matches


def _number(symbols: npt.NDArray[np.integer], limit: int) -> tuple[npt.NDArray[np.integer], int]:
    """The symbols, numbered without gaps if they must be; how many numbers there are."""
    top = int(symbols.max()) + 1 if len(symbols) else 0
    if top <= limit:
        return symbols, top
    present = np.zeros(top, np.bool_)
    present[symbols] = True
    numbers = np.cumsum(present) - 1
    return numbers[symbols], int(numbers[-1]) + 1


def _count_apart(texts: Ragged, members: IntArray, order: int, excess: int) -> IntArray:
    """`count_matches` in pieces that have fewer different symbols."""
    n_rows, n_sides = members.shape
    if n_rows == 1:
        return _count_slowly(texts, members[0], order)
    parts = []
    for piece in np.array_split(members, min(2 * excess + 2, n_rows)):
        chosen = piece.ravel()
        lengths = texts.lengths[chosen]
        ends = np.cumsum(lengths)
        place = np.repeat(texts.offsets[chosen] - (ends - lengths), lengths) + np.arange(ends[-1])
        some = Ragged(texts.symbols[place], np.concatenate([[0], ends]))
        parts.append(count_matches(some, np.arange(len(chosen)).reshape(-1, n_sides), order))
    return np.concatenate(parts)


def _count_slowly(texts: Ragged, members: IntArray, order: int) -> IntArray:
    """One row whose texts have more different symbols than a packed n-gram can tell apart."""
    said, *others = (
        texts.symbols[texts.offsets[text] : texts.offsets[text + 1]].tolist() for text in members
    )
    matches = np.zeros((1, order), np.int64)
    for n in range(1, order + 1):
        best: Counter[tuple[int, ...]] = Counter()
        for other in others:
            best |= Counter(zip(*(other[i:] for i in range(n)), strict=False))
        mine = Counter(zip(*(said[i:] for i in range(n)), strict=False))
        matches[0, n - 1] = (mine & best).total()
    return matches


class _Shape(NamedTuple):
    """How an n-gram is packed: side_bits for the side it comes from, above them bits per symbol."""

    order: int
    n_sides: int
    bits: int
    side_bits: int


def _keys(symbols: Symbols, starts: Places, lengths: Places, shape: _Shape) -> Keys:
    """All n-grams of each row's texts, filler between and behind: shape (n_rows, width)."""
    order, n_sides, bits, side_bits = shape
    # Each text is followed by order - 1 symbols that only its side has: n-grams that run over the
    # end have no partner on another side.
    gap = order - 1
    ends = np.cumsum(lengths + gap, axis=1, dtype=np.int32)
    column = np.arange(int(ends[:, -1].max()) + gap, dtype=np.int32)
    place = starts[:, :1] + column
    outside = column >= lengths[:, :1]
    sides = np.zeros(place.shape, np.uint8)
    for side in range(1, n_sides):
        begin = ends[:, side - 1 : side]
        behind = column >= begin
        step = starts[:, side] - starts[:, side - 1] - lengths[:, side - 1] - gap
        place += behind * step[:, None]
        sides += behind
        outside ^= behind
        outside |= column >= begin + lengths[:, side : side + 1]
    stream = symbols.take(place, mode="clip")
    stream *= ~outside
    np.add(stream, sides, out=stream, where=outside)
    keys = _pack(stream, order, bits)
    keys <<= np.uint64(side_bits)
    width = keys.shape[1]
    keys |= sides[:, :width]
    np.copyto(keys, _FILLER, where=outside[:, :width])
    return keys


def _pack(stream: Symbols, order: int, bits: int) -> Keys:
    """The `order` symbols from each column on in one integer, the first one highest."""
    packed, done = stream, 1
    tails = {1: stream}
    while done < order:
        # The longest n-gram packed already that fits; each in the smallest type that holds it.
        more = max(size for size in tails if done + size <= order)
        needed = (done + more) * bits
        kind = np.uint16 if needed <= 16 else np.uint32 if needed <= 32 else np.uint64
        tail = tails[more][:, done:]
        packed = packed[:, : tail.shape[1]].astype(kind)
        packed <<= kind(more * bits)
        packed |= tail[:, : packed.shape[1]]
        done += more
        tails[done] = packed
    return packed.astype(np.uint64, copy=done == 1)


def _pair_runs(block: Keys, shape: _Shape) -> IntArray:
    """Matches of sorted rows with one reference: (width - sum of |h - r| over runs) / 2.

    The filler is a run of its own, whose length makes up for the row's shortness.
    """
    n_rows, width = block.shape
    flat = block.ravel()
    ahead = np.zeros(len(flat) + 1, np.int32)
    np.cumsum(1 - 2 * (flat & np.uint64(1)).astype(np.int32), out=ahead[1:])
    matches = np.empty((n_rows, shape.order), np.int64)
    for n, begins, firsts in _runs(block, shape):
        at = ahead.take(begins)
        surplus = np.empty(len(at), np.int32)
        np.subtract(at[1:], at[:-1], out=surplus[:-1])
        surplus[-1] = ahead[-1] - at[-1]
        np.abs(surplus, out=surplus)
        matches[:, n] = (width - np.add.reduceat(surplus, firsts)) // 2
    return matches


def _many_runs(block: Keys, shape: _Shape) -> IntArray:
    """Matches of sorted rows with several references: what the richest of them has, at most."""
    n_sides = shape.n_sides
    flat = block.ravel()
    # The filler's side is none; any side but the first has no matches.
    sides = np.minimum(flat & np.uint64((1 << shape.side_bits) - 1), np.uint64(n_sides - 1))
    sides = sides.astype(np.int64)
    matches = np.empty((len(block), shape.order), np.int64)
    for n, begins, firsts in _runs(block, shape):
        run = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(flat)))
        counts = np.bincount(run * n_sides + sides, minlength=len(begins) * n_sides)
        counts = counts.reshape(-1, n_sides)
        shared = np.minimum(counts[:, 0], counts[:, 1:].max(axis=1))
        matches[:, n] = np.add.reduceat(shared, firsts)
    return matches


def _runs(block: Keys, shape: _Shape) -> Iterable[tuple[int, IntArray, IntArray]]:
    """For each order less one: where runs of equal n-grams begin, and each row's first run."""
    flat, width = block.ravel(), block.shape[1]
    change = np.empty_like(flat)
    np.bitwise_xor(flat[1:], flat[:-1], out=change[1:])
    change[::width] = _FILLER
    row_begins = np.arange(0, len(flat), width)
    for n in range(shape.order):
        lowest = np.uint64(1 << (shape.side_bits + shape.bits * (shape.order - 1 - n)))
        begins = np.flatnonzero(change >= lowest)
        yield n, begins, np.searchsorted(begins, row_begins)


def _int64(array: pa.Array) -> IntArray:
    return np.asarray(array.to_numpy(zero_copy_only=False), np.int64)
