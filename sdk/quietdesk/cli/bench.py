"""`quietdesk bench`: what this machine does with this model, under a support desk's load."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.cli import options
from quietdesk.config import Settings
from quietdesk.engine.remote.endpoint import is_address
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
    draft_model: options.DraftModel = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Address of a model's server to measure instead: --model too."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure tokens per second and waiting times. Takes about a minute; Ctrl-C stops it.

    Each customer has the same system prompt of 300 tokens and asks questions of 30 tokens that
    are answered in 64. The table comes first, then one line of JSON. Ctrl-C shows what was
    measured until then.

    Examples:
        quietdesk bench

        quietdesk bench --model qwen2.5-0.5b --sizes 1,8 --arrivals 2

        quietdesk bench --url http://127.0.0.1:8080/v1 --json
    """
    # Heavy, and needed by this verb only.
    from quietdesk.bench import Workload, engine_target, run
    from quietdesk.loading import open_engine

    counts = _read_sizes(sizes)
    if url is not None and model is not None:
        raise UsageError("--url and --model both name what is measured. Give one of them.")
    console = Console(stderr=True, highlight=False)
    rows: list[dict[str, float]] = []
    measured = {"model": "", "server": "", "turns": turns, "arrivals_per_s": arrivals}
    try:
        for n in counts:
            settings = _settings(url or model, draft_model, n, turns)
            with console.status(f"{n} customers …"):
                engine = open_engine(None, settings, look_for_faster=False)
                try:
                    workload = Workload(n, n_turns=turns, arrivals_per_s=arrivals)
                    report = run(workload, engine_target(engine))
                finally:
                    engine.close()
            rows.append(report.as_dict())
            measured |= {"model": engine.model.name, "server": engine.model.server}
    finally:
        if rows:
            _show(rows, measured, as_json=as_json)


def _settings(model: str | None, draft_model: str | None, n: int, turns: int) -> Settings:
    """As much context as the workload takes; on a server, what it has."""
    own = options.read_settings(model=model, draft_model=draft_model, n_seq=n)
    if is_address(own.model):
        return own
    return own.model_copy(update={"n_ctx": 256 * (turns + 2)})


def _show(rows: list[dict[str, float]], measured: dict[str, Any], *, as_json: bool) -> None:
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
    sys.stdout.write(json.dumps(measured | {"results": rows}) + "\n")
    sys.stdout.flush()


def _read_sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(1 <= size <= 256 for size in sizes):
        raise UsageError(f"--sizes is a list of numbers from 1 to 256, as 1,8,16; got {text!r}.")
    return sizes
