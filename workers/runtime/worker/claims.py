"""Claim jobs for one worker process: under its own lease, and without waiting for locks.

If Postgres is away, a claim waits until it is back.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import psycopg
import structlog

from models.lifecycle import Job
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.database import Database, is_caused_by_a_row, is_database_away, is_locked
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Stage
from workers.runtime.store.claim import Ticket, claim, claim_without_payload, read_claimed_before
from workers.runtime.store.dispatch import unmark_exactly
from workers.runtime.store.tables import mark_unreadable

log = structlog.get_logger(__name__)

# A draining worker gives up after this many attempts. Any other worker waits as long as Postgres is away.
MAX_ATTEMPTS_WHILE_DRAINING = 4
# If no heartbeat succeeds within this time, another worker should have the batch.
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
        """Stop waiting for Postgres and for heartbeats, from now on."""
        self._closed = True
        self._renewed.set()

    async def is_leased(self) -> bool:
        """Tell whether the lease is valid; wait a little for a heartbeat. A claim without a lease would be rescued."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEASE_PATIENCE_SECONDS):
                while time.monotonic() >= self._leased_until and not self._closed:
                    self._renewed.clear()
                    await self._renewed.wait()
        return time.monotonic() < self._leased_until

    async def claim(self, stage: Stage, tickets: Sequence[Ticket]) -> AsyncIterator[list[Job]]:
        """Claim, and yield the jobs as they are claimed; wait as long as Postgres is away.

        Only a draining worker gives up after a few attempts. If Postgres cannot read a row, the batch is halved until
        that row is alone. Its job is yielded without payload, with the reason (``unreadable``); the other jobs are
        complete. This method raises no database error: a ticket that is not claimed becomes due again.
        """
        try:
            jobs = await self._claim_patiently(stage, tickets)
        except psycopg.Error as error:
            if not is_caused_by_a_row(error):
                log.exception("claim_failed", stage=stage.name, jobs=len(tickets), error=describe(error))
                return
            if len(tickets) == 1:
                jobs = await self._claim_unreadable(stage, tickets, describe(error))
            else:
                half = len(tickets) // 2
                for part in (tickets[:half], tickets[half:]):
                    async for jobs in self.claim(stage, part):
                        yield jobs
                return
        yield jobs

    async def _claim_unreadable(self, stage: Stage, tickets: Sequence[Ticket], reason: str) -> list[Job]:
        """Claim a job that Postgres cannot read, without its payload; return no job if that fails too."""
        try:
            async with self._database.kernel() as conn:
                jobs = await claim_without_payload(conn, stage, tickets, owner=self._worker_id)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("job_cannot_be_claimed", stage=stage.name, job_id=str(tickets[0][0]), error=describe(error))
            return []
        for job in jobs:
            mark_unreadable(job, f"its row cannot be read: {reason}")
        return jobs

    async def _claim_patiently(self, stage: Stage, tickets: Sequence[Ticket]) -> list[Job]:
        """Claim, waiting as long as Postgres is away; only a draining worker gives up after a few attempts.

        If the connection broke before the answer came, the claim may have been committed. Then its jobs are ours to
        run. Locked rows are left out; their tickets become due again.
        """
        attempt, held, unsure = 0, False, False
        while not (self._closed and attempt >= MAX_ATTEMPTS_WHILE_DRAINING):
            leased = not attempt or await self.is_leased()
            if not leased and not unsure:
                return []
            attempt += 1
            try:
                return await self._claim(stage, tickets, unsure=unsure, free_only=held, leased=leased)
            except Exception as error:
                if is_caused_by_a_row(error) or not is_database_away(error):
                    raise
                if is_locked(error) and not unsure:
                    if held:  # the whole table is locked
                        return []
                    held = True
                    continue
                unsure |= not is_locked(error)
                log.warning("claim_waits_for_database", stage=stage.name, attempt=attempt, error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=self._draw))
        return []

    async def _claim(
        self, stage: Stage, tickets: Sequence[Ticket], *, unsure: bool, free_only: bool, leased: bool
    ) -> list[Job]:
        """Claim, if there is a lease. If ``unsure``, also find the jobs of an earlier claim that got no answer."""
        async with self._database.kernel() as conn:
            failpoint("claim.before")
            jobs: list[Job] = []
            if leased:
                jobs = await claim(conn, stage, tickets, owner=self._worker_id, free_only=free_only)
            failpoint("claim.after")
            if unsure:
                # After the claim, not before: jobs that a duplicate of this message has settled by now are not found.
                new = {job.id for job in jobs}
                found = await read_claimed_before(conn, stage, tickets, owner=self._worker_id)
                jobs += [job for job in found if job.id not in new]
            return jobs

    async def hand_back(self, stage: Stage, tickets: Sequence[Ticket]) -> None:
        """Give these tickets back, so that another worker gets them at once; if that fails, they become due later."""
        with suppress(Exception):
            async with self._database.kernel() as conn:
                await unmark_exactly(conn, stage.model, tickets)
