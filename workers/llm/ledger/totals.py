"""The totals of budgets beside the sum of the ledger, which they must equal at every moment."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from workers.runtime.database import Raw

_DIFFERENCES = "SELECT * FROM llm.budget_differences ORDER BY name, window_start"


@dataclass(frozen=True, slots=True)
class Spending:
    """What one window of a budget has reserved and spent."""

    reserved_usd: Decimal
    spent_usd: Decimal
    reserved_tokens: int
    spent_tokens: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A window of a budget with a total that is not the sum of its calls."""

    budget: str
    window_start: datetime
    total: Spending
    ledger: Spending


async def differences(conn: Raw) -> list[Difference]:
    """Return every total that is not the sum of the ledger: none, unless somebody changed rows by hand."""
    rows = await (await conn.execute(_DIFFERENCES)).fetchall()
    return [Difference(row[0], row[1], Spending(*row[2::2]), Spending(*row[3::2])) for row in rows]
