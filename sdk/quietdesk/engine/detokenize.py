"""Detokenizer: tokens to text, a whole character at a time; stop strings and calls held back."""

import codecs
from collections.abc import Sequence

_BLANKS = " \t\r\n\f\v"


class Detokenizer:
    """Turns the bytes of one reply's tokens into text that may be shown.

    A character whose bytes have not all come is held back, and so is text that may be the
    beginning of a stop string or of a call. Bytes that can never be UTF-8 become U+FFFD.
    """

    def __init__(
        self, stop: Sequence[str] = (), trigger: str = "", *, at_start: bool = False
    ) -> None:
        """A detokenizer at the start of a reply.

        Args:
            stop: Strings that end the reply; an empty one is refused.
            trigger: From this string on nothing is text but a call; empty: there are no calls.
            at_start: Whether only a reply that begins with it is a call.
        """
        if "" in stop:
            raise ValueError("a stop string is empty")
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._trigger, self._at_start = trigger, at_start
        self._said = False
        """Whether anything but blanks was returned."""
        self._held = ""
        self.call = ""
        """What was written from the trigger on; stop strings mean nothing in it."""
        self.stopped = False
        """Whether a stop string was met; nothing is returned from then on."""

    def push(self, piece: bytes) -> str:
        """The text that may be shown now that piece has come; often empty."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        if self.call:
            self.call += text
            return ""
        if not self._stop and not self._trigger:
            self._held = ""
            return text
        text = self._cut(text)
        self._said = self._said or bool(text.strip(_BLANKS))
        return text

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
        begins = self._call_at(text)
        if begins >= 0 and begins <= min(found, default=begins):
            self.call, self._held = text[begins:], ""
            return text[:begins]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = self._overlap(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _call_at(self, text: str) -> int:
        """Where a call begins in text; -1 where none does."""
        if not self._trigger:
            return -1
        if not self._at_start:
            return text.find(self._trigger)
        begins = len(text) - len(text.lstrip(_BLANKS))
        return begins if not self._said and text.startswith(self._trigger, begins) else -1

    def _overlap(self, text: str) -> int:
        """Length of the longest end of text that begins a stop string or a call."""
        watched = self._stop
        if self._trigger and not self._at_start:
            watched = (*watched, self._trigger)
        longest = 0
        if self._trigger and self._at_start and not self._said:
            begun = text.lstrip(_BLANKS)
            longest = len(begun) if self._trigger.startswith(begun) else 0
        for length in range(min(len(text), max(map(len, watched), default=1) - 1), longest, -1):
            tail = text[-length:]
            if any(string.startswith(tail) for string in watched):
                return length
        return longest
