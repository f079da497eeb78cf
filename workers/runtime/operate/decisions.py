"""Decide what a job waits for: for a person, an agent or a service."""

from datetime import datetime
from uuid import UUID

from workers.runtime.actor import Actor, acting_on
from workers.runtime.database import Raw
from workers.runtime.operate.changes import StaleVersion, known_model
from workers.runtime.operate.jobs import find_job
from workers.runtime.refusals import Conflict
from workers.runtime.store.decide import Decision, explain_refusal
from workers.runtime.store.intervene import decide_by_function
from workers.runtime.store.read import JobView


async def decide_job(
    conn: Raw, job_id: UUID, actor: Actor, *, into: str, version: int | None = None, until: datetime | None = None
) -> JobView:
    """Let a job leave its wait for the state ``into``, and return its new view; ``until`` ends a further wait.

    The database decides whether the actor may. Raise UnknownJob, StaleVersion if the job has another version than
    ``version`` (if given), Conflict if the wait is over or leads to other states, and Forbidden.
    """
    job = await find_job(conn, job_id)
    model = known_model(job)
    if not model.__lifecycle__.waits:
        raise Conflict(f"job {job_id} waits for no decision: jobs of {job.stage} never do")
    held = job.version if version is None else version
    reason = actor.change_reason or f"decided: {into}"
    async with conn.transaction(), acting_on(conn, actor):
        won = await decide_by_function(conn, job_id, held, into, reason=reason, until=until)
    if won:
        return await find_job(conn, job_id)
    decided = await explain_refusal(conn, model, Decision(job_id=job_id, version=held, into=into, until=until))
    assert decided.refusal is not None
    if decided.version is not None and decided.version != held:
        raise StaleVersion(f"job {job_id} is at version {decided.version}, got version {held}: {decided.refusal}")
    raise decided.refusal
