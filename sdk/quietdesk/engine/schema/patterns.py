r"""Patterns: a regular expression for a JSON string's content as a grammar.

The common ground of ECMA-262 and Python: literals, `.`, classes, `\d \w \s` in ASCII, groups,
alternatives and repetitions. What matches in one reading only (look-around, references, boundaries)
is refused. An unlimited repetition is limited, and so is what stands around a pattern that is not
anchored, so that the string ends.
"""

import json
import string

MOST_REPEATS = 32
"""Of what a pattern repeats without a limit."""
AROUND = 16
"""Characters at most on a side where the pattern is not anchored."""

_PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
_SETS = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
    "s": frozenset(" \t\n\r"),
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_LITERAL = frozenset(r"\.+*?()[]{}|/^$-\"'#&~@!%,:;<>=` ")


class PatternError(ValueError):
    """The pattern cannot be expressed; the message says what stands in the way."""


def pattern_grammar(pattern: str, character: str) -> str:
    """A GBNF expression for what a JSON string whose text matches holds between its quotes.

    Args:
        pattern: The regular expression.
        character: Name of the rule for any character of a JSON string.

    Raises:
        PatternError: it cannot be expressed.
    """
    return _Parser(pattern, character).whole()


def text_grammar(text: str) -> str:
    """A GBNF expression for exactly this text."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


class _Parser:
    def __init__(self, pattern: str, character: str) -> None:
        self._pattern = pattern
        self._character = character
        self._at = 0
        self._top_alternatives = False

    def whole(self) -> str:
        anchored = self._take("^")
        body = self._alternatives()
        ends = self._take("$")
        if self._at < len(self._pattern):
            what = self._pattern[self._at - ends]
            raise PatternError(f"{what!r} at {self._at - ends} is not understood there")
        if self._top_alternatives and (anchored or ends):
            raise PatternError("an anchor binds one alternative only; put a group around them")
        around = f"{self._character}{{0,{AROUND}}}"
        before, after = (() if anchored else (around,)), (() if ends else (around,))
        return " ".join((*before, f"({body})", *after))

    def _take(self, character: str) -> bool:
        if self._pattern.startswith(character, self._at):
            self._at += len(character)
            return True
        return False

    def _alternatives(self, depth: int = 0) -> str:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if depth == 0:
            self._top_alternatives = len(parts) > 1
        return " | ".join(parts)

    def _sequence(self) -> str:
        parts = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)$":
            parts.append(self._repeated(self._atom()))
        return " ".join(parts) or '""'

    def _atom(self) -> str:
        at, character = self._at, self._pattern[self._at]
        self._at += 1
        if character == "(":
            if self._take("?") and not self._take(":"):
                raise PatternError(f"the group at {at} is no plain one")
            body = self._alternatives(depth=1)
            if not self._take(")"):
                raise PatternError(f"the group at {at} is not closed")
            return f"({body})"
        if character == "[":
            return _choice(self._class(at))
        if character == ".":
            return _choice(_PRINTABLE)
        if character == "\\":
            return _choice(self._escape(at))
        if character in "^*+?{}]":
            raise PatternError(f"{character!r} at {at} is not understood there")
        return text_grammar(character)

    def _escape(self, at: int) -> frozenset[str]:
        if self._at == len(self._pattern):
            raise PatternError("it ends with a backslash")
        character = self._pattern[self._at]
        self._at += 1
        if character in _SETS:
            return _SETS[character]
        if character.lower() in _SETS:
            return _PRINTABLE - _SETS[character.lower()]
        if character in _CONTROLS:
            return frozenset(_CONTROLS[character])
        if character in _LITERAL:
            return frozenset(character)
        raise PatternError(f"{self._pattern[at : self._at]!r} at {at} is not understood")

    def _class(self, at: int) -> frozenset[str]:
        negated = self._take("^")
        members: frozenset[str] = frozenset()
        while not self._take("]"):
            if self._at >= len(self._pattern):
                raise PatternError(f"the class at {at} is not closed")
            left = self._member()
            dash = self._pattern.startswith("-", self._at)
            if dash and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                right = self._member()
                if len(left) != 1 or len(right) != 1:
                    raise PatternError(f"the class at {at} has a range that is none")
                (low,), (high,) = left, right
                left = frozenset(map(chr, range(ord(low), ord(high) + 1)))
            members |= left
        members = _PRINTABLE - members if negated else members
        if not members:
            raise PatternError(f"the class at {at} is empty")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in members):
            raise PatternError(f"the class at {at} holds halves of characters")
        return members

    def _member(self) -> frozenset[str]:
        at, character = self._at, self._pattern[self._at]
        self._at += 1
        if character == "\\":
            return self._escape(at)
        if character == "[":
            raise PatternError(f"'[' at {at} stands in a class; write '\\['")
        return frozenset(character)

    def _repeated(self, atom: str) -> str:
        at = self._at
        bounds: tuple[int, int | None] | None = None
        if self._take("*"):
            bounds = 0, None
        elif self._take("+"):
            bounds = 1, None
        elif self._take("?"):
            bounds = 0, 1
        elif self._take("{"):
            end = self._pattern.find("}", self._at)
            low, comma, high = self._pattern[self._at : max(end, self._at)].partition(",")
            if not low.isdecimal() or not (high.isdecimal() or (comma and not high) or not comma):
                raise PatternError(f"the repetition at {at} is not understood")
            self._at = end + 1
            bounds = int(low), int(low) if not comma else int(high) if high else None
        if bounds is None:
            return atom
        if self._pattern[self._at : self._at + 1] in ("*", "+", "?", "{"):
            raise PatternError(f"the repetition at {at} is of a kind that is not understood")
        least, most = bounds
        most = max(least, MOST_REPEATS) if most is None else most
        if most < least:
            raise PatternError(f"the repetition at {at} is empty")
        return f"{atom}{{{least},{most}}}" if most else '""'


def _choice(members: frozenset[str]) -> str:
    """One of some characters; those that JSON escapes stand beside the class."""
    plain = sorted(c for c in members if json.dumps(c, ensure_ascii=False)[1:-1] == c)
    parts = [text_grammar(c) for c in sorted(members - set(plain))]
    if plain:
        runs: list[list[int]] = []
        for code in map(ord, plain):
            if runs and code == runs[-1][1] + 1:
                runs[-1][1] = code
            else:
                runs.append([code, code])
        parts.append("[" + "".join(f"{_code(a)}-{_code(b)}" for a, b in runs) + "]")
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _escaped(character: str) -> str:
    """A character as it stands in a JSON string, as it stands in a grammar's literal."""
    return "".join(_code(ord(c)) for c in json.dumps(character, ensure_ascii=False)[1:-1])


def _code(code: int) -> str:
    if chr(code) in string.ascii_letters + string.digits:
        return chr(code)
    return f"\\x{code:02X}" if code < 0x80 else f"\\U{code:08X}"
