"""Detokenizer: tokens to text, a whole character at a time, stop strings held back."""

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Turns the bytes of one reply's tokens into text that may be shown.

    A character whose bytes have not all come is held back, and so is text that may be the
    beginning of a stop string. Bytes that can never be UTF-8 become U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """A detokenizer at the start of a reply.

        Args:
            stop: Strings that end the reply; an empty one is refused.
        """
        if "" in stop:
            raise ValueError("a stop string is empty")
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string was met; nothing is returned from then on."""

    def push(self, piece: bytes) -> str:
        """The text that may be shown now that piece has come; often empty."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        if not self._stop:
            self._held = ""
            return text
        return self._cut(text)

    def flush(self) -> str:
        """The text still held back, at the end of the reply.

        Bytes of a character that never became whole are dropped: the reply was cut there, and half
        a character says nothing.
        """
        held, self._held = self._held, ""
        self._decoder.reset()
        return "" if self.stopped else held

    def _cut(self, text: str) -> str:
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = self._overlap(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _overlap(self, text: str) -> int:
        """Length of the longest end of text that begins a stop string."""
        for length in range(min(len(text), max(map(len, self._stop)) - 1), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
