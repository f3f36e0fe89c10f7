"""Quietdesk: a private customer-service desk on one ordinary machine."""

from quietdesk.assistant import Assistant
from quietdesk.config import Settings
from quietdesk.conversation import Conversation
from quietdesk.errors import QuietdeskError
from quietdesk.reply import Reply
from quietdesk.scored import score
from quietdesk.types import (
    Author,
    ContextReport,
    ConversationInfo,
    Delta,
    FinishReason,
    KeptScore,
    Message,
    Passage,
    Transcript,
    Usage,
)

__all__ = [
    "Assistant",
    "Author",
    "ContextReport",
    "Conversation",
    "ConversationInfo",
    "Delta",
    "FinishReason",
    "KeptScore",
    "Message",
    "Passage",
    "QuietdeskError",
    "Reply",
    "Settings",
    "Transcript",
    "Usage",
    "score",
]
