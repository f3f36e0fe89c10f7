"""Options that say how to read logs that do not say it themselves."""

from typing import Annotated

import typer

Authors = Annotated[
    list[str] | None,
    typer.Option(
        "--author", metavar="NAME=WHO", help="Who a name is: customer, bot, human, system, tool."
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="A table's column: text, author, id, ..."),
]
