"""Show jobs, their histories and what they wait for; enqueue one job."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.actor import Actor, acting
from workers.runtime.database import Raw
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.operate.known import check_stage, job_models
from workers.runtime.operate.lists import find_newest, search_of
from workers.runtime.operate.why import LeaderSeen, Why, explain, look_at_leader
from workers.runtime.refusals import NotFound
from workers.runtime.store import read
from workers.runtime.store.follow import jobs_of
from workers.runtime.store.read import JobFilter, JobView, TransitionView
from workers.runtime.store.verify import HistoryCheck, verify_history

__all__ = ["Enqueued", "HistoryCheck", "JobFilter", "JobView", "TransitionView", "Why", "look_at_leader"]


class UnknownJob(NotFound):
    """No table has a job of that id, or the actor may not see it."""

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"job {job_id} does not exist (any more)")


@dataclass(frozen=True, slots=True)
class JobDetails:
    """One job with the columns of its domain, and its history. ``job`` is None if only the history is left."""

    job: JobView | None
    values: Mapping[str, Any]
    transitions: Sequence[TransitionView]


async def enqueue_job(
    session: AsyncSession, stage: str, payload: Mapping[str, Any], actor: Actor, **options: Any
) -> Enqueued:
    """Enqueue one job for ``actor``; options and refusals are those of :func:`workers.runtime.enqueue.enqueue`."""
    async with acting(session, actor):
        return await enqueue(session, stage, payload, **options)


async def list_jobs(conn: Raw, wanted: JobFilter, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first; ``after`` is the last id of the page before.

    It reads on until it has found them or has looked at all jobs: for an operator who waits. A client gets pages of
    :func:`workers.runtime.operate.lists.list_page`. Raise UnknownStageError or UnknownStateError if the stage or the
    status does not exist.
    """
    if wanted.ids is not None:
        await check_stage(conn, wanted.stage)
        return await read.list_jobs(conn, wanted, limit=limit, after=after)
    return await find_newest(conn, search_of(wanted), limit=limit, after=after)


async def find_job(conn: Raw, job_id: UUID) -> JobView:
    """Return one job; raise UnknownJob."""
    job = await read.get_job(conn, job_id)
    if job is None:
        raise UnknownJob(job_id)
    return job


async def show_job(conn: Raw, job_id: UUID) -> JobDetails:
    """Return a job with its result and its history; raise UnknownJob if no history is left either."""
    job = await read.get_job(conn, job_id)
    transitions = await read.history(conn, job_id, table=job.table_name if job else None)
    if job is None and not transitions:
        raise UnknownJob(job_id)
    return JobDetails(job, await _own_values(conn, job) if job else {}, transitions)


async def _own_values(conn: Raw, job: JobView) -> dict[str, Any]:
    model = job_models().get(job.table_name)
    return await read.read_own_values(conn, model, job.id) if model else {}  # no model: the table is of a newer release


async def explain_job(conn: Raw, job_id: UUID, *, leader: LeaderSeen | None = None) -> Why:
    """Return what a job waits for, where it runs, or how it ended; raise UnknownJob.

    ``leader`` is what another connection saw of the leading dispatcher, if ``conn`` may not look.
    """
    return await explain(conn, await find_job(conn, job_id), leader=leader)


async def count_wait_reasons(conn: Raw, job_ids: Sequence[UUID]) -> Counter[str]:
    """Return how many of these jobs wait for each reason. Jobs that run or have ended are not counted."""
    return Counter(job.wait_reason for job in await jobs_of(conn, job_ids) if job.wait_reason)


async def verify_jobs(conn: Raw, stage: str | None = None) -> list[HistoryCheck]:
    """Check every job against its history; return the counts of each stage, or of one. Reads whole tables."""
    await check_stage(conn, stage)
    return await verify_history(conn, stage=stage)
