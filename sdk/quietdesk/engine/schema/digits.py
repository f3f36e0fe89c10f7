"""Digits: the exact set of numbers in a range, written in decimals, as a grammar.

Every number between two bounds of the same length is one of a few patterns with a range of digits
at each place: `137` to `542` is `13[7-9] | 1[4-9][0-9] | [2-4][0-9][0-9] | 5[0-3][0-9] | 54[0-2]`.
"""

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

Pattern = tuple[tuple[int, int], ...]
"""The lowest and the highest digit at each place."""


def integers(low: int, high: int) -> str:
    """A GBNF expression for the integers from low to high, both included; at least one."""
    return decimals(low, high, 0)


def decimals(low: int, high: int, places: int) -> str:
    """A GBNF expression for low to high in units of 10^-places, all places written."""
    parts = []
    if low < 0:
        smallest = max(1, -high)
        parts += [f'"-" {_text(p, places)}' for p in _unsigned(smallest, -low, places)]
    if high >= 0:
        parts += [_text(p, places) for p in _unsigned(max(0, low), high, places)]
    return " | ".join(parts)


def scaled(low: Decimal, high: Decimal, places: int, *, open_low: bool, open_high: bool) -> range:
    """The numbers between two bounds in units of 10^-places; open ones are left out themselves."""
    unit = Decimal(10) ** places
    first = int((low * unit).to_integral_value(ROUND_CEILING))
    last = int((high * unit).to_integral_value(ROUND_FLOOR))
    first += open_low and first == low * unit
    last -= open_high and last == high * unit
    return range(first, last + 1)


def _unsigned(low: int, high: int, places: int) -> Iterator[Pattern]:
    """Patterns of equal length for every number of digits from places + 1 on."""
    width = places + 1
    while low <= high:
        top = min(high, 10**width - 1)
        if low <= top:
            yield from _between(f"{low:0{width}d}", f"{top:0{width}d}")
            low = top + 1
        width += 1


def _between(low: str, high: str) -> Iterator[Pattern]:
    first, last = int(low[0]), int(high[0])
    if len(low) == 1:
        yield ((first, last),)
        return
    rest = len(low) - 1
    if first == last:
        for tail in _between(low[1:], high[1:]):
            yield ((first, first), *tail)
        return
    if set(low[1:]) != {"0"}:
        for tail in _between(low[1:], "9" * rest):
            yield ((first, first), *tail)
        first += 1
    whole_last = set(high[1:]) == {"9"}
    until = last if whole_last else last - 1
    if first <= until:
        yield ((first, until), *((0, 9),) * rest)
    if not whole_last:
        for tail in _between("0" * rest, high[1:]):
            yield ((last, last), *tail)


def _text(pattern: Pattern, places: int) -> str:
    point = len(pattern) - places
    whole, fraction = (" ".join(map(_digit, part)) for part in (pattern[:point], pattern[point:]))
    return f'{whole} "." {fraction}' if places else whole


def _digit(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return f'"{low}"' if low == high else f"[{low}-{high}]"
