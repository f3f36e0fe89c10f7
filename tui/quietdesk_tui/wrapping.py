"""Where a line may break: between words, between ideographs, never inside a character.

Textual's own wrapping knows spaces only: it moves a whole Chinese sentence to the next line, and
it can cut an emoji that is made of several code points in two.
"""

import re

from rich.cells import cell_len, split_graphemes

_OPENING = "（「『【《〈〔〖［｛"
_CLOSING = "、。，．！？：；）」』】》〉〕〗］｝ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ々"
_IDEOGRAPHS = (
    "\u2e80-\u2fff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)

_ATOM = re.compile(
    rf"[{_OPENING}“‘(]*[{_IDEOGRAPHS}][{_CLOSING}”’…—～,.;:!?)\]}}]*\s*"
    rf"|[{_OPENING}]*[^\s{_IDEOGRAPHS}{_OPENING}{_CLOSING}]+[{_CLOSING}]*\s*"
    rf"|[{_OPENING}{_CLOSING}]+\s*|\s+"
)
"""What is not broken: a word, or one ideograph, with the punctuation that must stay beside it."""


def break_offsets(text: str, width: int) -> list[int]:
    """Where to cut text so that each piece takes at most `width` cells, white space aside.

    Args:
        text: One line: no line ends, no tabs.
        width: Cells, at least 2, so that every character fits.

    Returns:
        Offsets into text, rising; empty when it fits.
    """
    if len(text) * 2 <= width or (text.isascii() and len(text) <= width):
        return []
    offsets: list[int] = []
    column = 0
    for match in _ATOM.finditer(text):
        atom = match.group()
        body = atom.rstrip()
        taken = cell_len(body)
        if column + taken > width and column:
            offsets.append(match.start())
            column = 0
        if taken > width:
            column = _fold(body, match.start(), width, offsets)
            column += len(atom) - len(body)
        else:
            column += taken + len(atom) - len(body)
    return offsets


def _fold(word: str, start: int, width: int, offsets: list[int]) -> int:
    """Cut a word that is wider than a line between whole characters; the column it ends in."""
    column = 0
    for begin, _, cells in split_graphemes(word)[0]:
        if column + cells > width and column:
            offsets.append(start + begin)
            column = 0
        column += cells
    return column


def shorten(text: str, width: int) -> str:
    """Text in at most `width` cells, its end replaced by an ellipsis where it is too long."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    taken = 0
    for begin, _, cells in split_graphemes(text)[0]:
        if taken + cells > width - 1:
            return text[:begin].rstrip() + "…"
        taken += cells
    return text
