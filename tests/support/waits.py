"""Put jobs of the proving table into waits, and decide and expire them with the kernel's own statements."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.support.kernel import Jobs
from tests.support.proving.models import WaitingJob
from workers.runtime.actor import Actor
from workers.runtime.handler.outcomes import Complete
from workers.runtime.store.claim import Ticket
from workers.runtime.store.decide import Decided, Decision, decide
from workers.runtime.store.expire import expire
from workers.runtime.store.intervene import cancel
from workers.runtime.store.settle import settle

ASK, ACT = "proving.ask", "proving.act"
ANNA = Actor(changed_by="anna", change_reason="she read it", ip_address="192.0.2.7")
BORIS = Actor(changed_by="boris")
Until = datetime | timedelta | None


async def waiting(jobs: Jobs, count: int = 1, *, until: Until = None, **job: Any) -> list[Ticket]:
    """Return jobs that wait for an approval, by default for an hour, else until ``until``."""
    running = await jobs.running(ASK, count, **job)
    rows = [jobs.outcome(one, Complete(until=until), ASK) for one in running]
    async with jobs.database.kernel() as conn:
        assert len(await settle(conn, WaitingJob, rows)) == count
    return [(one.id, one.version + 1) for one in running]


async def awaiting_agent(jobs: Jobs, *, until: Until = None) -> Ticket:
    """Return an approved job that waits for an agent."""
    [ticket] = await waiting(jobs)
    await decided(jobs, [ticket], "approved")
    [job] = await jobs.running(ACT, 0)
    await jobs.settle(job, Complete(into="awaiting_agent", until=until), ACT)
    return job.id, job.version + 1


async def overdue(jobs: Jobs, count: int = 1) -> list[Ticket]:
    """Return jobs with an overdue wait for an approval that nothing has expired yet."""
    return await waiting(jobs, count, until=timedelta(microseconds=1))


async def decided(
    jobs: Jobs, tickets: Sequence[Ticket], into: str, *, actor: Actor = ANNA, **more: Any
) -> list[Decided]:
    """Decide all of these jobs in the same way."""
    decisions = [Decision(job_id=id_, version=version, into=into, **more) for id_, version in tickets]
    async with jobs.database.kernel() as conn:
        return await decide(conn, WaitingJob, decisions, actor=actor)


async def expired(jobs: Jobs) -> int:
    """Expire the overdue waits; return their number."""
    async with jobs.database.kernel() as conn:
        return await expire(conn, WaitingJob)


async def cancelled(jobs: Jobs, *ids: UUID) -> set[UUID]:
    """Cancel these jobs; return the ids of the cancelled ones."""
    async with jobs.database.kernel() as conn:
        return await cancel(conn, WaitingJob, ids, reason="no more")
