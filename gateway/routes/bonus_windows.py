"""Bonus windows: periods in which people earn tiers by the records that they create. Admins write, users read."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import RequiredVersion, etag
from gateway.parameters import Body, Flag, Name, Paging, Time
from gateway.views import Page
from workers.operations import windows
from workers.operations.windows import Standing, WindowView
from workers.runtime.versions import version_at

router = APIRouter(prefix="/v1/bonus-windows", tags=["operations"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operations:read"))]
Writer = Annotated[Caller, Depends(require("operations"))]
Target = Annotated[int, Field(ge=0, le=1_000_000, description="0 disables it")]


class WindowFilter(Paging):
    """Which windows are listed."""

    open: Flag = Field(False, description="only those that are open now, by the clock of the database")


class NewWindow(Body):
    """A window, from `start` to before `end`."""

    name: Name = "Bonus Window"
    start: Time
    end: Time
    tasks: Target = 0
    feedback: Target = 0
    tasks_tier2: Target = 0
    feedback_tier2: Target = 0


class WindowChange(Body):
    """The values to change."""

    name: Name | None = None
    start: Time | None = None
    end: Time | None = None
    tasks: Target | None = None
    feedback: Target | None = None
    tasks_tier2: Target | None = None
    feedback_tier2: Target | None = None


@router.get("", operation_id="list_bonus_windows", summary="List bonus windows, latest start first")
async def list_(request: Request, caller: Reader, wanted: Annotated[WindowFilter, Query()]) -> Page[WindowView]:
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        found = await windows.list_windows(
            session, open_only=wanted.open, limit=listing.wanted, after=listing.after_time()
        )
    return listing.page(found, lambda one: (one.start_time, one.id))


@router.post("", operation_id="create_bonus_window", summary="Create a bonus window", status_code=201)
async def create(request: Request, response: Response, caller: Writer, body: NewWindow) -> WindowView:
    """A record counts in every window in which it was created."""
    async with session_of(request, caller) as session:
        made = await windows.create(session, body.model_dump(), actor=actor_of(request, caller))
    response.headers["Location"] = f"/v1/bonus-windows/{made.id}"
    return made


@router.get("/standings", operation_id="list_open_standings", summary="Show who reached which tier in all open windows")
async def open_standings(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[Standing]:
    return await _standings(request, caller, paging, None)


@router.get("/{window_id}", operation_id="get_bonus_window", summary="Show a bonus window")
async def get(request: Request, response: Response, caller: Reader, window_id: UUID) -> WindowView:
    async with session_of(request, caller) as session:
        found = await windows.find_window(session, window_id)
    response.headers["ETag"] = etag(version_at(found.updated_at))
    return found


@router.patch("/{window_id}", operation_id="change_bonus_window", summary="Change the given values of a bonus window")
async def change(
    request: Request,
    response: Response,
    *,
    caller: Writer,
    window_id: UUID,
    body: WindowChange,
    version: RequiredVersion,
) -> WindowView:
    given: dict[str, Any] = {name: value for name, value in body.model_dump().items() if value is not None}
    async with session_of(request, caller) as session:
        found = await windows.change(session, window_id, given, version=version, actor=actor_of(request, caller))
    response.headers["ETag"] = etag(version_at(found.updated_at))
    return found


@router.delete("/{window_id}", operation_id="delete_bonus_window", summary="Delete a bonus window", status_code=204)
async def delete(request: Request, caller: Writer, window_id: UUID) -> None:
    """Its records stay."""
    async with session_of(request, caller) as session:
        await windows.remove(session, window_id, actor=actor_of(request, caller))


@router.get(
    "/{window_id}/standings", operation_id="list_standings", summary="Show who reached which tier in a bonus window"
)
async def standings(
    request: Request, caller: Reader, window_id: UUID, paging: Annotated[Paging, Query()]
) -> Page[Standing]:
    """Best first, with the number of records of each creator."""
    return await _standings(request, caller, paging, window_id)


async def _standings(request: Request, caller: Caller, paging: Paging, window_id: UUID | None) -> Page[Standing]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await windows.standings(session, window_id)
    return listing.cut(found, lambda one: (one.window_id, one.creator_id))
