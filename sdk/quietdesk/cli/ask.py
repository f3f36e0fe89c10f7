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
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    stop: options.Stop = None,
    assigned: options.Set = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="File with a JSON schema; the answer validates.", dir_okay=False),
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(help="File with a GBNF grammar that the answer keeps to.", dir_okay=False),
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep question and answer as a conversation.")] = True,
    as_json: options.Json = False,
) -> None:
    """Ask one question and print the answer as it comes.

    Examples:
        quietdesk ask "Do you ship to Norway?"

        quietdesk ask --system policy.md --temperature 0 --json < question.txt

        quietdesk ask --schema order.json "I want two red bells."

        quietdesk ask --top-p 0.9 --set presence_penalty=0.5 --stop "Regards" < question.txt
    """
    # Heavy, and not needed to show the help.
    from quietdesk.loading import open_engine
    from quietdesk.store.memory import MemoryStore

    if question is None:
        if sys.stdin.isatty():
            raise typer.BadParameter('Nothing to ask: quietdesk ask "Do you ship to Norway?"')
        question = read_stdin()
    if schema is not None and grammar is not None:
        raise typer.BadParameter("An answer keeps to a schema or to a grammar, not to both.")
    settings = options.read_settings(
        model=model,
        draft_model=draft_model,
        database=database,
        system=system,
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        stop=stop or None,
        assigned=assigned,
        grammar=None if grammar is None else options.read_text(grammar),
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
