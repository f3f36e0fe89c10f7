"""How outcome, grounding and satisfaction agree with people, on public sets that nobody here wrote.

    python tests/bench/satisfaction.py --data ../shared/data
    python tests/bench/satisfaction.py --data ../shared/data --only shipped,grounding,outcome

Prints a table for each part and, last, one line of JSON, which is also kept in `--out`. The parts:

- `own`: an estimator fitted and cross-validated on each of the English sets of USS by itself;
- `pooled`: the same, trained on the three together;
- `shipped`: the shipped estimator on these sets, none of which it was fitted on;
- `taskmaster`: thumbs for replies of a film and a coffee bot, by first user utterance;
- `grounding`: groundedness against three people's ratings of accuracy;
- `outcome`: the outcome metric against what STAR's users and wizards said afterwards.

Nothing fitted on USS is kept: its estimators are thrown away.
"""

import argparse
import dataclasses
import gzip
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quietdesk.columns import to_batch
from quietdesk.scoring.agreement import Agreement, area_under_curve, with_interval
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.fitting import (
    Fitted,
    Labelled,
    Recipe,
    agreement_with,
    evaluate,
    fit,
    labelled,
)
from quietdesk.scoring.grounding import grounding
from quietdesk.scoring.outcome import ABANDONED, ASSISTED, HANDED_OFF, RESOLVED, endings
from quietdesk.scoring.satisfaction import Levels, shipped
from quietdesk.scoring.statistics import spearman
from quietdesk.types import Author, Transcript, TranscriptMessage

USS = ("MWOZ", "ReDial", "CCPE")
Results = dict[str, Any]


def load_recipe() -> Any:
    """`models/recipe/satisfaction.py`, which knows how to read the licence-clean sets."""
    path = Path(__file__).parents[2] / "models/recipe/satisfaction.py"
    spec = importlib.util.spec_from_file_location("recipe_satisfaction", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def uss(path: Path) -> Iterator[Transcript]:
    """Conversations of one USS file: role, text, action, ratings; blank lines between."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        block: list[list[str]] = []
        for number, line in enumerate([*lines, "\n"]):
            if line.strip():
                block.append(line.rstrip("\n").split("\t"))
            elif block:
                yield _uss(block, f"{path.name.split('.')[0]}-{number}")
                block = []


def _uss(block: Sequence[Sequence[str]], name: str) -> Transcript:
    messages, whole = [], ()
    for fields in block:
        votes = tuple(float(v) for v in fields[3].split(",") if v.strip()) if fields[3:] else ()
        if fields[0] == "USER" and fields[1].strip() == "OVERALL":
            whole = votes
        elif fields[0] == "USER":
            said = TranscriptMessage(author=Author.CUSTOMER, text=fields[1], ratings=votes)
            messages.append(said)
        else:
            messages.append(TranscriptMessage(author=Author.BOT, text=fields[1]))
    return Transcript(id=name, messages=tuple(messages), ratings=whole)


def read_uss(data: Path, name: str) -> Labelled:
    """One set's labels."""
    return labelled(Conversations(to_batch(list(uss(data / f"uss/dev/{name}.txt.gz")))))


def line(name: str, found: Agreement | None) -> str:
    """One row of a table."""
    if found is None:
        return f"{name:<26} -"
    figures = (found.spearman, found.auc, found.kappa, found.uar, found.calibration)
    cells = [f"{f.value:.3f} ({f.low:.3f}..{f.high:.3f})" for f in figures]
    rater = "-" if math.isnan(found.rater) else f"{found.rater:.3f}"
    return f"{name:<26} {'  '.join(cells)}  {rater:>5}  {found.dissatisfied:5.1%}  {found.n:>6}"


HEAD = (
    f"{'':<26} {'Spearman':<20}  {'AUC dissatisfied':<20}  {'kappa':<20}  {'UAR':<20}  "
    f"{'calibration error':<20}  rater  dissat.  cases"
)


def plain(found: Agreement | None) -> Any:
    """An agreement as JSON."""
    if found is None:
        return None
    return json.loads(json.dumps(dataclasses.asdict(found)).replace("NaN", "null"))


def own(data: Path, recipe: Recipe) -> Results:
    """Each USS set by itself."""
    results: Results = {}
    print(HEAD)
    for name in USS:
        fitted = fit(read_uss(data, name), recipe)
        results[name] = show(name, fitted.turns, fitted.conversations)
    return results | {"mean": means(results)}


def show(name: str, turns: Agreement | None, whole: Agreement | None) -> Results:
    """Print and keep."""
    print(line(f"{name} turns", turns))
    print(line(f"{name} conversations", whole), flush=True)
    return {"turns": plain(turns), "conversations": plain(whole)}


def means(results: Results) -> Results:
    """The mean over sets of the figures that have targets."""
    found: Results = {}
    for kind in ("turns", "conversations"):
        parts = [part[kind] for part in results.values() if part.get(kind)]
        for key in ("spearman", "auc", "calibration"):
            values = [part[key]["value"] for part in parts]
            found[f"{kind} {key}"] = sum(values) / len(values) if values else None
    print("mean over sets:", {k: None if v is None else round(v, 4) for k, v in found.items()})
    return found


def pooled(data: Path, recipe: Recipe) -> Results:
    """The three USS sets together, each measured by itself."""
    rows = {name: list(uss(data / f"uss/dev/{name}.txt.gz")) for name in USS}
    labels: Labelled = load_recipe().labels_of(rows)
    fitted = fit(labels, recipe)
    results: Results = {}
    print(HEAD)
    for number, name in enumerate(USS):
        results[name] = show(name, *_of_set(labels, fitted, number))
    return results | {"mean": means(results)}


def _of_set(
    labels: Labelled, fitted: Fitted, number: int
) -> tuple[Agreement | None, Agreement | None]:
    of = labels.conversations.conversation_of
    assert fitted.turn_estimates is not None
    assert fitted.whole_estimates is not None
    rated = np.flatnonzero(labels.turns.size > 0)
    mine = labels.sets[of[fitted.turn_rows]] == number
    turns = agreement_with(
        Levels(*(column[mine] for column in fitted.turn_estimates)),
        labels.turns,
        rated[mine],
        labels.groups[of[fitted.turn_rows[mine]]],
        labels.scale,
    )
    kept = labels.sets[fitted.whole_rows] == number
    whole = agreement_with(
        Levels(*(column[kept] for column in fitted.whole_estimates)),
        labels.whole,
        fitted.whole_rows[kept],
        labels.groups[fitted.whole_rows[kept]],
        labels.scale,
    )
    return turns, whole


def shipped_on_uss(data: Path, recipe: Recipe) -> Results:
    """The shipped estimator, which never saw these sets."""
    del recipe
    results: Results = {}
    print(HEAD)
    for name in USS:
        results[name] = show(name, *evaluate(shipped(), read_uss(data, name)))
    return results | {"mean": means(results)}


def taskmaster(data: Path, recipe: Recipe) -> Results:
    """Thumbs for replies and tool calls, fitted on each set by itself."""
    results: Results = {}
    print(HEAD)
    for name in ("tm3", "tm4"):
        path = data / f"taskmaster_reward/dev/{name}_reward.json.gz"
        rows = list(load_recipe().taskmaster(path, calls=True))
        rated = []
        for row in rows:
            *before, reply, silence = row.messages
            reply = reply.model_copy(update={"ratings": silence.ratings})
            rated.append(row.model_copy(update={"messages": (*before, reply)}))
        fitted = fit(labelled(Conversations(to_batch(rated))), recipe)
        results[name] = show(name, fitted.turns, fitted.conversations)
    return results


def grounded(data: Path, recipe: Recipe) -> Results:
    """Groundedness of replies in the right snippet, against people's ratings of accuracy."""
    del recipe
    path = data / "dstc9_track1/dev/human_rated_index_mod5_eq0.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        accuracy = [np.mean(json.loads(text)["accuracy"]) for text in lines]
    rows = list(load_recipe().dstc9(path))
    found = grounding(Conversations(to_batch(rows)))
    people = np.array(accuracy)
    group = np.unique([row.customer or "" for row in rows], return_inverse=True)[1]
    share = found.backed / np.maximum(found.stated, 1)
    results: Results = {}
    for name, values in (
        ("groundedness", np.nan_to_num(found.recall)),
        ("supported", share),
        ("no invented number", -(found.invented > 0).astype(float)),
    ):
        figure = with_interval(lambda r, v=values: spearman(v[r], people[r]), group)  # type: ignore[misc]
        print(f"{name:<26} Spearman {figure.value:.3f} ({figure.low:.3f}..{figure.high:.3f})")
        results[name] = dataclasses.asdict(figure)
    return results | {"n": len(rows)}


def outcomes(data: Path, recipe: Recipe) -> Results:
    """The outcome against STAR's questionnaires: good is every question answered with yes."""
    del recipe
    rows = list(load_recipe().star(data / "star/dev/dialogues.tar.gz"))
    found = endings(Conversations(to_batch(rows)))
    good = np.array([row.ratings[0] == 5.0 for row in rows])
    value = np.select(
        [
            np.isin(found.outcome, [RESOLVED, ASSISTED]),
            np.isin(found.outcome, [HANDED_OFF, ABANDONED]),
        ],
        [1.0, -1.0],
        0.0,
    )
    some = found.measured & (found.outcome >= 0)
    rows_some = np.flatnonzero(some)
    figure = with_interval(
        lambda r: area_under_curve(value[rows_some[r]], good[rows_some[r]]), rows_some
    )
    shares = {
        name: float(good[some & (found.outcome == code)].mean())
        for code, name in enumerate(("resolved", "assisted", "handed_off", "abandoned", "open"))
        if (some & (found.outcome == code)).any()
    }
    counts = np.bincount(found.outcome[some], minlength=5).tolist()
    print(f"outcome, AUC of success    {figure.value:.3f} ({figure.low:.3f}..{figure.high:.3f})")
    print("share of successes by outcome:", {k: round(v, 3) for k, v in shares.items()}, counts)
    return {"auc": dataclasses.asdict(figure), "success": shares, "counts": counts}


PARTS: dict[str, Callable[[Path, Recipe], Results]] = {
    "grounding": grounded,
    "outcome": outcomes,
    "shipped": shipped_on_uss,
    "taskmaster": taskmaster,
    "own": own,
    "pooled": pooled,
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trees", type=int, default=Recipe().n_trees)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/satisfaction.json"
    )
    options = parser.parse_args()
    recipe = Recipe(n_outer=options.folds, n_trees=options.trees)
    kept: Results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.only.split(","):
        began = time.monotonic()
        print(f"\n== {name}", flush=True)
        kept[name] = PARTS[name](options.data, recipe)
        kept[name]["seconds"] = round(time.monotonic() - began)
        kept[name]["folds"] = options.folds
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(json.dumps({name: kept[name] for name in options.only.split(",")}, sort_keys=True))


if __name__ == "__main__":
    main()
