"""The store of assessments: create, list, show, change, cancel, audit, metrics."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import RequiredVersion, etag
from gateway.parameters import Body, Filters, JsonObject, Name, Paging, PathName, Reason, Text, Why, reason_of
from gateway.started_jobs import mark_created
from gateway.views import Page, View
from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST
from workers.assessment.store import states
from workers.assessment.store.history import AuditRow, audit_trail
from workers.assessment.store.metrics import Measurement, list_measurements
from workers.assessment.store.rows import AssessmentView
from workers.runtime.refusals import Forbidden

router = APIRouter(prefix="/v1/assessments", tags=["assessments"], route_class=Route)
Reader = Annotated[Caller, Depends(require("assessments:read"))]
Writer = Annotated[Caller, Depends(require("assessments"))]
State = Literal["pending", "processing", "completed", "failed", "cancelled"]
# The largest value of the column.
MAX_TIMEOUT_SECONDS = 604_800


class Owner(Filters):
    """Whose assessment it is, for operators: names are unique per owner."""

    owner: UUID | None = Field(
        None, description="only for a key that acts for nobody; unset: no owner, or the only one"
    )


class AssessmentFilter(Paging):
    """Which assessments are listed."""

    state: State | None = None
    owner: UUID | None = Field(None, description="only for a key that acts for nobody")


class OwnedPaging(Paging):
    """The query parameters of a list about one assessment."""

    owner: UUID | None = Field(None, description="only for a key that acts for nobody")


class NewAssessment(Body):
    """An assessment to create."""

    assessment_id: Name = Field(examples=["nightly-17"])
    request: JsonObject = Field(
        description="`serverName`, `assessmentType`, `options`, …",
        examples=[{"serverName": "search", "assessmentType": "llm_rubric", "options": {"content": "…"}}],
    )
    priority: int = Field(PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST)
    timeout_seconds: int = Field(300, ge=1, le=MAX_TIMEOUT_SECONDS, description="time limit of one attempt")
    reason: Reason | None = None


class AssessmentChange(Body):
    """A change. Values that are not given stay as they are."""

    state: State = Field(description="the new state, or the present one")
    result: JsonObject | None = None
    error: Annotated[Text, Field(max_length=100_000)] | None = None
    progress: int | None = Field(None, ge=0, le=100, description="1 to 99 in the state processing")
    reason: Reason | None = None


class Created(View):
    """A created assessment."""

    assessment_id: str
    job_id: UUID
    created: bool = Field(description="false: the caller has it already, with the same request")


@router.post(
    "",
    operation_id="create_assessment",
    summary="Create an assessment",
    status_code=201,
    responses={200: {"description": "the caller has it already, with the same request"}},
)
async def create(request: Request, response: Response, caller: Writer, body: NewAssessment) -> Created:
    """422 if the caller has this `assessment_id` with another request."""
    actor = actor_of(request, caller, reason=body.reason)
    async with session_of(request, caller) as session:
        job = await states.create_once(
            session,
            body.assessment_id,
            body.request,
            priority=body.priority,
            timeout_seconds=body.timeout_seconds,
            actor=actor,
        )
    mark_created(response, created=job.created)
    return Created(assessment_id=body.assessment_id, job_id=job.id, created=job.created)


@router.get("", operation_id="list_assessments", summary="List assessments, newest first")
async def list_(request: Request, caller: Reader, wanted: Annotated[AssessmentFilter, Query()]) -> Page[AssessmentView]:
    """Of large requests and results, only the type and the verdict are shown."""
    listing = Listing(request, caller, wanted)
    owner = _owner(caller, wanted.owner)
    async with session_of(request, caller) as session:
        found = await states.list_newest(
            session, state=wanted.state, owner=owner, limit=listing.wanted, after=listing.after_id(), short=True
        )
    return listing.page(found, lambda one: one.id)


@router.get("/{assessment_id}", operation_id="get_assessment", summary="Show an assessment")
async def get(
    request: Request,
    response: Response,
    caller: Reader,
    assessment_id: PathName,
    query: Annotated[Owner, Query()],
) -> AssessmentView:
    """`ETag` is its version."""
    async with session_of(request, caller) as session:
        found = await states.get(session, assessment_id, owner=_owner(caller, query.owner))
    response.headers["ETag"] = etag(found.version)
    return found


@router.patch("/{assessment_id}", operation_id="change_assessment", summary="Change an assessment")
async def change(
    request: Request,
    response: Response,
    *,
    caller: Writer,
    assessment_id: PathName,
    body: AssessmentChange,
    version: RequiredVersion,
) -> AssessmentView:
    """Only if it still has the version of `If-Match`; a worker that runs it loses its run."""
    actor = actor_of(request, caller, reason=body.reason)
    async with session_of(request, caller) as session:
        if version is None:
            version = (await states.get(session, assessment_id, owner=caller.user_id)).version
        await states.update(
            session,
            assessment_id,
            body.state,
            version=version,
            result_data=body.result,
            error_message=body.error,
            progress=body.progress,
            actor=actor,
        )
        found = await states.get(session, assessment_id, owner=caller.user_id)
    response.headers["ETag"] = etag(found.version)
    return found


@router.post("/{assessment_id}/cancel", operation_id="cancel_assessment", summary="Cancel an assessment")
async def cancel(
    request: Request, response: Response, caller: Writer, assessment_id: PathName, body: Why | None = None
) -> AssessmentView:
    """A running one stops within a second. 409 if it has ended."""
    actor = actor_of(request, caller, reason=reason_of(body) or "cancelled by a client")
    async with session_of(request, caller) as session:
        await states.cancel(session, assessment_id, actor=actor)
        found = await states.get(session, assessment_id, owner=caller.user_id)
    response.headers["ETag"] = etag(found.version)
    return found


@router.get("/{assessment_id}/audit", operation_id="list_assessment_changes", summary="List who changed an assessment")
async def audit(
    request: Request, caller: Reader, assessment_id: PathName, wanted: Annotated[OwnedPaging, Query()]
) -> Page[AuditRow]:
    """Oldest first. It stays when the assessment is deleted."""
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        found = await audit_trail(session, assessment_id, owner=_owner(caller, wanted.owner))
    return listing.cut(found, lambda one: one.id)


@router.get(
    "/{assessment_id}/metrics", operation_id="list_assessment_metrics", summary="List measurements, oldest first"
)
async def metrics(
    request: Request, caller: Reader, assessment_id: PathName, wanted: Annotated[OwnedPaging, Query()]
) -> Page[Measurement]:
    """Times and attempts at each end, and what services wrote. An unknown assessment has none."""
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        found = await list_measurements(session, assessment_id, owner=_owner(caller, wanted.owner))
    return listing.cut(found, lambda one: one.id)


def _owner(caller: Caller, given: UUID | None) -> UUID | None:
    """Return whose assessments are meant. The database is never told another user than the caller's."""
    if caller.user_id is None:
        return given
    if given not in {None, caller.user_id}:
        raise Forbidden("owner is for keys that act for nobody: this key sees the assessments of its own user")
    return caller.user_id
