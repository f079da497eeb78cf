"""Routes of calls: by which providers and models they go, and whose calls take which."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.parameters import Body, Filters, Id, Name, Paging, PathName, Text
from gateway.resources import services_of
from gateway.views import Page, View
from workers.llm.operate import routes
from workers.llm.operate.routes import MAX_STEPS, RouteView
from workers.operations import projects
from workers.runtime.database import Transaction

router = APIRouter(prefix="/v1/llm", tags=["language models"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
Serves = Literal["chat", "embeddings"]
_Prefix = Annotated[Text, Field(max_length=150)]


class Step(Body):
    """The model of a provider, and how it is asked."""

    provider: Name = Field(max_length=40)
    model: Name = Field(max_length=200, examples=["gpt-4o-mini"])
    max_tokens: int | None = Field(None, ge=1, le=10_000_000)
    context_tokens: int | None = Field(None, ge=1, le=100_000_000)
    document_prefix: _Prefix = ""
    query_prefix: _Prefix = ""


class Steps(Body):
    """The steps of a route, in their order; each is tried once."""

    steps: list[Step] = Field(min_length=1, max_length=MAX_STEPS)


class NewRoute(Steps):
    """A route to add."""

    name: Name = Field(max_length=40)
    serves: Serves = "chat"


class Binding(Body):
    """Whose calls take a route: those of a stage, of a project, of both; of neither: all."""

    stage: Name | None = None
    project_id: Id | None = None


class BindingFilter(Filters):
    """Which binding is undone."""

    serves: Serves = "chat"
    stage: Name | None = None
    project_id: UUID | None = None


class Unbound(View):
    """The route that was bound there."""

    route: str


@router.get("/routes", operation_id="list_routes", summary="List routes with their steps, and whose calls take them")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[RouteView]:
    """Those that calls take by default come first."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await routes.list_routes(await services_of(request).resources.read_routing(session))
    return listing.cut(found, lambda one: one.name)


@router.post("/routes", operation_id="add_route", summary="Add a route", status_code=201)
async def add(request: Request, caller: Operator, body: NewRoute) -> RouteView:
    """A job takes it by the model `route:NAME`, or by a binding. Running processes follow within seconds."""
    async with session_of(request, caller) as session:
        name = await routes.add_route(session, body.model_dump(), actor=actor_of(request, caller))
        return await _view(request, session, name)


@router.get("/routes/{name}", operation_id="get_route", summary="Show a route")
async def get(request: Request, caller: Reader, name: PathName) -> RouteView:
    async with session_of(request, caller) as session:
        return await _view(request, session, name)


@router.put("/routes/{name}/steps", operation_id="put_steps", summary="Give a route other steps")
async def put_steps(request: Request, caller: Operator, name: PathName, body: Steps) -> RouteView:
    """Calls under way go on by the old ones."""
    async with session_of(request, caller) as session:
        await routes.set_steps(session, name, body.model_dump()["steps"], actor=actor_of(request, caller))
        return await _view(request, session, name)


@router.delete("/routes/{name}", operation_id="delete_route", summary="Delete a route", status_code=204)
async def delete(request: Request, caller: Operator, name: PathName) -> None:
    """409 while something is bound to it."""
    async with session_of(request, caller) as session:
        await routes.remove_route(session, name, actor=actor_of(request, caller))


@router.post("/routes/{name}/bindings", operation_id="bind_route", summary="Have calls take a route")
async def bind(request: Request, caller: Operator, name: PathName, body: Binding) -> RouteView:
    """The most specific binding counts."""
    async with session_of(request, caller) as session:
        if body.project_id is not None:
            await projects.find_by_id(session, body.project_id)
        actor = actor_of(request, caller)
        await routes.bind_route(session, name, stage=body.stage, project_id=body.project_id, actor=actor)
        return await _view(request, session, name)


@router.delete("/bindings", operation_id="unbind_route", summary="Undo exactly this binding")
async def unbind(request: Request, caller: Operator, query: Annotated[BindingFilter, Query()]) -> Unbound:
    """Calls take the next less specific one again."""
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        was = await routes.unbind_route(
            session, query.serves, stage=query.stage, project_id=query.project_id, actor=actor
        )
    return Unbound(route=was)


async def _view(request: Request, session: Transaction, name: str) -> RouteView:
    return await routes.show_route(await services_of(request).resources.read_routing(session), name)
