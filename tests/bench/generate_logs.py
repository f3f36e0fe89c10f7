"""Make Parquet files of invented support conversations, as many as wanted, in bounded memory.

    python tests/bench/generate_logs.py OUT.parquet --conversations 100000

The words are drawn from small lists and mean little; lengths, repeats, order numbers, apologies,
questions, passages and references come in proportions like those of support chats. The same seed
gives the same conversations.
"""

import argparse
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from quietdesk.columns import schema

POOL = 20_000
"""Different sentences of each kind; conversations choose among them."""
ROW_GROUP = 8192
NOUNS = [
    "order", "parcel", "invoice", "refund", "account", "password", "card", "address",
    "delivery", "jacket", "phone", "booking", "subscription", "receipt", "voucher", "size",
    "charger", "router", "contract", "payment", "coupon", "return", "warranty",
]  # fmt: skip
VERBS = [
    "change", "cancel", "track", "return", "find", "update", "replace", "repair", "confirm",
    "send", "pay", "check",
]  # fmt: skip
SMALL = [
    "the", "my", "your", "a", "this", "that", "it", "is", "was", "has", "not", "and", "or",
    "but", "for", "with", "from", "to", "in", "on", "at", "by", "after", "before", "when",
    "where", "why", "how", "still", "already", "again", "please", "now", "today",
    "tomorrow", "yesterday",
]  # fmt: skip
QUESTIONS = ("Where is", "Can you", "How do I", "Why was", "When will", "Could you please", "Is")
OPENERS = (
    "I understand.",
    "Thank you for waiting.",
    "I am sorry about that.",
    "Of course.",
    "Sure,",
)
CLOSERS = (
    "Is there anything else?",
    "Please let me know.",
    "Have a nice day!",
    "We will e-mail you.",
)
CHANNELS, MODELS = ("web", "email", "app", "phone"), ("a", "b")


def sentence(rng: random.Random, low: int, high: int) -> str:
    """Some words with now and then a number or a comma."""
    words = []
    for _ in range(rng.randint(low, high)):
        draw = rng.random()
        words.append(
            rng.choice(SMALL)
            if draw < 0.55
            else rng.choice(NOUNS)
            if draw < 0.8
            else rng.choice(VERBS)
            if draw < 0.95
            else f"#{rng.randint(1000, 99999)}"
        )
        if rng.random() < 0.06:
            words[-1] += ","
    return " ".join(words)


def pools(seed: int) -> dict[str, pa.Array]:
    """Customer's messages, replies, their references and passages; reply i fits reference i."""
    rng = random.Random(seed)
    asked, said, meant, shown = [], [], [], []
    for _ in range(POOL):
        question = rng.random() < 0.6
        text = sentence(rng, 4, 18)
        asked.append(f"{rng.choice(QUESTIONS)} {text}?" if question else f"{text.capitalize()}.")
        facts = sentence(rng, 14, 22)
        reply = f"{rng.choice(OPENERS)} {facts.capitalize()}. {rng.choice(CLOSERS)}"
        said.append(reply)
        words = reply.split()
        for _ in range(rng.randint(0, 8)):
            words[rng.randrange(len(words))] = rng.choice(NOUNS)
        meant.append(" ".join(words))
        shown.append(f"{facts.capitalize()}. {sentence(rng, 10, 30).capitalize()}.")
    names = ("asked", "said", "meant", "shown")
    return {
        name: pa.array(texts)
        for name, texts in zip(names, (asked, said, meant, shown), strict=True)
    }


def lists(lengths: np.ndarray, values: pa.Array, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind)


def struct(columns: list[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.StructArray.from_arrays(columns, fields=list(kind))


def batch(
    start: int,
    n: int,
    turns: int,
    references: float,
    passages: float,
    seed: int,
    pool: dict[str, pa.Array],
) -> pa.RecordBatch:
    """Conversations start to start + n; the same whatever the batches' size."""
    rng = np.random.default_rng([seed, start])
    kinds = {field.name: field.type for field in schema()}
    message = kinds["messages"].value_type
    fields = {field.name: field.type for field in message}
    size = 2 * turns
    total = n * size
    place = np.arange(total) % size
    replies = place % 2 == 1
    chosen = rng.integers(0, POOL, total)
    repeated = (rng.random(total) < 0.05) & (place > 1)
    chosen[repeated] = chosen[np.flatnonzero(repeated) - 2]
    both = pa.concat_arrays([pool["asked"], pool["said"]])
    # A number that nothing else bears in every fourth message, as real logs have.
    numbers = pa.array(rng.integers(10**5, 10**8, total), mask=rng.random(total) > 0.25)
    tails = pc.fill_null(pc.binary_join_element_wise(" Number", numbers.cast(pa.string()), " "), "")
    texts = pc.binary_join_element_wise(both.take(pa.array(chosen + replies * POOL)), tails, "")
    begin = datetime(2025, 1, 6, tzinfo=UTC).timestamp() + 97.0 * (start + np.arange(n))
    waits = np.where(replies, rng.gamma(2, 2, total), rng.gamma(2, 20, total))
    times = (np.repeat(begin, size) + waits.reshape(n, size).cumsum(axis=1).ravel()) * 1e6
    referenced = replies & (rng.random(total) < references)
    grounded = replies & (rng.random(total) < passages)
    passage = fields["passages"].value_type
    n_passages = int(grounded.sum())
    empty = np.zeros(total, np.int64)
    columns = {
        "author": pa.array(["customer", "bot"]).take(pa.array(replies.astype(np.int64))),
        "text": texts,
        "id": pa.array(place).cast(pa.string()),
        "created_at": pa.array(times.astype(np.int64)).cast(fields["created_at"]),
        "references": lists(
            referenced.astype(np.int64),
            pool["meant"].take(pa.array(chosen[referenced])),
            fields["references"],
        ),
        "passages": lists(
            grounded.astype(np.int64),
            struct(
                [
                    pa.array(chosen[grounded]).cast(pa.string()),
                    pool["shown"].take(pa.array(chosen[grounded])),
                    pa.array([""] * n_passages),
                    pa.nulls(n_passages, pa.int64()),
                    pa.nulls(n_passages, pa.float64()),
                ],
                passage,
            ),
            fields["passages"],
        ),
    }
    for name in ("labels", "predictions", "ratings", "tool_calls"):
        columns[name] = lists(empty, pa.array([], fields[name].value_type), fields[name])
    metadata = np.array(
        [f'{{"channel":"{c}","model":"{m}"}}' for c in CHANNELS for m in MODELS], object
    )
    ids = [f"conversation-{i}" for i in range(start, start + n)]
    none = np.zeros(n, np.int64)
    whole = {
        "id": pa.array(ids),
        "customer": pa.array([f"customer-{i // 2}" for i in range(start, start + n)]),
        "messages": lists(
            np.full(n, size), struct(list(columns.values()), message), kinds["messages"]
        ),
        "labels": lists(none, pa.array([], kinds["labels"].value_type), kinds["labels"]),
        "predictions": lists(none, pa.array([], kinds["labels"].value_type), kinds["predictions"]),
        "ratings": lists(none, pa.array([], pa.float64()), kinds["ratings"]),
        "metadata": pa.array(metadata[rng.integers(0, len(metadata), n)].tolist()),
    }
    return pa.RecordBatch.from_arrays(list(whole.values()), schema=schema())


def generate(
    path: Path,
    n: int,
    *,
    turns: int = 8,
    references: float = 0.25,
    passages: float = 0.5,
    seed: int = 1,
) -> None:
    """Write n conversations to a Parquet file compressed by zstd."""
    pool = pools(seed)
    with pq.ParquetWriter(path, schema(), compression="zstd") as writer:
        for start in range(0, n, ROW_GROUP):
            size = min(ROW_GROUP, n - start)
            writer.write_batch(batch(start, size, turns, references, passages, seed, pool))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=8, help="questions, each with a reply")
    parser.add_argument("--references", type=float, default=0.25, help="share of replies with one")
    parser.add_argument("--passages", type=float, default=0.5, help="share of replies with one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = vars(parser.parse_args())
    path, n = arguments.pop("path"), arguments.pop("conversations")
    generate(path, n, **arguments)
    print(f"{n} conversations, {path.stat().st_size} bytes in {path}")


if __name__ == "__main__":
    main()
