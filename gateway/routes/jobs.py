"""Jobs: enqueue one, show one, its history and its result."""

from collections.abc import Mapping
from datetime import UTC
from functools import partial
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, connection_of, session_of, settings_of
from gateway.headers import IdempotencyKey, etag
from gateway.job_options import complete_options
from gateway.job_requests import JobRequest, in_request
from gateway.job_views import Job, Outcome, Transition, job_of, transition_of
from gateway.resources import services_of
from gateway.views import Limit, Page, View
from gateway.waiting import Wait, wait_for_end
from workers.runtime.database import raw_of, retry_if_broken
from workers.runtime.enqueue_at_once import SETTINGS, EnqueuedAtOnce, can_enqueue_at_once, enqueue_at_once
from workers.runtime.enqueue_validation import EnqueueError
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.operate.jobs import JobView, enqueue_job, find_job, list_transitions, read_result

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)

Reader = Annotated[Caller, Depends(require("jobs:read"))]
Writer = Annotated[Caller, Depends(require("jobs:write"))]
_ETAG = {"ETag": {"description": "the job's version", "schema": {"type": "string"}, "example": '"1"'}}
_REPLAYED = {"Idempotent-Replayed": {"description": "true: the key had a job", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "path of the job", "schema": {"type": "string"}}}


@router.post(
    "",
    operation_id="enqueue_job",
    summary="Enqueue one job",
    status_code=201,
    response_class=Response,
    responses={
        201: {"model": Job, "description": "a new job", "headers": _ETAG | _LOCATION},
        200: {"model": Job, "description": "the job of a repeated key, as it is now", "headers": _ETAG | _REPLAYED},
    },
)
async def enqueue(
    request: Request, wanted: JobRequest, caller: Writer, key: IdempotencyKey, wait: Wait = 0
) -> Response:
    """Enqueue a job of any stage. The payload is checked by the rules of the stage.

    With an idempotency key the request may be repeated: the same key with the same payload returns the first job, with
    another payload it is refused. The key belongs to the tenant and to the table of the stage. After a failed or
    cancelled end, `on_failed: "rerun"` makes a new job.
    """
    job = wanted.job()
    try:
        complete_options(request, job, key)
        done = await _enqueue(request, caller, wanted, job)
    except (EnqueueError, UnknownStageError) as error:
        raise in_request(error) from None
    shown = done.first if done.first and not wait else await _read_enqueued(request, caller, done, wait)
    headers = {"ETag": etag(shown.version), "Location": f"/v1/jobs/{done.id}"}
    if not done.created:
        headers["Idempotent-Replayed"] = "true"
    return Response(shown.model_dump_json(), 201 if done.created else 200, headers, "application/json")


class _Enqueued(NamedTuple):
    """The committed job of a request; ``first`` shows it as it was made, None for the job of a known key."""

    id: UUID
    created: bool
    first: Job | None


async def _enqueue(request: Request, caller: Caller, wanted: JobRequest, job: Mapping[str, Any]) -> _Enqueued:
    if can_enqueue_at_once(job):
        settings = await settings_of(request, caller, **SETTINGS)
        enqueue_it = partial(enqueue_at_once, services_of(request).database, settings, wanted.stage, job)
        # With a key it may be done twice.
        done = await (retry_if_broken(enqueue_it) if job.get("idempotency_key") else enqueue_it())
        first = None if done.created_at is None else _new_job(done, wanted, job)
        return _Enqueued(done.id, done.created, first)
    async with session_of(request, caller) as session:
        made = await enqueue_job(session, wanted.stage, job, actor_of(request, caller))
        found = job_of(await find_job(await raw_of(session), made.id))
    return _Enqueued(made.id, made.created, found if made.created else None)


async def _read_enqueued(request: Request, caller: Caller, done: _Enqueued, wait: float) -> Job:
    """Return the job as it is now, or as it was made if it cannot be read any more.

    A client that got an error instead would enqueue its job once more.
    """
    try:
        return job_of(await _read(request, caller, done.id, wait))
    except ClientDisconnect:
        raise
    except Exception as error:
        if done.first is None:
            raise
        log.warning("new_job_not_read", job_id=str(done.id), error=f"{type(error).__name__}: {error}")
        return done.first


def _new_job(done: EnqueuedAtOnce, wanted: JobRequest, job: Mapping[str, Any]) -> Job:
    """Return a new job without reading it: all else is as every job begins."""
    assert done.table is not None
    assert done.created_at is not None
    assert done.max_retries is not None
    cycle = done.table.lifecycle
    return Job(
        id=done.id,
        stage=cycle.steps[0].stage,
        status=cycle.public_name(cycle.initial),
        version=1,
        priority=wanted.priority,
        progress=0,
        retry_count=0,
        max_retries=done.max_retries,
        due_at=wanted.due_at and wanted.due_at.astimezone(UTC),
        idempotency_key=job.get("idempotency_key"),
        created_at=done.created_at,
        updated_at=done.created_at,
    )


async def _read(request: Request, caller: Caller, job_id: UUID, wait: float) -> JobView:
    """Return a job that the caller sees, after it has ended or the time is up."""
    async with connection_of(request, caller) as conn:
        job = await find_job(conn, job_id)
    if wait and job.completed_at is None:
        await wait_for_end(request, job, wait)
        async with connection_of(request, caller) as conn:
            job = await find_job(conn, job_id)
    return job


@router.get(
    "/{job_id}", operation_id="show_job", summary="Show one job", responses={200: {"headers": _ETAG, "model": Job}}
)
async def show(request: Request, response: Response, job_id: UUID, caller: Reader, wait: Wait = 0) -> Job:
    """Return the job as it is now, or with `wait` as it is at its end. A job of another tenant does not exist."""
    job = job_of(await _read(request, caller, job_id, wait))
    response.headers["ETag"] = etag(job.version)
    return job


@router.get("/{job_id}/transitions", operation_id="list_transitions", summary="List the changes of a job's state")
async def transitions(
    request: Request,
    job_id: UUID,
    caller: Reader,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9]{1,9}$", description="`next` of the page before: a version")
    ] = None,
) -> Page[Transition]:
    """Return the history of a job, oldest first. It is kept longer than the job, for operators."""
    async with connection_of(request, caller) as conn:
        found = await list_transitions(conn, job_id, after=int(cursor or 0), limit=limit + 1)
    items = [transition_of(one) for one in found[:limit]]
    return Page(items=items, next=str(items[-1].version) if len(found) > limit else None)


class Result(View):
    """What a job has found."""

    id: UUID
    outcome: Outcome | None = Field(None, description="null until the job has ended")
    version: int
    result: dict[str, Any] | None = Field(None, description="null unless the job has completed")
    error: str | None = Field(None, description="why it failed")


@router.get(
    "/{job_id}/result",
    operation_id="read_result",
    summary="Read the result of a job",
    responses={200: {"headers": _ETAG, "model": Result}},
)
async def result(request: Request, response: Response, job_id: UUID, caller: Reader, wait: Wait = 0) -> Result:
    """Return the result of a completed job, by the names of its stage's results; null before it has completed."""
    if wait:
        await _read(request, caller, job_id, wait)
    async with connection_of(request, caller) as conn:
        found = await read_result(conn, job_id)
    response.headers["ETag"] = etag(found.job.version)
    return Result(
        id=job_id,
        outcome=found.outcome,
        version=found.job.version,
        result=None if found.values is None else dict(found.values),
        error=found.job.error_message if found.outcome != "completed" else None,
    )
