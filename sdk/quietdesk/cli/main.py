"""The `quietdesk` command: its verbs, and how errors become exit codes.

0 good, 1 failed, 2 wrong use, 130 interrupted.
"""

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from quietdesk.cli import (
    ask,
    bench,
    chat,
    compare,
    convert,
    db,
    doctor,
    evaluate,
    fit,
    gate,
    models,
    options,
    replay,
    score,
    sessions,
)
from quietdesk.errors import QuietdeskError, UsageError
from quietdesk_models.errors import ModelsError

APP_SEQUENCES = 4
"""Replies that the app can stream at the same time; more wait."""

app = typer.Typer(
    name="quietdesk",
    help="A private customer-service desk on this machine. Without a verb: the terminal app.",
    epilog="Examples: quietdesk · quietdesk ask 'Do you ship to Norway?' · quietdesk doctor",
    invoke_without_command=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("chat")(chat.chat)
app.command("ask")(ask.ask)
app.command("replay")(replay.replay)
app.add_typer(sessions.app, name="sessions")
app.add_typer(db.app, name="db")
app.add_typer(models.app, name="models")
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("convert")(convert.convert)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("gate")(gate.gate)
app.command("fit")(fit.fit)
app.command("evaluate")(evaluate.evaluate)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quietdesk {version('quietdesk')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    model: options.Model = None,
    database: options.Database = None,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Tell the version."),
    ] = False,
) -> None:
    """Open the terminal app when no verb is given."""
    del show_version
    if context.invoked_subcommand is not None:
        for name, value in (("--model", model), ("--database", database)):
            if value is not None:
                raise typer.BadParameter(
                    f"{name} stands after the verb: quietdesk {context.invoked_subcommand} {name}"
                )
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The app needs a terminal, and this is none. "
            "In a pipe use `quietdesk chat` or `quietdesk ask`."
        )
    found = list(entry_points(group="quietdesk.app"))
    if not found:
        raise UsageError("The terminal app is not installed: pip install 'quietdesk[tui]'.")
    try:
        run = found[0].load()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The package {error.name!r} is missing: pip install 'quietdesk[tui]'."
        ) from None
    settings = options.for_conversations(
        options.read_settings(model=model, database=database), APP_SEQUENCES
    )
    raise typer.Exit(run(settings))


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code."""
    try:
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _complain("Interrupted.")
        return 130
    except BrokenPipeError:
        # The reader has gone, as `head` does. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        _complain(str(error))
        return 2
    except (QuietdeskError, ModelsError) as error:
        _complain(str(error))
        return 1
    except Exception as error:
        # Typer's own errors, of wrong options among others, know how they are shown.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or not isinstance(code, int):
            raise
        show()
        return code


def _complain(sentence: str) -> None:
    print(f"quietdesk: {sentence}", file=sys.stderr)
