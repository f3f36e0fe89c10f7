"""Labels: reading rated conversations and showing agreement with them, for `fit` and `evaluate`."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from quietdesk.errors import QuietdeskError
from quietdesk.logs.reading import read
from quietdesk.scoring.agreement import Agreement, Figure
from quietdesk.scoring.base import Conversations
from quietdesk.scoring.fitting.labels import Labelled, labelled

SHOWN_PROBLEMS = 10
_ROWS = (
    ("rank correlation with people (Spearman)", "spearman"),
    ("dissatisfied found (AUC)", "auc"),
    ("class agreement (Cohen's kappa)", "kappa"),
    ("recall averaged over classes (UAR)", "uar"),
    ("calibration error", "calibration"),
)


def read_labelled(paths: Sequence[str], label: str | None, format: str | None) -> Labelled:
    """The rated conversations of some logs, all in memory.

    Raises:
        QuietdeskError: there is no conversation.
        UsageError: there are no labels, or bad ones.
    """
    reading = read(paths, format=format)
    batches = list(reading.batches())
    for problem in reading.problems[:SHOWN_PROBLEMS]:
        print(problem, file=sys.stderr)
    if reading.n_rejected:
        print(f"{reading.n_rejected:,} records were left out.", file=sys.stderr)
    if not batches:
        raise QuietdeskError(f"There is no conversation in {', '.join(paths)}.")
    joined = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return labelled(Conversations(joined[0]), label)


def show(turns: Agreement | None, conversations: Agreement | None) -> None:
    """Print the agreement as a table on standard output."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("agreement with people")
    found = [("turns", turns), ("conversations", conversations)]
    known = [(name, one) for name, one in found if one is not None]
    for name, _ in known:
        table.add_column(name, justify="right")
    for title, key in _ROWS:
        table.add_row(title, *(_figure(getattr(one, key)) for _, one in known))
    table.add_row("one person with the others", *(_number(one.rater) for _, one in known))
    table.add_row("dissatisfied", *(f"{one.dissatisfied:.1%}" for _, one in known))
    table.add_row("cases", *(f"{one.n:,}" for _, one in known))
    table.add_row("customers or conversations", *(f"{one.n_groups:,}" for _, one in known))
    Console(width=110).print(table)


def _figure(figure: Figure) -> str:
    if math.isnan(figure.low):
        return _number(figure.value)
    return f"{_number(figure.value)} ({_number(figure.low)} to {_number(figure.high)})"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def as_json(found: Agreement | None) -> dict[str, Any] | None:
    """An agreement as JSON; null for what cannot be computed."""
    return None if found is None else _plain(dataclasses.asdict(found))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
