"""Every error as ``application/problem+json`` (RFC 9457): refusals, invalid requests, HTTP errors, servers away."""

import errno
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
import redis
import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from gateway.catalogue import BY_STATUS, PROBLEMS, ProblemType
from workers.runtime.connections import refusal_of
from workers.runtime.database import is_caused_by_a_row, is_database_away
from workers.runtime.refusals import Forbidden, Kind, Problem, Refusal, StaleVersion, quoted, rule_of
from workers.runtime.secret_shapes import looks_secret

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
AWAY_RETRY_SECONDS = 2
MASKED = "a hidden value"
# Fields whose values are not quoted, also if their name is misspelt.
_SECRET_FIELD = re.compile(
    r"(?<!idempotency[_-])key|secret|token(?!s)|password|credential|authorization", re.IGNORECASE
)
_KINDS: Mapping[Kind, str] = {
    Kind.INVALID: "invalid",
    Kind.NOT_FOUND: "not-found",
    Kind.CONFLICT: "conflict",
    Kind.FORBIDDEN: "forbidden",
    Kind.TOO_MANY: "too-many",
    Kind.UNAVAILABLE: "unavailable",
    Kind.FAILED: "failed",
}


class FieldError(BaseModel):
    """One broken rule of a request."""

    field: str = Field(description="the field's path, the query parameter or the header", examples=["payload.prompt"])
    rule: str = Field(examples=["must have at least 1 character"])
    value: str | None = Field(None, description="the value, shortened", examples=["''"])
    remedy: str | None = None


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="kind of the problem; `/problems/…` is a page about it", examples=["/problems/invalid"]
    )
    title: str
    status: int
    detail: str = Field(description="one line about this request")
    instance: str = Field(description="path of the request")
    request_id: str = Field(description="the answer's `X-Request-Id`; our logs and the history of changes have it too")
    errors: list[FieldError] = Field(default_factory=list, description="the rules that the request breaks")
    violated_policies: list[str] | None = Field(
        None, alias="violated-policies", description="names of the exceeded limits, as in `RateLimit-Policy`"
    )


class HttpProblem(HTTPException):
    """An error of the door itself. FastAPI lets it through also while it reads a body."""

    def __init__(
        self,
        kind: ProblemType | str,
        detail: str,
        *,
        errors: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
        violated_policies: Sequence[str] = (),
    ) -> None:
        self.kind = PROBLEMS[kind] if isinstance(kind, str) else kind
        self.errors, self.violated_policies = errors, violated_policies
        super().__init__(self.kind.status, detail, headers=headers)


class Unauthenticated(HttpProblem):
    """The request names no caller. The detail does not say why a key or a token is refused."""

    def __init__(self, detail: str = "an API key is required: send it as `Authorization: Bearer gm_…`") -> None:
        super().__init__("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})


class MissingScope(HttpProblem):
    """The caller is known, but its key has not the scope that the route needs."""

    def __init__(self, scope: str) -> None:
        remedy = "ask an operator for a key with this scope (`gristmill keys create`)"
        super().__init__(
            "forbidden",
            f"this needs the scope {scope!r}",
            errors=[Problem("scope", f"must include {scope}", None, remedy)],
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )


class _Location(NamedTuple):
    """Where a value of the request is: the field's path, and whether it is in the body."""

    field: str
    in_body: bool


def problem_of(error: Exception) -> HttpProblem:
    """Return the answer to ``error``, whatever it is. Errors that are nobody's fault but ours are logged."""
    match error:
        case HttpProblem():
            return error
        case Refusal():
            return _refused(error)
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            kind = BY_STATUS.get(error.status_code) or PROBLEMS["internal"]
            # Of a body that is no form, starlette says what is wrong with it.
            detail = f"the body cannot be read: {error.detail}" if kind.name == "malformed" else kind.meaning
            return HttpProblem(kind, detail, headers=error.headers)
        case OSError() if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            log.error("no_space", error=str(error))
            return HttpProblem(
                "temporary-reduced-capacity", "there is no space for this request now", headers={"Retry-After": "30"}
            )
        case redis.ConnectionError() | redis.TimeoutError():
            return _unavailable("Redis cannot be reached")
    return _of_postgres(error) or _unexpected(error)


def render(problem: HttpProblem, scope: Scope) -> Response:
    """Return ``problem`` as an answer to the request of ``scope``."""
    kind = problem.kind
    document: dict[str, Any] = {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "detail": " ".join(problem.detail.split()),
        "instance": scope["path"],
        "request_id": scope.get("state", {}).get("request_id", ""),
        "errors": [one._asdict() for one in problem.errors],
    }
    if problem.violated_policies:
        document["violated-policies"] = list(problem.violated_policies)
    # ASCII only: a value of the request may contain half a surrogate pair.
    return Response(json.dumps(document), kind.status, problem.headers, media_type=MEDIA_TYPE)


def _refused(error: Refusal) -> HttpProblem:
    kind = "stale-version" if isinstance(error, StaleVersion) else _KINDS[error.kind]
    headers = {"Retry-After": str(AWAY_RETRY_SECONDS)} if PROBLEMS[kind].status in {429, 503} else None
    return HttpProblem(kind, str(error), errors=[error.problem] if error.problem else (), headers=headers)


def _invalid(error: RequestValidationError) -> HttpProblem:
    found = error.errors()
    errors = [_field_error(one) for one in found[:MAX_ERRORS]]
    if len(found) > MAX_ERRORS:
        errors.append(Problem("request", f"breaks {len(found) - MAX_ERRORS} more rules"))
    return HttpProblem("invalid", "; ".join(map(str, errors[:3])), errors=errors)


def _field_error(error: Mapping[str, Any]) -> Problem:
    where = _location(error["loc"])
    if error["type"] == "missing":
        return Problem(where.field, "is required", "nothing")
    value = MASKED if _SECRET_FIELD.search(where.field) else _shown(error["input"])
    if error["type"] == "extra_forbidden":
        return Problem(where.field, "is not a field" if where.in_body else "is not a parameter", value)
    if where.field.endswith("callback_url"):  # it may contain a secret
        return Problem(where.field, rule_of(error["msg"]), "another value")
    return Problem(where.field, rule_of(error["msg"]), value)


def _location(loc: Sequence[Any]) -> _Location:
    """Return the field of pydantic's location, which begins with body, query, path, header or cookie."""
    place, *path = map(str, loc)
    in_body = place == "body"
    return _Location(".".join(path) or place, in_body)


def _shown(value: object) -> str:
    return MASKED if looks_secret(str(value)) else quoted(value)


def _of_postgres(error: Exception) -> HttpProblem | None:
    """Return the answer to an error of Postgres or of its driver; None for any other error."""
    if is_database_away(error):
        log.warning("postgres_away", error=str(error))
        return _unavailable("Postgres does not answer now")
    cause = getattr(error, "orig", None) or error
    if not isinstance(cause, psycopg.Error):
        return None
    if isinstance(refusal_of(cause), Forbidden):
        log.warning("postgres_forbids", error=str(error))
        return HttpProblem("forbidden", "the database does not allow this caller to do it")
    if (cause.sqlstate or "").startswith("XX"):  # a broken server: its message has names of files
        return None
    if is_caused_by_a_row(cause) or (isinstance(cause, psycopg.DataError) and cause.sqlstate is None):
        log.warning("postgres_refuses", error=str(error))
        kind = "conflict" if (cause.sqlstate or "").startswith("23") else "invalid"
        return HttpProblem(kind, f"the database refused a value: {cause.diag.message_primary or 'it cannot be stored'}")
    return None


def _unavailable(detail: str) -> HttpProblem:
    return HttpProblem("unavailable", detail, headers={"Retry-After": str(AWAY_RETRY_SECONDS)})


def _unexpected(error: Exception) -> HttpProblem:
    log.error("request_failed", exc_info=error)
    return HttpProblem("internal", "the request failed; the log has the reason under this request id")
