import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quietdesk.columns import to_batch
from quietdesk.scoring.base import Conversations
from quietdesk.types import Transcript, TranscriptMessage

SPACES = [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\x1c", "\x85", "\xa0", "\u1680", "\u2003"]
SPACES += ["\u2009", "\u2028", "\u202f", "\u205f", "\u3000", " \n ", "-\n", "-\n-\n", "- \n"]
ODD = ["<skipped>", "<skip<skipped>ped>", "-<skipped>\n", "&quot;", "&amp;", "&amp;lt;", "&lt;"]
ODD += [
    "&gt;",
    "&quot;&quot;",
    "&ampquot;",
    "&nbsp;",
    "...",
    "..",
    ".,",
    ",.",
    ".5",
    "5.",
    "1,000.50",
]
ODD += [
    "3-4",
    "3--4",
    "-3",
    "a-b",
    "--",
    "-",
    "—",
    "…",
    "$5",
    "5%",
    "€20",
    "@you",
    "#1",
    "a/b",
    "\\",
]
ODD += [
    "^",
    "`",
    "~",
    "{x}",
    "[y]",
    "(z)",
    "((",
    "))",
    "(hi)",
    "'",
    "it's",
    "‘it’s’",
    "«oui»",
    "„so“",
]
ODD += [
    "¿qué?",
    "!",
    "?!",
    "x.y",
    "e.g.",
    "U.S.A.",
    "http://a.b/c?d=e&f=g",
    "me@x.org",
    ":-)",
    "<3",
]
ODD += [
    "\x00",
    "\x01",
    "\x02",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\u0301",
    "e\u0301",
    "é",
    "ß",
    "İ",
]
ODD += [
    "ΣΑΣ",
    "ﬁ",
    "Ⅷ",
    "²",
    "½",
    "٣",
    "٣.٤",
    "१",
    "１，０００",
    "ａｂｃ",
    "，",
    "。",
    "！？",
    "・",
]
ODD += [
    "你好",
    "退款，谢谢",
    "请问3点?",
    "A座",
    "配送は明日。",
    "カタカナ",
    "ｶﾅ",
    "안녕하세요",
    "한국어.",
    "ไทย",
]
ODD += [
    "שלום",
    "مرحبا،",
    "हिन्दी",
    "😀",
    "👨‍👩‍👧",
    "🇩🇪",
    "❤️",
    "👍🏽",
    "𝒳",
    "𠀀",
    "\U0002a6d6",
    "\u2a6d",
    "\u2001",
]
ODD += [
    "\u2600",
    "\u27bf",
    "\u3400",
    "\u4db5",
    "\ufa2d",
    "x\u2028y",
    "a\x1cb",
    "\x7f",
    "\u0660-",
    "0-",
    "9.9-9",
]
WORDS = [
    "the",
    "order",
    "my",
    "refund",
    "please",
    "can",
    "you",
    "help",
    "a",
    "I",
    "to",
    "is",
    "not",
]
WORDS += ["The", "Order", "card", "number", "today"]
WORDS += ["order,", "refund.", "Thanks!", "(order)", "12", "12,", "12.", "#4711", "can't", "e-mail"]


@pytest.fixture(scope="session")
def odd_texts():
    """A maker of texts that are meant to part two implementations from each other."""

    def make(rng: random.Random) -> str:
        kind = rng.random()
        if kind < 0.03:
            return ""
        parts = []
        for _ in range(rng.randint(0, 12 if kind < 0.95 else 60)):
            draw = rng.random()
            if draw < 0.55:
                parts.append(rng.choice(WORDS))
            elif draw < 0.9:
                parts.append(rng.choice(ODD))
            elif draw < 0.97:
                parts.append("".join(rng.choice("ab.,-&<>;1 ") for _ in range(rng.randint(1, 8))))
            else:
                parts.append(
                    chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)]))
                )
            draw = rng.random()
            if draw < 0.6:
                parts.append(" ")
            elif draw < 0.85:
                parts.append(rng.choice(SPACES))
        return "".join(parts)

    return make


@pytest.fixture(scope="session")
def odd_pairs(odd_texts):
    """A maker of n (hypothesis, references) that share parts of their texts."""

    def make(n: int, seed: int, most_references: int = 1) -> list[tuple[str, list[str]]]:
        rng = random.Random(seed)
        pairs = []
        for _ in range(n):
            said = odd_texts(rng)
            references = []
            for _ in range(rng.randint(1, most_references)):
                draw = rng.random()
                if draw < 0.1:
                    references.append(said)
                elif draw < 0.3:
                    references.append(odd_texts(rng))
                else:
                    a, b = sorted((rng.randint(0, len(said)), rng.randint(0, len(said))))
                    references.append(said[:a] + odd_texts(rng)[: b - a + 3] + said[b:])
            pairs.append((said, references))
        return pairs

    return make


@pytest.fixture(scope="session")
def talk():
    """A maker of a batch from lists of (author, text), or of message fields."""

    def make(*conversations, **fields):
        rows = []
        for number, messages in enumerate(conversations):
            said = [
                TranscriptMessage(**(m if isinstance(m, dict) else {"author": m[0], "text": m[1]}))
                for m in messages
            ]
            rows.append(Transcript(id=str(number), messages=tuple(said), **fields))
        return Conversations(to_batch(rows))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets, where it is."""
    named = os.environ.get("QUIETDESK_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder} (QUIETDESK_TEST_DATA names another folder)")
    return folder


@pytest.fixture(scope="session")
def make_talks():
    """A maker of n invented conversations, which differ with the seed."""

    def make(n: int, seed: int = 0, quality: float = 0.7, customers: int = 0) -> list[Transcript]:
        rng = random.Random(seed)
        return [_talk(rng, place, quality, customers) for place in range(n)]

    return make


ASKED = [
    ("Where is my parcel?", "It left our warehouse on Tuesday and takes two days.", "delivery"),
    ("I want a refund for order 4711.", "I have started the refund; it takes a week.", "refund"),
    ("How do I change my password?", "Open Settings, then Security.", "account"),
    ("Does it ship to Norway?", "Yes, we ship to Norway.", "delivery"),
]


def _talk(rng: random.Random, place: int, quality: float, customers: int) -> Transcript:
    # Inputs depend on the place alone, so that two seeds give two bots' answers to the same people.
    asks = random.Random(place)
    time = datetime(2025, 1, 6, tzinfo=UTC) + timedelta(hours=5 * place)
    messages = []
    for _ in range(asks.randint(1, 4)):
        question, answer, intent = asks.choice(ASKED)
        good = rng.random() < quality
        said = answer if good else "I am sorry, I did not understand that."
        guess = intent if rng.random() < quality else rng.choice(ASKED)[2]
        time += timedelta(seconds=asks.uniform(20, 90))
        asked = TranscriptMessage(
            author="customer",
            text=question,
            created_at=time,
            labels={"intent": (intent,)},
            predictions={"intent": (guess,)},
        )
        time += timedelta(seconds=rng.uniform(1, 9))
        references = (answer,) if asks.random() < 0.7 else ()
        reply = TranscriptMessage(author="bot", text=said, created_at=time, references=references)
        messages += [asked, reply]
    return Transcript(
        id=f"talk-{place}",
        customer=f"customer-{asks.randrange(customers)}" if customers else None,
        messages=tuple(messages),
        metadata={"channel": asks.choice(["web", "app"]), "deep": {"team": place % 3}},
    )
