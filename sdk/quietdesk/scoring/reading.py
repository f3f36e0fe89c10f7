"""Reading: a batch as the metrics without labels see it: words, speakers, languages covered."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from quietdesk.scoring.base import AUTHORS, Conversations
from quietdesk.scoring.lexicon import Mark
from quietdesk.scoring.scan import Scan, Texts, scan
from quietdesk.types import Author

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NOWHERE = -1
"""In an array of rows: there is no such message."""


class Reading:
    """One batch, read once; everything is computed when first asked for.

    Attributes:
        conversations: The batch.
        n: Messages.
        start: Shape (n,): the first row of each message's conversation.
        stop: Shape (n,): the row after its last.
        rows: Shape (n,): 0 to n - 1.
    """

    def __init__(self, conversations: Conversations) -> None:
        self.conversations = conversations
        self.n = conversations.n_messages
        self.rows = np.arange(self.n, dtype=np.int64)
        of = conversations.conversation_of
        self.start = conversations.offsets[:-1][of]
        self.stop = conversations.offsets[1:][of]

    @cached_property
    def scan(self) -> Scan:
        """The words of all messages."""
        return scan(Texts.of(self.conversations.texts))

    @cached_property
    def said(self) -> BoolArray:
        """Shape (n,): the message has a text; a bare tool call has none."""
        return np.diff(self.scan.texts.offsets) > 0

    @cached_property
    def customer(self) -> BoolArray:
        """Shape (n,): the customer says something."""
        return self._by(Author.CUSTOMER)

    @cached_property
    def bot(self) -> BoolArray:
        """Shape (n,): the bot says something."""
        return self._by(Author.BOT)

    @cached_property
    def human(self) -> BoolArray:
        """Shape (n,): a person of the team says something."""
        return self._by(Author.HUMAN)

    @cached_property
    def agent(self) -> BoolArray:
        """Shape (n,): the bot or a person of the team says something."""
        return self.bot | self.human

    def _by(self, author: Author) -> BoolArray:
        by: BoolArray = self.conversations.authors == AUTHORS.index(author)
        return by & self.said

    def before(self, wanted: BoolArray) -> IntArray:
        """Shape (n,): the last wanted row before each row in its conversation, or `NOWHERE`."""
        found = np.full(self.n, NOWHERE, np.int64)
        if self.n > 1:
            found[1:] = np.maximum.accumulate(np.where(wanted, self.rows, NOWHERE))[:-1]
        found[found < self.start] = NOWHERE
        return found

    def after(self, wanted: BoolArray) -> IntArray:
        """Shape (n,): the first wanted row after each row in its conversation, or `NOWHERE`."""
        found = np.full(self.n, self.n, np.int64)
        if self.n > 1:
            backwards = np.where(wanted, self.rows, self.n)[::-1]
            found[:-1] = np.minimum.accumulate(backwards)[::-1][1:]
        found[found >= self.stop] = NOWHERE
        return found

    def last(self, wanted: BoolArray) -> IntArray:
        """Shape (n_conversations,): the last wanted row of each conversation, or `NOWHERE`."""
        offsets = self.conversations.offsets
        found = np.full(self.conversations.n, NOWHERE, np.int64)
        if self.n:
            newest = np.maximum.accumulate(np.where(wanted, self.rows, NOWHERE))
            filled = offsets[1:] > offsets[:-1]
            found[filled] = newest[offsets[1:][filled] - 1]
        found[found < offsets[:-1]] = NOWHERE
        return found

    def count(self, wanted: BoolArray) -> IntArray:
        """Shape (n_conversations,): how many wanted rows each conversation has."""
        of = self.conversations.conversation_of
        return np.bincount(of[wanted], minlength=self.conversations.n).astype(np.int64)

    def at(self, flags: npt.NDArray[np.bool_], rows: IntArray) -> BoolArray:
        """The flags at some rows; False where the row is `NOWHERE`."""
        if not self.n:
            return np.zeros(len(rows), np.bool_)
        return (rows >= 0) & flags[np.maximum(rows, 0)]

    @cached_property
    def english(self) -> BoolArray:
        """Shape (n_conversations,): the conversation is in a language that the lexicon covers.

        At most a tenth of the letters are of another script, at least one word is English and of
        no other known language, there are such words for one in twelve, and they are more than
        twice the function words that only other languages have.
        """
        english, foreign, words, latin, other = self._customer_evidence + self._agent_evidence
        covered: BoolArray = (english >= 1) & (english * 12 >= words)
        covered &= (english > 2 * foreign) & (other * 9 <= latin)
        return covered

    @cached_property
    def customer_english(self) -> BoolArray:
        """As `english`, and the customer's own words do not speak against it."""
        return self.english & _not_foreign(self._customer_evidence)

    @cached_property
    def agent_english(self) -> BoolArray:
        """As `english`, and the agents' own words do not speak against it."""
        return self.english & _not_foreign(self._agent_evidence)

    @cached_property
    def _customer_evidence(self) -> IntArray:
        return self._evidence(self.customer)

    @cached_property
    def _agent_evidence(self) -> IntArray:
        return self._evidence(self.agent)

    def _evidence(self, wanted: BoolArray) -> IntArray:
        """Words of English, of other languages, all, letters of Latin and of other scripts."""
        return np.stack([self.sum(np.where(wanted, figure, 0)) for figure in self._figures])

    @cached_property
    def _figures(self) -> tuple[IntArray, ...]:
        seen = self.scan
        return (
            seen.count(Mark.ENGLISH),
            seen.count(Mark.FOREIGN),
            seen.n_words,
            seen.letters[:, 0],
            seen.letters[:, 1],
        )

    def sum(self, figures: IntArray) -> IntArray:
        """Shape (n_conversations,): the sum of figures over each conversation's messages."""
        running = np.zeros(self.n + 1, np.int64)
        np.cumsum(figures, out=running[1:])
        return np.diff(running[self.conversations.offsets])


def _not_foreign(evidence: IntArray) -> BoolArray:
    english, foreign, _, latin, other = evidence
    fine: BoolArray = (foreign <= 1 + english // 2) & (other * 9 <= latin)
    return fine


def reading(conversations: Conversations) -> Reading:
    """The batch's reading, made once."""
    return conversations.memo("reading", lambda: Reading(conversations))
