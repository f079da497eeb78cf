"""Why the store refuses, as exceptions with one clear line each."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg.errors import Error
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.handler.documents import NUL, Unkeepable, keepable
from workers.runtime.refusals import Kind, Refusal

CONFLICT = "GM409"
_NOT_FOUND = "P0002"
_CHECK = "23514"
_WRONG_STATE = "55000"
_UNTRANSLATABLE = "22P05"
# A name of several owners, data exceptions, broken constraints, more than a column holds: what the caller gave is
# wrong, whatever the assessment's state.
_WRONG_VALUES = ("21", "22", "23", "54")


class AssessmentError(Refusal, ValueError):
    """The store refuses; the message is one line."""


class Conflict(AssessmentError):
    """Somebody else was faster: the assessment has version ``actual``, the caller expected ``expected``."""

    kind = Kind.CONFLICT

    def __init__(self, message: str, *, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class IllegalTransition(AssessmentError):
    """The lifecycle has no way from the assessment's state to the one asked for."""

    kind = Kind.CONFLICT


class UnknownAssessment(AssessmentError):
    """No assessment has that id (any more)."""

    kind = Kind.NOT_FOUND


class WrongState(AssessmentError):
    """The state of the assessment does not allow it, whatever its version is."""

    kind = Kind.CONFLICT


class UnknownSource(AssessmentError):
    """There is no such table to import from."""

    kind = Kind.NOT_FOUND


class InvalidChange(AssessmentError):
    """A value breaks a rule of the table: progress, priority, length, an id that exists with another request.

    Also: nobody to act for, and a name that several owners use.
    """


def storable(value: object, *, name: str) -> None:
    """Raise InvalidChange where ``value`` cannot be kept: half characters, NUL, NaN, infinities, bytes, great depth."""
    try:
        keepable(value, name=name)
    except Unkeepable as error:
        raise InvalidChange(error.said) from None


@asynccontextmanager
async def refusals(session: AsyncSession) -> AsyncIterator[None]:
    """Run the block in a savepoint and raise what the database refuses as one of ours; other errors pass."""
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
        case str(code) if code == CONFLICT:
            actual, expected = (int(part) for part in re.findall(r"version (-?\d+)", message)[-2:])
            return Conflict(message, expected=expected, actual=actual)
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
