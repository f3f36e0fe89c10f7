"""`quietdesk fit`: an estimator of satisfaction from your own ratings, with its agreement."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import options, scoring_options

Out = Annotated[Path, typer.Option("--out", "-o", help="File for the estimator.", dir_okay=False)]


def fit(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Logs with ratings; - for stdin.")
    ],
    out: Out = Path("satisfaction.npz"),
    label: Annotated[
        str | None,
        typer.Option("--label", help="A label to learn instead of ratings: numbers, yes or no."),
    ] = None,
    format: scoring_options.Format = None,
    running: Annotated[
        bool,
        typer.Option("--running", help="For conversations under way: no look at later turns."),
    ] = False,
    folds: Annotated[
        int, typer.Option("--folds", min=2, max=20, help="Folds that measure the agreement.")
    ] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same folds.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Fit an estimator of satisfaction on rated conversations, and tell how far to trust it.

    The agreement is that of conversations which the estimator did not see, by nested
    cross-validation; a customer's conversations are never on both sides.

    Example: quietdesk fit rated.jsonl --out ours.npz
    """
    scoring_options.need_extra()
    from quietdesk.cli import labels
    from quietdesk.scoring.fitting import folds as folded
    from quietdesk.scoring.fitting.recipe import Recipe

    found = labels.read_labelled(paths, label, format)

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    recipe = Recipe(ahead=not running, n_outer=folds, seed=seed)
    header = {"fitted_on": [Path(path).name for path in paths], "label": label or "ratings"}
    fitted = folded.fit(found, recipe, header=header, progress=tell)
    tell("")
    fitted.estimator.save(out)
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(
            {
                "estimator": str(out),
                "fingerprint": fitted.estimator.fingerprint,
                "turns": labels.as_json(fitted.turns),
                "conversations": labels.as_json(fitted.conversations),
            }
        )
        return
    labels.show(fitted.turns, fitted.conversations)
    print(f"\nWritten to {out}. Use it: quietdesk score LOGS --metrics satisfaction:{out}")
