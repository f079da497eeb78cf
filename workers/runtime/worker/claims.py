"""A worker process claims its jobs: under its own lease, and without waiting for locks. It outwaits a lost database."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from models.lifecycle import Job
from workers.runtime.backoff import soon
from workers.runtime.database import Database, is_database_away, is_locked
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Stage
from workers.runtime.store.claim import Ticket, claim, claimed_before
from workers.runtime.store.dispatch import unmark_exactly

log = structlog.get_logger(__name__)

# Of a worker that drains; any other waits as long as Postgres is away.
ATTEMPTS = 4
# If no heartbeat renews the lease within this time, another worker should have the batch.
LEASE_PATIENCE_SECONDS = 2.0


class Claims:
    """Claims batches of tickets for one worker."""

    def __init__(self, database: Database, *, worker_id: UUID, draw: Callable[[], float]) -> None:
        self._database = database
        self._worker_id = worker_id
        self._draw = draw
        self._closed = False
        self._leased_until = -math.inf
        self._renewed = asyncio.Event()

    def renew(self, *, until: float) -> None:
        """Note that the worker's lease lasts ``until``, in monotonic seconds."""
        self._leased_until = until
        self._renewed.set()

    def close(self) -> None:
        """Stop waiting, from now on."""
        self._closed = True
        self._renewed.set()

    async def is_leased(self) -> bool:
        """Tell whether the lease holds; wait a little for a heartbeat. A claim without a lease would be rescued."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE_PATIENCE_SECONDS):
                while time.monotonic() >= self._leased_until and not self._closed:
                    self._renewed.clear()
                    await self._renewed.wait()
        return time.monotonic() < self._leased_until

    async def claim(self, stage: Stage, tickets: Sequence[Ticket]) -> list[Job]:
        """Claim, waiting as long as Postgres is away; only a draining worker gives up after a few attempts.

        A claim whose answer was lost with the connection may have been committed: its jobs are ours to run. What
        somebody holds is left out, its ticket comes due again.
        """
        attempt, held, unsure = 0, False, False
        while not (self._closed and attempt >= ATTEMPTS):
            leased = not attempt or await self.is_leased()
            if not leased and not unsure:
                return []
            attempt += 1
            try:
                return await self._claim(stage, tickets, unsure=unsure, free_only=held, leased=leased)
            except Exception as error:
                if not is_database_away(error):
                    raise
                if is_locked(error) and not unsure:
                    if held:  # the whole table is
                        return []
                    held = True
                    continue
                unsure |= not is_locked(error)
                log.warning("claim_waits_for_database", stage=stage.name, attempt=attempt, error=describe(error))
                await asyncio.sleep(soon(attempt, draw=self._draw))
        return []

    async def _claim(
        self, stage: Stage, tickets: Sequence[Ticket], *, unsure: bool, free_only: bool, leased: bool
    ) -> list[Job]:
        """Claim, if there is a lease. If ``unsure``, also find what an earlier attempt without an answer claimed."""
        async with self._database.kernel() as conn:
            failpoint("claim.before")
            jobs: list[Job] = []
            if leased:
                jobs = await claim(conn, stage, tickets, owner=self._worker_id, free_only=free_only)
            failpoint("claim.after")
            if unsure:
                # After the claim, not before: what a twin of this message has settled by now is not found any more.
                new = {job.id for job in jobs}
                found = await claimed_before(conn, stage, tickets, owner=self._worker_id)
                jobs += [job for job in found if job.id not in new]
            return jobs

    async def hand_back(self, stage: Stage, tickets: Sequence[Ticket]) -> None:
        """Give these tickets back, so that another worker has them at once; if that fails, they come due later."""
        with suppress(Exception):
            async with self._database.kernel() as conn:
                await unmark_exactly(conn, stage.model, tickets)
