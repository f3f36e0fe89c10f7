"""Scan: one pass over a batch's texts to words, sentences and marks, no object per word.

Everything that friction, outcome, grounding, commitments and the satisfaction estimate read is
computed here once per batch and shared. A word is a run of letters, digits and apostrophes, a
number keeps its inner points, and everything is compared in lower case.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quietdesk.scoring.lexicon import MULTIPLIER, NUMBER, HashArray, Mark, english, mix

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

N_GRAM_BUCKETS = 2048
"""Buckets that a text's character trigrams are hashed into for `similarity`."""
_CHUNK_BYTES = 1 << 17
"""Texts are scanned in pieces of about this size, so that the arrays stay in the cache."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in one buffer, in lower case, with straight apostrophes.

    Attributes:
        data: UTF-8.
        offsets: Shape (n + 1,): text i has the bytes offsets[i] to offsets[i + 1].
    """

    data: ByteArray
    offsets: IntArray

    @classmethod
    def of(cls, texts: pa.Array | Sequence[str]) -> "Texts":
        """From strings, or from an Arrow array of strings without nulls."""
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        data, offsets = _buffers(array)
        if (data >= 128).any():
            data, offsets = _buffers(pc.replace_substring(pc.utf8_lower(array), "\u2019", "'"))
        return cls(data, offsets)

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.offsets) - 1

    def column(self) -> pa.Array:
        """The texts in Arrow, without a copy."""
        buffers = [None, pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers)

    def part(self, start: int, stop: int) -> "Texts":
        """Texts start to stop, without a copy."""
        offsets = self.offsets[start : stop + 1]
        return Texts(self.data[offsets[0] : offsets[-1]], offsets - offsets[0])


def _buffers(array: pa.Array) -> tuple[ByteArray, IntArray]:
    if not len(array):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    kind = np.int64 if large else np.int32
    _, places, values = array.buffers()
    offsets = np.frombuffer(places, kind)[array.offset : array.offset + len(array) + 1]
    data = np.zeros(0, np.uint8) if values is None else np.frombuffer(values, np.uint8)
    first = int(offsets[0])
    return data[first : int(offsets[-1])], offsets.astype(np.int64) - first


@dataclass(frozen=True)
class Scan:
    """The words of some texts.

    Attributes:
        texts: What was scanned.
        words: Shape (n_words,): hashes.
        stems: Shape (n_words,): hashes of the words without their ending (s, es, ed, ing, 's).
        marks: Shape (n_words,): the marks of phrases that begin at each word.
        word_offsets: Shape (n_texts + 1,): text i has the words word_offsets[i] to [i + 1].
        sentence_of: Shape (n_words,): a number that rises with each sentence, over all texts.
        negated: Shape (n_words,): a negation stands among the three words before, in the sentence.
        questions: Shape (n_texts,): question marks.
        exclamations: Shape (n_texts,): exclamation marks.
        letters: Shape (n_texts, 2): letters of the Latin script, and characters of other scripts.
    """

    texts: Texts
    words: HashArray
    stems: HashArray
    marks: HashArray
    word_offsets: IntArray
    sentence_of: IntArray
    negated: BoolArray
    questions: IntArray
    exclamations: IntArray
    letters: IntArray
    asked: BoolArray
    """Shape (n_words,): the sentence of the word ends with a question mark."""

    @cached_property
    def text_of(self) -> IntArray:
        """Shape (n_words,): the text of each word."""
        return np.repeat(np.arange(len(self.texts)), np.diff(self.word_offsets))

    @cached_property
    def n_words(self) -> IntArray:
        """Shape (n_texts,)."""
        return np.diff(self.word_offsets)

    @cached_property
    def any_marks(self) -> HashArray:
        """Shape (n_texts,): the marks that stand anywhere in each text."""
        return gather(self.marks, self.word_offsets)

    def count(self, mark: Mark) -> IntArray:
        """Shape (n_texts,): how often a mark stands in each text."""
        return self.count_where((self.marks & mark.bit) != 0)

    def count_where(self, words: BoolArray) -> IntArray:
        """Shape (n_texts,): how many of some words stand in each text."""
        owner = self.text_of[np.flatnonzero(words)]
        return np.bincount(owner, minlength=len(self.texts)).astype(np.int64)

    def has(self, *marks: Mark) -> BoolArray:
        """Shape (n_texts,): any of the marks stands in the text."""
        total = np.uint64(0)
        for mark in marks:
            total |= mark.bit
        found: BoolArray = (self.any_marks & total) != 0
        return found

    @cached_property
    def polarity(self) -> npt.NDArray[np.int64]:
        """Shape (n_texts,): positive less negative words; a negation before a word turns it."""
        return self.positive - self.negative

    @cached_property
    def positive(self) -> IntArray:
        """Shape (n_texts,): positive words, and negative ones after a negation."""
        good = (self.marks & Mark.POSITIVE.bit) != 0
        bad = (self.marks & Mark.NEGATIVE.bit) != 0
        return self.count_where((good & ~self.negated) | (bad & self.negated))

    @cached_property
    def negative(self) -> IntArray:
        """Shape (n_texts,): negative words, and positive ones after a negation."""
        good = (self.marks & Mark.POSITIVE.bit) != 0
        bad = (self.marks & Mark.NEGATIVE.bit) != 0
        return self.count_where((bad & ~self.negated) | (good & self.negated))

    @cached_property
    def wording(self) -> HashArray:
        """Shape (n_texts,): equal for texts of the same words in the same order; 0 for none."""
        return _digest(self.words, self.word_offsets)


def gather(values: HashArray, offsets: IntArray) -> HashArray:
    """The bitwise or of each piece of values, 0 for an empty one."""
    result = np.zeros(len(offsets) - 1, np.uint64)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        result[filled] = np.bitwise_or.reduceat(values, offsets[filled])
    return result


def scan(texts: Texts) -> Scan:
    """Read texts into words, sentences and marks."""
    cuts = [0]
    n = len(texts)
    while cuts[-1] < n:
        # The first piece is small: it has the commonest words, that all others then know.
        size = _CHUNK_BYTES if len(cuts) > 1 else _CHUNK_BYTES // 16
        goal = texts.offsets[cuts[-1]] + size
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(texts.offsets, goal, side="right")) - 1))
    memory, columns = _Memory(), _Columns(texts)
    for start, stop in pairwise(cuts):
        _scan(texts.part(start, stop), memory, columns)
    return columns.scan()


class _ByWord(NamedTuple):
    words: HashArray
    stems: HashArray
    marks: HashArray
    sentence_of: IntArray
    negated: BoolArray
    asked: BoolArray


class _Columns:
    """The arrays of a scan while they are filled, piece by piece."""

    def __init__(self, texts: Texts) -> None:
        n = len(texts)
        # A word and what parts it from the next one are seldom less than five bytes.
        likely = len(texts.data) // 5
        self._texts = texts
        self._by_word: list[npt.NDArray[Any]] = [
            np.empty(likely, kind)
            for kind in (np.uint64, np.uint64, np.uint64, np.int64, np.bool_, np.bool_)
        ]
        self._word_offsets = np.zeros(n + 1, np.int64)
        self._by_text = np.zeros((4, n), np.int64)
        self._n_words = self._n_texts = self._n_sentences = 0

    def put(self, by_word: _ByWord, word_offsets: IntArray, by_text: Sequence[IntArray]) -> None:
        """Take in the next piece.

        Args:
            by_word: Its columns of shape (n_words,).
            word_offsets: Shape (n_texts + 1,), from 0.
            by_text: Question marks, exclamation marks, letters of both kinds, of shape (n_texts,).
        """
        begin, end = self._n_words, self._n_words + len(by_word.words)
        for place, values in enumerate(by_word):
            if end > len(self._by_word[place]):
                more = np.empty(end // 2, values.dtype)
                self._by_word[place] = np.concatenate([self._by_word[place][:begin], values, more])
            else:
                self._by_word[place][begin:end] = values
        numbers = self._by_word[by_word._fields.index("sentence_of")][begin:end]
        numbers += self._n_sentences
        texts = slice(self._n_texts, self._n_texts + len(word_offsets) - 1)
        self._word_offsets[texts.start + 1 : texts.stop + 1] = word_offsets[1:] + begin
        self._by_text[:, texts] = by_text
        self._n_words, self._n_texts = end, texts.stop
        if len(numbers):
            self._n_sentences = int(numbers[-1]) + 1

    def scan(self) -> Scan:
        """All of it."""
        words, stems, marks, sentence_of, negated, asked = (
            column[: self._n_words] for column in self._by_word
        )
        questions, exclamations, latin, other = self._by_text
        return Scan(
            self._texts,
            words,
            stems,
            marks,
            self._word_offsets,
            sentence_of,
            negated,
            questions,
            exclamations,
            np.stack([latin, other], axis=1),
            asked,
        )


@dataclass(frozen=True, slots=True)
class _Powers:
    power: HashArray
    inverse: HashArray


@cache
def _powers(n_bytes: int) -> _Powers:
    base = np.uint64(MULTIPLIER)
    back = np.uint64(pow(MULTIPLIER, -1, 2**64))
    ones = np.ones(1, np.uint64)
    power = np.multiply.accumulate(np.concatenate([ones, np.full(n_bytes, base, np.uint64)]))
    inverse = np.multiply.accumulate(np.concatenate([ones, np.full(n_bytes, back, np.uint64)]))
    return _Powers(power, inverse)


def _powers_for(n_bytes: int) -> _Powers:
    size = 1 << 20
    while size < n_bytes:
        size *= 2
    return _powers(size)


def _is(data: ByteArray, signs: str) -> BoolArray:
    """Which bytes are one of some ASCII signs."""
    found: BoolArray = data == ord(signs[0])
    for sign in signs[1:]:
        found |= data == ord(sign)
    return found


def _between(data: ByteArray, first: str, last: str) -> BoolArray:
    """Which bytes are an ASCII sign from first to last."""
    # What is less than the first one wraps around and is large.
    found: BoolArray = data - np.uint8(ord(first)) <= ord(last) - ord(first)
    return found


def _lower(raw: ByteArray) -> ByteArray:
    capital = _between(raw, "A", "Z").view(np.uint8)
    lower: ByteArray = raw + capital * np.uint8(32)
    return lower


class _Memory:
    """What was found out about the last word of each slot: few words make up most of a log."""

    def __init__(self) -> None:
        # No key is in its own slot, so that no slot seems to be filled.
        self._keys = np.full(1 << 16, np.uint64(2**64 - 1))
        self._keys[-1] = 0
        self._stems = np.zeros(1 << 16, np.uint64)
        self._entries = np.zeros(1 << 16, np.uint64)

    def recall(
        self, words: HashArray, look: Callable[[IntArray], tuple[HashArray, HashArray]]
    ) -> tuple[HashArray, HashArray]:
        """The stem and the lexicon's entry of each word.

        Args:
            words: Shape (n,): hashes.
            look: Gives both for the words at some places.
        """
        slots = (words >> np.uint64(48)).view(np.int64)
        stems, entries = self._stems[slots], self._entries[slots]
        new = np.flatnonzero(self._keys[slots] != words)
        if len(new):
            stems[new], entries[new] = look(new)
            slots = slots[new]
            self._keys[slots] = words[new]
            self._stems[slots], self._entries[slots] = stems[new], entries[new]
        return stems, entries


def _scan(texts: Texts, memory: _Memory, columns: _Columns) -> None:
    raw, offsets = texts.data, texts.offsets
    powers = _powers_for(len(raw))
    data = _lower(raw)
    plain = not len(raw) or int(raw.max()) < 128
    letter, digit = _between(data, "a", "z"), _between(data, "0", "9")
    word = letter | digit
    word |= data == ord("'")
    if not plain:
        word |= data >= 128
        _part_words_at_signs(data, word)
    first = np.zeros(len(data) + 1, np.bool_)
    first[offsets] = True
    places = np.flatnonzero(_is(data, ".,:;!?\n"))
    kinds = data[places]
    _keep_numbers_whole(places[_is(kinds, ".,:")], word, first, digit)

    # Whether a byte goes on with the word of the byte before.
    follows = np.zeros(len(data) + 1, np.bool_)
    if len(data):
        np.logical_and(word[:-1], word[1:], out=follows[1:-1])
        follows[offsets] = False
    starts = np.flatnonzero(word & ~follows[:-1])
    ends = np.flatnonzero(word & ~follows[1:]) + 1
    word_offsets = np.searchsorted(starts, offsets).astype(np.int64)

    sums = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(powers.power[: len(data)] * data, out=sums[1:])
    at_start, unit = sums[starts], powers.inverse[starts]
    words = mix((sums[ends] - at_start) * unit)
    numeric = digit[starts]
    looked_up = np.where(numeric, NUMBER, words)

    def look(new: IntArray) -> tuple[HashArray, HashArray]:
        stem_ends = _stem_ends(data, starts[new], ends[new])
        stems = mix((sums[stem_ends] - at_start[new]) * unit[new])
        return stems, english().entries(looked_up[new])

    stems, entries = memory.recall(words, look)
    bounds = np.searchsorted(places, offsets)
    stop = np.flatnonzero(~_is(kinds, ",:") & ~word[places])
    sentence_of, asked = _sentences(
        word_offsets,
        np.searchsorted(starts, places[stop]),
        np.repeat(word_offsets[:-1], np.diff(bounds))[stop],
        kinds[stop] == ord("?"),
    )
    marks = english().find(looked_up, sentence_of, entries)
    negated = _negated((marks & Mark.NEGATION.bit) != 0, sentence_of)

    questions = _tally(kinds == ord("?"), bounds)
    shouts = _tally(kinds == ord("!"), bounds)
    if not plain:
        questions += _tally(_runs(data, 0xEF, 0xBC, 0x9F) | _runs(data, 0xD8, 0x9F), offsets)
    columns.put(
        _ByWord(words, stems, marks, sentence_of, negated, asked),
        word_offsets,
        (questions, shouts, *_letters(data, letter, offsets, plain)),
    )


def _keep_numbers_whole(
    places: IntArray, word: BoolArray, first: BoolArray, digit: BoolArray
) -> None:
    """A point, comma or colon between two digits belongs to the number."""
    inner = places[(places > 0) & (places < len(word) - 1)]
    whole = digit[inner - 1] & digit[inner + 1]
    whole &= ~first[inner] & ~first[inner + 1]
    word[inner[whole]] = True


def _part_words_at_signs(data: ByteArray, word: BoolArray) -> None:
    """Punctuation, symbols and emoji beyond ASCII are no part of a word."""
    following = np.zeros(len(data), np.uint8)
    following[:-1] = data[1:]
    two = np.flatnonzero(data == 0xC2)
    three = np.flatnonzero(
        (data == 0xE2)
        | ((data == 0xE3) & (following == 0x80))
        | ((data == 0xEF) & ((following == 0xBC) | (following == 0xB8)))
    )
    four = np.flatnonzero(data == 0xF0)
    for places, length in ((two, 2), (three, 3), (four, 4)):
        for step in range(length):
            inside = places + step
            word[inside[inside < len(data)]] = False


def _runs(data: ByteArray, *pattern: int) -> BoolArray:
    found: BoolArray = data == pattern[0]
    for step, byte in enumerate(pattern[1:], start=1):
        found[:-step] &= data[step:] == byte
        found[-step:] = False
    return found


def _tally(hits: BoolArray, offsets: IntArray) -> IntArray:
    """How many hits lie in each piece."""
    running = np.zeros(len(hits) + 1, np.int64)
    np.cumsum(hits, out=running[1:])
    return np.diff(running[offsets])


def _sentences(
    word_offsets: IntArray, stops: IntArray, begins: IntArray, questions: BoolArray
) -> tuple[IntArray, BoolArray]:
    """The number of each word's sentence, and whether a question mark ends it.

    Args:
        word_offsets: Shape (n_texts + 1,).
        stops: Shape (n,): how many words there are before each sign that ends a sentence.
        begins: Shape (n,): how many there are before its text.
        questions: Shape (n,): the sign is a question mark.
    """
    new = np.zeros(int(word_offsets[-1]) + 1, np.bool_)
    new[word_offsets] = True
    new[stops] = True
    sentence_of: IntArray = np.cumsum(new[:-1], dtype=np.int64)
    # The first sign after a word ends its sentence; those behind it end none.
    ends = (stops > begins) & (np.diff(stops, prepend=-1) > 0)
    asked: BoolArray = np.zeros(len(new) + 1, np.bool_)
    asked[sentence_of[stops[ends & questions] - 1]] = True
    return sentence_of, asked[sentence_of]


def _stem_ends(data: ByteArray, starts: IntArray, ends: IntArray) -> IntArray:
    """Where each word's stem ends: without `'s`, `ing`, `ed`, `es`, `s`, `e` of longer words."""
    last = data[ends - 1]
    size = ends - starts
    second = data[np.maximum(ends - 2, starts)]
    third = data[np.maximum(ends - 3, starts)]
    cut = np.zeros(len(ends), np.int64)
    s = last == ord("s")
    cut[s & (size > 3) & (second != ord("s"))] = 1
    cut[s & (second == ord("e")) & (size > 4)] = 2
    cut[s & (second == ord("'")) & (size > 2)] = 2
    cut[(last == ord("d")) & (second == ord("e")) & (size > 4)] = 2
    cut[(last == ord("g")) & (second == ord("n")) & (third == ord("i")) & (size > 5)] = 3
    cut[(last == ord("e")) & (size > 4)] = 1
    return ends - cut


def _negated(negation: BoolArray, sentence_of: IntArray) -> BoolArray:
    result = np.zeros(len(negation), np.bool_)
    places = np.flatnonzero(negation)
    for step in (1, 2, 3):
        places = places[places + step < len(negation)]
        result[(places + step)[sentence_of[places + step] == sentence_of[places]]] = True
    return result


def _letters(
    data: ByteArray, letter: BoolArray, offsets: IntArray, plain: bool
) -> tuple[IntArray, IntArray]:
    """Latin letters of each text, and characters of other scripts."""
    if plain:
        return _tally(letter, offsets), np.zeros(len(offsets) - 1, np.int64)
    following = np.zeros(len(data), np.uint8)
    following[:-1] = data[1:]
    vietnamese = (data == 0xE1) & (following >= 0xB8) & (following <= 0xBB)
    latin = letter | ((data >= 0xC3) & (data <= 0xC9)) | vietnamese
    other = ((data >= 0xCD) & (data <= 0xDF)) | ((data >= 0xE0) & (data <= 0xED))
    other &= ~vietnamese & (data != 0xE2)
    other &= ~((data == 0xE3) & (following == 0x80))
    return _tally(latin, offsets), _tally(other, offsets)


def _digest(words: HashArray, offsets: IntArray) -> HashArray:
    """One hash per piece, in order: a polynomial in the words."""
    powers = _powers_for(len(words))
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(powers.power[: len(words)] * words, out=sums[1:])
    starts, ends = offsets[:-1], offsets[1:]
    return mix((sums[ends] - sums[starts]) * powers.inverse[starts])


def similarity(texts: Texts, left: IntArray, right: IntArray) -> npt.NDArray[np.float64]:
    """Dice coefficient of the character trigrams of pairs of texts, 0 to 1.

    Trigrams run over bytes, signs count as spaces, and each is hashed into one of
    `N_GRAM_BUCKETS` buckets, so that texts of more than some hundred characters look a little more
    alike than they are. Texts without a trigram are like nothing.

    Args:
        texts: The texts.
        left: Shape (n,): one text of each pair.
        right: Shape (n,): the other.

    Source: Dice, Measures of the Amount of Ecologic Association Between Species (1945).
    """
    result = np.zeros(len(left))
    if not len(left):
        return result
    per_part = 512
    column = texts.column()
    # Pairs stand close together in a log, so parts of the texts in order hold most pairs whole.
    order = np.argsort(left, kind="stable")
    for begin in range(0, len(order), per_part):
        pairs = order[begin : begin + per_part]
        chosen = np.unique(np.concatenate([left[pairs], right[pairs]]))
        grams = _grams(*_buffers(column.take(pa.array(chosen))))
        a, b = np.searchsorted(chosen, left[pairs]), np.searchsorted(chosen, right[pairs])
        both = np.bitwise_count(grams[a] & grams[b]).sum(axis=1, dtype=np.int64)
        sizes = np.bitwise_count(grams).sum(axis=1, dtype=np.int64)
        under = sizes[a] + sizes[b]
        result[pairs] = np.where(under > 0, 2.0 * both / np.maximum(under, 1), 0.0)
    return result


def _grams(raw: ByteArray, offsets: IntArray) -> npt.NDArray[np.uint64]:
    """Which trigram buckets each text has: a bit per bucket, 64 to an integer."""
    n = len(offsets) - 1
    data = _lower(raw)
    word = _between(data, "a", "z") | _between(data, "0", "9")
    word |= data == ord("'")
    word |= data >= 128
    seen = np.zeros(n * N_GRAM_BUCKETS + 1, np.uint8)
    if len(data) >= 3:
        # The product of the three bytes in one integer and a constant, 32 bits of it.
        spread = np.where(word, data, np.uint8(32)).astype(np.uint32)
        spread *= np.uint32(0x9E3779B1)
        bucket = (spread[:-2] << np.uint32(16)) + (spread[1:-1] << np.uint32(8)) + spread[2:]
        bucket >>= np.uint32(32 - 11)
        place = np.repeat(np.arange(n) * N_GRAM_BUCKETS, np.diff(offsets))[:-2] + bucket
        # What would run over the end of its text goes where nobody looks.
        over = np.concatenate([offsets[1:] - 1, offsets[1:] - 2])
        place[over[(over >= 0) & (over < len(place))]] = n * N_GRAM_BUCKETS
        seen[place] = 1
    bits = np.packbits(seen[:-1].reshape(n, N_GRAM_BUCKETS), axis=1)
    return bits.view(np.uint64)
