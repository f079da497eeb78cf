"""Worker processes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import connection_of
from gateway.cursors import Listing
from gateway.parameters import Paging
from gateway.views import Page, View
from workers.runtime.operate.workers import list_workers

router = APIRouter(prefix="/v1/workers", tags=["operations of the system"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]


class Worker(View):
    """One worker process."""

    id: UUID
    name: str
    state: str = Field(description="running, draining, or silent: its lease has ended")
    queues: Sequence[str]
    slots: int
    running: int = Field(description="its jobs at its last heartbeat")
    lease_seconds: float
    lease_until: datetime
    started_at: datetime
    heartbeat_at: datetime
    silent_seconds: timedelta = Field(validation_alias="silent_for")
    draining_at: datetime | None
    version: str | None
    provider: dict[str, Any] | None = Field(description="who answers its language model calls")


@router.get("", operation_id="list_workers", summary="List worker processes by name")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[Worker]:
    """The row of a silent worker stays for a day."""
    listing = Listing(request, caller, paging)
    async with connection_of(request, caller) as conn:
        found = [Worker.model_validate(one) for one in await list_workers(conn)]
    return listing.cut(found, lambda one: (one.name, one.id))
