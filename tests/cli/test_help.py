"""Every verb explains itself, and shells complete it."""

import os
import subprocess
import sys

import click
import pytest
import typer.main

from quietdesk.cli.main import app


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        own = (*path, name)
        found += verbs(command, own) if hasattr(command, "commands") else [own]
    return found


ROOT = typer.main.get_command(app)


@pytest.mark.parametrize("verb", verbs(ROOT), ids=" ".join)  # type: ignore[arg-type]
def test_the_help_of_a_verb_has_an_example_that_names_it(verb: tuple[str, ...]) -> None:
    command = ROOT
    for name in verb:
        command = command.commands[name]  # type: ignore[attr-defined]
    told = command.help or ""
    assert "Example" in told
    assert f"quietdesk {' '.join(verb)}" in told
    for option in command.params:
        assert getattr(option, "help", None) or option.name == "help", option.name


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("quietdesk do", "doctor"),
        ("quietdesk sessions re", "restore"),
        ("quietdesk bench --u", "--url"),
    ],
)
def test_a_shell_completes_verbs_and_options(typed: str, offered: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from quietdesk.cli.main import app; app(prog_name='quietdesk')"],
        env={
            **os.environ,
            "_QUIETDESK_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert offered in done.stdout.split()
