"""What widgets tell the screen: one small class per event."""

from textual.message import Message


class Submitted(Message):
    """The composer was sent."""

    def __init__(self, text: str) -> None:
        """What was written."""
        self.text = text
        super().__init__()


class ConversationChosen(Message):
    """A conversation was chosen in the list."""

    def __init__(self, conversation_id: str) -> None:
        """Its id."""
        self.conversation_id = conversation_id
        super().__init__()


class SearchChanged(Message):
    """The words in the list's search field changed."""

    def __init__(self, query: str) -> None:
        """The words."""
        self.query = query
        super().__init__()


class Renamed(Message):
    """A new title was typed for a conversation."""

    def __init__(self, conversation_id: str, title: str) -> None:
        """Its id, and the title as typed."""
        self.conversation_id = conversation_id
        self.title = title
        super().__init__()


class MessageSelected(Message):
    """A message was selected in the transcript, or none any more."""

    def __init__(self, message_id: str | None) -> None:
        """Its id."""
        self.message_id = message_id
        super().__init__()


class VersionWanted(Message):
    """Another version of a message is to be shown."""

    def __init__(self, message_id: str, direction: int) -> None:
        """Its id; -1: the version before; 1: the one after."""
        self.message_id = message_id
        self.direction = direction
        super().__init__()


class ExampleChosen(Message):
    """An example question of the welcome text was chosen."""

    def __init__(self, text: str) -> None:
        """The question."""
        self.text = text
        super().__init__()


class ScrollWanted(Message):
    """The conversation is to be scrolled by a page."""

    def __init__(self, direction: int) -> None:
        """-1: up; 1: down."""
        self.direction = direction
        super().__init__()
