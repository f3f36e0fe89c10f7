"""`quietdesk chat`: line by line, at a prompt or in a pipe."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated

import typer
from rich.console import Console

from quietdesk.assistant import Assistant
from quietdesk.cli import options
from quietdesk.cli.output import decode
from quietdesk.conversation import Conversation
from quietdesk.errors import QuietdeskError, UsageError
from quietdesk.reply import Reply

HELP = "/new  /regenerate  /quit   Ctrl-C stops a reply, Ctrl-D ends."


def chat(
    resume: Annotated[
        str | None,
        typer.Option("--resume", "-r", help="Go on with a conversation, by its id."),
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
    metrics_port: options.MetricsPort = None,
) -> None:
    r"""Chat line by line. In a pipe each line is a message, and each reply ends with a new line.

    Examples:
        quietdesk chat --system policy.md

        printf 'Hello\nDo you ship to Norway?\n' | quietdesk chat
    """
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
        metrics_port=metrics_port,
    )
    at_prompt = sys.stdin.isatty()
    with (
        Assistant.open(settings=options.for_conversations(settings, 1)) as assistant,
        contextlib.ExitStack() as begun,
    ):

        def start() -> Conversation:
            return begun.enter_context(options.started(assistant))

        conversation = assistant.resume(resume) if resume else start()
        if at_prompt:
            _at_prompt(assistant.model.name, conversation, start)
        else:
            _in_pipe(conversation)


def _in_pipe(conversation: Conversation) -> None:
    failed = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = decode(line.rstrip(b"\r\n"), f"Line {number} of standard input")
            if text.strip():
                _print(conversation.stream(text))
        except QuietdeskError as error:
            # One bad line must not cost the answers to the others.
            failed += 1
            print(f"quietdesk: {error} The message was not sent.", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _at_prompt(model: str, conversation: Conversation, start: Callable[[], Conversation]) -> None:
    console = Console(stderr=True, highlight=False)
    console.print(f"[b]{model}[/b]  {conversation.id}\n[dim]{HELP}[/dim]")
    for message in conversation.messages:
        print(f"{'> ' if message.author == 'customer' else ''}{message.text}\n")
    for line in _lines():
        try:
            if line == "/quit":
                return
            if line == "/help":
                console.print(f"[dim]{HELP}[/dim]")
            elif line == "/new":
                conversation = start()
                console.print(f"[dim]{conversation.id}[/dim]")
            elif line == "/regenerate":
                _print_until_interrupted(conversation.regenerate(), console)
            elif line.startswith("/") and " " not in line:
                raise UsageError(f"There is no command {line!r}. {HELP}")
            elif line.strip():
                _print_until_interrupted(conversation.stream(line), console)
        except QuietdeskError as error:
            console.print(f"[red]{error}[/red]", markup=True)


def _lines() -> Iterator[str]:
    # Gives `input` history and editing where the system has it.
    with contextlib.suppress(ImportError):
        import_module("readline")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


def _print_until_interrupted(reply: Reply, console: Console) -> None:
    try:
        _print(reply)
    except KeyboardInterrupt:
        reply.cancel()
        reply.wait()
        print()
        console.print("[dim]Stopped; what was said is kept.[/dim]")
        return
    usage = reply.usage
    gone = len(reply.context.evicted)
    console.print(
        f"[dim]{usage.tokens_per_second:.0f} tokens/s · first token {usage.first_token_s:.2f} s · "
        f"context {reply.context.fill:.0%}"
        + (f" · {gone} messages no longer fit" if gone else "")
        + "[/dim]"
    )


def _print(reply: Reply) -> None:
    for delta in reply:
        sys.stdout.write(delta.text)
        sys.stdout.flush()
    print(flush=True)
