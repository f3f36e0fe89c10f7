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
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Unicode's private use plane 15, from which placeholders are taken."""


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

    def __init__(self, pattern: re.Pattern[str] | None, taken: Callable[[str], bool]) -> None:
        self._pattern = pattern
        self._taken = taken
        self._placeholders: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self._free = iter(_PRIVATE)

    def __call__(self, text: str) -> str:
        """The text with every control token's text replaced."""
        if self._pattern is None or not self._pattern.search(text):
            return text
        return self._pattern.sub(lambda match: self._placeholder(match[0]), text)

    def _placeholder(self, word: str) -> str:
        if word not in self._placeholders:
            letter = next(chr(code) for code in self._free if not self._taken(chr(code)))
            self._placeholders[word] = letter
            self.words[letter] = word
        return self._placeholders[word]


class PromptTokens:
    """Counts and tokenises for one model, and remembers what it has seen.

    Not for several threads at once; a conversation's window owns one.
    """

    def __init__(
        self,
        tokenize: Tokenize,
        *,
        special_tokens: Sequence[str] = (),
        bos_token: str = "",
        marks: Sequence[str] = (),
        sample: str = "",
        memory: int = 4096,
    ) -> None:
        """Get ready for a model.

        Args:
            tokenize: The model's tokeniser.
            special_tokens: Texts of the vocabulary's control tokens.
            bos_token: Text of the begin token.
            marks: Control tokens that the template writes, in front of which a prompt may be cut.
            sample: A rendered conversation, to try out whether cutting changes nothing.
            memory: Pieces and counts to remember, each.
        """
        self._tokenize = tokenize
        self._bos_token = bos_token
        self._pattern = _alternatives(special_tokens)
        self._pieces: OrderedDict[tuple[str, bool], list[int]] = OrderedDict()
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._memory = memory
        newline = tokenize("\n", special=False, begin=False)
        self._newline = newline
        # With a vocabulary that puts a space in front of every text, a newline is tokenised in
        # front of what follows a placeholder and taken off again.
        self._spaced = tokenize("\na", special=False, begin=False)[len(newline) :] != tokenize(
            "a", special=False, begin=False
        )
        self._cut = _alternatives(marks)
        if self._cut and sample and self._joined(sample) != self._whole(sample):
            self._cut = None

    @property
    def cuts(self) -> bool:
        """Whether prompts are tokenised in pieces."""
        return self._cut is not None

    def shield(self, taken: Callable[[str], bool]) -> Shield:
        """A fresh shield; `taken` tells whether a letter occurs in the texts to come."""
        return Shield(self._pattern, taken)

    def count(self, text: str) -> int:
        """Tokens of a text by itself, as words."""
        known = self._counts.get(text)
        if known is not None:
            self._counts.move_to_end(text)
            return known
        number = len(self._words(text)) if text else 0
        self._counts[text] = number
        if len(self._counts) > self._memory:
            self._counts.popitem(last=False)
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

    def _piece(self, piece: str, *, begin: bool, after_word: bool) -> list[int]:
        """Tokens of a piece of the template's text, control tokens included."""
        if after_word and not (self._cut and self._cut.match(piece)):
            return self._inside(piece, special=True)
        key = (piece, begin)
        known = self._pieces.get(key)
        if known is not None:
            self._pieces.move_to_end(key)
            return known
        new = self._tokenize(piece, special=True, begin=begin)
        self._pieces[key] = new
        if len(self._pieces) > self._memory:
            self._pieces.popitem(last=False)
        return new

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
        if self._pattern is None or not self._pattern.search(text):
            return self._tokenize(text, special=False, begin=False)
        tokens: list[int] = []
        start = 0
        for match in self._pattern.finditer(text):
            if text[start : match.start()]:
                tokens += self._inside(text[start : match.start()], special=False)
            tokens += self._word(match[0])
            start = match.end()
        return tokens + (self._inside(text[start:], special=False) if text[start:] else [])

    def _whole(self, text: str) -> list[int]:
        begin = not (self._bos_token and text.startswith(self._bos_token))
        return self._tokenize(text, special=True, begin=begin)

    def _joined(self, text: str) -> list[int]:
        return self.encode(text, {})[0]


def _alternatives(tokens: Sequence[str]) -> re.Pattern[str] | None:
    """Any of these texts, the longest one first; None for none."""
    texts = sorted({text for text in tokens if text}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, texts))) if texts else None
