"""Lexicon: which words and phrases do what in a support conversation, as one table of hashes.

The words stand in `data/lexicon-en.toml`. English is the only language with a lexicon; of the
others only the commonest function words are known, which is enough to say that a conversation is
not in English, so that nothing is guessed about it.
"""

import tomllib
from collections.abc import Iterable
from enum import IntEnum
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

HashArray = npt.NDArray[np.uint64]

MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64: the base of the rolling hash of a word's bytes."""
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_JOIN = np.uint64(0xD6E8FEB86659FD93)
NUMBER = np.uint64(0x5851F42D4C957F2D)
"""What every number hashes to where phrases are looked up."""
MAX_WORDS = 6
"""Words of the longest phrase."""


class Mark(IntEnum):
    """What a word or phrase does; the value is its bit."""

    APOLOGY = 0
    THANKS = 1
    GOODBYE = 2
    GREETING = 3
    AFFIRM = 4
    NEGATION = 5
    POSITIVE = 6
    NEGATIVE = 7
    INTENSIFIER = 8
    COMPLAINT = 9
    REPAIR = 10
    """The customer corrects, repeats or doubts."""
    BOT_LOST = 11
    """The bot says that it did not understand or does not know."""
    BOT_CANNOT = 12
    """The bot says that something is not possible or not there."""
    ASK_HUMAN = 13
    TRANSFER = 14
    DONE = 15
    """The customer has what was wanted."""
    ANYTHING_ELSE = 16
    PROMISED = 17
    """Words that make a sentence a commitment."""
    REFUND = 18
    DISCOUNT = 19
    DATE = 20
    FOLLOW_UP = 21
    REPLACEMENT = 22
    CONDITIONAL = 23
    """Words that make a sentence an offer, a question or a condition instead."""
    WAIT = 24
    QUESTION_WORD = 25
    REQUEST = 26
    DONT_KNOW = 27
    LAUGH = 28
    RUDE = 29
    ENGLISH = 30
    """A function word of English and of no other known language."""
    FOREIGN = 31
    """A function word of another known language and no word of the English lexicon."""
    FUNCTION = 32
    """A function word of English, also where other languages have it; carries no content."""
    NUMBER = 33

    @property
    def bit(self) -> np.uint64:
        """The mark as a mask."""
        return np.uint64(1 << self.value)


def mask(*marks: Mark) -> np.uint64:
    """Several marks in one mask."""
    total = 0
    for mark in marks:
        total |= 1 << mark.value
    return np.uint64(total)


_LONGER = np.uint64(1 << 63)
"""On a table's entry: some phrase begins so and goes on."""
_INSIDE = np.uint64(1 << 62)
"""On the entry of a word: some phrase has it behind its beginning."""
_LEXICAL = mask(*(mark for mark in Mark if mark < Mark.ENGLISH))


def mix(hashes: HashArray) -> HashArray:
    """Spread each hash over all bits."""
    mixed = hashes ^ (hashes >> np.uint64(29))
    mixed *= _MIX
    mixed ^= mixed >> np.uint64(32)
    return mixed


def join(before: HashArray, word: HashArray) -> HashArray:
    """The hash of a phrase that goes on by one word."""
    return mix(before * _JOIN + word)


def hash_word(word: str) -> np.uint64:
    """The hash that `scan` gives a word, in lower case; `#` is any number."""
    if word == "#":
        return NUMBER
    total, power = 0, 1
    for byte in word.encode():
        total = (total + byte * power) % 2**64
        power = power * MULTIPLIER % 2**64
    return np.uint64(mix(np.array([total], np.uint64))[0])


class Lexicon:
    """Phrases by hash: sorted beginnings of phrases, each with its marks.

    Args:
        phrases: (words, mask) pairs; the words in lower case, parted by spaces.
    """

    def __init__(self, phrases: Iterable[tuple[str, np.uint64]]) -> None:
        table: dict[int, int] = {}

        def put(key: HashArray, value: np.uint64) -> None:
            table[int(key[0])] = table.get(int(key[0]), 0) | int(value)

        for phrase, marks in phrases:
            first, *others = (np.array([hash_word(word)], np.uint64) for word in phrase.split())
            assert len(others) < MAX_WORDS, phrase
            key = first
            for word in others:
                put(key, _LONGER)
                put(word, _INSIDE)
                key = join(key, word)
            put(key, marks)
        keys = sorted(table)
        self._keys = np.array(keys, np.uint64)
        self._entries = np.array([table[key] for key in keys], np.uint64)
        # Most words are in no phrase: 64 KiB tell so without a search.
        self._maybe = np.zeros(1 << 16, np.bool_)
        self._maybe[self._keys >> np.uint64(48)] = True

    def entries(self, words: HashArray) -> HashArray:
        """What the table has for each word by itself, for `find`; 0 for most.

        Args:
            words: Shape (n,): hashes, numbers as `NUMBER`.
        """
        found = np.zeros(len(words), np.uint64)
        some = self._likely(words)
        found[some] = self._exactly(words[some])
        return found

    def _likely(self, keys: HashArray) -> npt.NDArray[np.int64]:
        """The places of keys that may be in the table."""
        return np.flatnonzero(self._maybe[keys >> np.uint64(48)])

    def _exactly(self, keys: HashArray) -> HashArray:
        row = np.searchsorted(self._keys, keys)
        row[row == len(self._keys)] = 0
        found: HashArray = np.where(self._keys[row] == keys, self._entries[row], np.uint64(0))
        return found

    def find(
        self, words: HashArray, sentences: npt.NDArray[np.int64], entries: HashArray
    ) -> HashArray:
        """The marks of every phrase, at the word where it begins.

        Args:
            words: Shape (n,): hashes, numbers as `NUMBER`.
            sentences: Shape (n,): each word's sentence; a phrase stays inside one.
            entries: Shape (n,): what `entries` gives for the words.
        """
        marks = entries & ~(_LONGER | _INSIDE)
        # Few words can begin a phrase and have one behind them that can go on with it.
        places = np.flatnonzero((entries[:-1] >= _LONGER) & ((entries[1:] & _INSIDE) != 0))
        keys = words[places]
        for length in range(1, MAX_WORDS):
            keys = join(keys, words[places + length])
            likely = self._likely(keys)
            places, keys = places[likely], keys[likely]
            together = sentences[places + length] == sentences[places]
            values = np.where(together, self._exactly(keys), np.uint64(0))
            marks[places] |= values & ~(_LONGER | _INSIDE)
            on = (values >= _LONGER) & (places + length + 1 < len(words))
            places, keys = places[on], keys[on]
            if not len(places):
                break
        return marks


@cache
def english() -> Lexicon:
    """The shipped lexicon; read at the first call."""
    text = files("quietdesk.scoring").joinpath("data/lexicon-en.toml").read_text("utf-8")
    raw = tomllib.loads(text)
    marked: dict[str, np.uint64] = {}
    for name, phrases in raw["marks"].items():
        for phrase in _phrases(phrases):
            marked[phrase] = marked.get(phrase, np.uint64(0)) | Mark[name.upper()].bit
    languages = {name: set(_phrases(words)) for name, words in raw["languages"].items()}
    own = languages.pop("en")
    foreign = set().union(*languages.values())
    for word in own:
        marks = Mark.FUNCTION.bit if word in foreign else mask(Mark.FUNCTION, Mark.ENGLISH)
        marked[word] = marked.get(word, np.uint64(0)) | marks
    for word, marks in list(marked.items()):
        if word not in foreign and marks & _LEXICAL:
            marked[word] = marks | Mark.ENGLISH.bit
    for word in foreign - marked.keys():
        marked[word] = Mark.FOREIGN.bit
    marked["#"] = Mark.NUMBER.bit
    return Lexicon(marked.items())


def _phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split("|") if phrase.strip()]
