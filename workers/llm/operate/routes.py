"""Routes: list them, add one with its steps, change the steps, bind it to a stage or a project, remove it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.providers import Provider
from models.llm.routes import Route, RouteBinding, RouteStep
from workers.llm.calls import Kind
from workers.llm.operate.providers import MADE_ELSEWHERE, Name
from workers.llm.operate.refusals import (
    Exists,
    InUse,
    LlmRefusal,
    Unknown,
    checked,
    matching,
    require_known,
    require_stage,
)
from workers.llm.routing.routing import DEFAULT_OF, Routing
from workers.llm.routing.routing import Route as Followed
from workers.llm.routing.routing import Step as FollowedStep
from workers.runtime.actor import NOBODY, Actor, acting

LIST = "`gristmill llm routes` shows them"
_MODEL_RULE = "be a model name such as gpt-4o-mini or vendor/model:tag"
Model = Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*", _MODEL_RULE, longest=200)]
Prefix = Annotated[str, StringConstraints(max_length=150)]
MAX_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One step of a route; without a ``model`` the one that a job names is asked."""

    position: int
    provider: str
    model: str | None
    max_tokens: int | None
    context_tokens: int | None
    document_prefix: str
    query_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingView:
    """Whose calls take a route: those of a stage, of a project, of both; None: of any."""

    stage: str | None
    project_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """A route with its steps in their order, and whose calls take it. ``problem`` says why it cannot be taken."""

    name: str
    serves: Kind
    origin: str
    steps: Sequence[StepView]
    bindings: Sequence[BindingView]
    problem: str | None


class NewStep(BaseModel):
    """The model of a provider, and how it is asked."""

    model_config = ConfigDict(extra="forbid")

    provider: Name
    model: Model
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    document_prefix: Prefix = ""
    query_prefix: Prefix = ""


class NewRoute(BaseModel):
    """What a route is made of."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    serves: Literal["chat", "embeddings"] = "chat"
    steps: Annotated[list[NewStep], Field(min_length=1, max_length=MAX_STEPS)]


async def list_routes(routing: Routing) -> list[RouteView]:
    """Return every route: those that calls take by default first, then by name."""
    defaults = list(DEFAULT_OF.values())
    ordered = sorted(
        routing.routes.values(),
        key=lambda one: (defaults.index(one.name) if one.name in defaults else len(defaults), one.name),
    )
    return [_view(one, routing) for one in ordered]


async def show_route(routing: Routing, name: str) -> RouteView:
    """Return one route; raise Unknown."""
    require_known("route", name, routing.routes, remedy=LIST)
    return _view(routing.routes[name], routing)


async def add_route(session: AsyncSession, given: Mapping[str, Any], *, actor: Actor = NOBODY) -> str:
    """Add a route with its steps; return its name. Running processes follow within seconds.

    One that is named ``default`` or ``default-embeddings`` takes the place of the one that needs no row.
    """
    new = checked(NewRoute, given, whole="route")
    _require_sound(new)
    async with acting(session, actor):
        row = insert(Route).values(name=new.name, serves=new.serves).on_conflict_do_nothing().returning(Route.name)
        if await session.scalar(row) is None:
            raise Exists(f"route {new.name!r} exists already", remedy="`gristmill llm routes steps` changes its steps")
        await _write_steps(session, new.name, new.steps)
    return new.name


async def set_steps(
    session: AsyncSession, name: str, steps: Sequence[Mapping[str, Any]], *, actor: Actor = NOBODY
) -> None:
    """Give a route these steps in the place of those it had. Calls under way go on by the old ones."""
    async with acting(session, actor):
        row = await _get(session, name)
        new = checked(NewRoute, {"name": row.name, "serves": row.serves, "steps": list(steps)}, whole="route")
        _require_sound(new)
        await session.execute(delete(RouteStep).where(RouteStep.route == name))
        await _write_steps(session, name, new.steps)


async def remove_route(session: AsyncSession, name: str, *, actor: Actor = NOBODY) -> None:
    """Delete a route with its steps; raise InUse while something is bound to it."""
    async with acting(session, actor):
        await _get(session, name)
        query = select(RouteBinding).where(RouteBinding.route == name)
        bound = [_whose(row.stage, row.project_id) for row in await session.scalars(query)]
        if bound:
            raise InUse(
                f"route {name!r} is taken by {', '.join(sorted(bound))}", remedy="`gristmill llm routes unbind` first"
            )
        await session.execute(delete(Route).where(Route.name == name))


async def bind_route(
    session: AsyncSession,
    name: str,
    *,
    stage: str | None = None,
    project_id: UUID | None = None,
    actor: Actor = NOBODY,
) -> str:
    """Have the calls of a stage, of a project, of a stage of a project, or all take a route; return whose, in words.

    The most specific binding counts. Raise Unknown for a route that has no row, UnknownStageError for no stage.
    """
    await require_stage(session, stage)
    async with acting(session, actor):
        row = await _get(session, name)
        values = {"serves": row.serves, "stage": stage, "project_id": project_id, "route": name}
        await session.execute(
            insert(RouteBinding)
            .values(values)
            .on_conflict_do_update(constraint="uq_route_bindings_serves_stage_project_id", set_={"route": name})
        )
    return _whose(stage, project_id)


async def unbind_route(
    session: AsyncSession,
    serves: Kind,
    *,
    stage: str | None = None,
    project_id: UUID | None = None,
    actor: Actor = NOBODY,
) -> str:
    """Undo exactly this binding; return the route that it was. Calls take the next less specific one again."""
    async with acting(session, actor):
        gone: str | None = await session.scalar(
            delete(RouteBinding)
            .where(
                RouteBinding.serves == serves,
                RouteBinding.stage.is_not_distinct_from(stage),
                RouteBinding.project_id.is_not_distinct_from(project_id),
            )
            .returning(RouteBinding.route)
        )
    if gone is None:
        raise Unknown(f"no route for {serves} is bound to {_whose(stage, project_id)}; {LIST}")
    return gone


async def _get(session: AsyncSession, name: str) -> Route:
    found = await session.get(Route, name, with_for_update=True)
    if found is None:
        if name in DEFAULT_OF.values():
            raise LlmRefusal(
                f"route {name!r} has no row: it follows the environment and the system settings",
                remedy=f"`gristmill llm routes add {name} --step PROVIDER/MODEL` gives it one",
            )
        require_known("route", name, list(await session.scalars(select(Route.name))), remedy=LIST)
    assert found is not None
    return found


async def _write_steps(session: AsyncSession, route: str, steps: Sequence[NewStep]) -> None:
    # Whoever removes one of them meanwhile waits, and then sees these steps.
    known = set(await session.scalars(select(Provider.name).with_for_update(read=True, key_share=True)))
    for step in steps:
        if step.provider in MADE_ELSEWHERE:
            raise LlmRefusal(
                f"a step needs a provider with a row, and provider {step.provider} {MADE_ELSEWHERE[step.provider]}",
                remedy="`gristmill llm providers add` makes one",
            )
        require_known("provider", step.provider, known, remedy="`gristmill llm providers` shows them")
    await session.execute(
        insert(RouteStep),
        [{"route": route, "position": position, **step.model_dump()} for position, step in enumerate(steps)],
    )


def _require_sound(new: NewRoute) -> None:
    """Raise LlmRefusal for steps that no process would follow."""
    asked = [(step.provider, step.model) for step in new.steps]
    twice = next((one for one in asked if asked.count(one) > 1), None)
    if twice is not None:
        raise LlmRefusal(f"step {'/'.join(twice)} is given twice: each is tried once")
    if new.serves != "embeddings":
        return
    vectors = {FollowedStep(**step.model_dump()).vectors for step in new.steps}
    if len(vectors) > 1:
        raise LlmRefusal(
            "a route for embeddings must ask one model with one prefix, for vectors of others cannot be compared; "
            f"got {', '.join(sorted(vectors))}"
        )
    if len(prefixes := {step.query_prefix for step in new.steps}) > 1:
        raise LlmRefusal(
            "a route for embeddings must have one query_prefix, for the same query must find the same records; "
            f"got {', '.join(map(repr, sorted(prefixes)))}"
        )


def _view(one: Followed, routing: Routing) -> RouteView:
    return RouteView(
        name=one.name,
        serves=one.serves,
        origin=one.origin,
        steps=[
            StepView(
                position=position,
                provider=step.provider,
                model=step.model,
                max_tokens=step.max_tokens,
                context_tokens=step.context_tokens,
                document_prefix=step.document_prefix,
                query_prefix=step.query_prefix,
            )
            for position, step in enumerate(one.steps)
        ],
        bindings=[
            BindingView(stage=stage, project_id=project)
            for (_, stage, project), route in routing.bindings.items()
            if route == one.name
        ],
        problem=routing.problem_of(one),
    )


def _whose(stage: str | None, project_id: UUID | None) -> str:
    if stage and project_id:
        return f"stage {stage} of project {project_id}"
    return f"stage {stage}" if stage else f"project {project_id}" if project_id else "all calls"
