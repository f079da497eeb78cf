"""Sign the user that a service acts for; the database verifies the signature in strict mode. Pure.

Used by the process that knows who a person is, for example a gateway after a login. A process that only runs statements
for users gets signatures and needs no key.
"""

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

MAX_SIGNATURE_AGE = timedelta(days=1)
KEY_BYTES = 32
_BLOCK = 64


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def sign_actor(key: bytes, user_id: UUID, *, expires: datetime) -> str:
    """Return the value of ``gristmill.user_signature`` that makes ``gristmill.user_id`` valid until ``expires``.

    The database refuses a signature that expires more than a day from now. Prefer a few minutes, then make a new one.
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"key must have {KEY_BYTES} bytes or more, got {len(key)}")
    if expires.tzinfo is None:
        raise ValueError("expires must have a time zone")
    seconds = int(expires.astimezone(UTC).timestamp())
    message = f"gristmill.actor:{user_id}:{seconds}".encode()
    return f"{seconds}.{hmac.new(key, message, sha256).hexdigest()}"


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer pad of HMAC-SHA-256 for ``key`` (RFC 2104): the database stores only these."""
    block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)
