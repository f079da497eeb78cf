"""Cursors of lists: where a page ended, bound to the list's filter. Pure."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from workers.notifications.refusals import CallbackError
from workers.runtime.refusals import Problem

_DIGEST_BYTES, _ID_BYTES = 8, 16


def make_cursor(last: UUID, wanted: Mapping[str, Any]) -> str:
    """Return the cursor of what follows ``last`` in the list with the filter ``wanted``."""
    return base64.urlsafe_b64encode(_digest(wanted) + last.bytes).decode().rstrip("=")


def read_cursor(cursor: str, wanted: Mapping[str, Any]) -> UUID:
    """Return the last row before the page; raise CallbackError unless the cursor was made for this filter."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _DIGEST_BYTES + _ID_BYTES or data[:_DIGEST_BYTES] != _digest(wanted):
        raise CallbackError(Problem("cursor", "must be `next` of a page with the same filters", "another value"))
    return UUID(bytes=data[_DIGEST_BYTES:])


def _digest(wanted: Mapping[str, Any]) -> bytes:
    text = json.dumps({name: str(value) for name, value in wanted.items() if value is not None}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]
