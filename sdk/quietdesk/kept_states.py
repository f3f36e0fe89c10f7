"""Kept states: where the KV states of a database's conversations stand on disk, and who has some.

They lie in the cache folder, since everything in them can be made again, and no backup should hold
them. Of an encrypted database none are kept: a state is what was said, in another form.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from quietdesk.config import Settings, cache_folder
from quietdesk.engine.states.files import StateFolder
from quietdesk.engine.states.keeper import StateKeeper
from quietdesk.errors import UnknownNameError
from quietdesk.store.base import Store
from quietdesk.store.memory import MemoryStore


def state_folder(place: str, settings: Settings) -> StateFolder:
    """The files of a database.

    Args:
        place: Its path or URL.
        settings: Tell how much space there may be.
    """
    folder = cache_folder() / "states"
    return StateFolder(folder, limit_bytes=settings.state_disk_mb * 2**20, scope=_name(place))


def _name(place: str) -> str:
    """The same for every way to write the same place, and without a password."""
    if "://" not in place or place.startswith("sqlite"):
        return str(Path(place.removeprefix("sqlite:///")).absolute())
    url = urlsplit(place)
    return f"{url.hostname}:{url.port}{url.path}"


def open_keeper(
    place: str, settings: Settings, store: Store, *, encrypted: bool
) -> StateKeeper | None:
    """What keeps states of a database's conversations; None where none are kept.

    States that may not be there any more are removed.

    Args:
        place: The database's path or URL.
        settings: `state_disk_mb` in them; 0: none.
        store: The database; it must outlive the keeper.
        encrypted: Whether it is.
    """
    if isinstance(store, MemoryStore):
        return None
    folder = state_folder(place, settings)
    if encrypted:
        folder.sweep(lambda owner: False)
        return None
    if not settings.state_disk_mb:
        folder.make_room(0)
        return None
    return StateKeeper(folder, exists=is_in(store))


def is_in(store: Store) -> Callable[[str], bool]:
    """Tells whether a conversation is in a store, and not deleted."""

    def exists(conversation_id: str) -> bool:
        try:
            return store.conversation(conversation_id).id == conversation_id
        except UnknownNameError:
            return False

    return exists


def sweep(place: str, settings: Settings, store: Store) -> int:
    """Remove the states of conversations that are not in the store any more; how many."""
    return state_folder(place, settings).sweep(is_in(store))
