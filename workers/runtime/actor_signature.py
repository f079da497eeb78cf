"""Sign whom a service speaks for, as the database verifies it in strict mode. Pure: key, user and time in, text out.

For the one process that knows who a person is, such as a gateway after a login. A process that only runs statements for
users is handed signatures and needs no key.
"""

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

LONGEST = timedelta(days=1)
KEY_BYTES = 32
_BLOCK = 64


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def sign_actor(key: bytes, user_id: UUID, *, expires: datetime) -> str:
    """Return what ``gristmill.user_signature`` must be, so that ``gristmill.user_id`` counts until ``expires``.

    The database refuses one that expires more than a day from now: give it minutes, and make another.
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"key must have {KEY_BYTES} bytes or more, got {len(key)}")
    if expires.tzinfo is None:
        raise ValueError("expires must have a time zone")
    seconds = int(expires.astimezone(UTC).timestamp())
    message = f"gristmill.actor:{user_id}:{seconds}".encode()
    return f"{seconds}.{hmac.new(key, message, sha256).hexdigest()}"


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and the outer pad of HMAC-SHA-256 for ``key``: what the database keeps of it (RFC 2104)."""
    block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)
