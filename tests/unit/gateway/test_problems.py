"""Which answer each error gets."""

import errno
import json

import psycopg
import pytest
import redis
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from gateway.catalogue import BY_STATUS, PROBLEMS
from gateway.problems import MAX_ERRORS, HttpProblem, problem_of, render
from workers.runtime.refusals import (
    Conflict,
    Failed,
    Forbidden,
    Kind,
    NotFound,
    Problem,
    Refusal,
    StaleVersion,
    UnavailableServer,
)

SCOPE = {"type": "http", "path": "/v1/things/é", "state": {"request_id": "r-1"}}


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    count: int = Field(0, le=10)


def rendered(problem: HttpProblem) -> str:
    return bytes(render(problem, SCOPE).body).decode()


def invalid(**values) -> RequestValidationError:
    with pytest.raises(ValidationError) as refused:
        Thing(**values)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in refused.value.errors()]
    return RequestValidationError(errors)


def postgres_error(sqlstate: str) -> psycopg.Error:
    return psycopg.errors.lookup(sqlstate)("a value of a row")


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (Refusal("no"), 422, "invalid"),
        (NotFound("no"), 404, "not-found"),
        (Conflict("no"), 409, "conflict"),
        (StaleVersion("no"), 412, "stale-version"),
        (Forbidden("no"), 403, "forbidden"),
        (UnavailableServer("no"), 503, "unavailable"),
        (Failed("no"), 502, "failed"),
        (HTTPException(404), 404, "not-found"),
        (HTTPException(405), 405, "method-not-allowed"),
        (HTTPException(418), 500, "internal"),
        (redis.ConnectionError("redis://:password@host"), 503, "unavailable"),
        (PoolTimeoutError("pool"), 503, "unavailable"),
        (TimeoutError(), 503, "unavailable"),
        (postgres_error("57P01"), 503, "unavailable"),
        (postgres_error("55P03"), 503, "unavailable"),
        (postgres_error("42501"), 403, "forbidden"),
        (postgres_error("22P02"), 422, "invalid"),
        (postgres_error("23505"), 409, "conflict"),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), 422, "invalid"),
        (DBAPIError("SELECT", {}, postgres_error("42P01")), 500, "internal"),
        (RuntimeError("password=hunter2"), 500, "internal"),
        (postgres_error("XX001"), 500, "internal"),
        (OSError(errno.ENOSPC, "No space left on device", "a file"), 503, "temporary-reduced-capacity"),
        (HTTPException(400, "Too many files. Maximum number of files is 1."), 400, "malformed"),
    ],
)
def test_each_error_has_its_kind(error: Exception, status: int, name: str) -> None:
    """The kind of a refusal decides the status."""
    problem = problem_of(error)

    assert (problem.status_code, problem.kind.name) == (status, name)


def test_every_kind_of_refusal_has_an_answer() -> None:
    """A new kind must not become a KeyError."""
    for kind in Kind:
        refusal = type("Own", (Refusal,), {"kind": kind})("no")
        assert 400 <= problem_of(refusal).status_code < 600


@pytest.mark.parametrize("status", [429, 503])
def test_a_limit_says_when_to_come_back(status: int) -> None:
    """A refusal that a later try may pass has Retry-After."""
    kind = {429: Kind.TOO_MANY, 503: Kind.UNAVAILABLE}[status]
    problem = problem_of(type("Own", (Refusal,), {"kind": kind})("no"))

    assert problem.headers == {"Retry-After": "2"}


@pytest.mark.parametrize("error", [RuntimeError("password=hunter2"), redis.ConnectionError("redis://:hunter2@h")])
def test_an_unexpected_error_says_nothing_about_the_inside(error: Exception) -> None:
    """The log has the reason."""
    assert "hunter2" not in rendered(problem_of(error))


def test_a_document_has_every_member() -> None:
    """Also for a value with half a surrogate pair, which no encoding of a text can hold."""
    problem = HttpProblem("invalid", "two\nlines", errors=[Problem("name", "must be a name", "'\ud800'", "name it")])

    answer = render(problem, SCOPE)

    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(rendered(problem)) == {
        "type": "/problems/invalid",
        "title": "The request breaks a rule",
        "status": 422,
        "detail": "two lines",
        "instance": "/v1/things/é",
        "request_id": "r-1",
        "errors": [{"field": "name", "rule": "must be a name", "value": "'\ud800'", "remedy": "name it"}],
    }


def test_an_invalid_body_names_every_field() -> None:
    """Unknown fields, missing ones, and broken rules."""
    problem = problem_of(invalid(nmae="x", count=11))

    assert [(one.field, one.rule, one.value) for one in problem.errors] == [
        ("name", "is required", "nothing"),
        ("count", "must be less than or equal to 10", "11"),
        ("nmae", "is not a field", "'x'"),
    ]


def test_a_value_that_looks_like_a_secret_is_not_quoted() -> None:
    """A key in the wrong field must not stand in a log of answers."""
    secret = "sk-abcdefghijklmnop123456"

    problem = problem_of(invalid(name="n", count=secret))

    assert secret not in rendered(problem)


def test_a_value_of_a_secret_field_is_not_quoted() -> None:
    """A short password looks like a word."""
    problem = problem_of(invalid(name="n", signing_secret="hunter2"))

    assert "hunter2" not in rendered(problem)


def test_a_long_list_of_errors_is_cut() -> None:
    """A body of a thousand wrong fields does not make an answer of a thousand lines."""
    problem = problem_of(invalid(name="n", **{f"field_{number}": 1 for number in range(1_000)}))

    assert len(problem.errors) == MAX_ERRORS + 1
    assert problem.errors[-1].rule == f"breaks {1_000 - MAX_ERRORS} more rules"


def test_statuses_of_the_framework_have_kinds() -> None:
    """No status that FastAPI, Starlette or h11 raise by themselves is unknown."""
    assert {400, 401, 403, 404, 405, 413, 415, 422, 431} <= BY_STATUS.keys()
    assert all(one.meaning.endswith(".") and one.title for one in PROBLEMS.values())
