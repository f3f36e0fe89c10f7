"""Load with set arrivals: throughput, and quantiles of first-token and inter-token time.

The workload is a support desk's: N customers, one system prompt, several turns each, every reply of
the same length, so that engines can be compared. Any engine that streams can be a target.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import quantiles

from quietdesk.engine.backend import Backend
from quietdesk.engine.sampling import Limits, Sampling
from quietdesk.prompt.template import ChatTemplate

SYSTEM = (
    "You answer questions of customers of Acme Bikes, a shop for bicycles and parts. Be brief, "
    "polite and exact. Orders placed before noon leave the same day; others leave on the next "
    "working day. Delivery takes two to four days within the country and five to nine days abroad. "
    "We ship to Norway, Sweden, Finland, Germany, France, Spain, Chile and Canada. Shipping costs "
    "six euros, and nothing from an order value of eighty euros on. A customer may return what was "
    "bought within thirty days, unused and in its box, and gets the price back within a week after "
    "it has come in. Bicycles carry a guarantee of five years on the frame and two years on all "
    "other parts; chains, tyres and brake pads wear and are not covered. Repairs in the workshop "
    "need an appointment, which can be made by telephone between nine and five, or on the page of "
    "the workshop. A repair takes three working days as a rule. We take cards, bank transfers and "
    "payment by invoice for companies. A gift card is valid for three years. Somebody who lost the "
    "key of a lock needs the number that stands on the lock and the receipt. We do not give advice "
    "on medical questions, on other shops or on the law. When you do not know an answer, say so "
    "and offer to pass the question to a colleague, who answers within one working day. Never "
    "promise a refund, a date or a discount that these rules do not give."
)
"""A system prompt of about 300 tokens."""

_TOPICS = ("a helmet", "the red frame", "my order", "a spare wheel", "the lock", "a gift card")
_ACTS = ("bought", "ordered", "returned", "looked at", "lost", "paid for")
_ASKS = ("when does it arrive", "can I still change it", "what does it cost", "who can help me")

Turns = list[tuple[str, str]]
"""Pairs of role and text."""

Target = Callable[[Turns, int], Iterator[tuple[str, int]]]
"""Answers a conversation in so many tokens: pieces of text as they come, and their tokens."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked."""

    n_conversations: int
    n_turns: int = 6
    reply_tokens: int = 64
    arrivals_per_s: float = 0.0
    """Conversations that begin per second, at random (Poisson); 0: all at once."""
    system: str = SYSTEM
    seed: int = 1


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What came of it. Times are milliseconds, quantiles over all turns."""

    n_conversations: int
    tokens: int
    seconds: float
    tokens_per_s: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    inter_token_p50_ms: float
    inter_token_p95_ms: float

    def as_dict(self) -> dict[str, float]:
        """For JSON, rounded."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


def question(rng: random.Random) -> str:
    """A question of about 30 tokens."""
    day = rng.randrange(1, 29)
    return (
        f"Hello, I {rng.choice(_ACTS)} {rng.choice(_TOPICS)} on the {day}th and number "
        f"{rng.randrange(1000, 9999)} stands on the receipt, {rng.choice(_ASKS)}?"
    )


def run(workload: Workload, target: Target) -> LoadReport:
    """Hold the conversations, one thread each, and measure.

    Args:
        workload: What is asked.
        target: Who answers; called from many threads.

    Raises:
        Exception: what the target raised first.
    """
    first: list[float] = []
    between: list[float] = []
    failures: list[Exception] = []
    lock = threading.Lock()
    rng = random.Random(workload.seed)
    starts: list[float] = []
    at = 0.0
    for _ in range(workload.n_conversations):
        at += rng.expovariate(workload.arrivals_per_s) if workload.arrivals_per_s else 0.0
        starts.append(at)

    def hold(number: int) -> None:
        own = random.Random(f"{workload.seed}-{number}")
        turns: Turns = [("system", workload.system)]
        time.sleep(starts[number])
        for _ in range(workload.n_turns):
            turns.append(("user", question(own)))
            asked = time.perf_counter()
            said: list[str] = []
            times: list[float] = []
            for text, tokens in target(turns, workload.reply_tokens):
                said.append(text)
                times.extend([time.perf_counter()] * tokens)
            with lock:
                first.append(times[0] - asked)
                between.extend(b - a for a, b in itertools.pairwise(times))
            turns.append(("assistant", "".join(said)))

    def guarded(number: int) -> None:
        try:
            hold(number)
        except Exception as error:
            with lock:
                failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=(number,), daemon=True)
        for number in range(workload.n_conversations)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    tokens = len(first) + len(between)
    return LoadReport(
        n_conversations=workload.n_conversations,
        tokens=tokens,
        seconds=seconds,
        tokens_per_s=tokens / seconds,
        first_token_p50_ms=_quantile(first, 50) * 1000,
        first_token_p95_ms=_quantile(first, 95) * 1000,
        inter_token_p50_ms=_quantile(between, 50) * 1000,
        inter_token_p95_ms=_quantile(between, 95) * 1000,
    )


def engine_target(engine: Backend) -> Target:
    """A target on an engine of this process: the model's template, greedy, no early end."""
    info = engine.model
    template = ChatTemplate(
        info.chat_template,
        bos_token=info.bos_token,
        eos_token=info.eos_token,
        special_tokens=info.special_tokens,
        served=info.renders,
    )
    # A server that cannot be told to go on ends replies where its model does.
    ignore_end = "ignore_end" not in engine.unsupported

    def answer(turns: Turns, n_tokens: int) -> Iterator[tuple[str, int]]:
        messages = [{"role": role, "content": said} for role, said in turns]
        text = template.render(messages)
        stream = engine.submit(
            engine.tokenize(text, special=True, begin=False),
            messages=messages,
            sampling=Sampling(),
            limits=Limits(max_tokens=n_tokens, ignore_end=ignore_end),
        )
        told = 0
        for delta in stream:
            told += delta.tokens
            yield delta.text, delta.tokens
        if stream.error is not None:
            raise stream.error
        # Tokens without text of their own, as half a character at the end.
        yield "", stream.usage.completion_tokens - told

    return answer


def _quantile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100, method="inclusive")[percent - 1]
