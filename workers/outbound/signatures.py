"""Sign and verify webhooks by the Standard Webhooks specification 1.0.0: sender, time and unchanged content.

The signature is HMAC-SHA256 of ``id.timestamp.body``. All attempts of a message have the same id; the timestamp is that
of the attempt. While a secret is being replaced, a message has one signature by each secret.
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
MIN_SECRET_BYTES, MAX_SECRET_BYTES, NEW_SECRET_BYTES = 24, 64, 32
TOLERANCE = timedelta(minutes=5)
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)


class BadSignature(Forbidden):
    """The message is not signed with the endpoint's secret, or its time is not close to now."""


def new_secret() -> str:
    """Return a new secret. Every endpoint needs its own."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def sign_message(keys: Sequence[str], *, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers of an attempt at ``at``, with a signature by each of ``keys``, newest first."""
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

    The names in ``headers`` are lower case. A comparison takes the same time for a right and a wrong signature.
    """
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _ID.fullmatch(message_id) or not re.fullmatch(r"[0-9]{1,12}", stamp, re.ASCII):
        raise BadSignature("webhook-id and webhook-timestamp must be present")
    if abs(now.timestamp() - int(stamp)) > tolerance.total_seconds():
        raise BadSignature(f"webhook-timestamp must be within {tolerance.total_seconds():g} s of now")
    given = [one.partition(",") for one in headers.get("webhook-signature", "").split()]
    found = [signature for kind, _, signature in given if kind == "v1" and signature.isascii()]
    wanted = [_signature(key, message_id, stamp, body) for key in keys]
    matches = [hmac.compare_digest(one, other) for one in wanted for other in found]
    if not any(matches):
        raise BadSignature("webhook-signature must be made with the endpoint's secret")
    return message_id


def _signature(key: str, message_id: str, stamp: str, body: bytes) -> str:
    content = f"{message_id}.{stamp}.".encode() + body
    return base64.b64encode(hmac.digest(_key_bytes(key), content, "sha256")).decode()


def _key_bytes(key: str) -> bytes:
    try:
        decoded = base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        decoded = b""
    if not MIN_SECRET_BYTES <= len(decoded) <= MAX_SECRET_BYTES:
        raise Refusal(f"a secret must be {PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")
    return decoded
