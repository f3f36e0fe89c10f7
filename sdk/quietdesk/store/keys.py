"""Keys: passphrases of databases in the system's keyring."""

from pathlib import Path
from types import ModuleType

from quietdesk.errors import StoreKeyError

SERVICE = "quietdesk"


def find_key(database: str) -> str:
    """The passphrase that the keyring has for a database, given as a path or a URL.

    Raises:
        StoreKeyError: there is no keyring, or it has none.
    """
    ring = _keyring()
    try:
        key = ring.get_password(SERVICE, _name(database))
    except ring.errors.KeyringError as error:
        raise _no_keyring(error) from error
    if not key:
        raise StoreKeyError(
            f"The system's keyring has no key for the database {_name(database)!r}. "
            "`quietdesk db encrypt --keyring` puts one there."
        )
    return str(key)


def keep_key(database: str, key: str) -> None:
    """Put a database's passphrase into the keyring.

    Raises:
        StoreKeyError: there is no keyring, or it refuses.
    """
    ring = _keyring()
    try:
        ring.set_password(SERVICE, _name(database), key)
    except ring.errors.KeyringError as error:
        raise _no_keyring(error) from error


def _keyring() -> ModuleType:
    try:
        import keyring
    except ModuleNotFoundError as error:
        raise StoreKeyError(
            "The system's keyring needs keyring. Install it: pip install 'quietdesk[encryption]'."
        ) from error
    return keyring


def _name(database: str) -> str:
    """What the key of a database is found under: its whole path, or its URL without a password."""
    if "://" not in database:
        return str(Path(database).expanduser().absolute())
    scheme, _, rest = database.partition("://")
    login, at, place = rest.rpartition("@")
    return f"{scheme}://{login.partition(':')[0]}{at}{place}"


def _no_keyring(error: Exception) -> StoreKeyError:
    return StoreKeyError(
        f"The system's keyring cannot be used ({error}). Set QUIETDESK_DATABASE_KEY instead."
    )
