"""Fits the estimator of satisfaction that Quietdesk ships, from three public sets of judgements.

    python models/recipe/satisfaction.py --star STAR/dialogues.tar.gz \
        --taskmaster TM3_reward.json.gz TM4_reward.json.gz --dstc9 human_rated.jsonl.gz \
        --out sdk/quietdesk/scoring/data/satisfaction.npz

Everything is brought to one scale of 1 to 5 for the customer's turns, which in a log show how the
reply before was taken. A thumb up for a reply is 5 and down is 1 (Taskmaster, CC BY 4.0); three
people's ratings of a reply's accuracy stay as they are (DSTC9 Track 1, Apache-2.0); both stand on
an empty turn after the reply, for nothing is known of what the customer said to it. A dialogue
whose user answers every question about its success with yes, and whose other side saw no annoyance,
is 5, else 2 with one complaint and 1 with more (STAR, MIT). A STAR dialogue's rating also stands on
each of its customer's turns: a weak label, since not every one of them was bad.

Whatever a general learner finds in one of these sets is wrong on the next (`--leave-one-out` shows
it), so this one may only weigh what is known beforehand, in the direction that is known beforehand.
"""

import argparse
import gzip
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quietdesk.columns import to_batch
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.fitting.folds import evaluate, fit
from quietdesk.scoring.fitting.labels import Labelled, labelled
from quietdesk.scoring.fitting.recipe import Recipe
from quietdesk.types import Author, Passage, ToolCall, Transcript, TranscriptMessage

GOOD = {
    "own": ("thanks", "done", "positive", "laugh", "affirm", "goodbye", "exclamation marks"),
    "other before": ("anything else", "positive"),
}
BAD = {
    "own": (
        "negative",
        "complaint",
        "rude",
        "repair",
        "ask human",
        "dont know",
        "negation",
        "question marks",
    ),
    "other before": ("bot lost", "bot cannot", "apology", "negation", "negative", "wait"),
}
VIEWS = {
    "own": ("own", "same before", "same so far", "same after", "same whole"),
    "other before": ("other before", "other so far", "other whole"),
}
SINGLE = {
    "like same before": -1,
    "rephrased": -1,
    "other before loops": -1,
    "other before like one before": -1,
    "again before reply": -1,
    "other before grounded": 1,
    "other before supported": 1,
    "other before invented": -1,
}


def signs() -> dict[str, int]:
    """What may count, and in which direction."""
    found = dict(SINGLE)
    for table, sign in ((GOOD, 1), (BAD, -1)):
        for view, names in table.items():
            found.update({f"{seen}: {name}": sign for seen in VIEWS[view] for name in names})
    return found


def recipe(looks: tuple[str, ...] = ("features",), *, signed: bool = True) -> Recipe:
    """How the shipped estimator is fitted."""
    return Recipe(
        looks=looks,
        signs=signs() if signed else {},
        x_alpha=500.0,
        # Weak labels are the same for a whole dialogue: they must not be taken off.
        shrink=1e9,
        # The means of features know a set's tasks by heart.
        means_alpha=1e9,
    )


def star(path: Path) -> Iterator[Transcript]:
    """Dialogues with a questionnaire."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".json") else None
            if file is not None:
                found = _star(json.load(file))
                if found is not None:
                    yield found


def _star(raw: dict[str, Any]) -> Transcript | None:
    answers = raw["UserQuestionnaire"]
    if not answers:
        return None
    complaints = sum(not answer["Answer"] for answer in answers)
    complaints += sum(
        bool(answer["Answer"])
        for answer in raw["WizardQuestionnaire"]
        if "aggressive or annoyed" in answer["Question"]
    )
    rating = {0: 5.0, 1: 2.0}.get(complaints, 1.0)
    messages = []
    for event in raw["Events"]:
        text = event.get("Text") or ""
        if event["Agent"] == "User" and event["Action"] == "utter":
            rated = (rating,) if text else ()
            messages.append(TranscriptMessage(author=Author.CUSTOMER, text=text, ratings=rated))
        elif event["Agent"] == "Wizard" and event["Action"] in ("utter", "pick_suggestion"):
            messages.append(TranscriptMessage(author=Author.BOT, text=text))
        elif event["Action"] == "return_item":
            item = json.dumps(event.get("Item", {}), ensure_ascii=False)
            messages.append(TranscriptMessage(author=Author.TOOL, text=item))
    return Transcript(
        id=f"star-{raw['DialogueID']}",
        customer=f"star-{raw['AnonymizedUserWorkerID']}",
        messages=tuple(messages),
        ratings=(rating,),
    )


SILENCE = "."
"""What a customer says whose answer is not known."""


def taskmaster(path: Path, *, calls: bool = False) -> Iterator[Transcript]:
    """Replies with a thumb up or down, after what was said before.

    Args:
        path: `tm3_reward.json.gz` or `tm4_reward.json.gz`.
        calls: Whether calls of the agent's tools are rated too, as texts; otherwise they are calls.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        raw = json.load(lines)
    for item in raw:
        said = [*json.loads(item["context"]), json.loads(item["generation"])]
        if "api" in said[-1] and not calls:
            continue
        messages = [_taskmaster(message, calls=calls) for message in said]
        rating = 5.0 if item["reward"] > 0 else 1.0
        messages.append(TranscriptMessage(author=Author.CUSTOMER, text=SILENCE, ratings=(rating,)))
        first = next((m.text for m in messages if m.author is Author.CUSTOMER), "")
        yield Transcript(
            id=f"{path.name[:3]}-{item['conversation_id']}",
            customer=f"{path.name[:3]}-{first.lower().strip()}",
            messages=tuple(messages),
        )


def _taskmaster(message: dict[str, Any], *, calls: bool) -> TranscriptMessage:
    if message["role"] == "user":
        return TranscriptMessage(author=Author.CUSTOMER, text=message["text"])
    if message["role"] == "api":
        text = json.dumps(message["response"], ensure_ascii=False)
        return TranscriptMessage(author=Author.TOOL, text=text)
    if "text" in message:
        return TranscriptMessage(author=Author.BOT, text=message["text"])
    name, arguments = next(iter(message["api"].items()))
    told = json.dumps(arguments, ensure_ascii=False)
    if calls:
        return TranscriptMessage(author=Author.BOT, text=f"{name.replace('_', ' ')} {told}")
    call = ToolCall(id="1", name=name, arguments=told)
    return TranscriptMessage(author=Author.BOT, text="", tool_calls=(call,))


def dstc9(path: Path) -> Iterator[Transcript]:
    """Replies of eleven systems, rated for accuracy by three people each."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            before, _, asked = item["last_two_turns"].rpartition("User says ")
            snippet = f"{item['snippet_question'] or ''} {item['snippet_answer']}"
            yield Transcript(
                id=f"dstc9-{item['index']}-{item['system']}",
                customer=f"dstc9-{item['index']}",
                messages=(
                    TranscriptMessage(
                        author=Author.BOT, text=before.removeprefix("Assistant says ").strip()
                    ),
                    TranscriptMessage(author=Author.CUSTOMER, text=asked.strip()),
                    TranscriptMessage(
                        author=Author.BOT,
                        text=item["response"],
                        passages=(Passage(id="snippet", text=snippet),),
                    ),
                    TranscriptMessage(
                        author=Author.CUSTOMER,
                        text=SILENCE,
                        ratings=tuple(float(vote) for vote in item["accuracy"]),
                    ),
                ),
            )


def on_reply(rows: list[Transcript]) -> list[Transcript]:
    """Ratings moved from the silence after a reply to the reply."""
    moved = []
    for row in rows:
        *before, reply, silence = row.messages
        reply = reply.model_copy(update={"ratings": silence.ratings})
        moved.append(row.model_copy(update={"messages": (*before, reply)}))
    return moved


def whole_only(rows: list[Transcript]) -> list[Transcript]:
    """Ratings of the dialogue alone: of its turns nobody said anything."""
    return [
        row.model_copy(
            update={"messages": tuple(m.model_copy(update={"ratings": ()}) for m in row.messages)}
        )
        for row in rows
    ]


def judges(data: Path) -> dict[str, Labelled]:
    """Four sets with judgements whose licences allow to learn from them, each by itself.

    Args:
        data: Folder of the public sets.
    """
    rewards = data / "taskmaster_reward/dev"
    rows = {
        "tm3": on_reply(list(taskmaster(rewards / "tm3_reward.json.gz", calls=True))),
        "tm4": on_reply(list(taskmaster(rewards / "tm4_reward.json.gz", calls=True))),
        "dstc9": on_reply(
            list(dstc9(data / "dstc9_track1/dev/human_rated_index_mod5_eq0.jsonl.gz"))
        ),
        "star": whole_only(list(star(data / "star/dev/dialogues.tar.gz"))),
    }
    return {name: labelled(Conversations(to_batch(part))) for name, part in rows.items()}


ALL = ("features", "text", "story", "trees")


def labels_of(sets: Mapping[str, Sequence[Transcript]]) -> Labelled:
    """The labels of several sets, each compared with itself only."""
    rows = [transcript for part in sets.values() for transcript in part]
    found = labelled(Conversations(to_batch(rows)))
    return replace(found, sets=np.repeat(np.arange(len(sets)), [len(p) for p in sets.values()]))


def main() -> None:
    """Fit, print the agreement, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--star", type=Path, required=True)
    parser.add_argument("--taskmaster", type=Path, nargs="+", required=True)
    parser.add_argument("--dstc9", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave-one-out", action="store_true", help="fit on two sets, test on one")
    options = parser.parse_args()
    sets = {
        "star": list(star(options.star)),
        "taskmaster": [t for path in options.taskmaster for t in taskmaster(path)],
        "dstc9": list(dstc9(options.dstc9)),
    }
    if options.leave_one_out:
        for looks, signed in ((("features",), True), (("features",), False), (ALL, False)):
            for name, held_out in sets.items():
                rest = {other: rows for other, rows in sets.items() if other != name}
                fitted = fit(labels_of(rest), replace(recipe(looks, signed=signed), n_outer=0))
                found = evaluate(fitted.estimator, labels_of({name: held_out}))
                for part in found:
                    if part is not None:
                        told = f"Spearman {part.spearman.value:.3f} AUC {part.auc.value:.3f}"
                        print(
                            *looks, "signed" if signed else "free", name, told, part.n, flush=True
                        )
        return
    header = {
        "fitted_on": {name: len(rows) for name, rows in sets.items()},
        "licence": "STAR: MIT; Taskmaster-3 and -4 rewards: CC BY 4.0; DSTC9 Track 1: Apache-2.0",
        "made_by": "models/recipe/satisfaction.py",
    }
    fitted = fit(labels_of(sets), recipe(), header=header, progress=print)
    print("turns", fitted.turns)
    print("conversations", fitted.conversations)
    fitted.estimator.save(options.out)
    print(options.out, options.out.stat().st_size, "bytes", fitted.estimator.fingerprint)


if __name__ == "__main__":
    main()
