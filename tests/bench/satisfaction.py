"""How outcome, grounding and satisfaction agree with people, on public sets that nobody here wrote.

    python tests/bench/satisfaction.py --data ../shared/data
    python tests/bench/satisfaction.py --data ../shared/data --only shipped,grounding,outcome

Prints a table for each part and, last, one line of JSON. Each figure is kept in `--out` as soon as
it is there; a run that was stopped goes on where it was, as long as the commit is the same. Parts:

- `clean`: an estimator fitted and cross-validated on each of the sets that its recipe was chosen
  by (`models/recipe/choose_satisfaction.py`), which flatters a little;
- `own`: the same on each of the English sets of USS by itself;
- `pooled`: the same, trained on the three together;
- `curve`: fitted on a few or many of a USS set's dialogues, measured on the same others of it;
- `shipped`: the shipped estimator on these sets, none of which it was fitted on;
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
import platform
import subprocess
import time
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from quietdesk.columns import to_batch
from quietdesk.engine.device import machine
from quietdesk.scoring.agreement import Agreement, area_under_curve, with_interval
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.fitting.folds import Fitted, agreement_with, evaluate, fit
from quietdesk.scoring.fitting.labels import Labelled, labelled
from quietdesk.scoring.fitting.recipe import Recipe
from quietdesk.scoring.grounding import grounding
from quietdesk.scoring.outcome import ABANDONED, ASSISTED, HANDED_OFF, RESOLVED, endings
from quietdesk.scoring.satisfaction import Levels, shipped
from quietdesk.scoring.statistics import spearman
from quietdesk.types import Author, Transcript, TranscriptMessage

USS = ("MWOZ", "ReDial", "CCPE")
Results = dict[str, Any]
Measured = Iterator[tuple[str, Results]]
Part = Callable[[Path, Recipe, Container[str]], Measured]
"""What a part gives for each of the names that are not there yet."""
SIZES = (50, 100, 200, 400, 800)
"""Dialogues that the learning curve is measured at."""
HELD_OUT = 0.3
"""Of a set's dialogues, that it is measured on."""


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


def clean(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """Each set that the recipe was chosen on."""
    for name, labels in load_recipe().judges(data).items():
        if name not in done:
            fitted = fit(labels, recipe)
            yield name, show(name, fitted.turns, fitted.conversations)


def own(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """Each USS set by itself."""
    for name in (name for name in USS if name not in done):
        fitted = fit(read_uss(data, name), recipe)
        yield name, show(name, fitted.turns, fitted.conversations)


def curve(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """Each USS set: fitted on so many dialogues in a random order, measured on the last of them."""
    for name in (name for name in USS if name not in done):
        rows = list(uss(data / f"uss/dev/{name}.txt.gz"))
        order = np.random.default_rng(0).permutation(len(rows))
        n_out = round(HELD_OUT * len(rows))
        held_out = labelled(Conversations(to_batch([rows[i] for i in order[-n_out:]])))
        sizes = [size for size in SIZES if size < len(rows) - n_out] + [len(rows) - n_out]
        found: Results = {}
        for size in sizes:
            some = labelled(Conversations(to_batch([rows[i] for i in order[:size]])))
            fitted = fit(some, dataclasses.replace(recipe, n_outer=0))
            measured = evaluate(fitted.estimator, held_out)
            found[str(size)] = show(f"{name} {size}", *measured)
        yield name, found


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


def pooled(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """The three USS sets together, each measured by itself."""
    if all(name in done for name in USS):
        return
    rows = {name: list(uss(data / f"uss/dev/{name}.txt.gz")) for name in USS}
    labels: Labelled = load_recipe().labels_of(rows)
    fitted = fit(labels, recipe)
    for number, name in enumerate(USS):
        yield name, show(name, *_of_set(labels, fitted, number))


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


def shipped_on_uss(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """The shipped estimator, which never saw these sets."""
    del recipe
    for name in (name for name in USS if name not in done):
        yield name, show(name, *evaluate(shipped(), read_uss(data, name)))


def grounded(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """Groundedness of replies in the right snippet, against people's ratings of accuracy."""
    del recipe, done
    path = data / "dstc9_track1/dev/human_rated_index_mod5_eq0.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        accuracy = [np.mean(json.loads(text)["accuracy"]) for text in lines]
    rows = list(load_recipe().dstc9(path))
    found = grounding(Conversations(to_batch(rows)))
    people = np.array(accuracy)
    group = np.unique([row.customer or "" for row in rows], return_inverse=True)[1]
    share = found.backed / np.maximum(found.stated, 1)
    for name, values in (
        ("groundedness", np.nan_to_num(found.recall)),
        ("supported", share),
        ("no invented number", -(found.invented > 0).astype(float)),
    ):
        figure = with_interval(lambda r, v=values: spearman(v[r], people[r]), group)  # type: ignore[misc]
        print(f"{name:<26} Spearman {figure.value:.3f} ({figure.low:.3f}..{figure.high:.3f})")
        yield name, {"spearman": dataclasses.asdict(figure), "n": len(rows)}


def outcomes(data: Path, recipe: Recipe, done: Container[str]) -> Measured:
    """The outcome against STAR's questionnaires: good is every question answered with yes."""
    del recipe, done
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
    yield "star", {"auc": dataclasses.asdict(figure), "success": shares, "counts": counts}


PARTS: dict[str, Part] = {
    "grounding": grounded,
    "outcome": outcomes,
    "shipped": shipped_on_uss,
    "clean": clean,
    "own": own,
    "curve": curve,
    "pooled": pooled,
}
AVERAGED = ("shipped", "own", "pooled")


def commit() -> str:
    """The commit that this is run on."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/satisfaction.json"
    )
    options = parser.parse_args()
    names = options.only.split(",")
    here = machine()
    told = {
        "commit": commit(),
        "date": date.today().isoformat(),
        "machine": f"{here.cpu}, {here.cores} cores",
        "python": platform.python_version(),
        "folds": options.folds,
    }
    kept: Results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in names:
        part = kept.get(name, {})
        if any(part.get(key) != told[key] for key in ("commit", "folds")):
            part = {**told, "seconds": 0, "sets": {}}
        kept[name] = part
        print(f"\n== {name}\n{HEAD}", flush=True)
        began, before = time.monotonic(), part["seconds"]
        for key, found in PARTS[name](options.data, Recipe(n_outer=options.folds), part["sets"]):
            part["sets"][key] = found
            part["seconds"] = before + round(time.monotonic() - began)
            if name in AVERAGED:
                part["mean"] = means(part["sets"])
            options.out.parent.mkdir(exist_ok=True)
            options.out.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(json.dumps({name: kept[name] for name in names}, sort_keys=True))


if __name__ == "__main__":
    main()
