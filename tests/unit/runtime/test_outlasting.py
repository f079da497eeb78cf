"""Outlasting the database's absence: what was paid for is kept, what is wrong is said at once."""

from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from workers.runtime.database import outlasting


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[Exception]]:
    """Return what raises these errors one after the other and then returns, and those it has not raised yet."""
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
    """However the driver's error is wrapped."""
    do, _ = failing(away)

    assert await outlasting(do) == "done"


async def test_error_of_another_kind_is_raised_at_once() -> None:
    """Waiting would not mend it."""
    do, left = failing(ValueError("wrong"), ValueError("again"))

    with pytest.raises(ValueError, match="wrong"):
        await outlasting(do)
    assert len(left) == 1


async def test_database_that_stays_away_is_an_error_in_the_end() -> None:
    """The last attempt's own."""
    do, left = failing(*(psycopg.OperationalError(f"away {number}") for number in range(1, 4)))

    with pytest.raises(psycopg.OperationalError, match="away 2"):
        await outlasting(do, attempts=2)
    assert len(left) == 1
