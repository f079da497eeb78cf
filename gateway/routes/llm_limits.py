"""Limits, budgets and prices of calls of language models."""

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, Strict

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.parameters import Body, Filters, Id, Name, Paging, PathName
from gateway.resources import services_of
from gateway.views import Page, View
from workers.llm.operate import budgets, limits, prices
from workers.llm.operate.budgets import BudgetView, Scope, Then, Window
from workers.llm.operate.limits import MAX_WINDOW, LimitView, Measure
from workers.llm.operate.prices import PriceView

router = APIRouter(prefix="/v1/llm", tags=["language models"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
MAX_LIMITS = 100
Dollars = Annotated[Decimal, Strict(strict=False), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Share = Annotated[Decimal, Strict(strict=False), Field(ge=0, lt=100, allow_inf_nan=False)]


class NewLimit(Body):
    """How much may be called: at most so many of a measure in every window. 0 allows nothing."""

    provider: Name | None = None
    model: Name | None = None
    stage: Name | None = None
    owner_id: Id | None = Field(None, description="only calls for this tenant")
    per_owner: bool = Field(False, description="each tenant may as much")
    measure: Measure
    at_most: int = Field(ge=0, le=1_000_000_000_000)
    window_seconds: int | None = Field(None, ge=1, le=MAX_WINDOW, description="for all measures but concurrency")


class NewLimits(Body):
    """Limits to set, all or none."""

    limits: list[NewLimit] = Field(min_length=1, max_length=MAX_LIMITS)


class SetLimits(View):
    """The limits as they are now."""

    items: list[LimitView]


class NewBudget(Body):
    """A budget. What is not given has its default."""

    scope: Scope
    scope_value: Name | None = Field(None, description="the stage, or the id of the tenant, project or profile")
    window: Window
    zone: Name = Field("UTC", description="IANA time zone in which windows begin")
    usd: Annotated[Decimal, Strict(strict=False), Field(ge=0, lt=1_000_000_000_000, allow_inf_nan=False)] | None = None
    tokens: int | None = Field(None, ge=0, le=1_000_000_000_000_000)
    warn_at: list[Share] = Field([Decimal("0.8")], max_length=20)
    then: Then = "stop"


class NewPrice(Body):
    """What a model costs, in US dollars per million tokens. 0 is free, which is not the same as unknown."""

    provider: Name
    model: Name = Field(description="`*`: any of the provider without a price of its own")
    input: Dollars
    output: Dollars = Decimal(0)
    cached_input: Dollars | None = None
    batch_discount: Annotated[Decimal, Strict(strict=False), Field(ge=0, le=1, allow_inf_nan=False)] = Decimal("0.5")


class PriceFilter(Filters):
    """Whose price is removed."""

    provider: Name
    model: Name


@router.get("/limits", operation_id="list_limits", summary="List limits with what is used of them")
async def list_limits(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[LimitView]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await limits.list_limits(session)
    return listing.cut(found, lambda one: one.id)


@router.put("/limits", operation_id="put_limits", summary="Set limits, all or none")
async def put_limits(request: Request, caller: Operator, body: NewLimits) -> SetLimits:
    """They hold from the next call on. A limit for the same calls, measure and window is changed."""
    given = [one.model_dump() for one in body.limits]
    async with session_of(request, caller) as session:
        routing = await services_of(request).resources.read_routing(session)
        return SetLimits(items=await limits.set_limits(session, given, routing, actor=actor_of(request, caller)))


@router.delete("/limits/{limit_id}", operation_id="delete_limit", summary="Delete a limit", status_code=204)
async def delete_limit(request: Request, caller: Operator, limit_id: UUID) -> None:
    """Calls that wait for it go on at once."""
    async with session_of(request, caller) as session:
        await limits.remove_limit(session, limit_id, actor=actor_of(request, caller))


@router.get("/budgets", operation_id="list_budgets", summary="List budgets with what is reserved and spent of them")
async def list_budgets(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[BudgetView]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await budgets.list_budgets(session)
    return listing.cut(found, lambda one: one.name)


@router.put("/budgets/{name}", operation_id="put_budget", summary="Set a budget, whole")
async def put_budget(request: Request, caller: Operator, name: PathName, body: NewBudget) -> BudgetView:
    """It holds from the next call on; its present window counts what is spent already."""
    given = body.model_dump() | {"name": name}
    async with session_of(request, caller) as session:
        return await budgets.set_budget(session, given, actor=actor_of(request, caller))


@router.delete("/budgets/{name}", operation_id="delete_budget", summary="Delete a budget", status_code=204)
async def delete_budget(request: Request, caller: Operator, name: PathName) -> None:
    """Calls that wait for it go on at once."""
    async with session_of(request, caller) as session:
        await budgets.remove_budget(session, name, actor=actor_of(request, caller))


@router.get("/prices", operation_id="list_prices", summary="List what models cost, and who says so")
async def list_prices(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[PriceView]:
    """The operators' prices first, then those of the models of routes; `source` is null where nobody knows."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await prices.list_prices(session, await services_of(request).resources.read_routing(session))
    return listing.cut(found, lambda one: (one.provider, one.model, one.kind or ""))


@router.put("/prices", operation_id="put_price", summary="Say what a model costs")
async def put_price(request: Request, caller: Operator, body: NewPrice) -> PriceView:
    """Calls from now on are priced so; those in the ledger keep the price they had."""
    async with session_of(request, caller) as session:
        routing = await services_of(request).resources.read_routing(session)
        return await prices.set_price(session, body.model_dump(), routing, actor=actor_of(request, caller))


@router.delete(
    "/prices", operation_id="delete_price", summary="Remove a price: the published one holds", status_code=204
)
async def delete_price(request: Request, caller: Operator, query: Annotated[PriceFilter, Query()]) -> None:
    async with session_of(request, caller) as session:
        await prices.remove_price(session, query.provider, query.model, actor=actor_of(request, caller))
