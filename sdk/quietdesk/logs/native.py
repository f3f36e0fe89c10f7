"""The native form: one `quietdesk.types.Transcript` per line, as JSON."""

import msgspec
from pydantic import ValidationError

from quietdesk.logs.foreign import Object
from quietdesk.logs.format import ALL_FIELDS, Context
from quietdesk.logs.json_values import check_depth, not_json, too_deep
from quietdesk.logs.problem import BadRecordError, Kind
from quietdesk.logs.record import Record, from_transcript
from quietdesk.logs.source import decode as decode_text
from quietdesk.types import Transcript, TranscriptMessage

NAME = "native"
TITLE = "Quietdesk's own, a transcript per line"
KEEPS = ALL_FIELDS

_decoder = msgspec.json.Decoder(Record)
_encoder = msgspec.json.Encoder()


def schema() -> Object:
    """The JSON schema of one line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Transcript.model_json_schema(),
    }


def matches(value: object) -> bool:
    """Whether a JSON value is a transcript: messages that have an author and a text."""
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        return False
    first = value["messages"][0] if value["messages"] else {"author": "", "text": ""}
    return isinstance(first, dict) and {"author", "text"} <= first.keys()


def decode(content: bytes, context: Context) -> Record:
    """The conversation of one line.

    Raises:
        BadRecordError: it is none; with the reason that the published schema gives.
    """
    try:
        try:
            record = _decoder.decode(content)
        except UnicodeDecodeError:
            text, _ = decode_text(content)
            context.note(Kind.ENCODING, "It is not UTF-8; it was read as Windows-1252.")
            content = text.encode()
            record = _decoder.decode(content)
        if record.metadata:
            check_depth(record.metadata)
    except RecursionError:
        raise too_deep() from None
    except msgspec.ValidationError:
        return _explained(content, context)
    except msgspec.DecodeError as error:
        raise not_json(error) from None
    return record


def encode(record: Record) -> bytes:
    """One line, without its end."""
    return _encoder.encode(record)


def _explained(content: bytes, context: Context) -> Record:
    """What Pydantic makes of a line that the quicker reader refuses: a conversation, or why not."""
    try:
        transcript = Transcript.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if problem["type"] == "json_invalid":
            reason = problem["msg"].removeprefix("Invalid JSON: ")
            if reason.startswith("recursion"):
                raise too_deep() from None
            raise BadRecordError(Kind.NOT_JSON, f"It is no JSON: {reason}.") from None
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        shown = repr(problem["input"])
        shown = shown if len(shown) < 60 else shown[:60] + "…"
        raise BadRecordError(
            Kind.SHAPE, f"In {where}: {problem['msg']}, and there stands {shown}."
        ) from None
    said = tuple(_zoned(message, context) for message in transcript.messages)
    try:
        record = from_transcript(transcript.model_copy(update={"messages": said}))
        return _decoder.decode(_encoder.encode(record))
    except msgspec.ValidationError as error:
        raise BadRecordError(Kind.SHAPE, f"{error}.") from None


def _zoned(message: TranscriptMessage, context: Context) -> TranscriptMessage:
    return message.model_copy(update={"created_at": context.zoned(message.created_at)})
