"""Chooses how estimators of satisfaction are fitted, on sets whose licences allow it.

    python models/recipe/choose_satisfaction.py --data FOLDER [--only NAME,...]

What is chosen here are the defaults of `quietdesk.scoring.fitting.recipe.Recipe`. The judges are
four sets, each by itself, in nested cross-validation grouped by customer: thumbs for replies and
calls of a film and of a coffee bot (Taskmaster-3 and -4, CC BY 4.0; a customer is a first
utterance), people's ratings of replies' accuracy (DSTC9 Track 1, Apache-2.0; a customer is a
question that eleven systems answered), and how STAR's dialogues ended (MIT; its ratings stand on
whole dialogues). What counts is the mean of the four rank correlations, and of two that are alike
the simpler. No other set has a say.

A candidate is the chosen recipe with the fields that its entry names; their figures are kept in
`satisfaction_choice.json`, those of the chosen one too, which flatter a little, for it was chosen
by them. What these sets cannot tell, for their rated turns stand alone: how neighbours' scores
correct a turn's (`satisfaction.NEIGHBOURS`), and how far raters of one conversation agree
(`Recipe.shrink`, which is estimated from the ratings themselves).
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from satisfaction import judges

from quietdesk.scoring.fitting.folds import fit
from quietdesk.scoring.fitting.labels import Labelled
from quietdesk.scoring.fitting.recipe import Recipe

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "chosen": {},
    "no features": {"looks": ("text", "story", "trees")},
    "no text": {"looks": ("features", "story", "trees")},
    "no story": {"looks": ("features", "text", "trees")},
    "no trees": {"looks": ("features", "text", "story")},
    "features only": {"looks": ("features",)},
    "trees only": {"looks": ("trees",)},
    "leaves of 8": {"min_leaf": 8},
    "fifth of columns": {"feature_share": 0.2},
    "half the penalties": {"x_alpha": 1000.0, "text_alpha": 10.0},
    "twice the penalties": {"x_alpha": 4000.0, "text_alpha": 40.0},
}


def measure(labels: Labelled, recipe: Recipe) -> dict[str, float]:
    """Rank correlation, AUC of the dissatisfied and calibration error in the outer folds."""
    began = time.monotonic()
    fitted = fit(labels, recipe)
    found = fitted.turns or fitted.conversations
    assert found is not None
    return {
        "spearman": round(found.spearman.value, 4),
        "auc": round(found.auc.value, 4),
        "calibration": round(found.calibration.value, 4),
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    """Measure the candidates that have no figures yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--only", default=",".join(CANDIDATES), help="candidates to measure")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "satisfaction_choice.json"
    )
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    sets = judges(options.data)
    for name in options.only.split(","):
        fields = CANDIDATES[name]
        entry = found.setdefault(name, {"fields": {k: repr(v) for k, v in fields.items()}})
        for judge, labels in sets.items():
            if judge not in entry:
                entry[judge] = measure(labels, replace(Recipe(), **fields))
                options.out.write_text(json.dumps(found, indent=1) + "\n")
        mean = sum(entry[judge]["spearman"] for judge in sets) / len(sets)
        figures = "  ".join(
            f"{judge} {entry[judge]['spearman']:.3f}/{entry[judge]['auc']:.3f}" for judge in sets
        )
        print(f"{name:<20} mean {mean:.4f}  {figures}", flush=True)


if __name__ == "__main__":
    main()
