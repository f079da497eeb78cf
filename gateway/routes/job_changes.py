"""Changes of jobs by people and services: cancel, retry, decide."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from gateway.bodies import Route
from gateway.callers.authentication import OPERATOR
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, connection_of
from gateway.headers import OptionalVersion, RequiredVersion, etag
from gateway.job_views import Job, job_of
from workers.runtime.operate.changes import cancel_own_job, retry_job
from workers.runtime.operate.decisions import decide_job
from workers.runtime.operate.jobs import JobView, find_job
from workers.runtime.refusals import Forbidden

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], route_class=Route)

Writer = Annotated[Caller, Depends(require("jobs:write"))]
MAX_REASON_CHARACTERS = 1_000
_ETAG = {"ETag": {"description": "the job's version", "schema": {"type": "string"}, "example": '"2"'}}


class Because(BaseModel):
    """Why somebody changes a job. The history keeps it."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, min_length=1, max_length=MAX_REASON_CHARACTERS, examples=["no longer wanted"])


class DecisionRequest(Because):
    """A decision: the state that the job goes to."""

    into: str = Field(min_length=1, max_length=40, examples=["approved"])
    until: AwareDatetime | None = Field(None, description="deadline, if the decision leads to a further wait")


def _shown(response: Response, job: JobView) -> Job:
    response.headers["ETag"] = etag(job.version)
    return job_of(job)


@router.post(
    "/cancel", operation_id="cancel_job", summary="Cancel a job", responses={200: {"headers": _ETAG, "model": Job}}
)
async def cancel(
    request: Request,
    response: Response,
    job_id: UUID,
    *,
    caller: Writer,
    version: OptionalVersion,
    because: Because | None = None,
) -> Job:
    """Cancel a job that is ready, waiting or running. A run is stopped within a second; its result does not count.

    A job that has ended is refused with 409.
    """
    actor = actor_of(request, caller, reason=because.reason if because else None)
    async with connection_of(request, caller) as conn:
        return _shown(response, await cancel_own_job(conn, job_id, actor, version=version))


@router.post(
    "/retry", operation_id="retry_job", summary="Retry a failed job", responses={200: {"headers": _ETAG, "model": Job}}
)
async def retry(
    request: Request,
    response: Response,
    job_id: UUID,
    *,
    caller: Writer,
    version: OptionalVersion,
    because: Because | None = None,
) -> Job:
    """Send a failed job back to the step in which it failed. Only operators; a service enqueues the job again."""
    actor = actor_of(request, caller, reason=because.reason if because else None)
    async with connection_of(request, caller) as conn:
        if caller.role != OPERATOR:
            await find_job(conn, job_id)
            raise Forbidden(
                "only an operator retries a job", remedy='enqueue it again, with its key and on_failed: "rerun"'
            )
        return _shown(response, await retry_job(conn, job_id, actor, version=version))


@router.post(
    "/decide",
    operation_id="decide_job",
    summary="Decide what a job waits for",
    responses={200: {"headers": _ETAG, "model": Job}},
)
async def decide(
    request: Request,
    response: Response,
    job_id: UUID,
    *,
    caller: Writer,
    version: RequiredVersion,
    decision: DecisionRequest,
) -> Job:
    """Let a waiting job go on, or end it. Of several decisions about one version, exactly one wins."""
    actor = actor_of(request, caller, reason=decision.reason)
    until: datetime | None = decision.until
    async with connection_of(request, caller) as conn:
        found = await decide_job(conn, job_id, actor, into=decision.into, version=version, until=until)
        return _shown(response, found)
