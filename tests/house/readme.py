"""What README prints of the code itself; cog calls these."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import typer.main

from quietdesk.cli.main import app
from quietdesk.config import Generation, Settings

ROOT = Path(__file__).parents[2]
SOURCES = (
    ("sdk/quietdesk", "The SDK"),
    ("tui/quietdesk_tui", "The terminal app"),
    ("models/quietdesk_models", "The models"),
)


def file_map() -> str:
    """Every module with the first sentence of its docstring."""
    lines = []
    for folder, title in SOURCES:
        lines += [f"**{title}**, `{folder}/`", "", "| module | what it is |", "|---|---|"]
        for path in sorted((ROOT / folder).rglob("*.py"), key=_room_first):
            name = str(path.relative_to(ROOT / folder))
            if "/versions/" in name or path.name == "__main__.py":
                continue
            shown = name.removesuffix("__init__.py") if "/" in name else name
            lines.append(f"| `{shown}` | {_first_sentence(path)} |")
        lines.append("")
    return "\n".join(lines)


def _room_first(path: Path) -> tuple[str, bool, str]:
    return (str(path.parent), path.name != "__init__.py", path.name)


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def settings_table() -> str:
    """Every setting with its default and what its docstring says."""
    told = _field_docs(ROOT / "sdk/quietdesk/config.py")
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    own = [name for name in Settings.model_fields if name not in Generation.model_fields]
    for name in [*own, *Generation.model_fields]:
        if name == "app":
            continue
        default = Settings.model_fields[name].default
        lines.append(f"| `{name}` | `{default!r}` | {told.get(name, '')} |")
    return "\n".join(lines)


def satisfaction_table() -> str:
    """How estimates of satisfaction agree with people, as the bench last measured it."""
    found = json.loads((ROOT / "tests/bench/results/satisfaction.json").read_text(encoding="utf-8"))
    lines = [
        "| fitted on | rated | cases | Spearman | AUC, dissatisfied | calibration | one person |",
        "|---|---|--:|---|---|--:|--:|",
    ]
    for part, fitted in (("own", "its own set"), ("shipped", "other sets: the shipped one")):
        for name, levels in found[part]["sets"].items():
            for level in ("turns", "conversations"):
                one = levels[level]
                rater = "" if one["rater"] is None else f"{one['rater']:.3f}"
                lines.append(
                    f"| {fitted} | {name}, {level} | {one['n']:,} | {_figure(one['spearman'])} "
                    f"| {_figure(one['auc'])} | {one['calibration']['value']:.3f} | {rater} |"
                )
        mean = found[part]["mean"]
        lines += [
            f"| {fitted} | mean, {level} | | {mean[f'{level} spearman']:.3f} "
            f"| {mean[f'{level} auc']:.3f} | {mean[f'{level} calibration']:.3f} | |"
            for level in ("turns", "conversations")
        ]
    run = found["own"]
    lines += [
        "",
        f"Measured on {run['machine']}, at {run['commit']}, in {run['folds']} outer folds.",
    ]
    return "\n".join(lines)


def _figure(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _field_docs(path: Path) -> dict[str, str]:
    docs: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for field, doc in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(doc.value.value).split())
    return docs


def command(arguments: str) -> str:
    """What a command line of ours prints, as a block."""
    done = subprocess.run(
        [sys.executable, "-m", "quietdesk.cli", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"},
    )
    body = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    return f"```console\n$ quietdesk {arguments}\n{body}\n```"


def verbs() -> str:
    """Every verb with its first sentence."""
    lines = ["| verb | what it does |", "|---|---|"]
    root = typer.main.get_command(app)
    for name, verb in root.commands.items():  # type: ignore[attr-defined]
        subs = getattr(verb, "commands", None)
        if subs:
            for sub, inner in subs.items():
                lines.append(f"| `quietdesk {name} {sub}` | {inner.get_short_help_str(150)} |")
        else:
            lines.append(f"| `quietdesk {name}` | {verb.get_short_help_str(150)} |")
    return "\n".join(lines)
