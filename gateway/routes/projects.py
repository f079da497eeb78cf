"""Projects: the containers of records, guidelines and jobs."""

from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route, max_body
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import RequiredVersion, etag
from gateway.parameters import Body, Filters, Name, Paging, Text
from gateway.started_jobs import mark_created
from gateway.uploads import read_large, require_media_type
from gateway.views import Page, View
from workers.analytics import guidelines
from workers.operations import projects
from workers.operations.projects import MAX_PDF_BYTES, MAX_PROJECT_NAME_CHARACTERS, ListedProject, ProjectView
from workers.runtime.versions import version_at
from workers.vectorization.enqueue_embedding import embed_project

router = APIRouter(prefix="/v1/projects", tags=["operations"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operations:read"))]
Writer = Annotated[Caller, Depends(require("operations"))]
_PDF = "application/pdf"
_PDF_BODY = {"requestBody": {"required": True, "content": {_PDF: {"schema": {"type": "string", "format": "binary"}}}}}


class ProjectName(Body):
    """The name of a project, unique over all users."""

    name: Text = Field(min_length=1, max_length=MAX_PROJECT_NAME_CHARACTERS, examples=["corpus"])


class FileName(Filters):
    """The query of an upload."""

    file_name: Name = Field("guidelines.pdf", description="the name that people see")


class StoredGuidelines(View):
    """The guidelines that were stored."""

    file_name: str
    size_bytes: int
    warning: str | None = Field(None, description="why an analysis cannot read them, or some of their pages")


class StartedJobs(View):
    """The jobs of a request. `GET /v1/jobs/{id}` shows each."""

    job_ids: list[UUID]


@router.get("", operation_id="list_projects", summary="List projects by name")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[ListedProject]:
    """Users read all projects; only the owner of a project and admins change it."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await projects.list_page(session, limit=listing.wanted, after=listing.after_text())
    return listing.page(found, lambda one: one.name)


@router.post(
    "",
    operation_id="create_project",
    summary="Create a project",
    status_code=201,
    responses={200: {"description": "the caller has this project already"}},
)
async def create(request: Request, response: Response, caller: Writer, body: ProjectName) -> ProjectView:
    """It belongs to the caller's user."""
    async with session_of(request, caller) as session:
        found, created = await projects.create(session, body.name, actor=actor_of(request, caller))
        view = await projects.view_by_id(session, found.id)
    response.headers["Location"] = f"/v1/projects/{view.id}"
    mark_created(response, created=created)
    return view


@router.get("/{project_id}", operation_id="get_project", summary="Show a project with its counts and last analyses")
async def get(request: Request, response: Response, caller: Reader, project_id: UUID) -> ProjectView:
    async with session_of(request, caller) as session:
        found = await projects.view_by_id(session, project_id)
    response.headers["ETag"] = etag(version_at(found.updated_at))
    return found


@router.patch("/{project_id}", operation_id="rename_project", summary="Rename a project")
async def rename(
    request: Request,
    response: Response,
    *,
    caller: Writer,
    project_id: UUID,
    body: ProjectName,
    version: RequiredVersion,
) -> ProjectView:
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        await projects.rename(session, project_id, body.name, version=version, actor=actor)
        found = await projects.view_by_id(session, project_id)
    response.headers["ETag"] = etag(version_at(found.updated_at))
    return found


@router.delete(
    "/{project_id}",
    operation_id="delete_project",
    summary="Delete a project with its records, ratings, files and jobs",
    status_code=204,
)
async def delete(request: Request, caller: Writer, project_id: UUID) -> None:
    """Its unfinished jobs are cancelled."""
    async with session_of(request, caller) as session:
        found = await projects.find_by_id(session, project_id)
        await projects.remove(session, found, actor=actor_of(request, caller))


@router.get(
    "/{project_id}/guidelines",
    operation_id="get_guidelines",
    summary="Download the guidelines of a project",
    response_class=Response,
    responses={200: {"content": {_PDF: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def get_guidelines(request: Request, caller: Reader, project_id: UUID) -> Response:
    async with session_of(request, caller) as session:
        found = await guidelines.read_file(session, project_id)
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}"}
    return Response(found.pdf, media_type=_PDF, headers=headers)


@router.put(
    "/{project_id}/guidelines",
    operation_id="put_guidelines",
    summary="Set the guidelines with which the records of a project are compared",
    openapi_extra=_PDF_BODY,
)
@max_body(MAX_PDF_BYTES)
async def put_guidelines(
    request: Request, caller: Writer, project_id: UUID, query: Annotated[FileName, Query()]
) -> StoredGuidelines:
    """The body is the PDF. It must contain text: pictures of pages are not read."""
    require_media_type(request, _PDF)
    async with session_of(request, caller) as session:
        await projects.require_change(session, project_id)
    pdf = await read_large(request)
    async with session_of(request, caller) as session:
        found = await projects.require_change(session, project_id)
        await projects.set_guidelines(session, found, pdf, query.file_name, actor=actor_of(request, caller))
    warning = await guidelines.problem_of(pdf)
    return StoredGuidelines(file_name=query.file_name, size_bytes=len(pdf), warning=warning)


@router.post(
    "/{project_id}/embed",
    operation_id="embed_project",
    summary="Embed the records without a vector of the current model",
    status_code=201,
)
async def embed(request: Request, caller: Writer, project_id: UUID) -> StartedJobs:
    """One job per type of record."""
    async with session_of(request, caller) as session:
        found = await projects.require_change(session, project_id)
        return StartedJobs(job_ids=await embed_project(session, found.id, actor=actor_of(request, caller)))
