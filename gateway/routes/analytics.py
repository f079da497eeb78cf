"""Analyses: judge the records of a project by its guidelines, and show the results."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import IdempotencyKey
from gateway.parameters import Filters, JobOptions, Paging, RecordType, Text, Whole
from gateway.started_jobs import REPEATED, StartedJob, answer_job
from gateway.views import Page
from workers.analytics import analyses
from workers.analytics.analyses import AnalysisReport, AnalysisView
from workers.operations import projects
from workers.operations.record_review import as_type

router = APIRouter(prefix="/v1/projects/{project_id}/analytics", tags=["operations"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operations:read"))]
Writer = Annotated[Caller, Depends(require("operations"))]
STAGE = "analytics.align"


class NewAnalysis(JobOptions):
    """What is judged, and the options of the job."""

    type: RecordType | None = Field(None, description="unset: tasks and feedback")
    model: Text | None = Field(None, min_length=1, max_length=255, description="unset: the configured model")


class ReportFilter(Filters):
    """How much of a report is shown."""

    failures: Whole = Field(100, ge=0, le=10_000, description="how many failed records at most")


@router.get("", operation_id="list_analyses", summary="List the analyses of a project, newest first")
async def list_(
    request: Request, caller: Reader, project_id: UUID, paging: Annotated[Paging, Query()]
) -> Page[AnalysisView]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        await projects.find_by_id(session, project_id)
        found = await analyses.list_analyses(
            session, project_id=project_id, limit=listing.wanted, after=listing.after_id()
        )
    return listing.page(found, lambda one: one.id)


@router.post(
    "",
    operation_id="start_analysis",
    summary="Enqueue a job that judges every record of a project again",
    status_code=201,
    responses=REPEATED,
)
async def start(
    request: Request, response: Response, *, caller: Writer, project_id: UUID, body: NewAnalysis, key: IdempotencyKey
) -> StartedJob:
    """409 if the project has no guidelines. Only who may change the project may give an idempotency key."""
    given = body.given(request, key)
    async with session_of(request, caller) as session:
        if "idempotency_key" in given:
            await projects.require_change(session, project_id)
        found = await projects.find_by_id(session, project_id)
        job = await analyses.start(
            session,
            found.id,
            type_=as_type(body.type),
            model=body.model,
            actor=actor_of(request, caller),
            **given,
        )
    return answer_job(response, job, STAGE)


@router.get("/{job_id}", operation_id="get_analysis", summary="Show an analysis: verdicts, judges, failed records")
async def get(
    request: Request, caller: Reader, project_id: UUID, job_id: UUID, wanted: Annotated[ReportFilter, Query()]
) -> AnalysisReport:
    """Records that a later analysis judges again count there, not here."""
    async with session_of(request, caller) as session:
        return await analyses.report(session, job_id, failures=wanted.failures, project_id=project_id)
