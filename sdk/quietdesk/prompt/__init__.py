"""The prompt room: a conversation becomes tokens that fit the context, and a report of what fitted.

`template.ChatTemplate`, which needs Jinja2, is opened by whoever opens the model and is imported
from its own module.
"""

from quietdesk.prompt.policies import POLICIES, Load, Policy, find_policy
from quietdesk.prompt.renderer import Template
from quietdesk.prompt.summary import Summariser, extract
from quietdesk.prompt.tokens import Tokenize
from quietdesk.prompt.window import Fitted, Window

__all__ = [
    "POLICIES",
    "Fitted",
    "Load",
    "Policy",
    "Summariser",
    "Template",
    "Tokenize",
    "Window",
    "extract",
    "find_policy",
]
