"""Prices that providers publish, from the table of the package genai-prices. Offline: nothing is fetched.

The package and its table cost 0.2 s and 30 MB, so they are imported when a price is first asked for.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from workers.llm.admission.prices import Price
from workers.llm.calls import Kind

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, Provider

# OpenRouter names models that cost nothing so.
FREE = ":free"
HALF = Decimal("0.5")
_BATCH = {"processing": "batch"}


@dataclass(frozen=True, slots=True)
class Seller:
    """Who is paid: a provider's kind (openai, openrouter, compatible, offline) and its address."""

    kind: str
    base_url: str | None = None


def published(seller: Seller, model: str, kind: Kind, *, input_tokens: int, at: datetime) -> Price | None:
    """Return what ``seller`` takes for ``model``; None if the table does not have it or has no price per token.

    Many models cost more per token in a call of very many: ``input_tokens`` chooses the price. What is cheaper at some
    hours is priced as of ``at``.
    """
    provider = _provider(seller)
    found = None if provider is None else provider.find_model(model.lower(), all_providers=_providers())
    if found is None:
        return None
    price = _price(found.get_prices(at), kind, input_tokens)
    if price is None:
        return _FREE if model.lower().endswith(FREE) and _is_empty(found.get_prices(at)) else None
    batch = _price(found.get_prices(at, dict(_BATCH)), kind, input_tokens)
    said = any(variant.when == _BATCH for variant in found.price_variants or ())
    return Price(
        input_per_million=price.input_per_million,
        output_per_million=price.output_per_million,
        cached_input_per_million=price.cached_input_per_million,
        batch_discount=_share(batch, price) if said and batch is not None else HALF,
    )


def load() -> None:
    """Import the table; call it in a thread where nothing may wait for it."""
    _providers()


_FREE = Price(input_per_million=Decimal(0), cached_input_per_million=Decimal(0))


def _providers() -> "list[Provider]":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - see the module's docstring

    return get_snapshot().providers


def _provider(seller: Seller) -> "Provider | None":
    """Return the table's entry of a seller: by its kind, or by the address of one that is merely compatible."""
    if seller.kind == "compatible":
        url = seller.base_url or ""
        return next((one for one in _providers() if re.match(one.api_pattern, url)), None)
    return next((one for one in _providers() if one.id == seller.kind), None)


def _price(said: "ModelPrice", kind: Kind, input_tokens: int) -> Price | None:
    """Return a price per token; None where one is missing, or calls cost something beside their tokens."""
    if said.requests_kcount:
        return None
    takes = _rate(said.input_mtok, input_tokens)
    gives = _rate(said.output_mtok, input_tokens)
    if takes is None or (gives is None and kind == "chat"):
        return None
    reasoning = _rate(said.output_reasoning_mtok, input_tokens)
    return Price(
        input_per_million=takes,
        output_per_million=max(gives or Decimal(0), reasoning or Decimal(0)),
        cached_input_per_million=_rate(said.cache_read_mtok, input_tokens),
    )


def _rate(said: Any, input_tokens: int) -> Decimal | None:
    """Return the rate for a call of this size: crossing a tier's start makes all of its tokens cost the tier's."""
    if said is None or isinstance(said, Decimal):
        return said
    rate: Decimal = said.base
    for tier in said.tiers:
        if input_tokens > tier.start:
            rate = tier.price
    return rate


def _is_empty(said: "ModelPrice") -> bool:
    return all(value is None for value in vars(said).values())


def _share(batch: Price, price: Price) -> Decimal:
    """Return the share of ``price`` that the batch lane pays: the larger one, where input and output differ."""
    shares = [
        lower / full
        for lower, full in (
            (batch.input_per_million, price.input_per_million),
            (batch.output_per_million, price.output_per_million),
        )
        if full
    ]
    return min(max(shares, default=HALF), Decimal(1))
