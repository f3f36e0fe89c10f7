"""A process that has a reply open: python tests/store/writer.py DATABASE CONVERSATION NAME.

Asks and begins to answer, prints `open`, and waits; for each line on standard input it checkpoints
the line's text, and at the end of the input it finishes. Prints the error's name if it is refused.
"""

import sys

from quietdesk.errors import QuietdeskError
from quietdesk.store.sql import open_store
from quietdesk.types import Author, FinishReason, Message

database, conversation_id, name = sys.argv[1:]
store = open_store(database)
try:
    store.begin_turn(
        conversation_id,
        (Message(id=f"q-{name}", author=Author.CUSTOMER, text=f"Question {name}"),),
        Message(id=f"r-{name}", author=Author.BOT, text=""),
    )
except QuietdeskError as error:
    print(type(error).__name__, flush=True)
else:
    print("open", flush=True)
    text = ""
    for line in sys.stdin:
        text = line.strip()
        store.checkpoint(f"r-{name}", text)
        print("kept", flush=True)
    store.finish(
        Message(id=f"r-{name}", author=Author.BOT, text=text, finish_reason=FinishReason.STOP)
    )
store.close()
