"""Guards the leader's statements: no answer takes too long, and one locked table does not stop the others."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from models.lifecycle import Job
from workers.runtime.database import Raw, is_caused_by_a_row, is_locked
from workers.runtime.handler.errors import describe
from workers.runtime.store.tables import job_table

log = structlog.get_logger(__name__)

T = TypeVar("T")

# A leader that gets no answer for this long stops leading: Postgres has ended its session by then.
LEADER_ANSWER_SECONDS = 15.0
# The leader skips rows that another session has locked. If a whole table is locked, it waits for the lock until
# ``lock_timeout`` and then skips the table for this long.
LOCKED_TABLE_SKIP_SECONDS = 2.0


async def await_answer(statement: Awaitable[T]) -> T:
    """Return the answer of Postgres; raise TimeoutError if none comes in time. A silent connection is closed then."""
    async with asyncio.timeout(LEADER_ANSWER_SECONDS):
        return await statement


class TableGuard:
    """Runs statements on job tables and skips a table for a while after it was locked, slow or refused a row."""

    def __init__(self, connection: Raw) -> None:
        self._connection = connection
        self._skipped_until: dict[type[Job], float] = {}

    async def run(self, model: type[Job], chore: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return what ``chore`` returns; return ``otherwise`` if its table is locked or slow, or if it refuses a row.

        Then the table is skipped for a while, because the other tables must not wait for it.
        """
        if time.monotonic() < self._skipped_until.get(model, 0.0):
            return otherwise
        try:
            return await await_answer(chore())
        except Exception as error:
            # A timeout with an open connection means a slow statement, for example because of outdated statistics.
            slow = isinstance(error, TimeoutError) and not self._connection.closed
            refused = is_caused_by_a_row(error)
            if not slow and not refused and not is_locked(error):
                raise
            self._skipped_until[model] = time.monotonic() + LOCKED_TABLE_SKIP_SECONDS
            event = "table_is_slow" if slow else "table_has_a_bad_row" if refused else "table_is_locked"
            log.warning(event, table=job_table(model).label, error=describe(error))
            return otherwise
