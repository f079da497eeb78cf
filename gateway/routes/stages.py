"""Stages: what they do now; pause and resume them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, connection_of
from gateway.parameters import PathName, Why, reason_of
from gateway.views import Page, View
from workers.runtime.operate.stages import MAX_COUNTED, list_stages, pause_stage, resume_stage

router = APIRouter(prefix="/v1/stages", tags=["stages"], route_class=Route)
Operator = Annotated[Caller, Depends(require("operate"))]


class Stage(View):
    """One stage with the counts of its jobs. No count goes beyond its maximum: see ``more_than``."""

    stage: str = Field(examples=["scoring.score"])
    ready: int = Field(description="jobs that can start at once")
    backing_off: int = Field(description="jobs that are due later after a failed attempt or a snooze")
    backing_off_reason: str | None = Field(None, description="the most common reason")
    later: int = Field(description="jobs that were enqueued for a later time")
    running: int
    waiting: int = Field(description="jobs for which a person, an agent or a provider decides")
    completed: int | None = Field(None, description="null: jobs of this stage continue in another one")
    failed: int
    cancelled: int
    oldest_wait_seconds: timedelta | None = Field(
        None, validation_alias="oldest_wait", description="the longest time that a ready job has waited"
    )
    done_last_minute: int
    failing_attempts: int = Field(description="attempts that failed in the last five minutes")
    failing_reason: str | None = None
    slots: int = Field(description="slots of the workers that serve this stage")
    limit_at_most: int | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    more_than: Sequence[str] = Field(
        (), description=f"the names of the counts that stopped at {MAX_COUNTED:,}; the real number is larger"
    )


@router.get("", operation_id="list_stages", summary="List every stage with its counts")
async def list_(request: Request, caller: Annotated[Caller, Depends(require("operate:read"))]) -> Page[Stage]:
    """Every stage that the database knows, by name. This list has one page."""
    async with connection_of(request, caller) as conn:
        found = await list_stages(conn)
    return Page(items=[Stage.model_validate(stage) for stage in found], next=None)


class StageSwitch(View):
    """Whether a stage is dispatched."""

    stage: str
    paused: bool


@router.post("/{stage}/pause", operation_id="pause_stage", summary="Dispatch no more jobs of a stage")
async def pause(request: Request, caller: Operator, stage: PathName, body: Why | None = None) -> StageSwitch:
    """Running jobs finish. To pause it again changes nothing."""
    actor = actor_of(request, caller, reason=reason_of(body))
    async with connection_of(request, caller) as conn:
        await pause_stage(conn, stage, actor)
    return StageSwitch(stage=stage, paused=True)


@router.post("/{stage}/resume", operation_id="resume_stage", summary="Dispatch a stage again")
async def resume(request: Request, caller: Operator, stage: PathName, body: Why | None = None) -> StageSwitch:
    """To resume a stage that is not paused changes nothing."""
    actor = actor_of(request, caller, reason=reason_of(body))
    async with connection_of(request, caller) as conn:
        await resume_stage(conn, stage, actor)
    return StageSwitch(stage=stage, paused=False)
