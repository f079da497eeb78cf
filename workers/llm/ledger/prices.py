"""What models cost: the operators' own prices (``llm.prices``) first, then those that providers publish.

A price that nobody knows is None, never 0. The offline evaluator costs nothing.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import structlog

from workers.llm.admission.prices import MILLION, Price
from workers.llm.calls import Kind, Usage
from workers.llm.ledger import published as table
from workers.llm.ledger.published import Seller, published
from workers.llm.routing.routing import Routing
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.database import Database, is_database_away
from workers.runtime.handler.errors import describe

log = structlog.get_logger(__name__)

Source = Literal["operator", "published", "offline"]
Sellers = Mapping[str, Seller]
# An operator's price of every model of a provider that has none of its own.
ANY_MODEL = "*"
# Prices are read again after so long. A call keeps the price of the moment it was reserved at.
FRESH_SECONDS = 30.0
OFFLINE_PRICE = Price(input_per_million=Decimal(0), cached_input_per_million=Decimal(0))

_OWN = """
    SELECT provider, model, input_per_million, cached_input_per_million, output_per_million, batch_discount
      FROM llm.prices"""
_PATIENCE_SECONDS = 1.0
_NONE: Mapping[tuple[str, str], Price] = {}
# How many prices are remembered between two readings: jobs name models.
_MAX_REMEMBERED = 10_000
_UNKNOWN_SIZE = 0
# Prices change at multiples of so many tokens: all calls up to the next one share an entry.
_TIER = 1_000


@dataclass(frozen=True, slots=True)
class Priced:
    """A price and who said it."""

    price: Price
    source: Source


@dataclass(slots=True)
class PriceList:
    """The prices of one moment."""

    own: Mapping[tuple[str, str], Price] = field(default_factory=dict)
    sellers: Sellers = field(default_factory=dict)
    _found: dict[tuple[str, str, Kind, int], Priced | None] = field(default_factory=dict, init=False)

    def of(self, provider: str, model: str, kind: Kind, *, input_tokens: int = _UNKNOWN_SIZE) -> Price | None:
        """Return the price of a call of this size; None where nobody knows it, which is not the same as nothing."""
        found = self.find(provider, model, kind, input_tokens=input_tokens)
        return None if found is None else found.price

    def find(self, provider: str, model: str, kind: Kind, *, input_tokens: int = _UNKNOWN_SIZE) -> Priced | None:
        """Return the price with who said it."""
        own = self.own.get((provider, model)) or self.own.get((provider, ANY_MODEL))
        if own is not None:
            return Priced(own, "operator")
        seller = self.sellers.get(provider)
        if seller is None:
            return None
        if seller.kind == "offline":
            return Priced(OFFLINE_PRICE, "offline")
        size = -(-input_tokens // _TIER) * _TIER
        key = (provider, model, kind, size)
        if key not in self._found:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            price = published(seller, model, kind, input_tokens=size, at=datetime.now(UTC))
            self._found[key] = None if price is None else Priced(price, "published")
        return self._found[key]


class KnownPrices:
    """The prices that a process goes by, read again every ``fresh_seconds`` while calls are made.

    ``sellers`` tells which providers there are, as the process's routes have them.
    """

    def __init__(
        self, database: Database, sellers: Callable[[], Sellers], *, fresh_seconds: float = FRESH_SECONDS
    ) -> None:
        self._database = database
        self._sellers = sellers
        self._fresh_seconds = fresh_seconds
        self._own: Mapping[tuple[str, str], Price] | None = None
        self._list = PriceList()
        self._has_table = False
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Return once prices were read; old prices stay in use while they are read again."""
        is_old = self._own is None or time.monotonic() - self._read_at >= self._fresh_seconds
        if is_old and self._reading is None:
            self._reading = asyncio.create_task(self._read())
        if self._own is None and self._reading is not None:
            await asyncio.shield(self._reading)
        if not self._has_table and any(seller.kind != "offline" for seller in self._sellers().values()):
            await asyncio.to_thread(table.load)
            self._has_table = True

    def of(self, provider: str, model: str, kind: Kind, *, input_tokens: int = _UNKNOWN_SIZE) -> Price | None:
        """Return the price of a call of this size; None where nobody knows it, which is not the same as nothing."""
        own, sellers = _NONE if self._own is None else self._own, self._sellers()
        if self._list.own is not own or self._list.sellers != sellers:
            self._list = PriceList(own, sellers)
        return self._list.of(provider, model, kind, input_tokens=input_tokens)

    async def aclose(self) -> None:
        """Stop reading. A question that is under way gets its answer first, if that comes soon."""
        if (reading := self._reading) is not None:
            _, late = await asyncio.wait({reading}, timeout=_PATIENCE_SECONDS)
            if late:
                reading.cancel()
                await asyncio.wait({reading})

    async def _read(self) -> None:
        try:
            self._own = await self._read_own()
            self._read_at = time.monotonic()
        except Exception as error:
            if self._own is None:
                raise
            self._read_at = time.monotonic()
            log.warning("prices_not_read", error=describe(error))  # those that were read before go on
        finally:
            self._reading = None

    async def _read_own(self) -> dict[tuple[str, str], Price]:
        """Return the operators' prices; wait for Postgres if it is away."""
        attempt = 0
        while True:
            try:
                return await read_own(self._database)
            except Exception as error:
                if not is_database_away(error):
                    raise
                attempt += 1
                log.warning("prices_wait_for_database", attempt=attempt, error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))


def sellers_of(routing: Routing) -> dict[str, Seller]:
    """Return who is paid at each provider."""
    return {one.name: Seller(one.kind, one.base_url) for one in routing.providers.values()}


async def read_own(database: Database) -> dict[tuple[str, str], Price]:
    """Return the operators' prices by provider and model."""
    async with database.kernel() as conn:
        rows = await (await conn.execute(_OWN)).fetchall()
    return {(row[0], row[1]): own_price(*row[2:]) for row in rows}


def own_price(
    input_per_million: Decimal, cached: Decimal | None, output_per_million: Decimal | None, discount: Decimal
) -> Price:
    """Return the price that a row of ``llm.prices`` says."""
    return Price(
        input_per_million=input_per_million,
        output_per_million=output_per_million or Decimal(0),
        cached_input_per_million=cached,
        batch_discount=discount,
    )


def cost_of(price: Price | None, usage: Usage) -> Decimal | None:
    """Return what a call that used this costs, as ``llm.settle_calls`` writes it; None without a price.

    Each token is paid once and by its class: the input without its cached part, the cached part, the output with the
    tokens of reasoning, which providers count in it. None is more than it was, so nothing is ever negative.
    """
    if price is None:
        return None
    taken = max(usage.input_tokens or 0, 0)
    cached = min(max(usage.cached_input_tokens or 0, 0), taken)
    cached_rate = price.cached_input_per_million
    return (
        (taken - cached) * price.input_per_million
        + cached * (price.input_per_million if cached_rate is None else cached_rate)
        + max(usage.output_tokens or 0, 0) * price.output_per_million
    ) / MILLION
