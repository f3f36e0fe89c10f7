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
        for phrase, marks in phrases:
            words = phrase.split()
            assert 0 < len(words) <= MAX_WORDS, phrase
            key = np.array([hash_word(words[0])], np.uint64)
            for word in words[1:]:
                table[int(key[0])] = table.get(int(key[0]), 0) | int(_LONGER)
                key = join(key, np.array([hash_word(word)], np.uint64))
            table[int(key[0])] = table.get(int(key[0]), 0) | int(marks)
        keys = sorted(table)
        self._keys = np.array(keys, np.uint64)
        self._values = np.array([table[key] for key in keys], np.uint64)
        # Most words are in no phrase: 64 KiB tell so without a search.
        self._maybe = np.zeros(1 << 16, np.bool_)
        self._maybe[self._keys >> np.uint64(48)] = True

    def find(self, words: HashArray, sentences: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """The marks of every phrase, at the word where it begins.

        Args:
            words: Shape (n,): hashes, numbers as `NUMBER`.
            sentences: Shape (n,): each word's sentence; a phrase stays inside one.
        """
        marks = np.zeros(len(words), np.uint64)
        places = np.arange(len(words))
        keys = words
        for length in range(1, MAX_WORDS + 1):
            hit = np.flatnonzero(self._maybe[keys >> np.uint64(48)])
            places, keys = places[hit], keys[hit]
            row = np.searchsorted(self._keys, keys)
            row[row == len(self._keys)] = 0
            same = self._keys[row] == keys
            places, keys, row = places[same], keys[same], row[same]
            values = self._values[row]
            marks[places] |= values
            goes_on = ((values & _LONGER) != 0) & (places + length < len(words))
            places, keys = places[goes_on], keys[goes_on]
            ahead = places + length
            together = sentences[ahead] == sentences[places]
            places, keys = places[together], keys[together]
            if not len(places):
                break
            keys = join(keys, words[places + length])
        return marks & ~_LONGER


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
