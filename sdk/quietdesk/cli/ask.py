"""`quietdesk ask`: one question, one answer."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quietdesk.assistant import Assistant, open_store
from quietdesk.cli import options
from quietdesk.cli.output import print_json, read_stdin, reply_as_json
from quietdesk.conversation import ReplyOptions
from quietdesk.store.base import Store


def ask(
    question: Annotated[
        str | None, typer.Argument(help="What to ask; from standard input if left out.")
    ] = None,
    model: options.Model = None,
    draft_model: options.DraftModel = None,
    database: options.Database = None,
    system: options.System = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="File with a JSON schema; the answer validates.", dir_okay=False),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep question and answer as a conversation.")] = True,
    as_json: options.Json = False,
) -> None:
    """Ask one question and print the answer as it comes.

    Examples:
        quietdesk ask "Do you ship to Norway?"

        quietdesk ask --system policy.md --temperature 0 --json < question.txt

        quietdesk ask --schema order.json "I want two red bells."
    """
    # Heavy, and not needed to show the help.
    from quietdesk.loading import open_engine
    from quietdesk.store.memory import MemoryStore

    if question is None:
        if sys.stdin.isatty():
            raise typer.BadParameter('Nothing to ask: quietdesk ask "Do you ship to Norway?"')
        question = read_stdin()
    settings = options.read_settings(
        model=model,
        draft_model=draft_model,
        database=database,
        system=system,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    wanted: ReplyOptions = {} if schema is None else {"schema": _read_schema(schema)}
    store: Store = open_store(None, settings) if keep else MemoryStore()
    try:
        engine = open_engine(None, options.for_conversations(settings, 1), look_for_faster=False)
    except BaseException:
        store.close()
        raise
    with (
        Assistant(engine, store, settings) as assistant,
        options.started(assistant) as conversation,
    ):
        reply = conversation.stream(question, **wanted)
        for delta in reply:
            if not as_json:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        parsed = {"parsed": reply.parsed} if wanted else {}
        if as_json:
            print_json({"conversation": conversation.id, **reply_as_json(reply), **parsed})
        else:
            print()


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(options.read_text(path))
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{str(path)!r} is no JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise typer.BadParameter(f"{str(path)!r} holds no object, as a JSON schema is.")
    return schema
