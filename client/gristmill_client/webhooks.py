"""Verify callbacks of Gristmill, or of anybody else who sends Standard Webhooks 1.0.0. Needs no client."""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gristmill_client.errors import BadSignature, NotPossible

PREFIX = "whsec_"
TOLERANCE = timedelta(minutes=5)
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_STAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class EndedJob(BaseModel):
    """The job that a message is about. The message has no result: ask the gateway for it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: UUID
    stage: str
    status: str
    version: int
    links: Mapping[str, str] = Field(default_factory=dict)


class Message(BaseModel):
    """A verified message. ``id`` is the same whenever the message is sent again: leave out one that you have seen.

    ``job`` is None for a test message (``endpoint.ping``). Messages come in any order: of one job the larger
    ``version`` is the newer one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    type: str
    timestamp: datetime
    data: Mapping[str, Any]

    @property
    def job(self) -> EndedJob | None:
        return EndedJob.model_validate(self.data) if "job_id" in self.data else None


def verify(
    secret: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance: timedelta = TOLERANCE,
    now: datetime | None = None,
) -> Message:
    """Return the message if one of the secrets signed it within ``tolerance`` of ``now``; else raise BadSignature.

    ``body`` is the raw body, as it arrived. While you replace a secret, give both. All signatures are compared in
    constant time.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, stamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not _ID.fullmatch(message_id) or not _STAMP.fullmatch(stamp):
        raise BadSignature("webhook-id and webhook-timestamp must be present")
    at = (now or datetime.now(UTC)).timestamp()
    if abs(at - int(stamp)) > tolerance.total_seconds():
        raise BadSignature(f"webhook-timestamp must be within {tolerance.total_seconds():g} s of now")
    secrets = [secret] if isinstance(secret, str) else list(secret)
    signed = [one.partition(",") for one in given.get("webhook-signature", "").split()]
    found = [value for kind, _, value in signed if kind == "v1" and value.isascii()]
    wanted = [signature(one, message_id, stamp, body) for one in secrets]
    if not any([hmac.compare_digest(one, other) for one in wanted for other in found]):  # noqa: C419 - in constant time
        raise BadSignature("webhook-signature must be made with one of the secrets")
    try:
        return Message.model_validate(json.loads(body) | {"id": message_id})
    except (ValueError, TypeError, ValidationError):
        raise BadSignature("the body must be a message with type, timestamp and data") from None


def signature(secret: str, message_id: str, stamp: str, body: bytes) -> str:
    """Return the signature of a message, without its version; raise NotPossible for a secret that is none."""
    content = f"{message_id}.{stamp}.".encode() + body
    return base64.b64encode(hmac.digest(_key(secret), content, "sha256")).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        rule = f"must be {PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes"
        raise NotPossible(f"a secret of webhooks {rule}")
    return key
