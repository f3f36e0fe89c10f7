"""`quietdesk replay`: a reply that was kept, made again and compared."""

from typing import Annotated

import typer
from rich.console import Console

from quietdesk.assistant import Assistant, open_store
from quietdesk.cli import options
from quietdesk.cli.output import print_json
from quietdesk.errors import UnknownNameError
from quietdesk.replay import Replay
from quietdesk.store.base import Store
from quietdesk.types import Author

_AROUND = 40
"""Bytes that are shown before and after the first one that differs."""


def replay(
    reply_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A reply's id, or a beginning of it; a conversation's for its last reply.",
        ),
    ],
    model: options.Model = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Make a reply again and compare it byte for byte; exit code 1 if it differs.

    What is not as it was then is told: weights, template, engine, processor, options, prompt. Where
    a token differs, how close the two were: a near-tie can fall either way in another batch.

    Examples:
        quietdesk replay m-1f2e

        quietdesk replay c-77aa --json
    """
    # Heavy, and not needed to show the help.
    from quietdesk.loading import open_engine

    options.must_exist(database)
    settings = options.read_settings(model=model, database=database)
    store: Store = open_store(None, settings)
    try:
        name = _reply(store, reply_id)
        engine = open_engine(None, options.for_conversations(settings, 1), look_for_faster=False)
    except BaseException:
        store.close()
        raise
    with Assistant(engine, store, settings) as assistant:
        found = assistant.replay(name)
    if as_json:
        print_json(found.model_dump(mode="json") | {"near_tie": _near_tie(found)})
    else:
        _print(found)
    if not found.same:
        raise typer.Exit(1)


def _reply(store: Store, name: str) -> str:
    """The reply that is meant: a message's id, or a conversation's last reply."""
    try:
        return store.find_message(name)[1].id
    except UnknownNameError as unknown:
        try:
            history = store.messages(store.conversation(name).id, reports=False)
        except UnknownNameError as neither:
            raise (neither if name.startswith("c-") else unknown) from None
        replies = [message.id for message in history if message.author is Author.BOT]
        if not replies:
            raise unknown from None
        return replies[-1]


def _near_tie(found: Replay) -> bool | None:
    token = found.first_token
    return None if token is None or not found.greedy else token.near_tie


def _print(found: Replay) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    size = len(found.recorded.encode("utf-8", "surrogatepass"))
    upto = " up to where it was cut" if found.cut else ""
    if found.same:
        console.print(f"The same, {size:,} bytes{upto}.")
    else:
        at = found.first_byte or 0
        console.print(f"Different from byte {at:,} of {size:,} on{upto}.")
        console.print(f"  then: {_around(found.recorded, at)}")
        console.print(f"  now:  {_around(found.text, at)}")
        _print_token(console, found)
    for one in found.differences:
        console.print(f"{one.what} then: {one.recorded}")
        console.print(f"{' ' * len(one.what)} now:  {one.now}")


def _print_token(console: Console, found: Replay) -> None:
    token = found.first_token
    if token is None:
        console.print("The reply's tokens were not recorded, since it did not come to its end.")
        return
    console.print(f"First token that differs: {token.position:,} ({token.recorded}, {token.now}).")
    if not found.greedy:
        console.print("Tokens were drawn by chance, so how close it was cannot be told.")
    elif token.near_tie:
        console.print(
            f"A near-tie: {token.gap_at_most:g} on the recorded token's logit brings it. Which of "
            "the two comes depends on how many rows were evaluated together."
        )
    elif token.gap_at_most is not None:
        console.print(f"No near-tie: it takes {token.gap_at_most:g} on the recorded one's logit.")
    else:
        console.print("No near-tie.")


def _around(text: str, at: int) -> str:
    data = text.encode("utf-8", "surrogatepass")
    shown = data[max(0, at - _AROUND) : at + _AROUND].decode("utf-8", "replace")
    return (
        ("…" if at > _AROUND else "")
        + repr(shown)[1:-1]
        + ("…" if at + _AROUND < len(data) else "")
    )
