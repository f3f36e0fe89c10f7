"""Commitments: what the bot promises, and which promises have nothing behind them.

A sentence of the bot's is a promise when it has words of commitment (`I will`, `has been`, `you'll
receive`) and a thing promised, and is neither a question nor a condition nor a denial. What stands
behind it must be in the log: a passage, a tool's result or a tool call about the same thing, with
the same numbers. A transfer is kept by a person who then speaks, or by a tool call for it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from quietdesk.scoring.base import (
    AUTHORS,
    BaseMetric,
    Better,
    Conversations,
    Mean,
    Rate,
    Ratio,
    Scale,
    Units,
)
from quietdesk.scoring.grounding import passage_words
from quietdesk.scoring.lexicon import HashArray, Mark, mask, mix
from quietdesk.scoring.outcome import handoff_calls
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.scan import Scan, Texts, gather, scan
from quietdesk.types import Author

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

KINDS = ("refund", "discount", "date", "follow_up", "replacement", "transfer")
_MARKS = (Mark.REFUND, Mark.DISCOUNT, Mark.DATE, Mark.FOLLOW_UP, Mark.REPLACEMENT, Mark.TRANSFER)
_THINGS = mask(*_MARKS)
_NO_PROMISE = mask(Mark.CONDITIONAL, Mark.NEGATION, Mark.BOT_CANNOT)
_ALONE = mask(Mark.TRANSFER, Mark.FOLLOW_UP)
_TRANSFER = KINDS.index("transfer")
_OWNER = np.uint64(0x9FB21C651E98DF25)


@dataclass(frozen=True, slots=True)
class Promises:
    """The promises in a batch, one row each.

    Attributes:
        message: Shape (n,): the bot's message.
        kind: Shape (n,): place in `KINDS`.
        supported: Shape (n,): something in the log stands behind it.
        checkable: Shape (n,): the log could show it: a transfer always; others only where the
            conversation has passages, tool results or tool calls.
    """

    message: IntArray
    kind: IntArray
    supported: BoolArray
    checkable: BoolArray


def promises(conversations: Conversations) -> Promises:
    """The promises of the bot, computed once per batch; English only."""
    return conversations.memo("promises", lambda: _promises(reading(conversations)))


def _promises(seen: Reading) -> Promises:
    words = seen.scan
    sentence, first_word = _sentences(words)
    marks = gather(words.marks, np.append(first_word, len(words.marks)))
    message = words.text_of[first_word] if len(first_word) else np.zeros(0, np.int64)
    covered = seen.agent_english[seen.conversations.conversation_of[message]]
    promise = seen.bot[message] & covered & ~words.asked[first_word]
    promise &= ((marks & Mark.PROMISED.bit) != 0) & ((marks & _THINGS) != 0)
    promise &= (marks & _NO_PROMISE) == 0
    rows = np.flatnonzero(promise)

    columns: list[tuple[IntArray, IntArray, IntArray]] = []
    for code, mark in enumerate(_MARKS):
        of_kind = rows[(marks[rows] & mark.bit) != 0]
        if code == KINDS.index("date"):
            # `I'll call you back within 2 hours` is one promise, and its hours are checked with it.
            other = _THINGS & ~Mark.DATE.bit
            of_kind = of_kind[(marks[of_kind] & other) == 0]
        columns.append((message[of_kind], np.full(len(of_kind), code, np.int64), of_kind))
    where, kind, place = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((kind, place))
    where, kind, place = where[order], kind[order], place[order]
    supported, checkable = _support(seen, where, kind, place, sentence)
    return Promises(where, kind, supported, checkable)


def _sentences(words: Scan) -> tuple[IntArray, IntArray]:
    """(number of each word's sentence from 0, first word of each sentence)."""
    numbers = words.sentence_of
    if not len(numbers):
        return numbers, np.zeros(0, np.int64)
    new = np.ones(len(numbers), np.bool_)
    new[1:] = numbers[1:] != numbers[:-1]
    return np.cumsum(new) - 1, np.flatnonzero(new)


def _support(
    seen: Reading, where: IntArray, kind: IntArray, place: IntArray, sentence: IntArray
) -> tuple[BoolArray, BoolArray]:
    conversations = seen.conversations
    supported = np.zeros(len(where), np.bool_)
    if not len(where):
        return supported, supported.copy()
    calls = handoff_calls(conversations)
    person_after = seen.after(seen.human)[where] >= 0
    call_near = calls[where] | (seen.after(calls)[where] >= 0) | (seen.before(calls)[where] >= 0)
    is_transfer = kind == _TRANSFER
    supported[is_transfer] = (person_after | call_near)[is_transfer]

    marks, numbers, has_evidence = _evidence(seen)
    start = seen.start[where]
    for code, mark in enumerate(_MARKS):
        if code == _TRANSFER:
            continue
        newest = np.maximum.accumulate(np.where((marks & mark.bit) != 0, seen.rows, -1))
        mine = kind == code
        supported[mine] = (newest[where] >= start)[mine]
    supported[~is_transfer] &= _numbers_known(seen, where, place, sentence, numbers)[~is_transfer]
    known = np.maximum.accumulate(np.where(has_evidence, seen.rows, -1))
    checkable = is_transfer | (known[where] >= start)
    return supported, checkable


def _evidence(seen: Reading) -> tuple[HashArray, HashArray, BoolArray]:
    """What the log knows: marks by message, numbers by conversation, and where there is any."""
    conversations = seen.conversations
    of = conversations.conversation_of
    marks = np.zeros(seen.n, np.uint64)
    has = np.zeros(seen.n, np.bool_)
    keys = []
    tool = conversations.authors == AUTHORS.index(Author.TOOL)
    rows = np.flatnonzero(tool & seen.said)
    marks[rows] |= seen.scan.any_marks[rows]
    has[rows] = True
    if len(rows):
        chosen = tool[seen.scan.text_of] & ((seen.scan.marks & Mark.NUMBER.bit) != 0)
        keys.append(_number_keys(seen.scan.words[chosen], of[seen.scan.text_of[chosen]]))
    if len(conversations.passages.values):
        passages = passage_words(conversations)
        _add_texts(passages.scan, passages.text, passages.message, of, marks, has, keys)
    column = conversations.rows["tool_calls"]
    calls = column.flatten()
    if len(calls):
        owner = np.repeat(seen.rows, pc.list_value_length(column).to_numpy(zero_copy_only=False))
        # A tool's name is a phrase too: `issue_refund` is about a refund.
        told = pc.binary_join_element_wise(calls.field("name"), calls.field("arguments"), " ")
        spaced = pc.replace_substring_regex(told, r"[_\-]", " ")
        _add_texts(scan(Texts.of(spaced)), np.arange(len(calls)), owner, of, marks, has, keys)
    numbers = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.uint64)
    return marks, numbers, has


def _add_texts(
    read: Scan,
    text: IntArray,
    message: IntArray,
    of: IntArray,
    marks: HashArray,
    has: BoolArray,
    keys: list[HashArray],
) -> None:
    """Take in texts that a message has: `text[i]` belongs to message `message[i]`."""
    np.bitwise_or.at(marks, message, read.any_marks[text])
    has[message] = True
    chosen = np.flatnonzero((read.marks & Mark.NUMBER.bit) != 0)
    size = np.bincount(read.text_of[chosen], minlength=len(read.texts))
    begin = np.cumsum(size) - size
    length = size[text]
    row = np.repeat(begin[text] - (np.cumsum(length) - length), length)
    row += np.arange(int(length.sum()))
    keys.append(_number_keys(read.words[chosen[row]], of[np.repeat(message, length)]))


def _number_keys(words: HashArray, conversation: IntArray) -> HashArray:
    return mix(words ^ ((conversation.astype(np.uint64) + np.uint64(1)) * _OWNER))


def _numbers_known(
    seen: Reading, where: IntArray, place: IntArray, sentence: IntArray, known: HashArray
) -> BoolArray:
    """Whether every number of each promise's sentence stands in the conversation's evidence."""
    words = seen.scan
    begin = np.searchsorted(sentence, place)
    end = np.searchsorted(sentence, place, side="right")
    size = end - begin
    owner = np.repeat(np.arange(len(where)), size)
    inside = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    rows = begin[owner] + inside
    numeric = (words.marks[rows] & Mark.NUMBER.bit) != 0
    rows, owner = rows[numeric], owner[numeric]
    keys = _number_keys(words.words[rows], seen.conversations.conversation_of[where[owner]])
    unknown = ~np.isin(keys, known)
    fine = np.ones(len(where), np.bool_)
    fine[owner[unknown]] = False
    return fine


class PromisesMade(Mean):
    """How much the bot promises."""

    name = "promises"
    title = "Promises"
    definition = (
        "Promises of the bot per conversation: sentences that commit to a refund, a discount, a "
        "date, a follow-up, a replacement or a transfer. Questions, conditions and denials are "
        "none. From 0, in English."
    )
    source = (
        "Lexicons `promised`, `refund`, `discount`, `date`, `follow_up`, `replacement`, `transfer`."
    )
    misleads = (
        "Unusual wording is missed; a date in passing (`the train will leave at 5 pm`) counts."
    )
    better = Better.NEITHER

    def look(self, conversations: Conversations) -> Units:
        """Promises in each conversation in which the bot speaks."""
        seen = reading(conversations)
        found = promises(conversations)
        of = conversations.conversation_of[found.message]
        count = np.bincount(of, minlength=conversations.n)
        some = np.flatnonzero(seen.count(seen.bot) > 0)
        causes = np.unique(found.message)
        return Units(some, count[some], seen.agent_english[some], causes)


class UnsupportedPromises(Ratio):
    """Promises with nothing behind them."""

    name = "unsupported_promises"
    title = "Unsupported promises"
    definition = (
        "Promises of the bot with no passage, tool result or tool call about the same thing and "
        "with the same numbers before them, by all that could be checked; for a "
        "transfer: nobody came and no tool was called. 0 to 1, in English; conversations without a "
        "promise, or without any source to check against, are not measured."
    )
    source = "Own definition."
    misleads = (
        "It knows only what is in the log: a bot whose tools are not logged looks "
        "like a liar, and a passage that names a refund supports any refund without a number."
    )
    better = Better.LOWER
    scale = Scale.SHARE

    def look(self, conversations: Conversations) -> Units:
        """(unsupported, checkable) promises of each conversation that has any."""
        found = promises(conversations)
        of = conversations.conversation_of[found.message]
        some = np.unique(of)
        checked = np.bincount(of[found.checkable], minlength=conversations.n)
        empty = found.checkable & ~found.supported
        broken = np.bincount(of[empty], minlength=conversations.n)
        pairs = np.stack([broken, checked], axis=1)[some]
        return Units(some, pairs, None, np.unique(found.message[empty]))


class FalseTransfers(Rate):
    """Transfers that were announced and did not happen."""

    name = "false_transfers"
    title = "False transfers"
    definition = (
        "Conversations in which the bot announces a transfer although no person speaks afterwards "
        "and no tool for it is called, of those in which it announces one. 0 to 1, in English."
    )
    source = "Own definition."
    misleads = "Logs that end where the person takes over show every transfer as false."
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """Any announced transfer that did not happen."""
        found = promises(conversations)
        transfer = found.kind == _TRANSFER
        of = conversations.conversation_of[found.message[transfer]]
        some = np.unique(of)
        false = np.bincount(of[~found.supported[transfer]], minlength=conversations.n) > 0
        causes = np.unique(found.message[transfer & ~found.supported])
        return Units(some, false[some], None, causes)


def metrics() -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (PromisesMade(), UnsupportedPromises(), FalseTransfers())
