"""Options that the scoring verbs have."""

from typing import Annotated

import typer

from quietdesk.scored import need_extra

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

__all__ = ["DEFAULT", "Format", "Jobs", "Metrics", "Slices", "Strict", "need_extra"]
