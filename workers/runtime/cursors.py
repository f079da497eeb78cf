"""Cursors of lists: opaque, and good only for the list and the caller for whom they were made.

A cursor says where a page ended. It gives no right: whoever forges one only chooses where a page of its own begins.
"""

import base64
import binascii
import json
from hashlib import blake2b

from workers.runtime.refusals import Problem, Refusal, quoted

SEAL_BYTES = 8


class WrongCursorError(Refusal, ValueError):
    """The cursor is none, or it was made for another list."""

    def __init__(self, text: str) -> None:
        remedy = "leave it out to begin with the first page"
        super().__init__(Problem("cursor", "must be `next` of a page with the same filters", quoted(text), remedy))


def make_cursor(place: bytes, *, of: object) -> str:
    """Return the cursor for ``place`` in the list ``of``: whatever decides what the list shows, and to whom."""
    return base64.urlsafe_b64encode(_seal(of) + place).decode().rstrip("=")


def read_cursor(text: str, *, of: object, size: int | None = None) -> bytes:
    """Return the place, of ``size`` bytes if that is known; raise WrongCursorError."""
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise WrongCursorError(text) from None
    seal, place = found[:SEAL_BYTES], found[SEAL_BYTES:]
    if seal != _seal(of) or (size is not None and len(place) != size):
        raise WrongCursorError(text)
    return place


def _seal(of: object) -> bytes:
    return blake2b(json.dumps(of, sort_keys=True, default=str).encode(), digest_size=SEAL_BYTES).digest()
