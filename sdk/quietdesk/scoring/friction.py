"""Friction: where a conversation was hard work for the customer, and in which turns."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.base import (
    NO_TIME,
    BaseMetric,
    Better,
    Category,
    Conversations,
    Mean,
    Rate,
    Ratio,
    Scale,
    Unit,
    Units,
)
from quietdesk.scoring.lexicon import Mark, mask
from quietdesk.scoring.reading import Reading, reading
from quietdesk.scoring.scan import similarity

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

REPHRASED = 0.5
"""Dice coefficient of trigrams from which a message says an earlier one again."""
REPEATED = 0.9
"""The same for two replies of a bot that is stuck: all but a name or a number is equal."""
MIN_WORDS = 4
"""Shorter messages are alike by chance: `yes please`."""


class Turns(Mean):
    """How often the customer had to speak."""

    name = "turns"
    title = "Customer turns"
    definition = (
        "Times the customer speaks; messages with no reply between them are one turn. From 0; "
        "conversations without a customer are left out."
    )
    source = "Number of turns, a dialogue cost in PARADISE (Walker et al., ACL 1997)."
    misleads = "A long conversation can be a rich one; compare within one intent."
    quantiles = (0.5, 0.9)
    better = Better.NEITHER

    def look(self, conversations: Conversations) -> Units:
        """Runs of customer messages."""
        seen = reading(conversations)
        turns = seen.count(_turn_begins(seen))
        some = np.flatnonzero(turns > 0)
        return Units(some, turns[some])


def _turn_begins(seen: Reading) -> BoolArray:
    """Customer messages with an agent's message, or nothing, as the last thing said before."""
    before = seen.before(seen.customer | seen.agent)
    return seen.customer & ~seen.at(seen.customer, before)


def rephrased(seen: Reading) -> tuple[BoolArray, BoolArray]:
    """Customer messages that say the last one or the one before it again, and those that could.

    Returns:
        (rephrased, comparable), each of shape (n,). Comparable is a message of `MIN_WORDS` words or
        more after another such message of the customer's.
    """

    def look() -> tuple[BoolArray, BoolArray]:
        long = seen.customer & (seen.scan.n_words >= MIN_WORDS)
        first = seen.before(long)
        second = np.where(first >= 0, first[first], -1) if seen.n else first
        comparable = long & (first >= 0)
        again = np.zeros(seen.n, np.bool_)
        later = np.concatenate(
            [np.flatnonzero(long & (first >= 0)), np.flatnonzero(long & (second >= 0))]
        )
        half = int((long & (first >= 0)).sum())
        earlier = np.concatenate([first[later[:half]], second[later[half:]]])
        size = np.diff(seen.scan.texts.offsets)
        near = (size[later] <= 3 * size[earlier]) & (size[earlier] <= 3 * size[later])
        later, earlier = later[near], earlier[near]
        again[later[similarity(seen.scan.texts, later, earlier) >= REPHRASED]] = True
        return again, comparable

    return seen.conversations.memo("rephrased", look)


class Rephrasing(Ratio):
    """How often customers say a thing twice."""

    name = "rephrasing"
    title = "Rephrasing"
    definition = (
        "Customer messages whose character trigrams have a Dice coefficient of at least "
        f"{REPHRASED} with one of the customer's two messages before, by the messages that have "
        f"one. 0 to 1; only messages of {MIN_WORDS} words or more, of which neither is over three "
        "times as long as the other; any language that parts words by spaces."
    )
    source = (
        "Reformulation as a sign of failure: Hassan et al., Beyond Clicks: Query Reformulation as "
        "a Predictor of Search Satisfaction (CIKM 2013); Dice (1945) for the coefficient."
    )
    misleads = (
        "Filling in a form step by step, in like sentences, looks the same; a story retold in "
        "other words does not."
    )
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """(rephrased, comparable) messages of each conversation."""
        seen = reading(conversations)
        again, comparable = rephrased(seen)
        pairs = np.stack([seen.count(again), seen.count(comparable)], axis=1)
        some = np.flatnonzero(pairs[:, 1] > 0)
        return Units(some, pairs[some], None, np.flatnonzero(again))


_FORMULA = mask(Mark.ANYTHING_ELSE, Mark.GOODBYE, Mark.WAIT, Mark.GREETING)


def looping(seen: Reading) -> BoolArray:
    """Shape (n,): the bot says what it said before in this conversation; formulas do not count."""

    def look() -> BoolArray:
        words = seen.scan
        candidate = seen.bot & (words.n_words >= MIN_WORDS) & ((words.any_marks & _FORMULA) == 0)
        rows = np.flatnonzero(candidate)
        loop = np.zeros(seen.n, np.bool_)
        # Sorting by wording within a conversation brings equal replies side by side, in order.
        order = rows[np.lexsort((rows, words.wording[rows], seen.start[rows]))]
        same = words.wording[order[1:]] == words.wording[order[:-1]]
        same &= seen.start[order[1:]] == seen.start[order[:-1]]
        loop[order[1:][same]] = True
        earlier = seen.before(candidate)
        pairs = np.flatnonzero(candidate & (earlier >= 0) & ~loop)
        size = np.diff(words.texts.offsets)
        near = (4 * size[pairs] <= 5 * size[earlier[pairs]]) & (
            4 * size[earlier[pairs]] <= 5 * size[pairs]
        )
        pairs = pairs[near]
        alike = similarity(words.texts, pairs, earlier[pairs]) >= REPEATED
        loop[pairs[alike]] = True
        return loop

    return seen.conversations.memo("looping", look)


class BotLoops(Rate):
    """Conversations in which the bot went round in circles."""

    name = "bot_loops"
    title = "Bot loops"
    definition = (
        f"Conversations in which the bot says a message of {MIN_WORDS} words or more again: in the "
        f"same words anywhere before, or with a Dice coefficient of at least {REPEATED} with its "
        "last one. Greetings, closings, `one moment` and `anything else?` do not count."
    )
    source = (
        "Repetition as a sign of breakdown: Martinovsky and Traum, The Error Is the Clue (2003)."
    )
    misleads = "A form asked for twice on purpose counts; the same answer in other words does not."
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """Any repeated reply, in conversations where the bot speaks."""
        seen = reading(conversations)
        loop = looping(seen)
        some = np.flatnonzero(seen.count(seen.bot) > 0)
        return Units(some, seen.count(loop)[some] > 0, None, np.flatnonzero(loop))


class _Replies(Ratio):
    """Share of the bot's replies that have a mark."""

    better = Better.LOWER
    marks: ClassVar[tuple[Mark, ...]]

    def look(self, conversations: Conversations) -> Units:
        """(marked, all) replies of each conversation in which the bot speaks."""
        seen = reading(conversations)
        hit = seen.bot & seen.scan.has(*self.marks)
        pairs = np.stack([seen.count(hit), seen.count(seen.bot)], axis=1)
        some = np.flatnonzero(pairs[:, 1] > 0)
        covered = seen.agent_english
        causes = np.flatnonzero(hit & covered[conversations.conversation_of])
        return Units(some, pairs[some], covered[some], causes)


class Apologies(_Replies):
    """How often the bot says sorry."""

    name = "apologies"
    title = "Apologies"
    definition = "Bot replies that apologise, by all bot replies. 0 to 1, in English."
    source = "Lexicon `apology`; apologies mark breakdowns (Martinovsky and Traum, 2003)."
    misleads = (
        "Polite bots apologise for nothing (`sorry to hear that`); compare a bot with itself."
    )
    marks = (Mark.APOLOGY,)


class Misunderstandings(_Replies):
    """How often the bot says that it is lost."""

    name = "misunderstandings"
    title = "Not understood"
    definition = (
        "Bot replies that say it did not understand, does not know, or ask to rephrase, by all bot "
        "replies. 0 to 1, in English."
    )
    source = "Lexicon `bot_lost`; non-understandings as in Bohus and Rudnicky (SIGdial 2005)."
    misleads = "A bot that guesses wrongly instead of asking looks better than one that asks."
    marks = (Mark.BOT_LOST,)


class Refusals(_Replies):
    """How often the bot says that something is not possible."""

    name = "refusals"
    title = "Refusals"
    definition = (
        "Bot replies that say something cannot be done, found or had, by all bot replies. 0 to 1, "
        "in English."
    )
    source = "Lexicon `bot_cannot`."
    misleads = "A true no is good service; it is still what customers are least pleased by."
    marks = (Mark.BOT_CANNOT,)


class _Customers(Rate):
    """Share of conversations in which the customer says a marked thing."""

    better = Better.LOWER
    marks: ClassVar[tuple[Mark, ...]]

    def look(self, conversations: Conversations) -> Units:
        """Any marked message, in conversations where the customer speaks."""
        seen = reading(conversations)
        hit = seen.customer & seen.scan.has(*self.marks)
        some = np.flatnonzero(seen.count(seen.customer) > 0)
        covered = seen.customer_english
        causes = np.flatnonzero(hit & covered[conversations.conversation_of])
        return Units(some, (seen.count(hit) > 0)[some], covered[some], causes)


class Complaints(_Customers):
    """Conversations with a complaint."""

    name = "complaints"
    title = "Complaints"
    definition = (
        "Conversations in which the customer complains or swears, by phrases. 0 to 1, in English."
    )
    source = "Lexicons `complaint` and `rude`."
    misleads = "Irony, and complaints about the product rather than the service."
    marks = (Mark.COMPLAINT, Mark.RUDE)


class AsksForHuman(_Customers):
    """Conversations in which the customer wants a person."""

    name = "asks_for_human"
    title = "Asks for a person"
    definition = (
        "Conversations in which the customer asks for a person, an agent or a supervisor, or "
        "whether a bot is speaking. 0 to 1, in English."
    )
    source = "Lexicon `ask_human`."
    misleads = "A hotel manager or a sales representative may be what the conversation is about."
    marks = (Mark.ASK_HUMAN,)


class Corrections(Ratio):
    """How often the customer has to put something right."""

    name = "corrections"
    title = "Corrections"
    definition = (
        "Customer messages after a reply that correct, repeat or doubt (`I said`, `that's not`, "
        "`are you there`), by all customer messages after a reply. 0 to 1, in English."
    )
    source = "Lexicon `repair`; user corrections as in Litman, Hirschberg and Swerts (ACL 2001)."
    misleads = "Customers change their minds; that counts as a correction too."
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """(correcting, all) customer messages after a reply."""
        seen = reading(conversations)
        answered = seen.customer & (seen.before(seen.agent) >= 0)
        hit = answered & seen.scan.has(Mark.REPAIR)
        pairs = np.stack([seen.count(hit), seen.count(answered)], axis=1)
        some = np.flatnonzero(pairs[:, 1] > 0)
        covered = seen.customer_english
        causes = np.flatnonzero(hit & covered[conversations.conversation_of])
        return Units(some, pairs[some], covered[some], causes)


def questions(seen: Reading) -> BoolArray:
    """Shape (n,): customer messages that ask: with a question mark, or a question word in front."""

    def look() -> BoolArray:
        words = seen.scan
        opens = np.zeros(seen.n, np.bool_)
        filled = np.flatnonzero(words.n_words > 0)
        first = words.marks[words.word_offsets[filled]]
        opens[filled] = (first & Mark.QUESTION_WORD.bit) != 0
        return seen.customer & ((words.questions > 0) | opens)

    return seen.conversations.memo("questions", look)


class Unanswered(Ratio):
    """Questions left standing."""

    name = "unanswered"
    title = "Unanswered questions"
    definition = (
        "Customer questions with no reply at all, or whose reply says that the bot did not "
        "understand or does not know, by all customer questions. 0 to 1. A question has a question "
        "mark or a question word in front."
    )
    source = "Own definition."
    misleads = "A fluent reply that misses the question counts as an answer."
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """(unanswered, all) questions of each conversation."""
        seen = reading(conversations)
        asked = questions(seen)
        reply = seen.after(seen.agent)
        lost = seen.at(seen.scan.has(Mark.BOT_LOST), reply)
        hit = asked & ((reply < 0) | lost)
        pairs = np.stack([seen.count(hit), seen.count(asked)], axis=1)
        some = np.flatnonzero(pairs[:, 1] > 0)
        covered = seen.agent_english | (seen.count(seen.agent) == 0)
        causes = np.flatnonzero(hit & covered[conversations.conversation_of])
        return Units(some, pairs[some], covered[some], causes)


class Latency(Mean):
    """How long customers wait."""

    name = "latency"
    title = "Time to reply"
    definition = (
        "Seconds from a customer's last message to the first reply to it. Replies without both "
        "times, or with a reply earlier than the question, are not measured."
    )
    source = "Response time, a dialogue cost in PARADISE (Walker et al., ACL 1997)."
    misleads = (
        "Logs that stamp a reply when it was begun, or round to minutes; nights between messages."
    )
    unit = Unit.MESSAGE
    better = Better.LOWER
    scale = Scale.SECONDS
    quantiles = (0.5, 0.9, 0.99)

    def look(self, conversations: Conversations) -> Units:
        """Seconds, for the first reply of each agent turn."""
        seen = reading(conversations)
        before = seen.before(seen.customer | seen.agent)
        replies = np.flatnonzero(seen.agent & seen.at(seen.customer, before))
        now, then = conversations.times[replies], conversations.times[before[replies]]
        known = (now != NO_TIME) & (then != NO_TIME) & (now >= then)
        seconds = np.where(known, now - then, 0) / 1e6
        return Units(replies, seconds, known)


class LastWord(Category):
    """Who spoke last."""

    name = "last_word"
    title = "Who spoke last"
    definition = "The author of the last message with a text: customer, bot or human."
    source = "Own definition."
    misleads = (
        "A thank-you is a fine last word and an unanswered question is not; see `unanswered`."
    )
    categories = ("customer", "bot", "human")

    def look(self, conversations: Conversations) -> Units:
        """The last speaker's code."""
        seen = reading(conversations)
        last = seen.last(seen.customer | seen.agent)
        some = np.flatnonzero(last >= 0)
        rows = last[some]
        codes = np.where(seen.customer[rows], 0, np.where(seen.bot[rows], 1, 2))
        return Units(some, codes)


class SentimentShift(Category):
    """Whether the customer's tone rises or falls."""

    name = "sentiment_shift"
    title = "Sentiment shift"
    definition = (
        "The customer's polarity (positive less negative words per message, turned by a negation "
        "among the three words before) in the last third of their messages against the first "
        "third: worse -1, same 0, better +1. Conversations with two or more customer messages, "
        "in English."
    )
    source = "Lexicons `positive` and `negative`; own definition of the shift."
    misleads = (
        "Thanks at the end lift it even after a failure; a description of a defect is negative."
    )
    categories = ("worse", "same", "better")
    levels = (-1.0, 0.0, 1.0)
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """The sign of the difference."""
        seen = reading(conversations)
        number = seen.count(seen.customer)
        some = np.flatnonzero(number >= 2)
        third = np.maximum(1, number // 3)
        rank = np.cumsum(seen.customer) - 1
        first = rank - _at_start(rank, seen)
        of = conversations.conversation_of
        early = seen.customer & (first < third[of])
        late = seen.customer & (first >= (number - third)[of])
        tone = seen.scan.polarity + seen.scan.count(Mark.THANKS) - 2 * seen.scan.count(Mark.RUDE)
        shift = seen.sum(np.where(late, tone, 0)) - seen.sum(np.where(early, tone, 0))
        return Units(some, (np.sign(shift) + 1)[some], seen.customer_english[some])


def _at_start(rank: IntArray, seen: Reading) -> IntArray:
    """Each message's rank of the first customer message of its conversation."""
    before = np.zeros(seen.n + 1, np.int64)
    np.cumsum(seen.customer, out=before[1:])
    return before[seen.start]


def metrics() -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (
        Turns(),
        Rephrasing(),
        Corrections(),
        BotLoops(),
        Misunderstandings(),
        Refusals(),
        Apologies(),
        Unanswered(),
        Complaints(),
        AsksForHuman(),
        SentimentShift(),
        Latency(),
        LastWord(),
    )
