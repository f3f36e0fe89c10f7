"""The quick form of a transcript is the public one, field for field."""

from datetime import datetime
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from quietdesk import types
from quietdesk.logs.record import (
    CallRecord,
    MessageRecord,
    PassageRecord,
    Record,
    from_transcript,
    to_transcript,
)
from quietdesk.types import Transcript

PAIRS = [
    (types.Transcript, Record),
    (types.TranscriptMessage, MessageRecord),
    (types.Passage, PassageRecord),
    (types.ToolCall, CallRecord),
]
NAMES = {model.__name__: struct.__name__ for model, struct in PAIRS}


def spelt(kind: Any) -> str:
    """A type by names, without what only one library needs."""
    if kind in {str, int, float, bool, Any, type(None), datetime, ...}:
        return str(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind.__name__
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return NAMES[kind.__name__]
    arguments = get_args(kind)
    if arguments:
        origin = get_origin(kind)
        name = "union" if origin in {Union, UnionType} else origin.__name__
        return f"{name}[{', '.join(map(spelt, arguments))}]"
    return str(getattr(kind, "__name__", kind))


@pytest.mark.parametrize(("model", "struct"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_forms_have_the_same_fields_types_and_defaults(
    model: type[BaseModel], struct: type[msgspec.Struct]
) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    assert list(fields) == list(model.model_fields)
    hints = get_type_hints(model)
    for name, field in fields.items():
        assert spelt(get_type_hints(struct)[name]) == spelt(hints[name]), name
        theirs = model.model_fields[name]
        assert field.required == theirs.is_required()
        if not field.required:
            mine = (
                field.default_factory()
                if field.default_factory is not msgspec.NODEFAULT
                else field.default
            )
            assert mine == theirs.get_default(call_default_factory=True)


@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_transcript_goes_through_the_quick_form_unchanged(
    data: st.DataObject, any_transcripts: SearchStrategy[list[Transcript]]
) -> None:
    for transcript in data.draw(any_transcripts):
        assert to_transcript(from_transcript(transcript)) == transcript
        line = msgspec.json.encode(from_transcript(transcript))
        assert Transcript.model_validate_json(line) == transcript
