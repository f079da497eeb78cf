"""Retrying while the database is away: paid results are kept, other errors are raised at once."""

from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from workers.runtime.database import retry_while_away


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[Exception]]:
    """Return a function that raises these errors in turn and then returns, and the list of errors not yet raised."""
    left = list(errors)

    async def do() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return do, left


@pytest.mark.parametrize(
    "away",
    [
        psycopg.OperationalError("the database system is starting up"),
        OperationalError("UPDATE …", {}, psycopg.errors.AdminShutdown("terminating connection")),
    ],
)
async def test_database_that_comes_back_costs_nothing(away: Exception) -> None:
    """This holds for every wrapping of the driver's error."""
    do, _ = failing(away)

    assert await retry_while_away(do) == "done"


async def test_error_of_another_kind_is_raised_at_once() -> None:
    """A retry would not help."""
    do, left = failing(ValueError("wrong"), ValueError("again"))

    with pytest.raises(ValueError, match="wrong"):
        await retry_while_away(do)
    assert len(left) == 1


async def test_database_that_stays_away_is_an_error_in_the_end() -> None:
    """The error of the last attempt is raised."""
    do, left = failing(*(psycopg.OperationalError(f"away {number}") for number in range(1, 4)))

    with pytest.raises(psycopg.OperationalError, match="away 2"):
        await retry_while_away(do, attempts=2)
    assert len(left) == 1
