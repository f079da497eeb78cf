"""The refusals of the store: exceptions with one clear line each."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg.errors import Error
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.handler.documents import NUL, Unkeepable, keepable
from workers.runtime.refusals import Kind, Refusal, StaleVersion

VERSION_CONFLICT = "GM409"
_NOT_FOUND = "P0002"
_CHECK = "23514"
_WRONG_STATE = "55000"
_UNTRANSLATABLE = "22P05"
# Classes of SQLSTATE for wrong values: a name with several owners, data exceptions, constraints, exceeded limits.
_WRONG_VALUES = ("21", "22", "23", "54")


class AssessmentError(Refusal, ValueError):
    """The store refuses a request; the message is one line."""


class VersionConflict(AssessmentError, StaleVersion):
    """The assessment changed in between: it has version ``actual``, the caller expected ``expected``."""

    kind = Kind.CONFLICT

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class IllegalTransition(AssessmentError):
    """The lifecycle has no transition from the assessment's state to the requested one."""

    kind = Kind.CONFLICT


class UnknownAssessment(AssessmentError):
    """No assessment has that id, or it was deleted."""

    kind = Kind.NOT_FOUND


class WrongState(AssessmentError):
    """The state of the assessment does not allow the change, for any version."""

    kind = Kind.CONFLICT


class UnknownSource(AssessmentError):
    """The table to import from does not exist."""

    kind = Kind.NOT_FOUND


class InvalidChange(AssessmentError):
    """A value breaks a rule: progress, priority, length, an id that exists with another request.

    Also: the session acts for no user, or several owners have an assessment of this name.
    """


def require_storable(value: object, *, name: str) -> None:
    """Raise InvalidChange if ``value`` cannot be stored: lone surrogates, NUL, NaN, infinities, bytes, deep nesting."""
    try:
        keepable(value, name=name)
    except Unkeepable as error:
        raise InvalidChange(error.said) from None


@asynccontextmanager
async def refusals(session: AsyncSession) -> AsyncIterator[None]:
    """Run the block in a savepoint; raise refusals of the database as AssessmentError, other errors unchanged."""
    try:
        async with session.begin_nested():
            yield
    except DBAPIError as error:
        refusal = _refusal(error.orig)
        if refusal is None:
            raise
        raise refusal from None


def _refusal(error: BaseException | None) -> AssessmentError | None:
    if not isinstance(error, Error) or error.sqlstate is None:
        return None
    message = " ".join((error.diag.message_primary or type(error).__name__).split())
    match error.sqlstate:
        case str(code) if code == VERSION_CONFLICT:
            actual, expected = (int(part) for part in re.findall(r"version (-?\d+)", message)[-2:])
            return VersionConflict(message, expected=expected, actual=actual)
        case str(code) if code == _NOT_FOUND:
            return UnknownAssessment(message)
        case str(code) if code == _WRONG_STATE:
            return WrongState(message)
        case str(code) if code == _CHECK and error.diag.constraint_name is None:
            return IllegalTransition(message)
        case str(code) if code == _UNTRANSLATABLE:
            return InvalidChange(NUL)
        case str(code) if code.startswith(_WRONG_VALUES):
            return InvalidChange(message)
    return None
