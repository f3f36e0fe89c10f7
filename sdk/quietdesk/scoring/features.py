"""Features: a message and its neighbours as named numbers, for the satisfaction estimate.

A message is seen together with the ones around it: the other side's last and next message, the same
side's last and next, what was said so far and, for offline use, in the whole conversation; and how
much of what it says was said before, by whom. Features that look ahead are named so in
`Feature.ahead`; an estimate for a running conversation leaves them out.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.base import AUTHORS, NO_TIME
from quietdesk.scoring.friction import looping, rephrased
from quietdesk.scoring.grounding import grounding
from quietdesk.scoring.lexicon import HashArray, Mark, join, mix
from quietdesk.scoring.reading import NOWHERE, Reading
from quietdesk.scoring.scan import similarity
from quietdesk.types import Author

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FeatureArray = npt.NDArray[np.float32]

N_WORD_BUCKETS = 1 << 15
N_SIGN_BUCKETS = 1 << 16
"""Buckets of the text features: words and pairs of words; runs of two to five characters."""
SIGN_LENGTHS = (2, 3, 4, 5)


class Feature(NamedTuple):
    """One column."""

    name: str
    ahead: bool
    """It needs what was said later."""


_COUNTED = (*(mark for mark in Mark if mark < Mark.ENGLISH), Mark.NUMBER)
_VIEWS = (
    ("own", False),
    ("other before", False),
    ("same before", False),
    ("other after", True),
    ("same after", True),
    ("same so far", False),
    ("other so far", False),
    ("same whole", True),
    ("other whole", True),
)
_SINGLE = (
    ("turn", False),
    ("turns left", True),
    ("place", True),
    ("length", True),
    ("first", False),
    ("again before reply", False),
    ("again after", True),
    ("replied to", False),
    ("reply follows", True),
    ("like same before", False),
    ("like same after", True),
    ("other before like other after", True),
    ("like other before", False),
    ("like other after", True),
    ("other before like one before", False),
    ("rephrased", False),
    ("other before loops", False),
    ("own loops", False),
    ("wait", False),
    ("grounded", False),
    ("supported", False),
    ("invented", False),
    ("other before grounded", False),
    ("other before supported", False),
    ("other before invented", False),
    ("tool before", False),
    ("calls a tool", False),
)


_ECHO = (
    "content words",
    "all numbers",
    "said before",
    "numbers not said before",
    "said by the other side",
    "numbers not said by the other side",
    "said by the same side",
    "numbers not said by the same side",
    "told by a tool",
    "numbers not told by a tool",
)
"""Of a message: its content words (log) and numbers, the share of them that stands in an earlier
message by anyone, by one side, by a tool, and how many of the numbers do not."""
_ECHO_VIEWS = ("own", "other before")
_CONVERSATION = np.uint64(0xD1342543DE82EF95)


@cache
def _counted_names() -> tuple[str, ...]:
    marks = (mark.name.lower().replace("_", " ") for mark in _COUNTED)
    return ("words", "question marks", "exclamation marks", "positive", "negative", *marks)


@cache
def features() -> tuple[Feature, ...]:
    """The columns of `turn_features`, in order."""
    seen = [Feature(f"{view}: {n}", ahead) for view, ahead in _VIEWS for n in _counted_names()]
    echo = [Feature(f"{view}: {name}", False) for view in _ECHO_VIEWS for name in _ECHO]
    return (*seen, *echo, *(Feature(name, ahead) for name, ahead in _SINGLE))


class _Neighbours(NamedTuple):
    other_before: IntArray
    same_before: IntArray
    other_after: IntArray
    same_after: IntArray


def turn_features(seen: Reading, rows: IntArray) -> FeatureArray:
    """The features of some messages, shape (len(rows), len(features())).

    Args:
        seen: The batch.
        rows: Messages of the customer, the bot or a person; other authors' look empty.
    """
    table = _table(seen)
    around = _neighbours(seen)
    sides = (seen.customer, seen.agent)
    running = [_so_far(seen, np.where(side[:, None], table, 0)) for side in sides]
    number = [_so_far(seen, side[:, None].astype(np.float64))[:, 0] for side in sides]
    mine = seen.customer[rows]
    end = seen.stop[rows] - 1

    def by_side(
        of_customer: npt.NDArray[np.float64], of_agent: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        choose = mine[:, None] if of_customer.ndim == 2 else mine
        return np.where(choose, of_customer, of_agent), np.where(choose, of_agent, of_customer)

    same_sum, other_sum = by_side(running[0][rows], running[1][rows])
    same_all, other_all = by_side(running[0][end], running[1][end])
    turn, _ = by_side(number[0][rows], number[1][rows])
    turns, other_turns = by_side(number[0][end], number[1][end])
    whole_same = same_all / np.maximum(turns, 1)[:, None]
    whole_other = other_all / np.maximum(other_turns, 1)[:, None]
    views = [
        table[rows],
        *(_at(table, near[rows]) for near in around),
        same_sum,
        other_sum,
        whole_same,
        whole_other,
    ]
    said = _echo(seen)
    echo = [said[rows], _at(said, around.other_before[rows])]
    single = _single(seen, rows, around, turn, turns)
    return np.concatenate([*views, *echo, single], axis=1).astype(np.float32)


def _table(seen: Reading) -> npt.NDArray[np.float64]:
    """Shape (n, n_counted): what stands in each message by itself."""

    def count() -> npt.NDArray[np.float64]:
        words = seen.scan
        columns = [
            np.log1p(words.n_words),
            words.questions,
            words.exclamations,
            words.positive,
            words.negative,
            *(words.count(mark) for mark in _COUNTED),
        ]
        # A text of thousands of words must not outweigh everything else.
        return np.minimum(np.stack(columns, axis=1).astype(np.float64), 20.0)

    return seen.conversations.memo("feature table", count)


def _echo(seen: Reading) -> npt.NDArray[np.float64]:
    """Shape (n, len(_ECHO)): how much of each message stands in the ones before it."""

    def look() -> npt.NDArray[np.float64]:
        said = seen.scan
        number = (said.marks & Mark.NUMBER.bit) != 0
        useful = np.flatnonzero(((said.marks & Mark.FUNCTION.bit) == 0) | number)
        number, row = number[useful], said.text_of[useful]
        home = seen.conversations.conversation_of[row].astype(np.uint64) + np.uint64(1)
        # Words of different conversations must not meet.
        words = mix(said.stems[useful] ^ (home * _CONVERSATION))
        n_words = np.bincount(row, minlength=seen.n)
        n_numbers = np.bincount(row[number], minlength=seen.n)
        by = [np.ones(seen.n, np.bool_), seen.agent, seen.customer, _is_tool(seen)]
        columns = [np.log1p(n_words), np.minimum(n_numbers, 20)]
        for known in (_known(words, row, speaker) for speaker in by):
            columns.append(np.bincount(row[known], minlength=seen.n) / np.maximum(n_words, 1))
            told = np.bincount(row[known & number], minlength=seen.n)
            columns.append(np.minimum(n_numbers - told, 10))
        table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
        other, same = table[:, 4:6].copy(), table[:, 6:8].copy()
        table[:, 4:6] = np.where(seen.customer[:, None], other, same)
        table[:, 6:8] = np.where(seen.customer[:, None], same, other)
        return table

    return seen.conversations.memo("echo table", look)


def _known(words: HashArray, row: IntArray, speaker: BoolArray) -> BoolArray:
    """Which words stand in an earlier row of certain speakers; rows ascending."""
    mine = speaker[row]
    first, at = np.unique(words[mine], return_index=True)
    if not len(first):
        return np.zeros(len(words), np.bool_)
    place = np.searchsorted(first, words)
    place[place == len(first)] = 0
    known: BoolArray = (first[place] == words) & (row[mine][at][place] < row)
    return known


def _is_tool(seen: Reading) -> BoolArray:
    tool: BoolArray = (seen.conversations.authors == AUTHORS.index(Author.TOOL)) & seen.said
    return tool


def _neighbours(seen: Reading) -> _Neighbours:
    def look() -> _Neighbours:
        before = [seen.before(side) for side in (seen.agent, seen.customer)]
        after = [seen.after(side) for side in (seen.agent, seen.customer)]
        mine = seen.customer
        return _Neighbours(
            np.where(mine, before[0], before[1]),
            np.where(mine, before[1], before[0]),
            np.where(mine, after[0], after[1]),
            np.where(mine, after[1], after[0]),
        )

    return seen.conversations.memo("neighbours", look)


def _at(table: npt.NDArray[np.float64], rows: IntArray) -> npt.NDArray[np.float64]:
    chosen = table[np.maximum(rows, 0)]
    chosen[rows < 0] = 0
    return chosen


def _so_far(seen: Reading, figures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over each conversation up to and with each message."""
    running = np.zeros((seen.n + 1, figures.shape[1]))
    np.cumsum(figures, axis=0, out=running[1:])
    return running[1:] - running[seen.start]


def _single(
    seen: Reading,
    rows: IntArray,
    around: _Neighbours,
    turn: npt.NDArray[np.float64],
    turns: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    other_before, same_before, other_after, same_after = (near[rows] for near in around)
    earlier = np.where(other_before >= 0, around.same_before[other_before], NOWHERE)
    again, _ = rephrased(seen)
    loop = looping(seen)
    recall, support, invented = _ground(seen)
    like = _like(
        seen,
        (rows, same_before),
        (rows, same_after),
        (other_before, other_after),
        (rows, other_before),
        (rows, other_after),
        (other_before, earlier),
    )
    columns = [
        turn,
        turns - turn,
        turn / np.maximum(turns, 1),
        np.log1p(turns),
        rows == seen.start[rows],
        (same_before >= 0) & (same_before > other_before),
        (same_after >= 0) & ((other_after < 0) | (same_after < other_after)),
        other_before >= 0,
        other_after >= 0,
        *like,
        again[rows],
        seen.at(loop, other_before),
        loop[rows],
        _wait(seen, rows, other_before),
        recall[rows],
        support[rows],
        invented[rows],
        *(np.where(other_before >= 0, f[other_before], 0) for f in (recall, support, invented)),
        tool_before(seen)[rows] >= 0,
        seen.conversations.rows["tool_calls"].value_lengths().to_numpy(zero_copy_only=False)[rows],
    ]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _like(seen: Reading, *pairs: tuple[IntArray, IntArray]) -> npt.NDArray[np.float64]:
    """The similarity of each pair of rows, shape (n_pairs, n); 0 where one is `NOWHERE`."""
    left = np.concatenate([pair[0] for pair in pairs])
    right = np.concatenate([pair[1] for pair in pairs])
    both = np.flatnonzero((left >= 0) & (right >= 0))
    result = np.zeros(len(left))
    # In one call: a message's trigrams are looked at once for all of its pairs.
    result[both] = similarity(seen.scan.texts, left[both], right[both])
    return result.reshape(len(pairs), -1)


def _wait(seen: Reading, rows: IntArray, before: IntArray) -> npt.NDArray[np.float64]:
    """Logarithm of the seconds since the other side's last message; 0 where unknown."""
    times = seen.conversations.times
    now, then = times[rows], times[np.maximum(before, 0)]
    known = (before >= 0) & (now != NO_TIME) & (then != NO_TIME) & (now > then)
    return np.log1p(np.where(known, now - then, 0) / 1e6)


def _ground(seen: Reading) -> tuple[npt.NDArray[np.float64], ...]:
    """Recall, share of supported words and invented numbers of each message; 0 without passages."""

    def look() -> tuple[npt.NDArray[np.float64], ...]:
        found = grounding(seen.conversations)
        tables = tuple(np.zeros(seen.n) for _ in range(3))
        tables[0][found.replies] = np.nan_to_num(found.recall)
        tables[1][found.replies] = found.backed / np.maximum(found.stated, 1)
        tables[2][found.replies] = np.minimum(found.invented, 5)
        return tables

    return seen.conversations.memo("grounding by message", look)


def tool_before(seen: Reading) -> IntArray:
    """Shape (n,): the last result of a tool since either side spoke, or `NOWHERE`."""
    before = seen.before(_is_tool(seen))
    spoken = seen.before(seen.customer | seen.agent)
    return np.where(before > spoken, before, NOWHERE)


class Grams(NamedTuple):
    """Text features: which buckets each text has."""

    buckets: IntArray
    owner: IntArray
    """Shape of `buckets`: the text's place, ascending."""
    weight: npt.NDArray[np.float64]
    """Shape of `buckets`: 1 plus the logarithm of how often the text has it."""
    n_texts: int
    n_buckets: int


def word_grams(seen: Reading, rows: IntArray) -> Grams:
    """Words and pairs of words of some messages; a row of `NOWHERE` is an empty text."""
    return _word_grams(seen, *_spans(seen.scan.word_offsets, rows))


CONTEXT = 64
"""Messages before a turn, tools' results among them, whose words are its context."""


def context_grams(seen: Reading, rows: IntArray) -> Grams:
    """Words and pairs of words of the `CONTEXT` messages before some messages."""
    offsets = seen.scan.word_offsets
    begin = offsets[np.maximum(seen.start[rows], rows - CONTEXT)]
    return _word_grams(seen, begin, offsets[rows] - begin)


def conversation_grams(seen: Reading, speaker: BoolArray) -> Grams:
    """Words and pairs of words of all messages of some speakers, by conversation."""
    rows = np.flatnonzero(speaker)
    found = word_grams(seen, rows)
    of = seen.conversations.conversation_of[rows][found.owner]
    # Once per message: a word that comes back in every message says more than one that is repeated.
    return _counted(found.buckets, of, seen.conversations.n, N_WORD_BUCKETS)


def _word_grams(seen: Reading, begin: IntArray, size: IntArray) -> Grams:
    words = seen.scan
    owner = np.repeat(np.arange(len(begin)), size)
    place = np.repeat(begin - (np.cumsum(size) - size), size) + np.arange(len(owner))
    single = words.words[place]
    pair = np.flatnonzero(owner[1:] == owner[:-1])
    double = join(single[pair], single[pair + 1])
    shift = np.uint64(64 - (N_WORD_BUCKETS - 1).bit_length())
    buckets = np.concatenate([single >> shift, double >> shift]).astype(np.int64)
    owners = np.concatenate([owner, owner[pair]])
    return _counted(buckets, owners, len(begin), N_WORD_BUCKETS)


def _counted(buckets: IntArray, owners: IntArray, n_texts: int, n_buckets: int) -> Grams:
    found, count = np.unique(owners * n_buckets + buckets, return_counts=True)
    return Grams(found % n_buckets, found // n_buckets, 1 + np.log(count), n_texts, n_buckets)


def sign_grams(seen: Reading, rows: IntArray) -> Grams:
    """Runs of two to five characters (bytes, ASCII in lower case) of some messages, with signs."""
    texts = seen.scan.texts
    begin, size = _spans(texts.offsets, rows)
    # A long text says no more by its spelling than its first thousand characters do.
    size = np.minimum(size, 1000)
    owner = np.repeat(np.arange(len(rows)), size)
    place = np.repeat(begin - (np.cumsum(size) - size), size) + np.arange(len(owner))
    data = texts.data[place].astype(np.uint32)
    capital = (data >= ord("A")) & (data <= ord("Z"))
    data[capital] += 32
    shift = np.uint32(32 - (N_SIGN_BUCKETS - 1).bit_length())
    buckets, owners = [], []
    code = data.copy()
    for length in range(2, max(SIGN_LENGTHS) + 1):
        if len(data) < length:
            break
        code = code[:-1] * np.uint32(0x01000193) + data[length - 1 :]
        inside = owner[length - 1 :] == owner[: len(owner) - length + 1]
        spread = (code ^ (code >> np.uint32(15))) * np.uint32(0x9E3779B1)
        buckets.append((spread >> shift)[inside].astype(np.int64))
        owners.append(owner[length - 1 :][inside])
    if not buckets:
        none = np.zeros(0, np.int64)
        return Grams(none, none, np.zeros(0), len(rows), N_SIGN_BUCKETS)
    return _counted(np.concatenate(buckets), np.concatenate(owners), len(rows), N_SIGN_BUCKETS)


def _spans(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    begin = offsets[np.maximum(rows, 0)]
    size = offsets[np.maximum(rows, 0) + 1] - begin
    return begin, np.where(rows >= 0, size, 0)
