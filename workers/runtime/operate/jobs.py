"""Show jobs, their histories and what they wait for; enqueue one job."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.actor import Actor, acting
from workers.runtime.database import Raw
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.handler.registry import discover, registry
from workers.runtime.operate.known import check_stage, job_models
from workers.runtime.operate.lists import find_newest, search_of
from workers.runtime.operate.why import LeaderSeen, Why, explain, look_at_leader
from workers.runtime.refusals import NotFound
from workers.runtime.store import read
from workers.runtime.store.follow import Position, jobs_of, read_histories
from workers.runtime.store.read import JobFilter, JobView, TransitionView
from workers.runtime.store.verify import HistoryCheck, verify_history
from workers.runtime.undecodable import Undecodable

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


async def list_transitions(conn: Raw, job_id: UUID, *, after: int, limit: int) -> list[TransitionView]:
    """Return up to ``limit`` transitions of a job after version ``after``; raise UnknownJob if it left nothing."""
    job = await read.get_job(conn, job_id)
    place = Position(job_id, job.table_name if job else None, after)
    found = (await read_histories(conn, [place], page=limit))[0]
    if job is None and not found:
        raise UnknownJob(job_id)
    return found


Outcome = Literal["completed", "failed", "cancelled"]


def outcome_of(table: str, state: str) -> Outcome | None:
    """Return what a state of the jobs of ``table`` counts as; None if it is no end, or of a newer release."""
    model = _models().get(table)
    if model is None:
        return None
    cycle = model.__lifecycle__
    if state in cycle.good:
        return "completed"
    if state in cycle.bad:
        return "failed"
    return "cancelled" if state in cycle.neutral else None


def table_of(stage: str) -> str | None:
    """Return the table of a stage's jobs; None if this release does not know the stage."""
    return _tables_by_stage().get(stage)


@cache
def _models() -> dict[str, type[Job]]:
    return job_models()


@cache
def _tables_by_stage() -> dict[str, str]:
    return {step.stage: table for table, model in _models().items() for step in model.__lifecycle__.steps}


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job has found, by the names of its stage's results; None unless the job has completed."""

    job: JobView
    outcome: Outcome | None
    values: Mapping[str, Any] | None


async def read_result(conn: Raw, job_id: UUID) -> JobResult:
    """Return the result of a job; raise UnknownJob."""
    job = await find_job(conn, job_id)
    outcome = outcome_of(job.table_name, job.status)
    model = _models().get(job.table_name)
    if outcome != "completed" or model is None:
        return JobResult(job, outcome, None)
    values, names = await read.read_own_values(conn, model, job.id), result_names(job.stage)
    found = {name: value for name, value in values.items() if names is None or name in names}
    return JobResult(
        job, outcome, {name: str(value) if isinstance(value, Undecodable) else value for name, value in found.items()}
    )


def result_names(stage: str) -> frozenset[str] | None:
    """Return the attributes that are the result of a stage's jobs; None: all of the domain's attributes."""
    if stage not in registry and stage not in discover():
        return None
    found = registry[stage]
    return frozenset(found.sql.results) if found.sql else found.settable


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
