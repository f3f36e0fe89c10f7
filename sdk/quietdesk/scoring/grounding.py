"""Grounding: how far a reply rests on the passages that the bot was shown, by its words alone.

Three looks at the same words. `groundedness` asks whether the reply says what the best passage
says; `supported` asks the reverse, whether what the reply states stands anywhere in front of the
bot; `invented_numbers` asks it of numbers only, which are seldom paraphrased. None of them reads
meaning: a contradiction with the right words looks grounded.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.base import (
    AUTHORS,
    BaseMetric,
    Better,
    Conversations,
    Mean,
    Ratio,
    Scale,
    Unit,
    Units,
)
from quietdesk.scoring.lexicon import HashArray, Mark, mask, mix
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.scan import Scan, Texts, scan
from quietdesk.types import Author

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

WINDOW = 24
"""Content words of a passage that are looked for together; a longer passage is cut into windows."""
_OWNER = np.uint64(0xA24BAED4963EE407)
_COURTESY = mask(Mark.ANYTHING_ELSE, Mark.THANKS, Mark.GOODBYE, Mark.GREETING, Mark.APOLOGY)


@dataclass(frozen=True, slots=True)
class Grounding:
    """What stands of each reply in its passages, and of the passages in the reply.

    Attributes:
        replies: Shape (n,): rows of the bot's messages with passages, or with a tool's result since
            the bot spoke last.
        recall: Shape (n,): share of the best window's content words that the reply has; NaN where
            there is no passage with a content word.
        stated: Shape (n,): content words and numbers of the reply's statements.
        backed: Shape (n,): those of them that stand in a passage, a tool's result or the
            customer's words.
        numbers: Shape (n,): numbers in the reply.
        invented: Shape (n,): those of them that stand in none of these.
    """

    replies: IntArray
    recall: FloatArray
    stated: IntArray
    backed: IntArray
    numbers: IntArray
    invented: IntArray


def grounding(conversations: Conversations) -> Grounding:
    """The grounding of every reply that has something to rest on, computed once per batch."""
    return conversations.memo("grounding", lambda: _ground(reading(conversations)))


@dataclass(frozen=True, slots=True)
class PassageWords:
    """The words of a batch's passages; a passage that many replies share is read once.

    Attributes:
        scan: The different texts.
        text: Shape (n_passages,): which of them each passage is.
        message: Shape (n_passages,): the row of the message that has the passage.
    """

    scan: Scan
    text: IntArray
    message: IntArray


def passage_words(conversations: Conversations) -> PassageWords:
    """The words of all passages of a batch, computed once."""

    def look() -> PassageWords:
        passages = conversations.passages
        message = np.repeat(np.arange(conversations.n_messages), passages.lengths)
        texts = passages.values.field("text").dictionary_encode()
        index = texts.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return PassageWords(scan(Texts.of(texts.dictionary)), index, message)

    return conversations.memo("passage_words", look)


def _ground(seen: Reading) -> Grounding:
    tool = (seen.conversations.authors == AUTHORS.index(Author.TOOL)) & seen.said
    told = seen.after(seen.bot)[tool]
    shown = seen.conversations.passages.lengths > 0
    shown[told[told >= 0]] = True
    replies = np.flatnonzero(seen.bot & shown)
    n = len(replies)
    if not n:
        none, ints = np.zeros(0), np.zeros(0, np.int64)
        return Grounding(replies, none, ints, ints, ints, ints)
    place = np.full(seen.n, -1, np.int64)
    place[replies] = np.arange(n)

    said = seen.scan
    owner = place[said.text_of]
    mine = np.flatnonzero(owner >= 0)
    owner = owner[mine]
    marks = said.marks[mine]
    number = (marks & Mark.NUMBER.bit) != 0
    useful = ((marks & Mark.FUNCTION.bit) == 0) | number
    courteous = _whole_sentence((marks & _COURTESY) != 0, said.sentence_of[mine])
    states = (~said.asked[mine] & ~courteous)[useful]
    mine, owner, number = mine[useful], owner[useful], number[useful]
    vocabulary = _Vocabulary(_keys(said.stems[mine], owner))

    recall = _recall(passage_words(seen.conversations), place, n, vocabulary)
    words, asker = _heard(seen, place)
    vocabulary.look_up(_keys(words, asker))

    backed = vocabulary.met()
    return Grounding(
        replies,
        recall,
        np.bincount(owner[states], minlength=n).astype(np.int64),
        np.bincount(owner[states & backed], minlength=n).astype(np.int64),
        np.bincount(owner[number], minlength=n).astype(np.int64),
        np.bincount(owner[number & ~backed], minlength=n).astype(np.int64),
    )


def _keys(words: HashArray, owner: IntArray) -> HashArray:
    """Words of different replies must not meet."""
    return mix(words ^ ((owner.astype(np.uint64) + np.uint64(1)) * _OWNER))


class _Vocabulary:
    """The replies' words, which remember whether they were looked up."""

    def __init__(self, keys: HashArray) -> None:
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]
        self._hit = np.zeros(len(keys), np.bool_)
        bits = max(10, len(keys).bit_length())
        # Most words of a passage are in no reply: one look at a small table tells so.
        self._shift = np.uint64(64 - bits - 4)
        self._maybe = np.zeros(1 << (bits + 4), np.bool_)
        self._maybe[keys >> self._shift] = True
        # The first of the sorted keys that begin with the same bits; written last, it stays.
        self._near = np.uint64(64 - bits)
        self._first = np.zeros(1 << bits, np.int64)
        self._first[(self._sorted[::-1] >> self._near).view(np.int64)] = np.arange(len(keys))[::-1]

    def look_up(self, keys: HashArray) -> BoolArray:
        """Which keys are words of the replies."""
        found: BoolArray = self._maybe[keys >> self._shift]
        some = np.flatnonzero(found)
        wanted = keys[some]
        row = self._first[wanted >> self._near]
        same = self._sorted[row] == wanted
        # Another word with the same first bits stands before it, or the word is not there.
        far = np.flatnonzero(~same)
        place = np.searchsorted(self._sorted, wanted[far])
        place[place == len(self._sorted)] = 0
        row[far] = place
        same[far] = self._sorted[place] == wanted[far]
        found[some] = same
        self._hit[row[same]] = True
        return found

    def met(self) -> BoolArray:
        """Which words, in the order given, were looked up."""
        if not len(self._sorted):
            return self._hit
        new = np.ones(len(self._sorted), np.bool_)
        new[1:] = self._sorted[1:] != self._sorted[:-1]
        # `searchsorted` hits the first of equal words; the others follow it.
        first = np.flatnonzero(new)
        met = np.zeros(len(self._sorted), np.bool_)
        met[self._order] = self._hit[first[np.cumsum(new) - 1]]
        return met


def _whole_sentence(flags: BoolArray, sentence_of: IntArray) -> BoolArray:
    if not len(flags):
        return flags
    lowest = int(sentence_of[0])
    marked = np.zeros(int(sentence_of[-1]) - lowest + 1, np.bool_)
    marked[sentence_of[flags] - lowest] = True
    return marked[sentence_of - lowest]


def _recall(passages: PassageWords, place: IntArray, n: int, vocabulary: _Vocabulary) -> FloatArray:
    """The best window's recall for each reply; looks all content words and numbers up."""
    read = passages.scan
    useful = (read.marks & (Mark.FUNCTION.bit | Mark.NUMBER.bit)) != Mark.FUNCTION.bit
    stems = read.stems[useful]
    # The question of an FAQ entry supports a reply but is not what the reply should say.
    stated = ~read.asked[useful]
    size = np.bincount(read.text_of[useful], minlength=len(read.texts)).astype(np.int64)
    begin = np.cumsum(size) - size
    # Windows of a text are as equal as can be, so that none is a remainder of a word or two.
    n_windows = np.maximum(1, np.rint(size / WINDOW)).astype(np.int64)
    inside = np.arange(len(stems)) - np.repeat(begin, size)
    window = inside * np.repeat(n_windows, size) // np.maximum(np.repeat(size, size), 1)

    shown = np.flatnonzero(place[passages.message] >= 0)
    text, owner = passages.text[shown], place[passages.message[shown]]
    length = size[text]
    total = int(length.sum())
    word = np.repeat(begin[text] - (np.cumsum(length) - length), length) + np.arange(total)
    found = vocabulary.look_up(_keys(stems[word], np.repeat(owner, length)))

    windows = n_windows[text]
    first = np.cumsum(windows) - windows
    number = np.repeat(first, length) + window[word]
    words = np.bincount(number[stated[word]], minlength=int(windows.sum()))
    hits = np.bincount(number[found & stated[word]], minlength=len(words))
    holder = np.repeat(owner, windows)
    filled = words > 0
    top = np.full(n, -1.0)
    np.maximum.at(top, holder[filled], hits[filled] / words[filled])
    return np.where(top >= 0, top, np.nan)


def _heard(seen: Reading, place: IntArray) -> tuple[HashArray, IntArray]:
    """The customer's and the tools' words since the bot spoke last, with the reply to them."""
    tool = seen.conversations.authors == AUTHORS.index(Author.TOOL)
    following = seen.after(seen.bot)
    reply = np.where(following >= 0, place[np.maximum(following, 0)], -1)
    reply[~(seen.customer | tool)] = -1
    owner = reply[seen.scan.text_of]
    words = np.flatnonzero(owner >= 0)
    return seen.scan.stems[words], owner[words]


class Groundedness(Mean):
    """How much of the best passage the reply says."""

    name = "groundedness"
    title = "Groundedness"
    definition = (
        "Of the content words (stems, without function words) of the passage that fits best, the "
        f"share that the reply says; a passage of more than {WINDOW} content words is cut into "
        "windows of about that many, and its questions are left out. 0 to 1, for replies with "
        "passages, in English."
    )
    source = (
        "Unigram recall with ROUGE-1's definition (Lin, ROUGE: A Package for Automatic Evaluation "
        "of Summaries, 2004), taken against the source instead of a reference."
    )
    misleads = (
        "A short right answer to a passage with more in it scores low; a contradiction in the "
        "passage's words scores high; a good paraphrase scores low. It says nothing about a wrong "
        "passage faithfully repeated."
    )
    unit = Unit.MESSAGE
    better = Better.HIGHER
    scale = Scale.SHARE

    def look(self, conversations: Conversations) -> Units:
        """The best window's recall."""
        found = grounding(conversations)
        some = conversations.passages.lengths[found.replies] > 0
        replies, recall = found.replies[some], found.recall[some]
        measured = _english(conversations, replies) & ~np.isnan(recall)
        low = replies[measured & (np.nan_to_num(recall, nan=1.0) < 0.2)]
        return Units(replies, np.nan_to_num(recall), measured, low)


class Supported(Ratio):
    """How much of what the reply states stands in front of the bot."""

    name = "supported"
    title = "Supported words"
    definition = (
        "Content words of the reply's statements (questions and courtesies left out) "
        "that also stand in its passages, in a tool's result or in what the customer just said, by "
        "all of them. 0 to 1, for replies with passages or a tool's result, in English."
    )
    source = (
        "Unigram precision against the source; own choice of what counts as in front of the bot."
    )
    misleads = "Paraphrase and general knowledge count as unsupported; contradictions as supported."
    unit = Unit.MESSAGE
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """(supported, stated) words."""
        found = grounding(conversations)
        measured = _english(conversations, found.replies)
        low = found.replies[measured & (found.stated >= 3) & (2 * found.backed < found.stated)]
        return Units(found.replies, np.stack([found.backed, found.stated], axis=1), measured, low)


class InventedNumbers(Ratio):
    """Numbers in replies that stand nowhere in front of the bot."""

    name = "invented_numbers"
    title = "Invented numbers"
    definition = (
        "Numbers in a reply that stand neither in its passages nor in a tool's result nor in what "
        "the customer just said, by all its numbers. 0 to 1, for replies with numbers that have "
        "passages or a tool's result, in any language that writes 0 to 9."
    )
    source = "Own definition."
    misleads = "A sum or a date worked out rightly counts as invented; so does `5 pm` for `17:00`."
    unit = Unit.MESSAGE
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """(invented, all) numbers."""
        found = grounding(conversations)
        some = np.flatnonzero(found.numbers > 0)
        pairs = np.stack([found.invented[some], found.numbers[some]], axis=1)
        return Units(found.replies[some], pairs, None, found.replies[found.invented > 0])


def metrics() -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (Groundedness(), Supported(), InventedNumbers())


def _english(conversations: Conversations, rows: IntArray) -> BoolArray:
    return reading(conversations).agent_english[conversations.conversation_of[rows]]
