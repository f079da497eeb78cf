"""Signatures of webhooks by the Standard Webhooks specification 1.0.0: who sent it, when, and that nothing was changed.

Signed are ``id.timestamp.body`` with HMAC-SHA256. The id is the same over all attempts of one message, the timestamp is
that of the attempt. While a secret is replaced, a message carries a signature by each.
"""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from workers.runtime.refusals import Forbidden, Refusal

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES, NEW_BYTES = 24, 64, 32
TOLERANCE = timedelta(minutes=5)
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class BadSignature(Forbidden):
    """The message is not from who it says, or not of now."""


def new_secret() -> str:
    """Return a secret to sign with, one for each endpoint."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_BYTES)).decode()


def signed(keys: Sequence[str], *, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers of this attempt at ``at``, with a signature by each of ``keys``, the newest first."""
    if not _ID.fullmatch(message_id):
        raise ValueError("a message's id must be 1 to 200 letters, digits, - or _")
    stamp = str(int(at.timestamp()))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{_signature(key, message_id, stamp, body)}" for key in keys),
    }


def verify(
    keys: Sequence[str], headers: Mapping[str, str], body: bytes, *, now: datetime, tolerance: timedelta = TOLERANCE
) -> str:
    """Return the message's id if one of ``keys`` signed it within ``tolerance`` of ``now``; else raise BadSignature.

    ``headers`` have their names in lower case. Every comparison takes the same time, right or wrong.
    """
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _ID.fullmatch(message_id) or not re.fullmatch(r"[0-9]{1,12}", stamp, re.ASCII):
        raise BadSignature("webhook-id and webhook-timestamp must be there")
    if abs(now.timestamp() - int(stamp)) > tolerance.total_seconds():
        raise BadSignature(f"webhook-timestamp must be within {tolerance.total_seconds():g} s of now")
    given = [one.partition(",") for one in headers.get("webhook-signature", "").split()]
    found = [signature for kind, _, signature in given if kind == "v1" and signature.isascii()]
    wanted = [_signature(key, message_id, stamp, body) for key in keys]
    matches = [hmac.compare_digest(one, other) for one in wanted for other in found]
    if not any(matches):
        raise BadSignature("webhook-signature must be by the endpoint's secret")
    return message_id


def _signature(key: str, message_id: str, stamp: str, body: bytes) -> str:
    content = f"{message_id}.{stamp}.".encode() + body
    return base64.b64encode(hmac.digest(_key_bytes(key), content, "sha256")).decode()


def _key_bytes(key: str) -> bytes:
    try:
        decoded = base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        decoded = b""
    if not MIN_BYTES <= len(decoded) <= MAX_BYTES:
        raise Refusal(f"a secret must be {PREFIX} and the base64 of {MIN_BYTES} to {MAX_BYTES} bytes")
    return decoded
