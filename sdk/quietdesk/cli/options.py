"""Options that several verbs have, and the settings that follow from them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from quietdesk.assistant import Assistant, database_place, open_store
from quietdesk.config import Settings, read_assignments
from quietdesk.conversation import Conversation
from quietdesk.errors import ConfigError, UsageError
from quietdesk.store.base import Store

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model's name, the path of a GGUF file, or a server's address."
    ),
]
DraftModel = Annotated[
    str | None,
    typer.Option("--draft-model", help="A small model of the same family that guesses ahead."),
]
Database = Annotated[
    str | None,
    typer.Option("--database", "-d", help="Path of the database, or its URL."),
]
System = Annotated[
    Path | None,
    typer.Option("--system", "-s", help="File with the system prompt.", dir_okay=False),
]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same reply.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Tokens of a reply at most.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="0 always takes the likeliest word.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", help="Text that ends the reply and is no part of it; can be repeated."),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", help="Only the k likeliest tokens; 0 takes all.")
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="Only the likeliest tokens that together have this probability."),
]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", help="Only tokens with this share of the likeliest's probability."),
]
RepeatPenalty = Annotated[
    float | None,
    typer.Option("--repeat-penalty", help="Above 1, tokens used lately become less likely."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting, as in the config file: --set presence_penalty=0.5; can be repeated.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", help="Port on this machine where Prometheus may read metrics."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]


def read_settings(
    *,
    model: str | None = None,
    database: str | None = None,
    system: Path | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    assigned: Sequence[str] | None = None,
    **more: object,
) -> Settings:
    """The settings in force with a verb's options on top; None is what was not given.

    Raises:
        ConfigError: a bad value, or one that is given twice.
        typer.BadParameter: the system prompt's file cannot be read.
    """
    own = {
        "model": model,
        "database": database,
        "system": None if system is None else read_text(system),
        "seed": seed,
        "max_tokens": max_tokens,
        "temperature": temperature,
        **more,
    }
    given = read_assignments(assigned or ())
    for name in given:
        if own.get(name) is not None:
            raise ConfigError(f"{name!r} is set twice: by --set, and by an option of its own.")
    return Settings.load(own | given)


def for_conversations(settings: Settings, n_seq: int) -> Settings:
    """The same settings without KV cache for more conversations than a verb holds at a time."""
    return settings if settings.n_seq else settings.model_copy(update={"n_seq": n_seq})


@contextmanager
def started(assistant: Assistant) -> Iterator[Conversation]:
    """A new conversation; one in which nothing was said is none to find in the list later."""
    conversation = assistant.start()
    try:
        yield conversation
    finally:
        if not conversation.messages:
            assistant.store.delete(conversation.id)
            assistant.store.purge([conversation.id])


@contextmanager
def opened(database: str | None, *, removes: bool = False, makes: bool = False) -> Iterator[Store]:
    """The database that is named, or the settings', closed at the end.

    Args:
        database: A path or a URL.
        removes: Whether conversations go; their states on disk go with them.
        makes: Whether one that is named and not there is made.

    Raises:
        UsageError: it is a file, and there is none.
    """
    from quietdesk.kept_states import sweep

    if not makes:
        must_exist(database)
    settings = read_settings(database=database)
    store = open_store(None, settings)
    try:
        yield store
        if removes:
            sweep(database_place(None, settings), settings, store)
    finally:
        store.close()


def must_exist(database: str | None) -> None:
    """Check that a database that was named is there: a slip of the pen makes none.

    Raises:
        UsageError: it is a file, and there is none.
    """
    if is_missing(database):
        raise UsageError(
            f"There is no database {database!r}. `quietdesk chat` or `sessions import` makes one."
        )


def is_missing(database: str | None) -> bool:
    """Whether a database was named that would be a file, and there is none."""
    from quietdesk.store.opening import file_or_url

    if database is None or database == ":memory:":
        return False
    file = file_or_url(database)
    return isinstance(file, Path) and not file.exists()


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        typer.BadParameter: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{str(path)!r} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}."
        ) from None
    except OSError as error:
        raise typer.BadParameter(f"{str(path)!r} cannot be read: {error.strerror}.") from None
