"""What the app says about messages, errors and times, in one place and without a widget."""

import re
from datetime import date, datetime, timedelta
from pathlib import Path

from quietdesk import Author, FinishReason, Message, QuietdeskError
from quietdesk.errors import (
    ContextError,
    ModelError,
    ModelTooLargeError,
    StoreError,
    StoreVersionError,
    UnknownNameError,
)
from quietdesk_tui.blocks import clean

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

NAMES = {
    Author.CUSTOMER: "You",
    Author.BOT: "Assistant",
    Author.HUMAN: "Team",
    Author.SYSTEM: "System",
    Author.TOOL: "Tool",
}


def end_note(
    message: Message,
    *,
    again_key: str = "",
    go_on_key: str = "",
    error: QuietdeskError | None = None,
) -> tuple[str, str]:
    """What to say below a reply about how it ended, and in which style; both empty: nothing.

    Args:
        message: The reply.
        again_key: The key that writes it again; empty where that cannot be done.
        go_on_key: The key that goes on with it.
        error: What went wrong, where that is known.
    """
    again = f" {again_key} writes it again." if again_key else ""
    if again and go_on_key and message.text:
        again = f" {go_on_key} goes on, {again_key} writes it again."
    match message.finish_reason:
        case FinishReason.CANCELLED if message.text:
            return f"■ Stopped here.{again}", ".note"
        case FinishReason.CANCELLED:
            return f"■ Stopped before anything was said.{again}", ".note"
        case FinishReason.LENGTH:
            limit = "The longest reply that is allowed (max_tokens) ended here."
            return f"■ {limit}{again}", ".note"
        case FinishReason.TOOL_CALLS:
            names = ", ".join(call.name for call in message.tool_calls)
            return f"■ Calls {names}, and goes on when it has the result.", ".note"
        case FinishReason.INTERRUPTED:
            return f"■ Cut off: the app ended while this was written.{again}", ".note"
        case FinishReason.FAILED:
            cause = f" {error}" if error is not None else ""
            return f"✗ This reply failed.{cause}{again}", ".note-error"
        case None if message.author is Author.BOT:
            return "■ Still being written, by another program.", ".note"
    return "", ""


def advice(error: Exception | None, log_file: Path | None) -> list[str]:
    """What can be done about a start that failed, a sentence a line."""
    if isinstance(error, ModelTooLargeError):
        return ["`quietdesk models list` shows smaller models."]
    if isinstance(error, ModelError | UnknownNameError):
        return [
            "`quietdesk models list` shows the models that there are.",
            "`quietdesk --model PATH` takes any GGUF file.",
        ]
    if isinstance(error, StoreVersionError):
        return ["`quietdesk --database PATH` opens another database."]
    if isinstance(error, StoreError):
        return [
            "Another program may hold it, the disk may be full, or it may be read-only.",
            "`quietdesk --database PATH` opens another one.",
        ]
    return [f"The details are in {log_file}."] if log_file is not None else []


def refusal(error: QuietdeskError) -> str:
    """Why a message was not sent, and that it is not lost."""
    if isinstance(error, ContextError):
        return f"{error} Your text is in the composer again."
    return f"Not sent: {error} Your text is in the composer again."


def day_words(day: date, today: date) -> str:
    """A day as a heading."""
    if day == today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    year = f" {day.year}" if day.year != today.year else ""
    return f"{day:%A}, {day.day} {day:%B}{year}"


def time_words(moment: datetime) -> str:
    """The time of day where the reader is."""
    return f"{moment.astimezone():%H:%M}"


_MARKS = re.compile(r"\*\*|__|~~|`+|^#+ ")


def first_words(text: str) -> str:
    """A message in one line, without the marks of Markdown that mean nothing there."""
    return _MARKS.sub("", " ".join(clean(text).split()))


def spinner(seconds: float) -> str:
    """A sign that turns as time goes on."""
    return SPINNER[int(seconds * 10) % len(SPINNER)]


def count(number: int, noun: str) -> str:
    """A number and its noun: `1 message`, `3 messages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
