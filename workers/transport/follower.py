"""Show in Flower the transitions that no worker made: cancels in SQL or by a command, rescues, retries by a person.

Only ``runtime.transitions`` has all of them. An index on the few rows that no worker made keeps each look cheap. A
follower runs beside every dispatcher. If two followers publish the same transition, that changes nothing.
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

FOLLOW_SECONDS = 0.5
FOLLOW_RETRY_SECONDS = 5.0
# While a transaction stays open, each look reads again the rows since that transaction began, but not further back than
# MAX_LOOKBACK, or BUSY_LOOKBACK if more than BUSY_TRANSITIONS were published since. If the transaction commits later,
# Flower shows its jobs correctly after their next change.
MAX_LOOKBACK = timedelta(minutes=1)
BUSY_LOOKBACK = timedelta(seconds=5)
BUSY_TRANSITIONS = 1_000


class _Look(NamedTuple):
    """The time of a look, and the number of its transaction. Smaller numbers are of transactions that began before."""

    at: datetime
    transaction: int


class Follower:
    """Looks twice a second for transitions that no worker made; publishes each one once."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        events: EventStream,
        *,
        max_lookback: timedelta = MAX_LOOKBACK,
        busy_lookback: timedelta = BUSY_LOOKBACK,
        busy_transitions: int = BUSY_TRANSITIONS,
    ) -> None:
        self._database = database
        self._lifecycles: dict[str, Lifecycle] = {name: stage.model.__lifecycle__ for name, stage in registry.items()}
        self._events = events
        self._max_lookback = max_lookback
        self._busy_lookback = busy_lookback
        self._busy_transitions = busy_transitions
        self._looks: deque[_Look] = deque()
        self._since: datetime | None = None
        self._published: dict[tuple[Any, int], datetime] = {}

    async def run(self) -> None:
        """Look repeatedly until cancelled. If Postgres is away, wait and look again."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - Flower is a convenience; the dispatcher goes on
                if not is_database_away(error):
                    log.warning("job_follower_failed", error=describe(error))
                await asyncio.sleep(FOLLOW_RETRY_SECONDS)

    async def look(self) -> None:
        """Publish the transitions that became visible since the last look."""
        async with self._database.kernel() as conn:
            seen = await read_moved_by_others(conn, since=self._since)
        for row in seen.rows:
            if (row.job_id, row.version_to) not in self._published:
                self._published[row.job_id, row.version_to] = row.created_at
                self._publish(row)
        self._advance(_Look(seen.at, seen.own_transaction), seen.oldest_transaction)

    def _publish(self, row: MovedByOthers) -> None:
        lifecycle = self._lifecycles.get(row.stage)
        if lifecycle is None or not row.is_newest:
            return
        reason = row.change_reason
        job = Moved(
            row.job_id, row.stage, row.version_to, row.old_state, row.new_state, row.change_action, reason, reason
        )
        self._events.moved(lifecycle, job)

    def _advance(self, look: _Look, oldest_transaction: int) -> None:
        """Start the next read at the newest look for which all older transactions have ended.

        A transition has the time at which it was made, but it becomes visible when its transaction commits. If a
        transaction began after a look, its transitions are newer than that look. Transactions that began before are
        waited for, up to the bounds above.
        """
        self._looks.append(look)
        before = self._since
        is_busy = len(self._published) > self._busy_transitions
        bound = look.at - (self._busy_lookback if is_busy else self._max_lookback)
        while self._looks and (self._looks[0].transaction <= oldest_transaction or self._looks[0].at < bound):
            self._since = self._looks.popleft().at
        since = self._since
        if since is not None and since != before:
            self._published = {key: at for key, at in self._published.items() if at >= since}
