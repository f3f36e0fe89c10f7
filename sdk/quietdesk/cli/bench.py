"""`quietdesk bench`: what this machine does with this model, under a support desk's load."""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.cli import options
from quietdesk.errors import UsageError


def bench(
    sizes: Annotated[
        str, typer.Option("--sizes", help="Customers at the same time, one run for each.")
    ] = "1,4,8,16",
    turns: Annotated[int, typer.Option("--turns", min=1, help="Questions of each.")] = 3,
    arrivals: Annotated[
        float,
        typer.Option("--arrivals", min=0, help="Customers that come per second; 0: all at once."),
    ] = 0.0,
    model: options.Model = None,
    as_json: options.Json = False,
) -> None:
    """Measure tokens per second and waiting times. Takes about a minute; Ctrl-C stops it.

    Each customer has the same system prompt of 300 tokens and asks questions of 30 tokens that
    are answered in 64. The table comes first, then one line of JSON.

    Examples:
        quietdesk bench

        quietdesk bench --model qwen2.5-0.5b --sizes 1,8 --arrivals 2
    """
    # Heavy, and needed by this verb only.
    from quietdesk.bench import Workload, engine_target, run
    from quietdesk.loading import open_engine

    counts = _read_sizes(sizes)
    console = Console(stderr=True, highlight=False)
    rows: list[dict[str, float]] = []
    for n in counts:
        settings = options.read_settings(model=model, n_seq=n, n_ctx=256 * (turns + 2))
        with console.status(f"{n} customers …"):
            engine = open_engine(None, settings, look_for_faster=False)
            try:
                workload = Workload(n, n_turns=turns, arrivals_per_s=arrivals)
                report = run(workload, engine_target(engine))
            finally:
                engine.close()
        rows.append(report.as_dict())
        name = engine.model.name
    if not as_json:
        table = Table(box=None, pad_edge=False)
        for heading in ("customers", "tokens/s", "first token", "95 %", "next token", "95 %"):
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(
                str(row["n_conversations"]),
                f"{row['tokens_per_s']:.0f}",
                *(
                    f"{row[key]:.0f} ms"
                    for key in (
                        "first_token_p50_ms",
                        "first_token_p95_ms",
                        "inter_token_p50_ms",
                        "inter_token_p95_ms",
                    )
                ),
            )
        Console(highlight=False).print(table)
    sys.stdout.write(json.dumps({"model": name, "turns": turns, "results": rows}) + "\n")


def _read_sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(1 <= size <= 256 for size in sizes):
        raise UsageError(f"--sizes is a list of numbers from 1 to 256, as 1,8,16; got {text!r}.")
    return sizes
