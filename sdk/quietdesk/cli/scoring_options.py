"""Options that the scoring verbs have, and the check that what they need is installed."""

from importlib.util import find_spec
from typing import Annotated

import typer

from quietdesk.errors import UsageError

Metrics = Annotated[
    str,
    typer.Option(
        "--metrics", help="Names with commas between: bleu,chrf,outcome; default: what is there."
    ),
]
Slices = Annotated[
    list[str] | None,
    typer.Option("--slice", help="A field to split by: a label, metadata, week. Repeat for more."),
]
Format = Annotated[
    str | None, typer.Option("--format", help="The logs' format; told by their content if absent.")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes; 0: one per core.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad record.")]
DEFAULT = "default"
NEEDED = ("pyarrow", "msgspec", "sacrebleu", "scipy", "sklearn", "zstandard")


def need_extra() -> None:
    """Check that what scoring needs is installed, without importing it.

    Raises:
        UsageError: it is not.
    """
    for name in NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"The package {name!r} is missing: pip install 'quietdesk[score]'.")
