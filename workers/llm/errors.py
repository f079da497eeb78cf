"""Read a failure of an OpenAI-compatible server as one of the kernel's errors. Pure; quotes no key and no payload."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx2
import openai

from workers.llm.bodies import AnswerTooLargeError
from workers.llm.pauses import OutOfQuotaError
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Refused, Unavailable

Failure = InvalidAnswers | Unavailable | Permanent | RateLimited

DEFAULT_DELAY = timedelta(seconds=20)
# After an answer over the bound, times the attempt: a model that rambles would be paid for six times in seconds.
TOO_LARGE_DELAY = timedelta(seconds=30)
MIN_DELAY, MAX_DELAY = timedelta(seconds=0.5), timedelta(hours=1)
# Of a limit per day, which ends with the day where the server does not say when.
MAX_DAY = timedelta(hours=25)
QUOTA_DELAY = timedelta(minutes=5)
QUOTED = 200

URL_HINT = "check OPENAI_BASE_URL"

PAYMENT_REQUIRED, FORBIDDEN, NOT_FOUND, TOO_LARGE, TOO_MANY_REQUESTS, NOT_IMPLEMENTED = 402, 403, 404, 413, 429, 501
SERVER_ERROR = 500
# What a server says when it is overloaded or down for maintenance, whatever it was asked.
OUT_OF_SERVICE = frozenset({503, 529})
REDIRECTS = range(300, 400)
_ERROR_STATUS = range(400, 600)
# Timeout, conflict and too early say nothing against the request itself.
WORTH_ANOTHER_TRY = frozenset({408, 409, 425})
REFUSED_KEY = frozenset({401, 403})

_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"})
_REFUSAL_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
# A proxy that moderates answers 403 for what it does not let through.
_MODERATED = re.compile(r"moderation|flagged", re.IGNORECASE)
# What an error without a number in its code means: the names of OpenAI, Anthropic and Google.
_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 429,
    "billing_hard_limit_reached": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "insufficient_credits": 402,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "request_too_large": 413,
    "overloaded_error": 529,
    "overloaded": 529,
    "unavailable": 503,
    "timeout": 504,
}
_CONTEXT = re.compile(
    r"context[ _](length|size|window)|too large to process|too many tokens|prompt is too long", re.IGNORECASE
)
_PER_DAY = re.compile(r"per[ _-]?day|daily|\b[RT]PD\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request (is )?too large", re.IGNORECASE)
_MAX_SECONDS = 1e9
_MILLISECONDS_OF_2001, _LATEST = 978_307_200_000, 4e12
_PART = r"[0-9]{1,9}(?:\.[0-9]{0,9})?"
_DURATION = re.compile(rf"(?:({_PART})d)?(?:({_PART})h)?(?:({_PART})m)?(?:({_PART})s)?(?:({_PART})ms)?")
_SECRET = re.compile(r"\b(sk|pk|key|gsk|xai)-[\w*.-]{4,}|(?<=bearer )\S+", re.IGNORECASE)


def classify(error: Exception, *, now: datetime | None = None) -> Failure:
    """Return what ``error``, raised by the client, means for a job. ``now`` dates a Retry-After given as a date."""
    match error:
        case openai.APITimeoutError(__cause__=httpx2.ConnectTimeout()):
            return Unavailable("unreachable: ConnectTimeout", certain=True, of="server")
        case openai.APITimeoutError() | TimeoutError():
            return Unavailable("did not answer in time")
        case openai.APIConnectionError(__cause__=AnswerTooLargeError() as too_large):
            return InvalidAnswers(f"provider's {too_large}", min_delay=TOO_LARGE_DELAY)
        case openai.APIConnectionError():
            cause = error.__cause__ or error
            # One that broke while it answered says less than one that could not be opened.
            certain = isinstance(cause, httpx2.ConnectError)
            return Unavailable(f"unreachable: {type(cause).__name__}", certain=certain, of="server")
        case openai.APIStatusError():
            message = quotable(message_of(error.body), secret=_key_of(error))
            headers, code = error.response.headers, _code_of(error.body)
            if error.status_code == NOT_FOUND and isinstance(error.body, str) and "<" in error.body:
                return Unavailable(
                    f"HTTP 404 and a page in place of an API's error; {URL_HINT}", certain=True, of="server"
                )
            failure = of_status(error.status_code, code=code, message=message, headers=headers, now=now)
            if isinstance(failure, Unavailable) and not isinstance(error.body, Mapping):
                failure.of = "server"  # a gateway's page: what serves the models answers with JSON
            return failure
        case _:
            return Unavailable(f"call failed: {type(error).__name__}")


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
    headers = headers or {}
    if code in _QUOTA_CODES or status == PAYMENT_REQUIRED:
        delay = max(QUOTA_DELAY, asked_delay(headers, now=now) or QUOTA_DELAY)
        numbered = f"HTTP {status} {code}" if code else f"HTTP {status}"
        return OutOfQuotaError(f"{numbered}: quota is exhausted{said}", asked=delay, certain=True, of="server")
    # One request beyond what a minute allows is a 429 as well: it never gets smaller by waiting.
    if status in {TOO_LARGE, TOO_MANY_REQUESTS} and _TOO_LARGE.search(message):
        return Refused(f"request exceeds what the provider takes at once (HTTP {status}){said}")
    if status == TOO_MANY_REQUESTS:
        return _rate_limited(message, said, headers=headers, now=now)
    if code in _REFUSAL_CODES or (status == FORBIDDEN and _MODERATED.search(message)):
        return Refused(f"provider refused the content (HTTP {status} {code or ''}){said}")
    # llama.cpp answers over-long input with 500; another attempt would send the same text again.
    if code == "context_length_exceeded" or _CONTEXT.search(message):
        return Refused(f"input exceeds the model's context (HTTP {status}){said}")
    if status in REFUSED_KEY:
        # 403 may be a key without access to one model.
        of: Literal["server", "model"] = "model" if status == FORBIDDEN else "server"
        return Unavailable(
            f"HTTP {status}: it refused the credentials; `gristmill llm providers` shows whose key is used",
            certain=True,
            of=of,
        )
    if status == NOT_IMPLEMENTED:
        return Permanent(f"provider does not implement this call (HTTP 501){said}")
    if status in REDIRECTS:
        return Unavailable(f"HTTP {status}: it redirects elsewhere; {URL_HINT}", certain=True, of="server")
    if status >= SERVER_ERROR or status in WORTH_ANOTHER_TRY:
        asked = asked_delay(headers, now=now)
        certain = status in OUT_OF_SERVICE or asked is not None
        return Unavailable(f"HTTP {status}{said}", asked=asked, certain=certain)
    return Permanent(f"provider refused the request (HTTP {status}){said}")


def _rate_limited(message: str, said: str, *, headers: Mapping[str, str], now: datetime | None) -> RateLimited:
    if _PER_DAY.search(message):
        return RateLimited(f"provider's limit per day is reached (HTTP 429){said}", delay=day_of(headers, now=now))
    return RateLimited(f"provider asks to wait (HTTP 429){said}", delay=delay_of(headers, now=now))


def status_of(error: object) -> int:
    """Return the HTTP status that an error sent with HTTP 200 stands for, by its code, status or type; else 500."""
    if not isinstance(error, Mapping):
        return SERVER_ERROR
    for said in (error.get(name) for name in ("code", "status", "type")):
        number = int(said) if isinstance(said, (int, float)) and math.isfinite(said) else None
        if isinstance(said, str):
            number = int(said) if re.fullmatch(r"[0-9]{3}", said) else _STATUS_OF.get(said.lower())
        if number is not None and number in _ERROR_STATUS:
            return number
    return SERVER_ERROR


def delay_of(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta:
    """Return the wait that an answer asks for, 20 s where it asks for none that can be read."""
    asked = asked_delay(headers, now=now) or reset_delay(headers, now=now)
    return DEFAULT_DELAY if asked is None else min(max(asked, MIN_DELAY), MAX_DELAY)


def day_of(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta:
    """Return how long a limit per day lasts: as the answer says, else until midnight in UTC."""
    clock = now or _date(headers.get("date")) or datetime.now(UTC)
    asked = _retry_after(headers, now=clock) or reset_delay(headers, now=clock)
    midnight = clock.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return min(max(asked or midnight - clock, MIN_DELAY), MAX_DAY)


def asked_delay(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta | None:
    """Return the wait that ``Retry-After-Ms`` or ``Retry-After`` (seconds or HTTP date) asks for, within bounds.

    None where neither can be read; of several, the longest. A date counts from the answer's own ``Date`` where there
    is one, so that a wrong clock here does not stretch it.
    """
    asked = _retry_after(headers, now=now or _date(headers.get("date")) or datetime.now(UTC))
    return None if asked is None else min(max(asked, MIN_DELAY), MAX_DELAY)


def reset_delay(headers: Mapping[str, str], *, now: datetime | None = None) -> timedelta | None:
    """Return when what is used up is there again, by the headers of OpenAI and of OpenRouter; None where they do not.

    ``x-ratelimit-reset-requests: 1m6.5s`` beside ``x-ratelimit-remaining-requests: 0``, for tokens too; or
    ``x-ratelimit-reset``, in milliseconds since 1970.
    """
    waits = [
        duration_of(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0"
    ]
    known = [wait for wait in waits if wait is not None]
    moment = _number(headers.get("x-ratelimit-reset", ""), most=_LATEST)
    if not known and moment is not None and moment > _MILLISECONDS_OF_2001:
        clock = now or _date(headers.get("date")) or datetime.now(UTC)
        known = [datetime.fromtimestamp(moment / 1_000, UTC) - clock]
    return max(known, default=None)


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


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    """Return every value of a header that may have been sent several times."""
    if isinstance(headers, httpx2.Headers):
        return headers.get_list(name)
    return [headers[name]] if name in headers else []


def _retry_after(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    waits = [_milliseconds(text) for text in _all(headers, "retry-after-ms")]
    if not any(wait is not None for wait in waits):
        waits = [_seconds_or_date(text, now=now) for text in _all(headers, "retry-after")]
    return max((wait for wait in waits if wait is not None), default=None)


def duration_of(text: str) -> timedelta | None:
    """Return a duration such as ``1h2m3.5s``, ``20ms`` or ``8.64s``; None for any other text."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (min(float(part or 0), _MAX_SECONDS) for part in found.groups())
    return timedelta(days=min(days, 366), hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)


def _number(text: str, *, most: float = _MAX_SECONDS) -> float | None:
    """Return a plain decimal number; none is so large that a time could not hold it."""
    return min(float(text), most) if re.fullmatch(r"\s*[0-9]{1,100}(\.[0-9]{0,100})?\s*", text) else None


def _milliseconds(text: str) -> timedelta | None:
    number = _number(text)
    return None if number is None else timedelta(milliseconds=number)


def _seconds_or_date(text: str, *, now: datetime) -> timedelta | None:
    number = _number(text)
    if number is not None:
        return timedelta(seconds=number)
    until = _date(text)
    return None if until is None else until - now


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, ArithmeticError):  # it was made for mails that are well formed
        return None
