"""Streams of events (SSE): of one job, of a stage, of a project, of all jobs."""

import asyncio
import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from gateway.bodies import Route
from gateway.callers.authentication import OPERATOR, authorization_of
from gateway.callers.caller import Caller
from gateway.callers.dependencies import is_allowed, require
from gateway.callers.sessions import connection_of, session_of
from gateway.events.sources import CallerViewer, FeedSource, JobSource
from gateway.events.streams import EventStream, Source
from gateway.limits import leave_place
from gateway.problems import HttpProblem, MissingScope, Unauthenticated
from gateway.resources import services_of
from workers.operations import projects
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.operate.jobs import find_job
from workers.runtime.operate.known import check_stage
from workers.runtime.refusals import NotFound, Problem, quoted
from workers.runtime.store.feed import FeedFilter, FeedPosition

router = APIRouter(prefix="/v1", tags=["streams"], route_class=Route)

SCOPE = "jobs:read"
MAX_ID_CHARACTERS = 300
START_SECONDS = 10.0
Reader = Annotated[Caller, Depends(require(SCOPE))]
_EXAMPLE = 'event: transition\nid: 2\ndata: {"job_id": "…", "version": 2, "new_state": "processing", …}\n\n'
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a stream of events",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}


async def _find_place(
    after: Annotated[
        str | None,
        Query(max_length=MAX_ID_CHARACTERS, description="id of the last event; `Last-Event-ID` counts more"),
    ] = None,
    last: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=MAX_ID_CHARACTERS, description="what an EventSource sends"),
    ] = None,
) -> str | None:
    """Return the id after which the stream begins; None if the client has none."""
    return last or after


Place = Annotated[str | None, Depends(_find_place)]


def _answer(request: Request, caller: Caller, source: Source) -> Response:
    """Return the stream of ``source``. From now on the request takes no place among the running ones."""
    leave_place(request)
    services = services_of(request)
    header = authorization_of(request)

    async def check() -> None:
        """Raise if the caller's key or token is not valid any more, or allows less."""
        now = await services.authenticator.authenticate(header)
        if now.user_id != caller.user_id or now.role != caller.role:
            raise Unauthenticated
        if not is_allowed(now.scopes, SCOPE):
            raise MissingScope(SCOPE)

    return EventStream(source, services.streams, check=check)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="follow_job",
    summary="Follow one job",
    response_class=Response,
    responses=_STREAM | {204: {"description": "the job has ended, and there is nothing after this id"}},
)
async def follow_job(request: Request, job_id: UUID, caller: Reader, place: Place) -> Response:
    """Every transition of a job once, from its first or after an id, until it ends.

    The id of a transition is the job's version. Events named `progress` have no id: they show the percentage.
    """
    after = _version_in(place)
    async with connection_of(request, caller) as conn:
        job = await find_job(conn, job_id)
    if job.completed_at is not None and after >= job.version:
        return Response(status_code=204)  # tells an EventSource not to come back
    return _answer(request, caller, JobSource(services_of(request).events, job, after=after))


def _version_in(place: str | None) -> int:
    if place is not None and not re.fullmatch("[0-9]{1,9}", place):
        problem = Problem("after", "must be a version of the job", quoted(place))
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return int(place or 0)


@router.get(
    "/events", operation_id="follow_jobs", summary="Follow all jobs", response_class=Response, responses=_STREAM
)
async def follow_all(request: Request, caller: Reader, place: Place) -> Response:
    """Every transition of your own jobs once; of all jobs for an operator. It begins now, or after an id.

    The stream tells its position at once and after each silence, as an `id` without data. Transitions come in the order
    of their transactions, so none is ever behind you.
    """
    return await _follow(request, caller, place, FeedFilter(owner_id=_owner(caller)))


@router.get(
    "/stages/{stage}/events",
    operation_id="follow_stage",
    summary="Follow a stage",
    response_class=Response,
    responses=_STREAM,
)
async def follow_stage(
    request: Request, stage: Annotated[str, Path(min_length=1, max_length=100)], caller: Reader, place: Place
) -> Response:
    """Every transition of your own jobs in a stage once; of all jobs of the stage for an operator."""
    async with connection_of(request, caller) as conn:
        try:
            await check_stage(conn, stage)
        except UnknownStageError as error:
            raise NotFound(str(error)) from None
    return await _follow(request, caller, place, FeedFilter(stages=(stage,), owner_id=_owner(caller)))


@router.get(
    "/projects/{project_id}/events",
    operation_id="follow_project",
    summary="Follow a project",
    response_class=Response,
    responses=_STREAM,
)
async def follow_project(request: Request, project_id: UUID, caller: Reader, place: Place) -> Response:
    """Every transition of all jobs about a project once."""
    async with session_of(request, caller) as session:
        project = await projects.find(session, str(project_id))
    return await _follow(request, caller, place, FeedFilter(about=("project_id", project.id)))


def _owner(caller: Caller) -> UUID | None:
    return None if caller.role == OPERATOR else caller.user_id


async def _follow(request: Request, caller: Caller, place: str | None, only: FeedFilter) -> Response:
    after = None if place is None else FeedPosition.parse(place)
    leave_place(request)
    async with asyncio.timeout(START_SECONDS):  # Postgres may be away
        following = await services_of(request).feed.follow(CallerViewer(request, caller), only, after=after)
    return _answer(request, caller, FeedSource(following))
