"""Tell Flower what others than workers do to jobs: cancels in SQL or by a command, rescues, retries by a person.

Only the rows of ``runtime.transitions`` know all of that. An index holds the few that no worker made, so that a look
costs next to nothing. Runs beside every dispatcher; what two of them tell twice changes nothing.
"""

import asyncio
from collections import deque
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog

from models.lifecycle import Lifecycle
from workers.runtime.database import Database, is_database_away
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.store.moved import MovedByOthers, read_moved_by_others
from workers.transport.events import EventStream, Moved

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
AWAY_SECONDS = 5.0
# A transaction that stays open holds the looks back: each reads again what came since it began. So far back they go at
# most, and where so many were told since, so far. What such a transaction did to jobs Flower then hears with their next
# change.
LONGEST, SHORTEST = timedelta(minutes=1), timedelta(seconds=5)
MANY = 1_000


class _Look(NamedTuple):
    """When a look was made, and its own transaction: those with smaller numbers had begun by then."""

    at: datetime
    transaction: int


class Follower:
    """Looks twice a second for what others than workers did; tells each transition once."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        events: EventStream,
        *,
        longest: timedelta = LONGEST,
        shortest: timedelta = SHORTEST,
        many: int = MANY,
    ) -> None:
        self._database = database
        self._lifecycles: dict[str, Lifecycle] = {name: stage.model.__lifecycle__ for name, stage in registry.items()}
        self._events = events
        self._longest, self._shortest, self._many = longest, shortest, many
        self._looks: deque[_Look] = deque()
        self._since: datetime | None = None
        self._told: dict[tuple[Any, int], datetime] = {}

    async def run(self) -> None:
        """Look for ever; an absent Postgres is waited out."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - Flower is a convenience; the dispatcher goes on
                if not is_database_away(error):
                    log.warning("job_follower_failed", error=describe(error))
                await asyncio.sleep(AWAY_SECONDS)

    async def look(self) -> None:
        """Tell what became visible since the last look."""
        async with self._database.kernel() as conn:
            seen = await read_moved_by_others(conn, since=self._since)
        for row in seen.rows:
            if (row.job_id, row.version_to) not in self._told:
                self._told[row.job_id, row.version_to] = row.created_at
                self._tell(row)
        self._move_on(_Look(seen.at, seen.own_transaction), seen.oldest_transaction)

    def _tell(self, row: MovedByOthers) -> None:
        lifecycle = self._lifecycles.get(row.stage)
        if lifecycle is None or not row.is_newest:
            return
        reason = row.change_reason
        job = Moved(
            row.job_id, row.stage, row.version_to, row.old_state, row.new_state, row.change_action, reason, reason
        )
        self._events.moved(lifecycle, job)

    def _move_on(self, look: _Look, oldest_transaction: int) -> None:
        """Look the next time from the newest look on since when nothing can come to light any more.

        A transition bears the time at which it was made, and is seen once its transaction commits: whatever a
        transaction made that began after a look is younger than that look. Older transactions are waited for within
        bounds.
        """
        self._looks.append(look)
        before = self._since
        bound = look.at - (self._shortest if len(self._told) > self._many else self._longest)
        while self._looks and (self._looks[0].transaction <= oldest_transaction or self._looks[0].at < bound):
            self._since = self._looks.popleft().at
        since = self._since
        if since is not None and since != before:
            self._told = {key: at for key, at in self._told.items() if at >= since}
