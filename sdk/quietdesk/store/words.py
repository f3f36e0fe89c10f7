"""Words: what a text is found by, the same for every database.

A text is folded (case, width, accents) and cut into words here, in one place, so that SQLite,
PostgreSQL and the store in memory find the same conversations. Scripts that are written without
spaces are indexed by single characters and by pairs, so that any part of a sentence is found.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_WORD = 64
"""Characters of a word that count; the rest of it is not searched."""
MARK = "\ue000"
"""With a letter after it, the word of every text in which a word begins with that letter.

Whoever types sees results from the first letter on, and to gather all words that begin with it
would take longer than everything after it.
"""
MOST_BYTES = 900_000
"""UTF-8 bytes of distinct words per text; PostgreSQL takes one MiB."""

MOST_WORDS = 32
"""Words of a query that are looked for; databases have limits on conditions, and people too."""

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035"  # ideographic marks and numerals
    "\u3041-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul
    "\U00020000-\U000323af"  # Han, the rarer ones
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_PIECE = re.compile(rf"(?P<run>[{_UNSPACED}]+)|(?P<word>[^\s{_UNSPACED}]+)")


class _Fold(dict[int, int | str | None]):
    """What becomes of a character: kept, a word of its own, dropped, or a space between words."""

    def __missing__(self, code: int) -> int | str | None:
        kind = unicodedata.category(chr(code))
        fate: int | str | None
        if 0x300 <= code <= 0x36F:
            fate = None  # the accents of Latin, Greek and Cyrillic letters
        elif kind[0] in "LNM":
            fate = code
        elif kind == "So":
            fate = f" {chr(code)} "  # an emoji is a word
        else:
            fate = " "
        self[code] = fate
        return fate


_FOLD = _Fold()


@dataclass(frozen=True, slots=True)
class Query:
    """What somebody looks for: every word must be there."""

    words: tuple[str, ...]
    """Whole words."""
    beginning: str = ""
    """The last word, which may be cut short; empty if it may not."""

    def __bool__(self) -> bool:
        return bool(self.words or self.beginning)


def words(text: str) -> list[str]:
    """The distinct words that a text is found by, marks included."""
    found: dict[str, None] = {}
    for piece, unspaced in _pieces(text):
        if unspaced:
            found.update(dict.fromkeys(piece))
            found.update(dict.fromkeys(map("".join, itertools.pairwise(piece))))
        else:
            found[piece[:LONGEST_WORD]] = None
            found[MARK + piece[0]] = None
    if 4 * len(text) > MOST_BYTES:
        return _within(found, MOST_BYTES)
    return list(found)


def query(text: str) -> Query:
    """The words of a search as somebody typed it; no punctuation has a meaning."""
    whole: dict[str, None] = {}
    beginning = ""
    for piece, unspaced in _pieces(text):
        if beginning:
            whole[beginning] = None
        beginning = ""
        if not unspaced:
            beginning = piece[:LONGEST_WORD]
        elif len(piece) == 1:
            whole[piece] = None
        else:
            whole.update(dict.fromkeys(map("".join, itertools.pairwise(piece))))
    if len(beginning) == 1:
        whole[MARK + beginning] = None
        beginning = ""
    return Query(tuple(whole)[:MOST_WORDS], beginning)


def are_in(asked: Query, texts: Iterable[str]) -> bool:
    """Whether everything that is looked for stands in one or other of the texts.

    Gives what an index of their words would give, one text after the other and no further than
    needed.
    """
    missing, beginning = set(asked.words), asked.beginning
    for text in texts:
        found = words(text)
        missing.difference_update(found)
        if beginning and any(word.startswith(beginning) for word in found):
            beginning = ""
        if not missing and not beginning:
            return True
    return not missing and not beginning


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Words, and runs of characters that are written without spaces, as they stand."""
    if text.isascii():
        return [(word, False) for word in _ASCII_WORD.findall(text.lower())]
    folded = unicodedata.normalize("NFKD", text.casefold()).translate(_FOLD)
    composed = unicodedata.normalize("NFC", folded)
    return [(match.group(), match.lastgroup == "run") for match in _PIECE.finditer(composed)]


def _within(found: dict[str, None], size_bytes: int) -> list[str]:
    kept = []
    for word in found:
        size_bytes -= len(word.encode())
        if size_bytes < 0:
            break
        kept.append(word)
    return kept
