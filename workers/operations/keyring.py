"""Encrypt stored secrets with the first of several keys and decrypt them with any, so that keys can be rotated."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from workers.operations.refusals import OperationsError

NO_KEYS = (
    "GRISTMILL_SECRET_KEYS must be set to store a secret; `gristmill settings new-key` prints a key for it, "
    "and every role needs the same keys"
)


class Keyring:
    """Encrypts and decrypts small secrets as Fernet tokens: authenticated, with a time, beginning with ``gAAAA``."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take keys from ``new_key``; the first one encrypts. Without keys, every call raises OperationsError."""
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            raise OperationsError(
                "GRISTMILL_SECRET_KEYS must be keys of 32 bytes in URL-safe base64, separated by commas"
            ) from None

    def encrypt(self, secret: str) -> str:
        """Return ``secret`` encrypted with the first key."""
        return self._required().encrypt(secret.encode()).decode("ascii")

    def decrypt(self, token: str) -> str:
        """Return the secret; raise OperationsError if no key decrypts it."""
        try:
            return self._required().decrypt(token.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise OperationsError("no key of GRISTMILL_SECRET_KEYS decrypts it; set it again") from None

    def rotate(self, token: str) -> str:
        """Return the secret encrypted with the first key; raise OperationsError if no key decrypts it."""
        try:
            return self._required().rotate(token.encode()).decode("ascii")
        except InvalidToken:
            raise OperationsError("no key of GRISTMILL_SECRET_KEYS decrypts it; set it again") from None

    def _required(self) -> MultiFernet:
        if self._fernet is None:
            raise OperationsError(NO_KEYS)
        return self._fernet


def new_key() -> str:
    """Return a new random key."""
    return Fernet.generate_key().decode("ascii")
