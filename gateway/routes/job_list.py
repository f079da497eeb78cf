"""List and count jobs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import connection_of
from gateway.job_views import Job, job_of
from gateway.views import DEFAULT_LIMIT, Cursor, Limit, Page, View
from workers.runtime.operate.lists import FILTERS, JobSearch, count_jobs, list_page, read_search

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)

_PAGING = frozenset({"limit", "cursor"})
_DESCRIBED = {
    "stage": "a stage",
    "state": "a state, or a group of states",
    "wait": "a class of wait",
    "owner": "the id of a user",
    "key": "an idempotency key",
    "error": "a fingerprint of an error",
    "from": "the jobs that were enqueued since this time",
    "to": "the jobs that were enqueued before this time",
}
# The use-case reads the filters, also those that stages declare: here they are described only.
_FILTERS = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": _DESCRIBED[name],
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
        for name in FILTERS
    ]
}


class JobCount(View):
    """How many jobs match. If ``is_more``, there are more than that."""

    jobs: int
    is_more: bool


def search_in(request: Request) -> JobSearch:
    """Return the filters of a request; raise a Refusal that lists the filters if one does not exist."""
    return read_search({name: value for name, value in request.query_params.items() if name not in _PAGING})


@router.get("", operation_id="list_jobs", summary="List jobs, the newest first", openapi_extra=_FILTERS)
async def list_(
    request: Request,
    *,
    caller: Annotated[Caller, Depends(require("jobs:read"))],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Job]:
    """Return the jobs that you may see, a page at a time. A page may be short, or empty, and have a next one."""
    search = search_in(request)
    async with connection_of(request, caller) as conn:
        page = await list_page(conn, search, limit=limit, cursor=cursor)
    return Page(items=[job_of(job) for job in page.jobs], next=page.next)


@router.get("/count", operation_id="count_jobs", summary="Count jobs, up to a bound", openapi_extra=_FILTERS)
async def count(request: Request, *, caller: Annotated[Caller, Depends(require("jobs:read"))]) -> JobCount:
    """Return how many of the jobs that you may see match. By stage and state alone the count is exact."""
    search = search_in(request)
    async with connection_of(request, caller) as conn:
        found = await count_jobs(conn, search)
    return JobCount(jobs=found.jobs, is_more=found.is_more)
