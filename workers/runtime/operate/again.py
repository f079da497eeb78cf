"""Enqueue ended jobs again as new jobs, for example if a table allows no further attempt."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.actor import Actor, acting
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue
from workers.runtime.enqueue_validation import EnqueueError, payload_problem_of
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.operate.known import check_stage
from workers.runtime.store.ended_jobs import EndedJob, read_ended_jobs
from workers.runtime.store.read import JobFilter, JobView, list_jobs
from workers.runtime.store.tables import job_table

PAGE = 500
REASON = "enqueued again by an operator"


@dataclass(slots=True)
class EnqueuedAgain:
    """The new job of each old job (in a dry run: None), and for each other job the reason why it has none."""

    again: dict[UUID, UUID | None] = field(default_factory=dict)
    refused: dict[UUID, str] = field(default_factory=dict)


async def enqueue_again(
    database: Database, registry: Registry, wanted: JobFilter, actor: Actor, *, dry_run: bool = False
) -> EnqueuedAgain:
    """Enqueue again each job that ``wanted`` selects: failed jobs, and any ended job if named by its id.

    A new job is validated as at every door. It has its own id, all its attempts and the priority of the old job. Its
    first transition names the old job: in its reason, and as ``again_of`` in its context. Its idempotency key is
    ``again:<old id>``, so a repeat returns the same job. A job that failed in a later step begins with that step.
    """
    async with database.kernel() as conn:
        await check_stage(conn, wanted.stage)
    done = EnqueuedAgain()
    models = {job_table(stage.model).label: stage.model for stage in registry.values()}
    async for page in _pages(database, wanted):
        named = wanted.ids is not None
        possible: dict[type[Job], list[UUID]] = defaultdict(list)
        for job in page:
            model = models.get(job.table_name)
            if model is None:
                done.refused[job.id] = f"is of table {job.table_name}, which this release does not know"
            elif named and job.completed_at is None:
                done.refused[job.id] = f"is {job.status}, it has not ended yet"
            elif named or job.status == model.__lifecycle__.failed:
                possible[model].append(job.id)
        for model, ids in possible.items():
            async with database.kernel() as conn:
                found = await read_ended_jobs(conn, model, ids)
            await _enqueue(database, registry, model, found, done, actor=actor, dry_run=dry_run)
            done.refused |= {id_: "changed meanwhile" for id_ in ids if id_ not in {one.id for one in found}}
    known = done.refused.keys() | done.again.keys()
    done.refused |= {id_: "does not exist (any more)" for id_ in wanted.ids or () if id_ not in known}
    return done


async def _pages(database: Database, wanted: JobFilter) -> AsyncIterator[Sequence[JobView]]:
    last: UUID | None = None
    while True:
        async with database.kernel() as conn:
            page = await list_jobs(conn, wanted, limit=PAGE, after=last)
        if not page:
            return
        last = page[-1].id
        yield page


async def _enqueue(
    database: Database,
    registry: Registry,
    model: type[Job],
    jobs: Sequence[EndedJob],
    done: EnqueuedAgain,
    *,
    actor: Actor,
    dry_run: bool,
) -> None:
    """Enqueue these jobs in one transaction; a refused job does not stop the others."""
    made: dict[UUID, UUID | None] = {}
    async with database.session() as session:
        for job in jobs:
            try:
                stage = _stage_of(registry, model, job)
                new = await _one(session, stage, _payload(stage, job), job, actor)
            except EnqueueError as error:
                done.refused[job.id] = f"cannot be enqueued again: {error}"
            else:
                made[job.id] = None if dry_run else new
        if dry_run:
            await session.rollback()
    done.again |= made


async def _one(session: AsyncSession, stage: Stage, payload: Mapping[str, Any], job: EndedJob, actor: Actor) -> UUID:
    because = replace(
        actor,
        change_reason=f"again, for job {job.id}: {actor.change_reason or REASON}",
        context={**(actor.context or {}), "again_of": str(job.id)},
    )
    async with session.begin_nested(), acting(session, because):
        options = {"priority": job.priority, "idempotency_key": f"again:{job.id}"}
        return (await enqueue(session, stage.name, payload, **options)).id


def _stage_of(registry: Registry, model: type[Job], job: EndedJob) -> Stage:
    """Return the stage of the new job: the step in which the old job ended, or the first step if it ended well."""
    lifecycle = model.__lifecycle__
    first = lifecycle.steps[0]
    step = lifecycle.step_of(job.ended_in or first.ready) or first
    return registry[(first if job.status in lifecycle.good else step).stage]


def _payload(stage: Stage, job: EndedJob) -> dict[str, Any]:
    """Return the payload of the old job; raise EnqueueError if no door would accept it."""
    columns = job_table(stage.model).column
    try:
        row = json.loads(job.row)
    except (ValueError, RecursionError):
        raise EnqueueError("its row holds a value that cannot be read") from None
    payload = {name: row[columns[name].strip('"')] for name in stage.payload.model_fields}
    payload = {name: value for name, value in payload.items() if value is not None}
    renewed = getattr(stage.payload, "renewed", None)
    if renewed is None:
        return payload
    try:
        new: BaseModel = renewed(stage.payload.model_validate(payload), str(job.id))
    except ValidationError as error:
        raise EnqueueError(payload_problem_of(error)) from None
    return new.model_dump(mode="json")
