"""What a call costs by its price, and who knows prices. Pure."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from workers.llm.calls import Call, Kind, Lane

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens; ``batch_discount`` is the share of it that the batch lane pays."""

    input_per_million: Decimal
    output_per_million: Decimal = Decimal(0)
    cached_input_per_million: Decimal | None = None
    batch_discount: Decimal = Decimal("0.5")

    def on(self, lane: Lane) -> "Price":
        """Return the price that ``lane`` pays."""
        if lane != "batch":
            return self
        cached, share = self.cached_input_per_million, self.batch_discount
        return Price(
            input_per_million=self.input_per_million * share,
            output_per_million=self.output_per_million * share,
            cached_input_per_million=None if cached is None else cached * share,
            batch_discount=Decimal(1),
        )

    def most_of(self, call: Call) -> Decimal:
        """Return the most that ``call`` can cost by its estimate, at this price."""
        return (call.input_tokens * self.input_per_million + call.output_tokens * self.output_per_million) / MILLION


class Prices(Protocol):
    """Knows what models cost."""

    async def ready(self) -> None:
        """Return once the prices have been read. Before that, an unread price would look like an unknown one."""

    def of(self, provider: str, model: str, kind: Kind, *, input_tokens: int = 0) -> Price | None:
        """Return the price of a call of this size; None where nobody knows it, which is not the same as nothing."""


class NoPrices:
    """Knows no price: every call is unpriced."""

    async def ready(self) -> None:
        """Return at once."""

    def of(self, provider: str, model: str, kind: Kind, *, input_tokens: int = 0) -> Price | None:  # noqa: ARG002 - the protocol's signature
        """Return None."""
        return None
