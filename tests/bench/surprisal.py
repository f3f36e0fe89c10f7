"""What surprisal and relevance are worth, and what they cost, on sets that nobody here wrote.

    python tests/bench/surprisal.py --data ../shared/data
    python tests/bench/surprisal.py --data ../shared/data --n 300 --only people,cost

Prints a table and, last, one line of JSON, which is also kept in `--out`. The parts:

- `people`: Spearman with what three people said of a reply's accuracy and appropriateness, over
  replies of eleven systems, clustered by question; beside it the reply's length alone;
- `questions`: the same over all the replies to some questions, and of two replies to one question
  how often the one with the higher figure was the better one;
- `shuffled`: how often the reply that was given has the higher figure than a reply out of another
  conversation, over whole conversations (the area under the curve, and in pairs);
- `cost`: tokens evaluated, against tokens of the conversations, and tokens a second.
"""

import argparse
import gzip
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quietdesk.columns import to_batch
from quietdesk.reply_reader import ReplyReader
from quietdesk.scored import reply_reader
from quietdesk.scoring.agreement import area_under_curve, with_interval
from quietdesk.scoring.statistics import spearman
from quietdesk.scoring.surprisal import Likelihood, Sample, relevance_of, surprisal_of
from quietdesk.types import Transcript, TranscriptMessage

Results = dict[str, Any]
FIGURES = {"surprisal": surprisal_of, "relevance": relevance_of}


def talk(name: str, said: Sequence[tuple[str, str]], **fields: Any) -> Transcript:
    """A conversation."""
    messages = tuple(TranscriptMessage(author=author, text=text) for author, text in said)
    return Transcript(id=name, messages=messages, **fields)


def rated(path: Path) -> list[tuple[Transcript, dict[str, Any]]]:
    """Replies with the two turns before them, and what three people said of them."""
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for text in lines:
            item = json.loads(text)
            turns = re.match(
                r"(?:Assistant says (.*))?User says (.*)", item["last_two_turns"], re.S
            )
            assert turns is not None, item["last_two_turns"]
            before = [("bot", turns[1].strip().removesuffix("..") or " ")] if turns[1] else []
            said = [*before, ("customer", turns[2].strip()), ("bot", item["response"])]
            found.append((talk(f"{item['index']}-{item['system']}", said), item))
    return found


def conversations(path: Path) -> list[list[tuple[str, str]]]:
    """Whole conversations that end with a reply after at least one turn before it."""
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for log in json.load(file):
            said = [("customer" if m["speaker"] == "U" else "bot", m["text"]) for m in log]
            while said and said[-1][0] == "customer":
                said.pop()
            if len(said) >= 4:
                found.append(said)
    return found


def last(reader: ReplyReader, conversation: Transcript) -> Likelihood:
    """How likely the last reply was."""
    return reader(conversation)[-1]


def sample(talks: list[Transcript], n: int) -> set[str]:
    """The ids of some conversations, as the scorer would take them."""
    taken = Sample(max(1, n), 1)
    taken.take(to_batch(talks))
    return {one.id for one in taken.conversations()}


def people(reader: ReplyReader, path: Path, n: int, *, whole: bool) -> Results:
    """Agreement with people's ratings, of replies to any questions or to a few whole ones."""
    rows = dict((row.id, (row, item)) for row, item in rated(path) if item["response"].strip())
    if whole:
        # All the systems' replies to some questions, which tell two replies to one apart.
        names = sorted({str(item["index"]) for _, item in rows.values()})
        chosen = sample([talk(name, [("bot", ".")]) for name in names], n // 10)
        some = [pair for pair in rows.values() if str(pair[1]["index"]) in chosen]
    else:
        chosen = sample([row for row, _ in rows.values()], n)
        some = [rows[name] for name in sorted(chosen)]
    read = [last(reader, row) for row, _ in some]
    group = np.unique([str(item["index"]) for _, item in some], return_inverse=True)[1]
    results: Results = {"n": len(some), "questions": int(group.max()) + 1}
    figures = {name: np.array([figure(one) for one in read]) for name, figure in FIGURES.items()}
    figures["tokens"] = np.array([one.n_tokens for one in read], float)
    for rating in ("accuracy", "appropriateness"):
        votes = np.array([np.mean(item[rating]) for _, item in some])
        for name, values in figures.items():
            figure = with_interval(
                lambda r, v=values, p=votes: spearman(v[r], p[r]),  # type: ignore[misc]
                group,
            )
            told = f"{name} and {rating}"
            print(
                f"{told:<34} Spearman {figure.value:+.3f} ({figure.low:+.3f}..{figure.high:+.3f})"
            )
            results[told] = [figure.value, figure.low, figure.high]
        for name in FIGURES if whole else ():
            results[f"{name}, pairs, {rating}"] = pairs(figures[name], votes, group)
            share, n_pairs = results[f"{name}, pairs, {rating}"]
            print(f"{name}, higher one has the better {rating}: {share:.3f} of {n_pairs:,} pairs")
    return results


def pairs(values: Any, votes: Any, group: Any) -> tuple[float, int]:
    """Of pairs of replies to one question, how often the higher value has the better votes."""
    right, n_pairs = 0.0, 0
    for one in range(len(values)):
        for other in range(one):
            if group[one] == group[other] and votes[one] != votes[other]:
                gap = (values[one] - values[other]) * (votes[one] - votes[other])
                right += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
                n_pairs += 1
    return (right / n_pairs if n_pairs else math.nan), n_pairs


def shuffled(reader: ReplyReader, path: Path, n: int) -> Results:
    """Whether a reply is told from one out of another conversation."""
    talks = conversations(path)
    rng = np.random.default_rng(1)
    places = rng.choice(len(talks), size=min(n, len(talks)), replace=False).tolist()
    true, false = [], []
    for at, place in enumerate(places):
        said, other = talks[place], talks[places[(at + 1) % len(places)]]
        true.append(last(reader, talk(str(place), said)))
        false.append(last(reader, talk(str(place), [*said[:-1], ("bot", other[-1][1])])))
    results: Results = {"n": len(places)}
    for name, figure in FIGURES.items():
        sign = -1.0 if name == "surprisal" else 1.0
        values = sign * np.array([figure(one) for one in [*true, *false]])
        labels = np.repeat([True, False], len(places))
        whose = np.tile(np.arange(len(places)), 2)
        area = with_interval(
            lambda r, v=values, t=labels: area_under_curve(v[r], t[r]),  # type: ignore[misc]
            whose,
        )
        won = float((values[: len(places)] > values[len(places) :]).mean())
        print(
            f"{name:<10} given against shuffled: AUC {area.value:.3f} "
            f"({area.low:.3f}..{area.high:.3f}), higher in its pair {won:.3f}"
        )
        below = float((np.array([figure(one) for one in true]) < 0).mean())
        results[name] = {"auc": [area.value, area.low, area.high], "pairs": won, "below_0": below}
    return results


def cost(reader: ReplyReader, path: Path, n: int) -> Results:
    """Tokens that are evaluated, and how fast."""
    talks = [talk(str(at), said) for at, said in enumerate(conversations(path)[:n])]
    n_whole = n_without = n_replies = n_alone = 0
    for one in talks:
        read = reader(one)
        texts = reader.texts(one)
        n_replies += len(read)
        n_whole += max(len(whole) for whole, _ in texts)
        n_alone += sum(len(whole) for whole, _ in texts)
        n_alone += sum(len(other) for _, other in texts if other is not None)
        n_without += sum(one.n_tokens for one in read if one.answers)
    before, started = reader.n_tokens, time.perf_counter()
    for one in talks:
        reader(one)
    passed, evaluated = time.perf_counter() - started, reader.n_tokens - before
    print(
        f"{len(talks)} conversations, {n_replies} replies: {evaluated:,} tokens evaluated;"
        f" one pass over all {n_whole:,}, the replies once more {n_without:,}, each text by itself"
        f" {n_alone:,}; {evaluated / passed:,.0f} tokens/s, {len(talks) / passed:.2f}"
        " conversations/s"
    )
    return {
        "conversations": len(talks),
        "replies": n_replies,
        "evaluated": evaluated,
        "one_pass": n_whole,
        "replies_again": n_without,
        "each_by_itself": n_alone,
        "tokens_per_s": evaluated / passed,
        "conversations_per_s": len(talks) / passed,
    }


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--only", default="people,questions,shuffled,cost")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ratings = arguments.data / "dstc9_track1/dev/human_rated_index_mod5_eq0.jsonl.gz"
    logs = arguments.data / "dstc11_track5/dev/val_logs.json.gz"
    results: Results = {"model": arguments.model}
    with reply_reader(arguments.model) as reader:
        results["weights"] = reader.terms.weights
        for part in arguments.only.split(","):
            if part in {"people", "questions"}:
                results[part] = people(reader, ratings, arguments.n, whole=part == "questions")
            elif part == "shuffled":
                results[part] = shuffled(reader, logs, arguments.n // 3)
            elif part == "cost":
                results[part] = cost(reader, logs, 20)
            else:
                parser.error(f"There is no part {part!r}.")
    line = json.dumps(results)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
