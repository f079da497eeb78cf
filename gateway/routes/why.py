"""What a job waits for."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import connection_of
from gateway.resources import services_of
from workers.runtime.operate.jobs import Why, explain_job, look_at_leader

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)
Reader = Annotated[Caller, Depends(require("jobs:read"))]


@router.get(
    "/{job_id}/why", operation_id="explain_job", summary="Tell what a job waits for, where it runs, how it ended"
)
async def why(request: Request, caller: Reader, job_id: UUID) -> Why:
    """One line, the facts, and a remedy if a person can help."""
    async with services_of(request).database.transaction() as conn:  # tenants may not see who leads
        leader = await look_at_leader(conn)
    async with connection_of(request, caller) as conn:
        return await explain_job(conn, job_id, leader=leader)
