"""The beginning of the prompt stays as it is, so that the engine evaluates only what is new."""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quietdesk.prompt import policies as policies_module
from quietdesk.prompt.policies import POLICIES, Policy
from quietdesk.types import Author, Message, Passage, ToolCall

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
N_CTX = 2048
N_TURNS = 200
SYSTEM = (
    "You answer for Acme Bikes. Be brief and kind. Never promise what the policy does not allow."
)
QUESTIONS = (
    "Hello, where is my order? It should have been here on Monday.",
    "My number is AC-{i}. Can you look it up for me, please?",
    "And do you ship to Norway? What does it cost, and how long does it take?",
    "Thank you. One more thing: the bell is broken, how do I send it back?",
)
REPLIES = (
    "I am sorry that you had to wait. Let me look that up for you.",
    "Your order {i} left our warehouse yesterday and should be with you within three days. "
    "You will get a message as soon as the carrier has scanned it.",
    "Yes, we do. It costs 19 euros and takes about a week. You can follow it in your account.",
    "You can return it within thirty days. I have put a label in your account for you.",
)


def message(name, author, text, **fields):
    return Message(id=name, author=author, text=text, created_at=NOON, **fields)


class Engine:
    """What an engine does with a prompt: it evaluates what its sequence does not hold yet."""

    def __init__(self):
        self.holds = []

    def evaluate(self, tokens):
        same = 0
        for held, new in zip(self.holds, tokens, strict=False):
            if held != new:
                break
            same += 1
        self.holds = list(tokens)
        return same

    def say(self, tokens):
        self.holds += tokens


FRAME = 24
"""Tokens of marks around the new messages."""
HEADINGS = 36
"""Tokens of the headings around the passages."""


def simulate(model, policy, *, reports=True, passages=False, rereads=False, n_turns=N_TURNS):
    """How many turns evaluated only their new suffix, and how often turns had to go.

    What is new: the newest message with its passages. With passages also the turn before, which is
    read again without its own, since passages are not written back (`rereads`).
    """
    chance = random.Random(7)
    window = model.window(n_ctx=N_CTX, policy=policy)
    engine = Engine()
    said = []
    previous = None
    quiet = went = 0
    for i in range(n_turns):
        said.append(message(f"q{i}", Author.CUSTOMER, chance.choice(QUESTIONS).format(i=i)))
        found = [
            Passage(id=f"p{i}-{j}", text="Parcels to Norway cost 19 euros. " * chance.randint(1, 4))
            for j in range(chance.randint(0, 3) if passages else 0)
        ]
        fitted = window.fit(said, SYSTEM, 256, found, previous=previous if reports else None)
        assert len(fitted.tokens) <= N_CTX - 256
        cached = engine.evaluate(fitted.tokens)
        takes = {item.id: item.tokens for item in fitted.report.items}
        new = [f"q{i}", *(passage.id for passage in found)]
        if passages or rereads:
            new += [f"q{i - 1}", f"r{i - 1}"]
        if rereads:
            new += ["system", "summary"]
        evaluated = len(fitted.tokens) - cached
        frame = FRAME + HEADINGS * passages
        quiet += evaluated <= sum(takes.get(name, 0) for name in new) + frame
        went += previous is not None and previous.cursor != fitted.report.cursor
        # These models begin a reply with a space, as `[/INST] Yes` shows.
        space = " " if model.family in {"gpt2", "mistral-v0.2"} else ""
        reply = space + chance.choice(REPLIES).format(i=i)
        tail = fitted.text[fitted.text.rindex("\n", 0, -20) :]
        engine.say(model.whole(tail + reply)[len(model.whole(tail)) :])
        said.append(message(f"r{i}", Author.BOT, reply))
        previous = fitted.report
    return quiet, went


@pytest.mark.parametrize("policy", ["rolling-window", "truncate-middle", "summary"])
def test_four_turns_of_five_evaluate_only_their_new_suffix(starter, policy):
    quiet, went = simulate(starter, policy)
    assert went >= 5
    assert quiet >= 0.8 * N_TURNS


def test_the_same_holds_when_replies_carry_no_reports(starter):
    quiet, went = simulate(starter, "rolling-window", reports=False)
    assert went >= 5
    assert quiet >= 0.8 * N_TURNS


def test_the_same_holds_with_passages(starter):
    quiet, went = simulate(starter, "rolling-window", passages=True)
    assert went >= 5
    assert quiet >= 0.8 * N_TURNS


def test_the_same_holds_for_every_template(model):
    # Small vocabularies split these words into many more tokens, so fewer turns fit than usual.
    rereads = model.family == "mistral-nemo"  # its system prompt stands with the newest message
    quiet, went = simulate(model, "rolling-window", rereads=rereads, n_turns=60)
    assert went >= 5
    assert quiet >= 0.6 * 60


def test_dropping_one_turn_at_a_time_would_evaluate_nearly_everything_again(starter):
    one_by_one = Policy("one-by-one", "The last turns.", low=1.0)
    quiet, _ = simulate(starter, one_by_one)
    assert quiet < 0.5 * N_TURNS


@pytest.mark.parametrize("policy", ["rolling-window", "truncate-middle", "summary"])
def test_replay_without_reports_leads_to_the_same_prompt(starter, policy):
    window = starter.window(n_ctx=1024, policy=policy)
    said, previous, same = [], None, 0
    for i in range(40):
        said.append(message(f"q{i}", Author.CUSTOMER, QUESTIONS[i % 4].format(i=i)))
        fitted = window.fit(said, SYSTEM, 128, previous=previous)
        bare = starter.window(n_ctx=1024, policy=policy).fit(said, SYSTEM, 128)
        same += fitted.report.cursor == bare.report.cursor
        if i % 7 == 3:  # a person answers now and then, and nothing is fitted for it
            said.append(message(f"h{i}", Author.HUMAN, REPLIES[1].format(i=i) * 3))
            said.append(message(f"k{i}", Author.CUSTOMER, QUESTIONS[0] * 3))
            said.append(message(f"l{i}", Author.HUMAN, REPLIES[1].format(i=i) * 3))
            continue
        said.append(message(f"r{i}", Author.BOT, REPLIES[i % 4].format(i=i)))
        previous = fitted.report
    assert same == 40


def test_cursor_is_read_from_the_messages_or_from_the_argument(starter):
    window = starter.window(n_ctx=600)
    said = []
    for i in range(30):
        said.append(message(f"q{i}", Author.CUSTOMER, QUESTIONS[i % 4].format(i=i)))
        fitted = window.fit(said, SYSTEM, 128)
        reply = message(f"r{i}", Author.BOT, REPLIES[i % 4].format(i=i), context=fitted.report)
        said.append(reply)
    said.append(message("last", Author.CUSTOMER, "Thanks."))
    bare = [m.model_copy(update={"context": None}) for m in said]
    with_reports = window.fit(said, SYSTEM, 128)
    assert window.fit(bare, SYSTEM, 128, previous=said[-2].context) == with_reports
    moved = said[-2].context.model_copy(update={"cursor": "q29"})
    assert window.fit(bare, SYSTEM, 128, previous=moved).report.cursor == "q29"


def test_fork_goes_on_from_its_own_branch(starter):
    window = starter.window(n_ctx=600)
    said = []
    for i in range(30):
        said.append(message(f"q{i}", Author.CUSTOMER, QUESTIONS[i % 4].format(i=i)))
        fitted = window.fit(said, SYSTEM, 128)
        said.append(message(f"r{i}", Author.BOT, REPLIES[i % 4].format(i=i), context=fitted.report))
    fork = [*said[:20], message("other", Author.CUSTOMER, "And in red?")]
    fitted = window.fit(fork, SYSTEM, 128)
    assert fitted.report.cursor == said[19].context.cursor
    assert len(fitted.report.items) == len(fork) + 2


def test_tool_rounds_within_a_turn_only_add_to_the_prompt(model_of):
    model = model_of("qwen2.5")
    window = model.window(n_ctx=4096)
    tool = {
        "type": "function",
        "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}},
    }
    said = [message("q", Author.CUSTOMER, "Where is it?")]
    found = [Passage(id="p", text="Parcels take a week.")]
    before = window.fit(said, SYSTEM, 256, found, [tool]).tokens
    for i in range(3):
        call = ToolCall(id=f"c{i}", name="find", arguments="{}")
        said.append(message(f"a{i}", Author.BOT, "", tool_calls=(call,)))
        said.append(message(f"t{i}", Author.TOOL, f"Nothing {i}.", tool_call_id=f"c{i}"))
        fitted = window.fit(said, SYSTEM, 256, found, [tool])
        assert fitted.tokens[: len(before) - 1] == before[:-1]  # all but the final newline
        before = fitted.tokens


def test_every_policy_is_documented_with_what_it_keeps():
    text = Path(policies_module.__file__).read_text(encoding="utf-8")
    for name, policy in POLICIES.items():
        assert f"    {name} " in text.partition('"""')[2].partition('"""')[0]
        assert policy.keeps
