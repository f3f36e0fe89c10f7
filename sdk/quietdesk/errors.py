"""Every error that Quietdesk raises on purpose.

    QuietdeskError
    ├── UsageError                 what was asked cannot be done as asked
    │   ├── ConfigError            a setting is unknown or has a bad value
    │   ├── SchemaError            a JSON schema cannot be kept to; carries the place
    │   ├── EmptyMessageError      a message with nothing in it
    │   ├── ImportRefusedError     a conversation from elsewhere is not whole, or not new
    │   ├── FolderInUseError       another run writes into the folder
    │   ├── UnknownNameError       no such model, conversation, message; carries the nearest names
    │   └── UnsupportedOptionError the model's server cannot do what an option asks
    ├── ModelError                 the model cannot be used
    │   ├── ModelFileError         no file, no GGUF, cut short, an unknown architecture
    │   ├── ModelTooLargeError     it does not fit into memory
    │   ├── DraftModelError        a draft model does not go with the model
    │   └── TemplateError          the chat template does not render
    ├── ContextError               the prompt does not fit into the context
    ├── EngineError                the engine could not finish a request
    │   ├── QueueFullError         too many requests wait; nothing was started
    │   ├── DeadlineError          the request's time ran out
    │   ├── EngineClosedError      the engine was closed
    │   ├── DecodeError            llama.cpp reported a failure
    │   └── EndpointError          a model's server did not do what it was asked
    │       ├── EndpointUnreachableError  no connection to it
    │       ├── EndpointRefusedError      it answered with an error, and its status
    │       ├── EndpointTimeoutError      it took too long
    │       └── EndpointCutError          what it said broke off, or was no event stream
    ├── UnparsedReplyError         a reply that was to be JSON was cut, or does not validate
    ├── ConversationBusyError      a reply is still being written in this conversation
    │   └── ConversationMovedError something else was said in it meanwhile
    ├── LogError                   a log of conversations cannot be read or written
    │   ├── LogFormatError         its format is not known, or not the one that was named
    │   └── LogRecordError         strict reading met a record that it had to reject
    └── StoreError                 the database cannot be used
        ├── StoreKeyError          it is encrypted, and the key is missing or another one
        ├── StoreVersionError      it was made by a newer version
        ├── StoreWriteError        read-only, a full disk, locked for too long
        └── StoreUnreachableError  the database's server does not answer

A message says what was wrong, the value, and what to do. Fields carry the facts.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class QuietdeskError(Exception):
    """The root: catch it to catch everything that Quietdesk raises on purpose."""


class UsageError(QuietdeskError):
    """What was asked cannot be done as asked."""


class ConfigError(UsageError):
    """A setting is unknown or has a bad value."""


class SchemaError(UsageError):
    """A JSON schema cannot be kept to, or nothing could ever validate.

    Attributes:
        path: The place in the schema, as a JSON pointer: `#/properties/name`.
        keyword: What stands in the way there.
    """

    def __init__(self, path: str, keyword: str, reason: str) -> None:
        self.path = path
        self.keyword = keyword
        super().__init__(f"The JSON schema cannot be used: {keyword!r} at {path!r}: {reason}.")


class EmptyMessageError(UsageError):
    """A message with nothing in it."""


class ImportRefusedError(UsageError):
    """A conversation from elsewhere cannot be kept; nothing of what came with it was.

    Attributes:
        number: Which of those that were given, from 1.
        reason: What is wrong with it, and with which of its messages.
    """

    def __init__(self, number: int, where: str, message: str, why: str) -> None:
        self.number = number
        self.reason = f"{message}: {why}" if message else why
        place = f"{where}, {message}" if message else where
        super().__init__(f"Cannot import {place}: {why}. Nothing was imported.")


class FolderInUseError(UsageError):
    """Another run writes into the folder."""


class UnknownNameError(UsageError):
    """There is nothing of that name.

    Attributes:
        kind: What was looked for: `model`, `conversation`, `message`, ...
        name: The name as given.
        nearest: Known names that look like it, best first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        self.kind = kind
        self.name = name
        names = list(known)
        self.nearest = tuple(get_close_matches(name, names, n=3, cutoff=0.4))
        sentence = f"There is no {kind} {name!r}."
        if self.nearest:
            sentence += f" Did you mean {' or '.join(map(repr, self.nearest))}?"
        if hint:
            sentence += f" {hint}"
        super().__init__(sentence)


class UnsupportedOptionError(UsageError):
    """The model's server cannot do what an option asks; nothing was left out silently.

    Attributes:
        option: The option's name.
        endpoint: The server's address.
    """

    def __init__(self, option: str, endpoint: str, why: str) -> None:
        self.option = option
        self.endpoint = endpoint
        super().__init__(f"{option!r} cannot be had from {endpoint}: {why}")


class ModelError(QuietdeskError):
    """The model cannot be used."""


class ModelFileError(ModelError):
    """The model's file is missing, is no GGUF, is cut short, or has an unknown architecture.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        super().__init__(f"Cannot use the model file {path!r}: {reason}")


class ModelTooLargeError(ModelError):
    """The model does not fit into memory.

    Attributes:
        needed_bytes: Estimate for weights, context and buffers.
        available_bytes: What the machine, the container or the GPU has free.
        place: Whose memory that is, as "GPU memory".
    """

    def __init__(
        self, name: str, needed_bytes: int, available_bytes: int, place: str = "memory"
    ) -> None:
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.place = place
        fewer = ", fewer layers on the GPU (n_gpu_layers)" if place != "memory" else ""
        super().__init__(
            f"The model {name!r} needs about {needed_bytes / 2**30:.1f} GiB of {place} and "
            f"{available_bytes / 2**30:.1f} GiB are available. Choose a smaller model or "
            f"quantisation{fewer}, fewer sequences (n_seq), or a smaller context (n_ctx)."
        )


class DraftModelError(ModelError):
    """A draft model does not go with the model that it is to guess for.

    Attributes:
        name: The draft model's.
        target: The model's.
        reasons: What is in the way.
    """

    def __init__(self, name: str, target: str, reasons: Iterable[str]) -> None:
        self.name = name
        self.target = target
        self.reasons = tuple(reasons)
        super().__init__(
            f"The draft model {name!r} does not go with the model {target!r}: "
            f"{'; '.join(self.reasons)}. Choose a smaller model of the same family, or set "
            "draft_model to nothing."
        )


class TemplateError(ModelError):
    """The chat template does not render these messages."""


class ContextError(QuietdeskError):
    """The prompt does not fit into the context; nothing was guessed or cut.

    Attributes:
        needed_tokens: Tokens of the smallest prompt that keeps what must be kept, or of a text
            that was not tokenised since it is far too long, what it takes at least.
        available_tokens: Tokens that the context has for it.
    """

    def __init__(
        self, what: str, needed_tokens: int, available_tokens: int, *, at_least: bool = False
    ) -> None:
        self.needed_tokens = needed_tokens
        self.available_tokens = available_tokens
        least = "at least " if at_least else ""
        super().__init__(
            f"{what} needs {least}{needed_tokens} tokens and the context has room for "
            f"{available_tokens}. Shorten it, raise n_ctx, or lower max_tokens."
        )


class EngineError(QuietdeskError):
    """The engine could not finish a request."""


class QueueFullError(EngineError):
    """Too many requests wait already; this one was not started.

    Attributes:
        limit: How many may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"The queue is full: {limit} requests wait already. "
            "Try again later, or raise queue_limit."
        )


class DeadlineError(EngineError):
    """The request's time ran out before it was finished.

    Attributes:
        deadline_s: Seconds that it had.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        super().__init__(f"The request was not finished within its deadline of {deadline_s:g} s.")


class EngineClosedError(EngineError):
    """The engine was closed before or while the request ran."""

    def __init__(self) -> None:
        super().__init__("The engine is closed. Open the assistant again.")


class DecodeError(EngineError):
    """llama.cpp reported a failure; the requests concerned ended, the engine goes on."""


class EndpointError(EngineError):
    """A model's server did not do what it was asked.

    Attributes:
        endpoint: Its address, without any key.
        may_retry: Whether the same request may succeed a little later.
    """

    def __init__(self, endpoint: str, reason: str, *, may_retry: bool = False) -> None:
        self.endpoint = endpoint
        self.may_retry = may_retry
        super().__init__(f"The model's server at {endpoint} {reason}")


class EndpointUnreachableError(EndpointError):
    """There is no connection to the model's server."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(
            endpoint,
            f"cannot be reached: {reason}. Is it running, and is the address right?",
            may_retry=True,
        )


class EndpointRefusedError(EndpointError):
    """The model's server answered with an error.

    Attributes:
        status: HTTP status; 200 where the error came in the middle of a reply.
        retry_after_s: Seconds after which it wants to be asked again; None where it does not say.
    """

    def __init__(
        self, endpoint: str, status: int, reason: str, retry_after_s: float | None = None
    ) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        advice = {
            401: " Set its key: QUIETDESK_ENDPOINT_KEY, or endpoint_key in the settings.",
            403: " The key (endpoint_key) does not allow this.",
            429: " It has too much to do: try again later.",
        }.get(status, "")
        if retry_after_s is not None:
            advice = f" It wants to be asked again after {retry_after_s:g} s."
        super().__init__(
            endpoint,
            f"answered {status}: {reason}.{advice}",
            may_retry=status in {408, 425, 429, 500, 502, 503, 504},
        )


class EndpointTimeoutError(EndpointError):
    """The model's server took too long.

    Attributes:
        waited_s: Seconds that it was waited for.
    """

    def __init__(self, endpoint: str, what: str, setting: str, waited_s: float) -> None:
        self.waited_s = waited_s
        super().__init__(
            endpoint, f"did not {what} within {waited_s:g} s. {setting} sets how long is waited."
        )


class EndpointCutError(EndpointError):
    """What the model's server said broke off, or was no event stream; what was said is kept."""


class UnparsedReplyError(QuietdeskError):
    """A reply that was to be JSON was cut before its end, or does not validate.

    Attributes:
        text: What was said.
    """

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        super().__init__(f"The reply has no parsed value: {reason}")


class ConversationBusyError(QuietdeskError):
    """A reply is still being written in this conversation.

    Attributes:
        conversation_id: The conversation.
    """

    def __init__(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        super().__init__(
            f"A reply is still being written in conversation {conversation_id!r}. "
            "Wait for it, or cancel it first."
        )


class LogError(QuietdeskError):
    """A log of conversations cannot be read or written."""


class LogFormatError(LogError):
    """The log's format is not known, or it is not the one that was named."""


class LogRecordError(LogError):
    """Strict reading met a record that it had to reject.

    Attributes:
        place: File and line, or record number.
        reason: What is wrong with it.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"{place}: {reason} Strict reading stops here; nothing was skipped.")


class ConversationMovedError(ConversationBusyError):
    """Something else was said in a conversation while a reply was prepared; nothing was kept."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(conversation_id)
        self.args = (
            f"Something else was said in conversation {conversation_id!r} meanwhile, by another "
            "process or thread. Read it again and send again.",
        )


class StoreError(QuietdeskError):
    """The database cannot be used."""


class StoreKeyError(StoreError):
    """The database is encrypted and the key is missing or another one; or it is not encrypted."""


class StoreVersionError(StoreError):
    """The database was made by a newer version of Quietdesk.

    Attributes:
        revision: The schema revision found.
    """

    def __init__(self, url: str, revision: str) -> None:
        self.revision = revision
        super().__init__(
            f"The database {url} has schema {revision!r}, which this version of Quietdesk does not "
            "know. It was made by a newer version: upgrade Quietdesk, or name another database."
        )


class StoreWriteError(StoreError):
    """The database refused a write: read-only, a full disk, locked for too long."""


class StoreUnreachableError(StoreError):
    """The database's server does not answer, or knows no such database or user."""
