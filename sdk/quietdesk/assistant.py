"""Assistant: wires model, engine and store from the settings, opens conversations, closes it all.

The one place that opens heavy implementations, and therefore imports them where it opens them, so
that `import quietdesk` stays quick and loads no native library.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quietdesk.config import Generation, Settings, data_folder
from quietdesk.conversation import Conversation, Parts, PromptWindow, new_id
from quietdesk.engine.backend import Backend
from quietdesk.engine.embeddings import Embeddings
from quietdesk.engine.metrics import EngineMetrics
from quietdesk.engine.runner import ModelInfo
from quietdesk.engine.sampling import Sampling
from quietdesk.errors import StoreError, UnsupportedOptionError
from quietdesk.replay import Replay, replay
from quietdesk.reply import Recorder
from quietdesk.store.base import Store
from quietdesk.types import Author, ConversationInfo, GivenText, Message, ScoredText


class Assistant:
    """A model and a database. Any number of threads and tasks may use it at the same time."""

    def __init__(self, engine: Backend, store: Store, settings: Settings) -> None:
        """Put together from parts; `open` makes them from the settings.

        Args:
            engine: Closed with the assistant.
            store: Closed with the assistant.
            settings: In force.
        """
        settings, self._notes = _applicable(engine, settings)
        self.engine = engine
        self.store = store
        self.settings = settings
        window = self._window(engine.n_ctx, settings.overflow)
        self._recorder = Recorder(store)
        self._parts = Parts(settings, store, engine, self._recorder, window)
        self._stop_exporting: Callable[[], None] = lambda: None
        self._closed = False

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        database: str | Path | None = None,
        settings: Settings | None = None,
        *,
        draft_model: str | Path | None = None,
        on_progress: Callable[[float], bool] | None = None,
    ) -> Self:
        """Load a model and open a database. Takes a second or so; longer for large models.

        Args:
            model: A name in the catalogue, the path of a GGUF file, or the address of a server that
                speaks OpenAI's API, as `http://127.0.0.1:8080/v1#name`; the settings' if None.
            database: A path or a database URL; the settings' if None.
            settings: All other settings; `Settings.load()` if None.
            draft_model: A small model that guesses ahead, by name or path; the settings' if None.
            on_progress: Told the share of the model that is loaded, 0 to 1; False stops it.

        Raises:
            ConfigError: a bad setting.
            UnknownNameError: no such model.
            ModelError: the model cannot be used, or the draft model does not go with it.
            EndpointError: the model's server is not there, or refuses.
            StoreError: the database cannot be used.
        """
        from quietdesk.kept_states import open_keeper
        from quietdesk.loading import open_engine, open_exporter

        settings = settings or Settings.load()
        if draft_model is not None:
            settings = settings.model_copy(update={"draft_model": str(draft_model)})
        place = database_place(database, settings)
        key = database_key(place, settings)
        store = open_store(database, settings)
        try:
            states = open_keeper(place, settings, store, encrypted=key is not None)
            engine = open_engine(model, settings, on_progress, states=states)
        except BaseException:
            store.close()
            raise
        try:
            assistant = cls(engine, store, settings)
            if settings.metrics_port:
                assistant._stop_exporting = open_exporter(engine, settings.metrics_port)
        except BaseException:
            engine.close()
            store.close()
            raise
        return assistant

    def _window(self, n_ctx: int, policy: str) -> PromptWindow:
        from quietdesk.loading import open_window

        return open_window(self.engine, n_ctx, policy, self._notes)

    def metrics(self) -> EngineMetrics:
        """What the engine has done so far, and how things stand."""
        return self.engine.metrics()

    @property
    def model(self) -> ModelInfo:
        """What the model says of itself."""
        return self.engine.model

    def start(
        self,
        *,
        customer: str | None = None,
        system: str | None = None,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """A new conversation.

        Args:
            customer: Whose it is; your own id for them.
            system: The system prompt; the settings' if None.
            title: The first message's words if empty.
            metadata: Your own JSON: channel, tags, what you like.
        """
        now = datetime.now(UTC)
        info = ConversationInfo(
            id=new_id("c"),
            title=title,
            customer=customer,
            system=self.settings.system if system is None else system,
            created_at=now,
            updated_at=now,
            metadata=dict(metadata or {}),
        )
        self.store.create(info)
        return Conversation(info.id, self._parts)

    def resume(self, conversation_id: str) -> Conversation:
        """A conversation that was started before, by its id or a beginning that fits only one.

        Raises:
            UnknownNameError: there is none, with the nearest ids.
        """
        return Conversation(self.store.conversation(conversation_id).id, self._parts)

    def conversations(
        self, query: str = "", *, customer: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[ConversationInfo]:
        """Conversations, the last used first; see `Store.conversations`."""
        return self.store.conversations(query, customer=customer, limit=limit, offset=offset)

    def replay(self, reply_id: str) -> Replay:
        """Make a reply that was kept again, and compare; nothing of it is kept.

        Args:
            reply_id: Its id, or a beginning that fits only one.

        Raises:
            UnknownNameError: there is no such message, with the nearest ids.
            UsageError: it is no model's reply, or was kept without how it was made.
            ContextError: its prompt does not fit into this model's context.
            EngineError: the engine could not make it.
        """
        return replay(self.store, self.engine, self._window, reply_id)

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation another title."""
        self.store.rename(conversation_id, title)

    def delete(self, conversation_id: str) -> None:
        """Hide a conversation; `restore` brings it back until `purge`."""
        self.store.delete(conversation_id)
        self.engine.forget(conversation_id)

    def restore(self, conversation_id: str) -> None:
        """Bring a deleted conversation back."""
        self.store.restore(conversation_id)

    def prompt(self, text: str, *, system: str | None = None) -> tuple[int, ...]:
        """The tokens that the model reads when a customer begins with text.

        Args:
            text: The customer's words.
            system: The system prompt; the settings' if None.

        Raises:
            ContextError: it does not fit into the context.
        """
        said = Message(id=new_id("m"), author=Author.CUSTOMER, text=text)
        system = self.settings.system if system is None else system
        return tuple(self._parts.window.fit([said], system, 1).tokens)

    def logprobs(self, texts: Iterable[GivenText]) -> list[ScoredText]:
        """How likely the model finds given texts: log-probabilities of their tokens, in nats.

        Nobody waits for an answer because of it: it takes what time is left, and a tenth of it
        while there is none. Pairs with the same context, one after the other, have it read once.
        The same text gets the same figures whatever else is read or answered meanwhile.

        Args:
            texts: Texts, or pairs of a context and its continuation, of which only the continuation
                is asked about. A context is text or token ids (`prompt` makes some); what looks
                like a control token in a text is mere words. Without a context, or with an empty
                one, the model's begin token stands there, or its end token where it has none.
                Context and continuation are cut into tokens each by itself.

        Returns:
            One per text, in order.

        Raises:
            UsageError: an empty text; a model that runs elsewhere.
            ContextError: a text that is longer than the context.
            EngineError: the engine could not finish.
        """
        from quietdesk.engine.given import score

        return score(self.engine, texts)

    async def alogprobs(self, texts: Iterable[GivenText]) -> list[ScoredText]:
        """`logprobs`, in a task."""
        return await asyncio.to_thread(self.logprobs, texts)

    def embed(self, texts: Iterable[str]) -> Embeddings:
        """Texts as vectors of length 1, for comparing what they are about.

        The mean of the chat model's last layer over the text's tokens: this needs no other model,
        and is coarser than a model that was trained for it. It takes its turn as `logprobs` does.

        Raises:
            UsageError: an empty text; a model that runs elsewhere.
            ContextError: a text that is longer than the context.
            EngineError: the engine could not finish.
        """
        from quietdesk.engine.given import embed

        return embed(self.engine, texts)

    async def aembed(self, texts: Iterable[str]) -> Embeddings:
        """`embed`, in a task."""
        return await asyncio.to_thread(self.embed, texts)

    def close(self) -> None:
        """End what is under way, keep what was said, free everything. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stop_exporting()
        self.engine.close()
        self._recorder.close()
        self.store.close()

    def __enter__(self) -> Self:
        """The assistant."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def _applicable(engine: Backend, settings: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings as the engine can apply them, and what a reader should know of it.

    Raises:
        UnsupportedOptionError: one that was set cannot be applied; a default is left out, and told.
    """
    neutral = {name: field.default for name, field in Sampling.__dataclass_fields__.items()}
    changed: dict[str, Any] = {}
    for name in sorted(engine.unsupported & neutral.keys() & Generation.model_fields.keys()):
        value = getattr(settings, name)
        if value == neutral[name]:
            continue
        if name in settings.model_fields_set:
            why = f"it is set to {value!r}, and the server takes no such parameter."
            raise UnsupportedOptionError(name, engine.model.name, why)
        changed[name] = neutral[name]
    if not changed:
        return settings, ()
    told = ", ".join(f"{name} {getattr(settings, name)!r}" for name in changed)
    note = (
        f"The model's server takes no {' and no '.join(changed)}: the default {told} is left out."
    )
    return settings.model_copy(update=changed), (note,)


def open_store(database: str | Path | None, settings: Settings) -> Store:
    """The database that is named, or the settings', or the one in the data folder.

    What `keep_days` says is too old is removed from it, which is told as a warning of the logger
    `quietdesk`: on standard error, where nothing else is set up.

    Raises:
        StoreKeyError: it is encrypted and the key is another or none, or the other way round.
        StoreError: it cannot be used.
    """
    from quietdesk.store.sql import SqlStore
    from quietdesk.store.sql import open_store as open_sql

    place = database_place(database, settings)
    store = open_sql(place, database_key(place, settings))
    days = settings.keep_days
    if not days or not isinstance(store, SqlStore):
        return store
    from quietdesk.kept_states import sweep

    log = logging.getLogger("quietdesk")
    # Not the store itself: one that is dropped without being closed is collected all the same.
    find = weakref.ref(store)

    def told(count: int) -> None:
        log.warning("keep_days: removed %d conversation(s) not used for %d days.", count, days)
        if (there := find()) is not None:
            sweep(place, settings, there)

    try:
        store.keep_for(days, told)
    except StoreError as error:
        log.warning("keep_days: nothing could be removed: %s", error)
    return store


def database_place(database: str | Path | None, settings: Settings) -> str:
    """Path or URL of the database that is named, or the settings', or the data folder's."""
    named = str(database) if database is not None else settings.database
    return named or str(data_folder() / "quietdesk.db")


def database_key(place: str, settings: Settings) -> str | None:
    """The passphrase that the settings give for a database, their own or the keyring's.

    Raises:
        StoreKeyError: the keyring is asked for and has none.
    """
    if key := settings.database_key.get_secret_value():
        return key
    if not settings.keyring:
        return None
    from quietdesk.store.keys import find_key

    return find_key(place)
