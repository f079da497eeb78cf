"""Answers that are errors as exceptions: problem+json (RFC 9457) with its fields, and what a proxy says instead."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from gristmill_client.errors import (
    Conflict,
    Failed,
    FieldError,
    Forbidden,
    GristmillError,
    NotFound,
    RateLimited,
    Refused,
    Stale,
    Unauthenticated,
    Unavailable,
)

_BY_STATUS: Mapping[int, type[GristmillError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    412: Stale,
    429: RateLimited,
    503: Unavailable,
    504: Unavailable,
}
FIRST_ERROR, FIRST_SERVER_ERROR = 400, 500
# A longer wait is not believed.
MAX_RETRY_AFTER = 24 * 3600.0
MAX_SHOWN_CHARACTERS = 300
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]*)?", re.ASCII)
_PLACE = re.compile(r"([0-9]{1,9})\.(.+)", re.DOTALL)


def error_of(response: httpx2.Response) -> GristmillError:
    """Return the error that a response means; its status is 400 or more and its body is read."""
    problem = _document(response)
    kind = str(problem.get("type") or "")
    return make_error(
        problem,
        error_class(response.status_code, is_ours=kind.startswith("/problems/")),
        status=response.status_code,
        request_id=str(problem.get("request_id") or response.headers.get("x-request-id") or "") or None,
        retry_after=retry_after_of(response),
    )


def error_class(status: int, *, is_ours: bool = True) -> type[GristmillError]:
    """Return the class for a status. A 502 of ours was tried and failed; one of a proxy says that nobody answers."""
    if status == httpx2.codes.BAD_GATEWAY and not is_ours:
        return Unavailable
    return _BY_STATUS.get(status) or (Refused if status < FIRST_SERVER_ERROR else Failed)


def make_error(
    problem: Mapping[str, Any],
    kind: type[GristmillError],
    *,
    status: int | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
    position: int | None = None,
) -> GristmillError:
    """Return the error of a problem document, or of one line of a batch, which has a ``position``."""
    errors = [_field_error(one) for one in problem.get("errors") or () if isinstance(one, Mapping)]
    first = errors[0] if errors else None
    place = _PLACE.fullmatch(first.field) if first else None
    if first and place and position is None:
        position, first = int(place[1]), first._replace(field=place[2])
    line = " ".join(str(problem.get("detail") or problem.get("title") or f"the gateway answered {status}").split())
    if request_id and issubclass(kind, Failed):
        line = f"{line} (request {request_id})"
    return kind(
        line,
        field=first.field if first else None,
        rule=first.rule if first else None,
        value=first.value if first else None,
        remedy=first.remedy if first else None,
        position=position or 0,
        code=str(problem.get("type") or "").rpartition("/")[2].rpartition("#")[2] or None,
        status=status,
        request_id=request_id,
        retry_after=retry_after,
        errors=errors,
    )


def retry_after_of(response: httpx2.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks to wait, from a number or an HTTP date; None if it says neither."""
    text = response.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), MAX_RETRY_AFTER)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _document(response: httpx2.Response) -> Mapping[str, Any]:
    """Return the problem of a response; what a proxy answers instead becomes one."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/problem+json":
        try:
            found = json.loads(response.content)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, Mapping):
            return found
    reason = response.reason_phrase or "an error"
    return {"detail": f"the server answered {response.status_code} ({reason}) without a problem document"}


def _field_error(one: Mapping[str, Any]) -> FieldError:
    def text(name: str) -> str | None:
        value = one.get(name)
        return None if value is None else str(value)[:MAX_SHOWN_CHARACTERS]

    return FieldError(text("field") or "request", text("rule") or "is refused", text("value"), text("remedy"))
