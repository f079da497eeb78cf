"""Read a failure of an OpenAI-compatible server as one of the kernel's errors. Pure; quotes no key and no payload."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import openai

from workers.runtime.errors import Permanent, RateLimited, Refused, Retryable

Failure = Retryable | Permanent | RateLimited

DEFAULT_DELAY = timedelta(seconds=20)
LEAST_DELAY, MOST_DELAY = timedelta(seconds=0.5), timedelta(minutes=15)
QUOTA_DELAY = timedelta(minutes=5)
QUOTED = 200

PAYMENT_REQUIRED, TOO_LARGE, TOO_MANY_REQUESTS, NOT_IMPLEMENTED = 402, 413, 429, 501
SERVER_ERROR = 500
# Timeout, conflict and too early say nothing against the request itself.
WORTH_ANOTHER_TRY = frozenset({408, 409, 425})
REFUSED_KEY = frozenset({401, 403})

_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"})
_REFUSAL_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_CONTEXT = re.compile(
    r"context[ _](length|size|window)|too large to process|too many tokens|prompt is too long", re.IGNORECASE
)
_TOO_LARGE = re.compile(r"request (is )?too large", re.IGNORECASE)
_SECRET = re.compile(r"\b(sk|pk|key|gsk|xai)-[\w*.-]{4,}|(?<=bearer )\S+", re.IGNORECASE)


def classify(error: Exception, *, now: datetime | None = None) -> Failure:
    """Return what ``error``, raised by the client, means for a job. ``now`` dates a Retry-After given as a date."""
    match error:
        case openai.APITimeoutError() | TimeoutError():
            return Retryable("provider did not answer in time")
        case openai.APIConnectionError():
            return Retryable(f"provider is unreachable: {type(error.__cause__ or error).__name__}")
        case openai.APIStatusError():
            message = quotable(message_of(error.body), secret=_key_of(error))
            return of_status(
                error.status_code, code=_code_of(error.body), message=message, headers=error.response.headers, now=now
            )
        case _:
            return Retryable(f"call of the provider failed: {type(error).__name__}")


def of_status(
    status: int,
    *,
    code: str | None,
    message: str,
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Failure:
    """Return what an HTTP status with its error code means. ``message`` is quoted: pass it through ``quotable``."""
    said = f": {message}" if message else ""
    if code in _QUOTA_CODES or status == PAYMENT_REQUIRED:
        return RateLimited(f"provider's quota is exhausted (HTTP {status} {code or ''}){said}", delay=QUOTA_DELAY)
    # One request beyond what a minute allows is a 429 as well: it never gets smaller by waiting.
    if status in {TOO_LARGE, TOO_MANY_REQUESTS} and _TOO_LARGE.search(message):
        return Refused(f"request exceeds what the provider takes at once (HTTP {status}){said}")
    if status == TOO_MANY_REQUESTS:
        return RateLimited(f"provider asks to wait (HTTP 429){said}", delay=delay_of(headers or {}, now=now))
    if code in _REFUSAL_CODES:
        return Refused(f"provider refused the content (HTTP {status} {code}){said}")
    # llama.cpp answers over-long input with 500; another attempt would send the same text again.
    if code == "context_length_exceeded" or _CONTEXT.search(message):
        return Refused(f"input exceeds the model's context (HTTP {status}){said}")
    if status in REFUSED_KEY:
        return Permanent(f"provider refused the credentials (HTTP {status}); check OPENAI_API_KEY")
    if status == NOT_IMPLEMENTED:
        return Permanent(f"provider does not implement this call (HTTP 501){said}")
    if status >= SERVER_ERROR or status in WORTH_ANOTHER_TRY:
        return Retryable(f"provider failed (HTTP {status}){said}")
    return Permanent(f"provider refused the request (HTTP {status}){said}")


def delay_of(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta:
    """Return the wait that ``Retry-After-Ms`` or ``Retry-After`` (seconds or HTTP date) asks for, within bounds.

    20 s where neither can be read. A date counts from the answer's own ``Date`` where there is one, so that a
    wrong clock here does not stretch it.
    """
    asked = _milliseconds(headers.get("retry-after-ms")) or _seconds_or_date(headers, now=now)
    return DEFAULT_DELAY if asked is None else min(max(asked, LEAST_DELAY), MOST_DELAY)


def quotable(message: str, *, secret: str | None = None) -> str:
    """Return ``message`` as one bounded line without anything that looks like a key, nor ``secret``."""
    line = " ".join(message.split())
    if secret:
        line = line.replace(secret, "[key]")
    return _SECRET.sub("[key]", line)[:QUOTED]


def message_of(body: object) -> str:
    """Return the server's own words in an error body, or nothing: anything else in it may echo the payload."""
    if not isinstance(body, Mapping):
        return ""
    inner = body.get("error", body)
    if isinstance(inner, str):
        return inner
    if not isinstance(inner, Mapping):
        return ""
    return next((text for key in ("message", "detail") if isinstance(text := inner.get(key), str)), "")


def names_response_format(error: openai.APIStatusError) -> bool:
    """Tell whether the server refuses the form in which a structured answer was asked, rather than the request."""
    if error.status_code not in {400, 422}:
        return False
    said = f"{error.param} {error.body}"
    return (
        re.search(r"response_format|json_schema|json_object|structured output|grammar", said, re.IGNORECASE) is not None
    )


def _code_of(body: object) -> str | None:
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    code = (inner.get("code") or inner.get("type")) if isinstance(inner, Mapping) else None
    return code if isinstance(code, str) else None


def _key_of(error: openai.APIStatusError) -> str | None:
    return error.request.headers.get("authorization", "").removeprefix("Bearer ") or None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", text) else None


def _milliseconds(text: str | None) -> timedelta | None:
    number = _number(text)
    return None if number is None else timedelta(milliseconds=number)


def _seconds_or_date(headers: Mapping[str, str], *, now: datetime | None) -> timedelta | None:
    text = headers.get("retry-after")
    number = _number(text)
    if number is not None:
        return timedelta(seconds=number)
    until = _date(text)
    return None if until is None else until - (now or _date(headers.get("date")) or datetime.now(UTC))


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
