"""Outcome: how a conversation ended, read from how it closes; a resolution is never assumed.

Every conversation in which a customer speaks ends in exactly one way:

- `handed_off`: a person of the team took part and the customer did not close it contentedly, or the
  bot announced a transfer as its last word or called a tool for it.
- `assisted`: a person of the team took part and the customer closed it contentedly.
- `resolved`: the customer closed it contentedly and only the bot took part.
- `abandoned`: the customer fell silent after a question, a failure or a refusal, never got a reply,
  or left with a complaint.
- `open`: the last word is a statement of the bot's that nobody reacted to. Nothing tells whether it
  helped, so nothing is claimed.

Contentedly closed means: among the customer's last two messages one thanks, says that this was all,
or says goodbye, none of them complains, corrects or asks for a person, and the last one does not
ask anything that stayed without a reply.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from quietdesk.scoring.base import NO_TIME, BaseMetric, Better, Category, Conversations, Rate, Units
from quietdesk.scoring.friction import questions
from quietdesk.scoring.lexicon import Mark
from quietdesk.scoring.reading import Reading, reading

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

OUTCOMES = ("resolved", "assisted", "handed_off", "abandoned", "open")
RESOLVED, ASSISTED, HANDED_OFF, ABANDONED, OPEN = range(len(OUTCOMES))
REOPENED_AFTER_S = 3600.0
"""A customer who comes back sooner is still in the same conversation."""
HANDOFF_TOOLS = "transfer|hand_?off|hand_?over|escalat|human|live_?agent"
"""Names of tools that hand a conversation to a person."""


@dataclass(frozen=True, slots=True)
class Endings:
    """How the conversations of a batch end, with the message that shows it.

    Attributes:
        outcome: Shape (n,): places in `OUTCOMES`; -1 without a customer.
        shown_by: Shape (n,): the row of the message that decided, or -1.
        measured: Shape (n,): the language is covered.
        reopened: Shape (n,): the customer came back after a contented closing.
        timed: Shape (n,): the log says when every customer message was sent.
        returned: Rows of the messages that reopened one.
    """

    outcome: IntArray
    shown_by: IntArray
    measured: BoolArray
    reopened: BoolArray
    timed: BoolArray
    returned: IntArray


def endings(conversations: Conversations) -> Endings:
    """The endings of a batch, computed once."""
    return conversations.memo("endings", lambda: _endings(reading(conversations)))


def handoff_calls(conversations: Conversations) -> BoolArray:
    """Shape (n_messages,): the message calls a tool that hands over to a person."""

    def look() -> BoolArray:
        found = np.zeros(conversations.n_messages, np.bool_)
        column = conversations.rows["tool_calls"]
        calls = column.flatten()
        if not len(calls):
            return found
        hit = pc.match_substring_regex(calls.field("name"), HANDOFF_TOOLS, ignore_case=True)
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(found)), lengths)
        found[owner[hit.to_numpy(zero_copy_only=False)]] = True
        return found

    return conversations.memo("handoff_calls", look)


def _contented(seen: Reading) -> tuple[BoolArray, BoolArray]:
    """(closes, discontented): customer messages that close, and that speak against it."""
    words = seen.scan
    asked = questions(seen)
    wants = asked | words.has(Mark.REQUEST)
    thanks = words.has(Mark.THANKS) & ~(asked & (words.n_words > 12))
    closes = words.has(Mark.DONE) | (words.has(Mark.GOODBYE) & ~wants) | thanks
    praise = (words.polarity > 0) & (words.n_words <= 6) & ~wants
    against = words.has(Mark.COMPLAINT, Mark.RUDE, Mark.ASK_HUMAN, Mark.REPAIR)
    # `no thank you, that's not what I need` thanks and repairs; `no, that's all` does not complain.
    settled = words.has(Mark.DONE) & ~words.has(Mark.COMPLAINT, Mark.RUDE, Mark.ASK_HUMAN)
    return seen.customer & (closes | praise), seen.customer & against & ~settled


def _endings(seen: Reading) -> Endings:
    conversations = seen.conversations
    words = seen.scan
    closes, against = _contented(seen)
    last_said = seen.last(seen.customer)
    last_but_one = _row(seen.before(seen.customer), last_said)
    last_agent = seen.last(seen.agent)
    last_any = seen.last(seen.customer | seen.agent)

    unreplied = seen.at(questions(seen), last_said) & (last_said > last_agent)
    closed = seen.at(closes, last_said) | (
        seen.at(closes, last_but_one) & ~seen.at(questions(seen), last_said)
    )
    good = closed & ~seen.at(against, last_said) & ~seen.at(against, last_but_one) & ~unreplied

    # A polite goodbye right after a failure is no resolution unless the customer says it is one.
    answer = _row(seen.before(seen.agent), last_said)
    failed = seen.at(words.has(Mark.BOT_LOST), answer)
    good &= ~failed | seen.at(words.has(Mark.DONE), last_said)

    person = seen.count(seen.human) > 0
    announced = seen.at(words.has(Mark.TRANSFER), last_agent) & seen.at(seen.bot, last_agent)
    called = seen.count(handoff_calls(conversations)) > 0
    handed = person | announced | called

    silent_after = words.has(Mark.BOT_LOST, Mark.BOT_CANNOT) | (words.questions > 0)
    gone = (last_said > last_agent) | seen.at(silent_after, last_any)
    gone |= seen.at(against, last_said)

    outcome = np.full(conversations.n, OPEN, np.int64)
    outcome[gone] = ABANDONED
    outcome[good] = RESOLVED
    outcome[handed] = HANDED_OFF
    outcome[person & good] = ASSISTED
    outcome[last_said < 0] = -1

    shown = np.where(good | (last_said > last_agent), last_said, last_any)
    shown[handed & ~good] = np.where(person, seen.last(seen.human), last_agent)[handed & ~good]
    reopened, timed, returned = _reopened(seen, closes, against)
    return Endings(outcome, shown, seen.english, reopened, timed, returned)


def _row(table: IntArray, rows: IntArray) -> IntArray:
    """The table's row at each row; `NOWHERE` stays."""
    return np.where(rows >= 0, table[np.maximum(rows, 0)], -1) if len(table) else rows


def _reopened(
    seen: Reading, closes: BoolArray, against: BoolArray
) -> tuple[BoolArray, BoolArray, IntArray]:
    times = seen.conversations.times
    earlier = seen.before(seen.customer)
    pairs = np.flatnonzero(seen.customer & (earlier >= 0))
    then, now = times[earlier[pairs]], times[pairs]
    known = (then != NO_TIME) & (now != NO_TIME)
    gap = np.where(known, now - then, 0) / 1e6
    back = known & (gap >= REOPENED_AFTER_S)
    back &= closes[earlier[pairs]] & ~against[earlier[pairs]] & ~closes[pairs]
    returned = pairs[back]
    reopened = np.zeros(seen.conversations.n, np.bool_)
    reopened[seen.conversations.conversation_of[returned]] = True
    untimed = seen.count(seen.customer & (times == NO_TIME)) > 0
    return reopened, ~untimed, returned


class Outcome(Category):
    """How conversations end."""

    name = "outcome"
    title = "Outcome"
    definition = (
        "How the conversation ended. Resolved: the customer closed it contentedly and only the bot "
        "took part; assisted: the same with a person's help; handed off: to a person, without a "
        "contented closing; abandoned: the customer fell silent after a question, failure or "
        "refusal, got no reply or left complaining; open: a last answer without reaction. English."
    )
    source = (
        "Own decision table over lexical closings; containment and escalation as call centres "
        "count them (Cleveland, Call Center Management on Fast Forward, 2012)."
    )
    misleads = (
        "It reads manners, not facts: a polite customer who gives up looks resolved, a content one "
        "who just leaves looks open. Compare bots on the same traffic, and check `resolved` labels "
        "with the label metrics where there are some."
    )
    categories = OUTCOMES

    def look(self, conversations: Conversations) -> Units:
        """The outcome of every conversation with a customer."""
        found = endings(conversations)
        some = np.flatnonzero(found.outcome >= 0)
        bad = (found.outcome == ABANDONED) | (found.outcome == HANDED_OFF)
        causes = found.shown_by[bad & found.measured & (found.shown_by >= 0)]
        return Units(some, found.outcome[some], found.measured[some], np.sort(causes))


class Resolved(Rate):
    """Conversations that the bot closed alone, of those whose ending says anything."""

    name = "resolved"
    title = "Resolved by the bot"
    definition = (
        "Conversations that end resolved by the bot alone, of those that do not end open. 0 to 1."
    )
    source = "As `outcome`; the automated resolution rate of support desks."
    misleads = "As `outcome`; with many open endings it rests on the few customers who say goodbye."
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """Resolved or not; open ends are not measured."""
        found = endings(conversations)
        some = np.flatnonzero(found.outcome >= 0)
        outcome = found.outcome[some]
        return Units(some, outcome == RESOLVED, found.measured[some] & (outcome != OPEN))


class Reopened(Rate):
    """Closed conversations that customers came back to."""

    name = "reopened"
    title = "Reopened"
    definition = (
        "Conversations in which the customer, after closing it contentedly, writes again at least "
        "an hour later with something that is no closing. Measured where the log has the times."
    )
    source = "Ticket reopen rate of help desks; the hour is our own."
    misleads = "Desks that open a new ticket instead: `contacts` looks across conversations."
    better = Better.LOWER

    def look(self, conversations: Conversations) -> Units:
        """Whether the customer came back."""
        found = endings(conversations)
        some = np.flatnonzero(found.outcome >= 0)
        measured = (found.measured & found.timed)[some]
        return Units(some, found.reopened[some], measured, found.returned)


class FirstContact(Rate):
    """Conversations settled at the first go."""

    name = "first_contact"
    title = "Settled at first contact"
    definition = (
        "Conversations resolved or assisted and not reopened, of those that do not end open."
    )
    source = "First contact resolution; within one conversation. `contacts` counts across them."
    misleads = "As `outcome`; a customer who writes to another channel is not seen."
    better = Better.HIGHER

    def look(self, conversations: Conversations) -> Units:
        """Settled and not reopened."""
        found = endings(conversations)
        some = np.flatnonzero(found.outcome >= 0)
        outcome = found.outcome[some]
        settled = (outcome == RESOLVED) | (outcome == ASSISTED)
        return Units(
            some, settled & ~found.reopened[some], found.measured[some] & (outcome != OPEN)
        )


def metrics() -> tuple[BaseMetric, ...]:
    """All of them, in the order in which a report shows them."""
    return (Outcome(), Resolved(), FirstContact(), Reopened())


def contacts(
    customers: npt.NDArray[np.int64],
    starts: IntArray,
    ends: IntArray,
    settled: BoolArray,
    *,
    window_s: float = 7 * 86400.0,
) -> tuple[BoolArray, BoolArray]:
    """First-contact resolution across conversations.

    Args:
        customers: Shape (n,): a number for each conversation's customer; negative: unknown.
        starts: Shape (n,): first message, microseconds since 1970; `NO_TIME` where unknown.
        ends: Shape (n,): last message.
        settled: Shape (n,): ended resolved or assisted.
        window_s: A conversation of the same customer that starts within so many seconds after
            another ended is a repeat of it.

    Returns:
        (first_contact, measured), each of shape (n,). First contact: settled, no repeat of an
        earlier one, and not repeated. Not measured without a customer or times.
    """
    measured = (customers >= 0) & (starts != NO_TIME) & (ends != NO_TIME)
    rows = np.flatnonzero(measured)
    order = rows[np.lexsort((rows, starts[rows], customers[rows]))]
    same = customers[order[1:]] == customers[order[:-1]]
    gap = (starts[order[1:]] - ends[order[:-1]]) / 1e6
    linked = same & (gap <= window_s)
    repeated = np.zeros(len(customers), np.bool_)
    repeated[order[1:][linked]] = True
    repeated[order[:-1][linked]] = True
    return settled & measured & ~repeated, measured
