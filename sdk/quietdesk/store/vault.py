"""Vault: seals what a database keeps, so that its file tells nothing without the key.

Texts are sealed with AES-256-GCM and a fresh nonce each time. What has to be looked up as a whole
(customers, tags, metadata values) is sealed with AES-SIV, where equal texts look equal and nothing
else is told. Who may write the file can still put one sealed text in another's place. The key is
derived from a passphrase with scrypt and a salt of the database's own.
"""

import os
from base64 import b64decode, b64encode

from quietdesk.errors import StoreError

SALT_BYTES = 16
_PROOF = "quietdesk"
_NONCE_BYTES = 12


class Vault:
    """Seals and opens texts with one key.

    Args:
        passphrase: Any text; long random ones are safe, words of a language are not.
        salt: The database's, `SALT_BYTES` long.

    Raises:
        StoreError: `cryptography` is not installed, or the passphrase is empty.
    """

    def __init__(self, passphrase: str, salt: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import (
                AESGCM,
                AESSIV,
            )
            from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
        except ModuleNotFoundError as error:
            raise StoreError(
                "An encrypted database needs cryptography. Install it: "
                "pip install 'quietdesk[encryption]'."
            ) from error
        if not passphrase:
            raise StoreError("The key of an encrypted database is empty. Give its passphrase.")
        # OWASP's parameters for 32 MiB: each guess costs a thief what it costs us, 0.2 s or so.
        derive = Scrypt(salt=salt, length=96, n=2**15, r=8, p=3)
        key = derive.derive(passphrase.encode(errors="surrogatepass"))
        self._random = AESGCM(key[:32])
        self._same = AESSIV(key[32:])
        self._invalid = InvalidTag

    def proof(self) -> str:
        """What shows later that a key is the same."""
        return self.seal_equal(_PROOF)

    def proves(self, proof: str) -> bool:
        """Whether this is the key that a proof was made with."""
        return proof == self.proof()

    def seal(self, text: str) -> str:
        """A text that tells its length only."""
        return b64encode(self.seal_bytes(text.encode())).decode()

    def open(self, sealed: str) -> str:
        """The text that was sealed."""
        return self.open_bytes(_bytes(sealed)).decode()

    def seal_bytes(self, content: bytes) -> bytes:
        """Bytes that tell their number only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._random.encrypt(nonce, content, None)

    def open_bytes(self, sealed: bytes) -> bytes:
        """The bytes that were sealed."""
        try:
            return self._random.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (self._invalid, ValueError):
            raise _damaged() from None

    def seal_equal(self, text: str) -> str:
        """A text that tells its length, and whether it is the same as another one."""
        # AES-SIV takes no empty text, hence the mark before it.
        return b64encode(self._same.encrypt(b"=" + text.encode(), None)).decode()

    def open_equal(self, sealed: str) -> str:
        """The text that was sealed."""
        try:
            return self._same.decrypt(_bytes(sealed), None)[1:].decode()
        except (self._invalid, ValueError):
            raise _damaged() from None


def _bytes(sealed: str) -> bytes:
    try:
        return b64decode(sealed, validate=True)
    except ValueError:
        raise _damaged() from None


def _damaged() -> StoreError:
    return StoreError(
        "A sealed text in the database does not open: it was changed from outside, or is damaged. "
        "Restore a backup."
    )
