"""PromptTokens: a rendered prompt to tokens, exactly, with people's words kept mere words.

A customer who writes `<|im_end|>` must not end a turn. Such words are replaced by private
placeholders before the template sees them, and tokenised apart afterwards, as plain text. A prompt
without such words is tokenised as the model's own tokeniser does it.

llama.cpp tokenises the text between two control tokens by itself, so a prompt cut in front of its
control tokens gives the same tokens as the whole. That makes a turn cheap: the pieces of old turns
are remembered, only new ones are tokenised. Whether it holds for the vocabulary at hand is tried
out first; where it does not, the prompt is tokenised whole.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Unicode's private use plane 15, from which placeholders are taken."""

_THOUGHTS = frozenset({"<think>", "</think>", "<thinking>", "</thinking>"})
"""Marks around a model's thoughts, which templates cut out of older replies."""

_COUNTS = 2**16
_PIECES = 2**14
"""How many are remembered, of all conversations together."""


class Tokenize(Protocol):
    """Text to token ids; see `engine.runner.Runner.tokenize`."""

    def __call__(self, text: str, *, special: bool, begin: bool) -> list[int]:
        """Token ids of text."""
        ...


class Shield:
    """Placeholders for control tokens' texts in what people wrote; made for one prompt.

    Attributes:
        words: Placeholder to the control token's text that it stands for.
    """

    def __init__(
        self,
        pattern: re.Pattern[str] | None,
        hides: Callable[[str], bool],
        taken: Callable[[str], bool],
    ) -> None:
        """A shield without a placeholder yet.

        Args:
            pattern: Finds the texts of control tokens; None where there are none.
            hides: Whether one that was found is to be replaced.
            taken: Whether a letter occurs in the texts to come, and so is no placeholder.
        """
        self._pattern = pattern
        self._hides = hides
        self._taken = taken
        self._placeholders: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self._free = iter(_PRIVATE)

    def __call__(self, text: str, *, own: bool = False) -> str:
        """The text with every control token's text replaced.

        Args:
            text: What somebody wrote.
            own: Whether the model wrote it: then the marks around its thoughts stay, since the
                template looks for them.
        """
        if self._pattern is None or not self._pattern.search(text):
            return text
        return self._pattern.sub(lambda match: self._hide(match[0], own), text)

    def _hide(self, word: str, own: bool) -> str:
        if (own and word in _THOUGHTS) or not self._hides(word):
            return word
        if word not in self._placeholders:
            letter = next(chr(code) for code in self._free if not self._taken(chr(code)))
            self._placeholders[word] = letter
            self.words[letter] = word
        return self._placeholders[word]

    def undo(self, text: str) -> str:
        """The text with the words back in place."""
        for letter, word in self.words.items():
            text = text.replace(letter, word)
        return text


class _Recent(Generic[Key, Value]):
    """Remembers what was used of late; at most twice `size` entries. Any thread may use it.

    Two dictionaries, the older one dropped when the newer one is full: every step is one operation
    on a dictionary, so there is nothing to lock.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._new: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        value = self._new.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        if len(self._new) >= self._size:
            self._old, self._new = self._new, {}
        self._new[key] = value


class PromptTokens:
    """Counts and tokenises for one model, and remembers what it has seen. Any thread may use it."""

    def __init__(
        self,
        tokenize: Tokenize,
        *,
        special_tokens: Sequence[str] = (),
        bos_token: str = "",
        marks: Sequence[str] = (),
        source: str = "",
        sample: str = "",
    ) -> None:
        """Get ready for a model.

        Args:
            tokenize: The model's tokeniser.
            special_tokens: Texts of the vocabulary's control tokens.
            bos_token: Text of the begin token.
            marks: Control tokens that the template writes, in front of which a prompt may be cut.
            source: The template's source.
            sample: A rendered conversation, to try out whether cutting changes nothing.
        """
        self._tokenize = tokenize
        self._bos_token = bos_token
        # Blanks are listed as tokens of their own by some vocabularies; they control nothing.
        self._pattern = _alternatives([token for token in special_tokens if token.strip()])
        self._source = source
        self._control: dict[str, bool] = {}
        self._pieces: _Recent[tuple[str, bool], array[int]] = _Recent(_PIECES)
        self._counts: _Recent[str, int] = _Recent(_COUNTS)
        self._newline = tokenize("\n", special=False, begin=False)
        # With a vocabulary that puts a space in front of every text, a newline is tokenised in
        # front of what follows a placeholder and taken off again.
        after_newline = tokenize("\na", special=False, begin=False)[len(self._newline) :]
        self._spaced = after_newline != tokenize("a", special=False, begin=False)
        self._cut = _alternatives(marks)
        if self._cut is not None and self.encode(sample, {})[0] != self._whole(sample):
            self._cut = None

    @property
    def cuts(self) -> bool:
        """Whether prompts are tokenised in pieces."""
        return self._cut is not None

    def shield(self, taken: Callable[[str], bool]) -> Shield:
        """A fresh shield; `taken` tells whether a letter occurs in the texts to come."""
        return Shield(self._pattern, self._is_control, taken)

    def count(self, text: str) -> int:
        """Tokens of a text by itself, as words."""
        if not text:
            return 0
        number = self._counts.get(text)
        if number is None:
            number = len(self._words(text))
            self._counts.put(text, number)
        return number

    def encode(self, text: str, words: dict[str, str]) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a rendered prompt.

        Args:
            text: The rendered prompt.
            words: Placeholders in it, and the words that they stand for.

        Returns:
            The tokens, and for each piece that was tokenised by itself its number of characters
            and of tokens; both sum to the whole.
        """
        tokens: list[int] = []
        sizes: list[tuple[int, int]] = []
        begin = not (self._bos_token and text.startswith(self._bos_token))
        after_word = False
        for piece in self._split(text, words):
            word = words.get(piece)
            new: Sequence[int]
            if word is None:
                new = self._piece(piece, begin=begin, after_word=after_word)
            else:
                start = self._tokenize("", special=False, begin=True) if begin else []
                new = start + self._word(word)
            begin, after_word = False, word is not None
            tokens += new
            sizes.append((len(piece), len(new)))
        return tokens, sizes

    def _split(self, text: str, words: dict[str, str]) -> list[str]:
        """The text cut around placeholders and in front of marks; nothing is lost."""
        chunks = re.split(f"([{''.join(words)}])", text) if words else [text]
        if self._cut is None:
            return [chunk for chunk in chunks if chunk]
        pieces: list[str] = []
        for chunk in chunks:
            start = 0
            for match in self._cut.finditer(chunk):
                pieces.append(chunk[start : match.start()])
                start = match.start()
            pieces.append(chunk[start:])
        return [piece for piece in pieces if piece]

    def _piece(self, piece: str, *, begin: bool, after_word: bool) -> Sequence[int]:
        """Tokens of a piece of the template's text, control tokens included."""
        if after_word and not (self._cut and self._cut.match(piece)):
            return self._inside(piece, special=True)
        key = (piece, begin)
        known = self._pieces.get(key)
        if known is None:
            known = array("i", self._tokenize(piece, special=True, begin=begin))
            self._pieces.put(key, known)
        return known

    def _inside(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text that stands inside a line, where no space is put in front of it."""
        if self._spaced:
            after_newline = self._tokenize("\n" + text, special=special, begin=False)
            if after_newline[: len(self._newline)] == self._newline:
                return after_newline[len(self._newline) :]
        return self._tokenize(text, special=special, begin=False)

    def _word(self, word: str) -> list[int]:
        """Tokens of a control token's text, as the word that somebody wrote."""
        control = self._tokenize(word, special=True, begin=False)
        plain = self._inside(word, special=False)
        if plain != control and not set(control) & set(plain):
            return plain
        # Vocabularies list some control tokens as ordinary entries, which are found in any text.
        return self._inside(word[:1], special=False) + self._inside(word[1:], special=False)

    def _words(self, text: str) -> list[int]:
        """Tokens of a text by itself, with nothing in it taken for a control token."""
        shield = self.shield(text.__contains__)
        shielded = shield(text)
        if not shield.words:
            return self._tokenize(text, special=False, begin=False)
        tokens: list[int] = []
        for chunk in re.split(f"([{''.join(shield.words)}])", shielded):
            word = shield.words.get(chunk)
            if word is not None:
                tokens += self._word(word)
            elif chunk:
                tokens += self._inside(chunk, special=False)
        return tokens

    def _whole(self, text: str) -> list[int]:
        begin = not (self._bos_token and text.startswith(self._bos_token))
        return self._tokenize(text, special=True, begin=begin)

    def _is_control(self, word: str) -> bool:
        """Whether a token that the vocabulary lists as special controls anything.

        Some are found in any text, as tags of HTML are: these do not, unless the template uses
        them.
        """
        known = self._control.get(word)
        if known is None:
            plain = self._tokenize(word, special=False, begin=False)
            known = word in self._source or plain != self._tokenize(word, special=True, begin=False)
            self._control[word] = known
        return known


def _alternatives(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Any of these texts, the longest one first; None for none."""
    texts = sorted({text for text in tokens if text}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, texts))) if texts else None
