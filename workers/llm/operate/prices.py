"""Prices: what the operators say, and what is known of every model that a route asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.prices import ModelPrice
from workers.llm.ledger.prices import Priced, PriceList, Source, own_price, sellers_of
from workers.llm.operate.refusals import Unknown, checked, matching, require_known
from workers.llm.routing.routing import Routing
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.refusals import quoted

Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Named = Annotated[str, matching(r"[!-~]+", "be a name without blanks", longest=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceView:
    """US dollars per million tokens. ``source`` is None where nobody knows the price: then all amounts are None too.

    ``updated_at`` is when an operator said it. Cached input without a price of its own costs what other input does.
    """

    provider: str
    model: str
    kind: str | None
    source: Source | None
    input_per_million: Decimal | None
    cached_input_per_million: Decimal | None
    output_per_million: Decimal | None
    batch_discount: Decimal | None
    updated_at: datetime | None = None


class NewPrice(BaseModel):
    """What an operator says that a model costs."""

    model_config = ConfigDict(extra="forbid")

    provider: Named
    model: Named
    input: Dollars
    output: Dollars = Decimal(0)
    cached_input: Dollars | None = None
    batch_discount: Annotated[Decimal, Field(ge=0, le=1)] = Decimal("0.5")


async def list_prices(session: AsyncSession, routing: Routing) -> list[PriceView]:
    """Return the operators' prices, then that of every model of a route that has none of them, known or not."""
    rows = (await session.scalars(select(ModelPrice).order_by(ModelPrice.provider, ModelPrice.model))).all()
    own = {
        (row.provider, row.model): own_price(
            row.input_per_million, row.cached_input_per_million, row.output_per_million, row.batch_discount
        )
        for row in rows
    }
    views = [
        _view(row.provider, row.model, None, Priced(own[row.provider, row.model], "operator"), row.updated_at)
        for row in rows
    ]
    known = PriceList(own, sellers_of(routing))
    asked = {
        (step.provider, step.model, route.serves)
        for route in routing.routes.values()
        for step in route.steps
        if step.model is not None and (step.provider, step.model) not in own
    }
    for provider, model, kind in sorted(asked):
        views.append(_view(provider, model, kind, known.find(provider, model, kind), None))
    return views


async def set_price(
    session: AsyncSession, given: Mapping[str, Any], routing: Routing, *, actor: Actor = NOBODY
) -> PriceView:
    """Say what a model costs; calls from now on are priced so, those in the ledger keep the price they had.

    Model ``*`` is any of the provider without a price of its own. Raise LlmRefusal or Unknown.
    """
    new = checked(NewPrice, given, whole="price")
    require_known("provider", new.provider, routing.providers, remedy="`gristmill llm providers` shows them")
    amounts = {
        "input_per_million": new.input,
        "cached_input_per_million": new.cached_input,
        "output_per_million": new.output,
        "batch_discount": new.batch_discount,
        "updated_at": func.clock_timestamp(),
    }
    row = insert(ModelPrice).values(provider=new.provider, model=new.model, **amounts)
    async with acting(session, actor):
        said = await session.scalar(
            row.on_conflict_do_update(index_elements=["provider", "model"], set_=amounts).returning(ModelPrice),
            execution_options={"populate_existing": True},
        )
    assert said is not None
    price = own_price(
        said.input_per_million, said.cached_input_per_million, said.output_per_million, said.batch_discount
    )
    return _view(new.provider, new.model, None, Priced(price, "operator"), said.updated_at)


async def remove_price(session: AsyncSession, provider: str, model: str, *, actor: Actor = NOBODY) -> None:
    """Unsay what a model costs: what providers publish holds again."""
    async with acting(session, actor):
        gone = await session.scalar(
            delete(ModelPrice)
            .where(ModelPrice.provider == provider, ModelPrice.model == model)
            .returning(ModelPrice.model)
        )
    if gone is None:
        whose = f"model {quoted(model)} of provider {quoted(provider)}"
        raise Unknown(f"no price of {whose} is set; `gristmill llm prices` shows them")


def _view(provider: str, model: str, kind: str | None, found: Priced | None, said_at: datetime | None) -> PriceView:
    price = None if found is None else found.price
    return PriceView(
        provider=provider,
        model=model,
        kind=kind,
        source=None if found is None else found.source,
        input_per_million=None if price is None else price.input_per_million,
        cached_input_per_million=None if price is None else price.cached_input_per_million,
        output_per_million=None if price is None else price.output_per_million,
        batch_discount=None if price is None else price.batch_discount,
        updated_at=said_at,
    )
