"""The ledger of calls of language models: sums, and call by call."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import session_of
from gateway.cursors import Listing
from gateway.parameters import Filters, Name, Paging, Time
from gateway.views import Page, View
from workers.llm.ledger import spend as ledger
from workers.llm.ledger.spend import By, Spend, SpendFilter
from workers.llm.operate import calls
from workers.llm.operate.calls import STATES

router = APIRouter(prefix="/v1/llm", tags=["language models"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]


class _Which(Filters):
    since: Time | None = Field(None, description="only calls from this time on")
    until: Time | None = Field(None, description="only calls before this time")
    provider: Name | None = None
    model: Name | None = None
    route: Name | None = None
    stage: Name | None = None
    tenant: UUID | None = None
    project: UUID | None = None
    profile: UUID | None = None
    job: UUID | None = None

    def calls(self) -> SpendFilter:
        """Return which calls are meant."""
        return SpendFilter(**{name: getattr(self, name) for name in _Which.model_fields})


class SpendQuery(_Which):
    """Which calls are summed up, and by what."""

    by: list[By] = Field(["model"], max_length=5, description="repeat it for several dimensions")
    zone: Name = Field("UTC", description="IANA time zone of days, weeks and months")


class CallFilter(_Which, Paging):
    """Which calls are listed."""

    state: Literal[STATES] | None = None  # type: ignore[valid-type]


class Call(View):
    """One call as the ledger has it. Prices are per million tokens, of the moment of the call."""

    id: UUID
    created_at: datetime
    state: str
    stage: str | None
    job_id: UUID | None
    version: int | None
    attempt: int | None
    owner_id: UUID | None
    project_id: UUID | None
    profile_id: UUID | None
    worker_id: UUID | None
    route: str
    step: int
    provider: str
    model: str
    served_model: str | None
    kind: str
    lane: str
    batch_id: UUID | None
    estimated_input: int
    max_output: int
    estimated_usd: Decimal | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage: Mapping[str, Any] | None
    input_price: Decimal | None
    cached_price: Decimal | None
    output_price: Decimal | None
    usd: Decimal | None = Field(description="what it cost; null: under way, or its price is not known")
    settled_at: datetime | None
    took_seconds: timedelta | None = Field(validation_alias="took")
    failure: str | None


@router.get("/spend", operation_id="sum_up_calls", summary="Sum up what calls used and cost")
async def spend(request: Request, caller: Reader, query: Annotated[SpendQuery, Query()]) -> Spend:
    """Times in their order, then what costs most first. Calls with an unknown price are in no amount."""
    by = list(dict.fromkeys(query.by))
    async with session_of(request, caller) as session:
        return await ledger.spend(session, by, query.calls(), zone=query.zone)


@router.get("/calls", operation_id="list_calls", summary="List calls, newest first")
async def list_(request: Request, caller: Reader, wanted: Annotated[CallFilter, Query()]) -> Page[Call]:
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        found = await calls.list_calls(
            session, wanted.calls(), state=wanted.state, limit=listing.wanted, after=listing.after_id()
        )
    return listing.page([Call.model_validate(one) for one in found], lambda one: one.id)


@router.get("/calls/{call_id}", operation_id="get_call", summary="Show a call")
async def get(request: Request, caller: Reader, call_id: UUID) -> Call:
    async with session_of(request, caller) as session:
        return Call.model_validate(await calls.show_call(session, call_id))
