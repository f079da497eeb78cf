"""Schedules: rows that enqueue a job, or run a maintenance action, at the times of a cron expression."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import RequiredVersion, etag
from gateway.parameters import Body, JsonObject, Name, Paging, PathName
from gateway.resources import services_of
from gateway.views import Page, View
from workers.runtime.handler.registry import registry
from workers.runtime.operate import schedules
from workers.runtime.operate.schedules import NewSchedule, ScheduleView, TickView

router = APIRouter(prefix="/v1/schedules", tags=["operations of the system"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
CatchUp = Literal["skip", "one", "all"]


class _Work(Body):
    timezone: Name | None = Field(None, description="IANA time zone of `cron`; unset: UTC")
    stage: Name | None = Field(None, description="the stage of the job that it enqueues")
    payload: JsonObject | None = Field(None, description="the job's payload")
    action: Name | None = Field(None, description="a maintenance action, instead of a stage")
    catch_up: CatchUp | None = Field(None, description="times that passed while no beat ran; unset: fire one")

    def given(self) -> dict[str, Any]:
        """Return the values that were given."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class ScheduleChange(_Work):
    """The values to change."""

    cron: Name | None = Field(None, description="minute, hour, day, month, weekday", examples=["0 3 * * *"])


class AddedSchedule(_Work):
    """A schedule to add: a stage with a payload, or a maintenance action, and its times."""

    name: Name = Field(examples=["nightly"])
    cron: Name = Field(description="minute, hour, day, month, weekday", examples=["0 3 * * *"])


class Schedule(View):
    """A schedule with its newest times."""

    schedule: ScheduleView
    ticks: list[TickView]


class RunNow(View):
    """What was run: a job that was enqueued, or an action with the number of rows that it changed, by table."""

    name: str
    job_id: UUID | None
    action: str | None
    changed: Mapping[str, int] | None


@router.get("", operation_id="list_schedules", summary="List schedules by name")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[ScheduleView]:
    """Each with its last and next time, why it is refused, and the effects of clock changes."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await schedules.list_schedules(session, registry)
    return listing.cut(found, lambda one: one.name)


@router.post("", operation_id="add_schedule", summary="Add a schedule", status_code=201)
async def add(request: Request, response: Response, caller: Operator, body: AddedSchedule) -> ScheduleView:
    new = NewSchedule(**body.given())
    async with session_of(request, caller) as session:
        made = await schedules.add_schedule(session, registry, new, actor_of(request, caller))
    response.headers["Location"] = f"/v1/schedules/{quote(made.name, safe='')}"
    return made


@router.get("/{name}", operation_id="get_schedule", summary="Show a schedule with its newest times")
async def get(request: Request, response: Response, caller: Reader, name: PathName) -> Schedule:
    async with session_of(request, caller) as session:
        view, ticks = await schedules.show_schedule(session, registry, name)
    response.headers["ETag"] = etag(view.version)
    return Schedule(schedule=view, ticks=ticks)


@router.patch("/{name}", operation_id="change_schedule", summary="Change the given values of a schedule")
async def change(
    request: Request,
    response: Response,
    *,
    caller: Operator,
    name: PathName,
    body: ScheduleChange,
    version: RequiredVersion,
) -> ScheduleView:
    """Times before the change do not fire. A new stage replaces an action, a new action a stage and its payload."""
    async with session_of(request, caller) as session:
        actor = actor_of(request, caller)
        found = await schedules.edit_schedule(session, registry, name, body.given(), actor, version=version)
    response.headers["ETag"] = etag(found.version)
    return found


@router.delete("/{name}", operation_id="delete_schedule", summary="Delete a schedule with its times", status_code=204)
async def delete(request: Request, caller: Operator, name: PathName) -> None:
    """A default schedule returns when a beat starts: pause it instead."""
    async with session_of(request, caller) as session:
        await schedules.remove_schedule(session, name, actor_of(request, caller))


@router.post("/{name}/pause", operation_id="pause_schedule", summary="Do not fire a schedule until it is resumed")
async def pause(request: Request, caller: Operator, name: PathName) -> ScheduleView:
    return await _switch(request, caller, name, enabled=False)


@router.post("/{name}/resume", operation_id="resume_schedule", summary="Fire a schedule again from now on")
async def resume(request: Request, caller: Operator, name: PathName) -> ScheduleView:
    """Times that passed during the pause do not fire."""
    return await _switch(request, caller, name, enabled=True)


@router.post("/{name}/run", operation_id="run_schedule", summary="Run a schedule now")
async def run(request: Request, caller: Operator, name: PathName) -> RunNow:
    """Enqueue its job, or run its action in this process."""
    services = services_of(request)
    async with session_of(request, caller) as session:
        found = await schedules.enqueue_now(session, registry, name, actor_of(request, caller))
    if isinstance(found, UUID):
        return RunNow(name=name, job_id=found, action=None, changed=None)
    retention: timedelta = services.resources.transitions_retention
    changed = await schedules.act_now(services.operators, found, transitions_retention=retention)
    return RunNow(name=name, job_id=None, action=found, changed=changed)


async def _switch(request: Request, caller: Caller, name: str, *, enabled: bool) -> ScheduleView:
    async with session_of(request, caller) as session:
        return await schedules.switch_schedule(session, registry, name, actor_of(request, caller), enabled=enabled)
