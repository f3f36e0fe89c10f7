"""`quietdesk evaluate`: how an estimator of satisfaction agrees with people's ratings."""

from pathlib import Path
from typing import Annotated

import typer

from quietdesk.cli import options, scoring_options


def evaluate(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Logs with ratings; - for stdin.")
    ],
    estimator: Annotated[
        Path | None,
        typer.Option("--estimator", "-e", help="File from `quietdesk fit`; else the shipped one."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="A label to compare with instead of the ratings."),
    ] = None,
    format: scoring_options.Format = None,
    as_json: options.Json = False,
) -> None:
    """Tell how an estimator agrees with ratings that it was not fitted on.

    Example: quietdesk evaluate rated.jsonl --estimator ours.npz
    """
    scoring_options.need_extra()
    from quietdesk.cli import labels
    from quietdesk.errors import UsageError
    from quietdesk.scoring.fitting import folds
    from quietdesk.scoring.satisfaction import Estimator, shipped

    found = labels.read_labelled(paths, label, format)
    used = shipped() if estimator is None else Estimator.load(estimator)
    turns, conversations = folds.evaluate(used, found)
    if turns is None and conversations is None:
        raise UsageError(
            "The estimator and the labels have nothing in common: it has no estimate for what was "
            "rated. Ratings of the other kind, turns or conversations, are needed."
        )
    if as_json:
        from quietdesk.cli.output import print_json

        print_json(
            {
                "estimator": str(estimator or "shipped"),
                "fingerprint": used.fingerprint,
                "turns": labels.as_json(turns),
                "conversations": labels.as_json(conversations),
            }
        )
        return
    labels.show(turns, conversations)
