"""Why this room refuses, as exceptions with one clear line each, and the check of what was given."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.database import Raw
from workers.runtime.handler.naming import nfc
from workers.runtime.operate.known import check_stage
from workers.runtime.refusals import Conflict, NotFound, Problem, Refusal, first_problem, quoted, rule_of
from workers.runtime.secret_shapes import looks_secret

Request = TypeVar("Request", bound=BaseModel)


class LlmRefusal(Refusal, ValueError):
    """What was asked breaks a rule; the line names the field, the rule and the value."""


class Unknown(NotFound):
    """No provider, route, limit, budget or price has that name or id."""


class Exists(Conflict):
    """Another one has that name."""


class InUse(Conflict):
    """Something else needs it."""


def checked(request: type[Request], given: Mapping[str, Any], *, whole: str) -> Request:
    """Return ``given`` as a request; raise LlmRefusal naming the field that is wrong."""
    try:
        return request.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # of the whole: its fields are named in the message
            raise LlmRefusal(rule_of(first["msg"])) from None
        problem = first_problem(error, whole=whole)
        value = problem.value
        if isinstance(first.get("input"), str) and looks_secret(first["input"]):
            value = "what was given"
        raise LlmRefusal(Problem(problem.field, problem.rule, value, problem.remedy)) from None


def matching(pattern: str, rule: str, *, longest: int) -> AfterValidator:
    """Return the validator of a text that must match as a whole; ``rule`` says in words what it must."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > longest:
            raise ValueError(f"must have at most {longest} characters")
        if not compiled.fullmatch(value):
            raise ValueError(f"must {rule}")
        if looks_secret(value):
            raise ValueError("must not hold a key")
        return value

    return AfterValidator(check)


def require_known(what: str, name: str, known: Collection[str], *, remedy: str) -> None:
    """Raise Unknown, with the nearest name, unless ``name`` is one of ``known``."""
    if name in known:
        return
    shown = "of that name" if looks_secret(name) else quoted(name)
    nearest = get_close_matches(nfc(name).lower(), known, n=1, cutoff=0.7)
    there = f"{what}s: {', '.join(sorted(known)) or 'none'}"
    helps = f"did you mean {nearest[0]}?" if nearest else remedy
    raise Unknown(f"{what} {shown} does not exist; {there}", remedy=helps)


async def require_stage(session: AsyncSession, stage: str | None) -> None:
    """Raise UnknownStageError for a stage that the database does not know."""
    if stage is not None:
        await check_stage(await raw_of(session), stage)


async def raw_of(session: AsyncSession) -> Raw:
    """Return the psycopg connection of a session's transaction."""
    connection = await session.connection()
    driver: Raw = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
    return driver
