"""What the leader does with what the guards write: it hands notices of ended jobs out and folds the counts of jobs."""

import time
from collections.abc import Awaitable
from typing import TypeVar

import psycopg
import structlog

from workers.runtime.database import Raw
from workers.runtime.dispatch.guard import await_answer
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.store.counts import fold_counts
from workers.runtime.store.notices import take_notices

log = structlog.get_logger(__name__)

T = TypeVar("T")

CHANNEL = "gristmill_notice"
NOTICES_PER_TAKE = 500
# Without a notification, notices are looked for this often.
TAKE_SECONDS = 0.5
DELTAS_PER_FOLD = 10_000
FOLD_SECONDS = 1.0
# More than this many folds in a row would hold up the dispatch.
FOLDS_PER_PASS = 3
# After a failure, the other work of the leader goes on, and this is tried again later.
AGAIN_SECONDS = 5.0


class Rollups:
    """The notices and the counts of one leadership. Bounded in each tick; a failure stops nothing else."""

    def __init__(self, connection: Raw, term: int) -> None:
        self._connection = connection
        self._term = term
        self._take_at = self._fold_at = 0.0

    def ring(self) -> None:
        """Look for notices at the next tick."""
        self._take_at = min(self._take_at, time.monotonic())

    async def take(self) -> int:
        """Hand out the notices that there are, if it is time; return how many were taken."""
        now = time.monotonic()
        if now < self._take_at:
            return 0
        self._take_at = now + TAKE_SECONDS
        failpoint("notices.before")
        found = await self._answer(take_notices(self._connection, term=self._term, limit=NOTICES_PER_TAKE))
        failpoint("notices.after")
        if found is None:
            self._take_at = now + AGAIN_SECONDS
            return 0
        if found.refused:
            log.error("notices_refused", notices=found.refused, remedy="see problem in runtime.notices")
        if sum(found) == NOTICES_PER_TAKE:
            self.ring()
        return found.taken

    async def fold(self) -> None:
        """Fold the deltas that there are, if it is time."""
        now = time.monotonic()
        if now < self._fold_at:
            return
        self._fold_at = now + FOLD_SECONDS
        for _ in range(FOLDS_PER_PASS):
            failpoint("fold.before")
            folded = await self._answer(fold_counts(self._connection, term=self._term, limit=DELTAS_PER_FOLD))
            if folded is None:
                self._fold_at = now + AGAIN_SECONDS
            if not folded:
                return
            failpoint("fold.after")
            if folded < DELTAS_PER_FOLD:
                return

    async def _answer(self, statement: Awaitable[T]) -> T | None:
        """Return the answer of ``statement``; None if Postgres refuses it. Raise if the connection is lost."""
        try:
            return await await_answer(statement)
        except psycopg.Error as error:
            if self._connection.closed or self._connection.broken:
                raise
            log.warning("rollup_failed", error=describe(error), again_in=AGAIN_SECONDS)
            return None
