"""What verbs read from standard input and print on standard output."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from quietdesk.errors import UsageError
from quietdesk.reply import Reply


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")


def write_whole(path: Path, content: str | dict[str, Any], *, force: bool) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Where to.
        content: Text, or what becomes JSON.
        force: Whether a file that is there is replaced.

    Raises:
        UsageError: it is there already, or it cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(f"The file {str(path)!r} is there already; --force replaces it.")
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, indent=2, default=str) + "\n"
    # Written beside it and renamed: a full disk leaves the old file whole.
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UsageError(f"The file {str(path)!r} cannot be written: {error.strerror}.") from None


def reply_as_json(reply: Reply) -> dict[str, Any]:
    """A finished reply's facts."""
    usage = reply.usage
    return {
        "id": reply.id,
        "text": reply.text,
        "finish_reason": str(reply.finish_reason),
        "model": reply.message.model,
        "usage": usage.model_dump() | {"tokens_per_second": round(usage.tokens_per_second, 2)},
        "context": reply.context.model_dump(mode="json"),
    }


def read_stdin() -> str:
    """All of standard input.

    Raises:
        UsageError: it is no UTF-8, naming the place.
    """
    return decode(sys.stdin.buffer.read(), "Standard input")


def decode(data: bytes, what: str) -> str:
    """Text of UTF-8 bytes.

    Raises:
        UsageError: they are none, naming the first bad byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f"byte {error.start}" + (f" (line {line})" if line > 1 else "")
        raise UsageError(f"{what} is not UTF-8: {place} is {data[error.start]:#04x}.") from None
