"""The most frequent errors of failed jobs."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import connection_of
from gateway.parameters import Filters, Name, Whole
from workers.runtime.operate.errors import TopErrors, top_errors

router = APIRouter(prefix="/v1/errors", tags=["operations of the system"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]


class ErrorFilter(Filters):
    """Which errors are shown."""

    stage: Name | None = None
    limit: Whole = Field(20, ge=1, le=1_000)


@router.get("", operation_id="list_errors", summary="Show the most frequent errors of failed jobs")
async def list_(request: Request, caller: Reader, wanted: Annotated[ErrorFilter, Query()]) -> TopErrors:
    """Each with its counts, an example, and the command that retries its jobs."""
    async with connection_of(request, caller) as conn:
        return await top_errors(conn, stage=wanted.stage, limit=wanted.limit)
