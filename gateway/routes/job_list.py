"""List jobs."""

import hashlib
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import connection_of
from gateway.job_views import Job, job_of
from gateway.problems import HttpProblem
from gateway.views import DEFAULT_LIMIT, Cursor, Limit, Page
from workers.runtime.operate.jobs import JobFilter, list_jobs
from workers.runtime.refusals import Problem, quoted

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)


@router.get("", operation_id="list_jobs", summary="List jobs, the newest first")
async def list_(
    request: Request,
    *,
    caller: Annotated[Caller, Depends(require("jobs:read"))],
    stage: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    status: Annotated[
        str | None, Query(min_length=1, max_length=40, description="a state or a group of states")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Job]:
    """Return the jobs that you may see, a page at a time."""
    mark = hashlib.sha256(f"{stage}\n{status}".encode()).hexdigest()[:12]
    after = None if cursor is None else _read_cursor(cursor, mark)
    async with connection_of(request, caller) as conn:
        found = await list_jobs(conn, JobFilter(stage=stage, status=status), limit=limit + 1, after=after)
    more = len(found) > limit
    return Page(
        items=[job_of(job) for job in found[:limit]], next=f"{mark}.{found[limit - 1].id.hex}" if more else None
    )


def _read_cursor(cursor: str, mark: str) -> UUID:
    """Return the id after which the page begins; refuse the cursor of another list."""
    before, _, id_ = cursor.partition(".")
    try:
        if before == mark:
            return UUID(hex=id_)
    except ValueError:
        pass
    problem = Problem("cursor", "must be `next` of a page with the same filters", quoted(cursor))
    raise HttpProblem("invalid", str(problem), errors=[problem])
