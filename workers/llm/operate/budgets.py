"""Budgets: set, list with what is reserved and spent of them, remove."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import delete, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.budgets import Budget
from workers.llm.ledger.spend import find_zone
from workers.llm.operate.refusals import Unknown, checked, require_stage
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.refusals import quoted

Scope = Literal["all", "tenant", "project", "profile", "stage"]
Window = Literal["day", "week", "month", "total"]
Then = Literal["stop", "slow", "batch", "warn"]
State = Literal["open", "warned", "spent"]
WARN_AT = (Decimal("0.8"),)

_LIST = text("""
    SELECT b.*, s.start, e.ends, coalesce(t.reserved_usd, 0) AS reserved_usd, coalesce(t.spent_usd, 0) AS spent_usd,
           coalesce(t.reserved_tokens, 0) AS reserved_tokens, coalesce(t.spent_tokens, 0) AS spent_tokens, t.warned_at,
           (SELECT count(*) FROM llm.calls AS c
             WHERE b.usd IS NOT NULL AND c.state = 'unpriced'
               AND c.created_at >= greatest(s.start, now() - interval '31 days')
               AND CASE b.scope WHEN 'all' THEN true WHEN 'stage' THEN c.stage = b.scope_value
                                WHEN 'tenant' THEN c.owner_id::text = b.scope_value
                                WHEN 'project' THEN c.project_id::text = b.scope_value
                                ELSE c.profile_id::text = b.scope_value END) AS unpriced
      FROM llm.budgets AS b
     CROSS JOIN LATERAL (SELECT llm.window_start(b.window, b.zone, clock_timestamp()),
                                llm.window_end(b.window, b.zone, clock_timestamp())) AS x (start, ends)
     CROSS JOIN LATERAL (SELECT x.start) AS s
     CROSS JOIN LATERAL (SELECT x.ends) AS e
      LEFT JOIN llm.budget_totals AS t ON t.budget_id = b.id AND t.window_start = x.start
     WHERE (CAST(:name AS text) IS NULL OR b.name = :name)
     ORDER BY b.scope, b.scope_value NULLS FIRST, b.window, b.name""")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """A budget, and what its present window has reserved and spent.

    ``share`` is the larger part of the two that is gone, 1 for all. ``unpriced_calls`` are calls of this window, and of
    the last 31 days, with a price that nobody knows: they are in no amount. A total has no ``window_start`` and
    ``window_end``.
    """

    id: UUID
    name: str
    scope: Scope
    scope_value: str | None
    window: Window
    zone: str
    usd: Decimal | None
    tokens: int | None
    warn_at: Sequence[Decimal]
    then: Then
    window_start: datetime | None
    window_end: datetime | None
    reserved_usd: Decimal
    spent_usd: Decimal
    reserved_tokens: int
    spent_tokens: int
    share: Decimal
    state: State
    unpriced_calls: int
    created_at: datetime


def _zone(value: str) -> str:
    find_zone(value)
    return value


class NewBudget(BaseModel):
    """How much money or how many tokens may be spent in each window, and what happens then."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")
    ]
    scope: Scope
    scope_value: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    window: Window
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    usd: Annotated[Decimal, Field(ge=0, lt=1_000_000_000_000, allow_inf_nan=False)] | None = None
    tokens: Annotated[int, Field(ge=0, le=1_000_000_000_000_000)] | None = None
    warn_at: Annotated[list[Annotated[Decimal, Field(gt=0, lt=100)]], Field(max_length=20)] = list(WARN_AT)
    then: Then = "stop"

    @model_validator(mode="after")
    def _is_one(self) -> "NewBudget":
        if self.usd is None and self.tokens is None:
            raise ValueError("a budget needs an amount: usd, tokens or both")
        if (self.scope == "all") != (self.scope_value is None):
            raise ValueError(f"scope must name whose calls it is about, such as {_EXAMPLE.get(self.scope, 'all')}")
        if self.scope in {"tenant", "project", "profile"}:
            try:
                self.scope_value = str(UUID(self.scope_value or ""))
            except ValueError:
                raise ValueError(f"scope must name a {self.scope} by its id, got {quoted(self.scope_value)}") from None
        return self


_EXAMPLE = {"all": "all alone", "stage": "stage:scoring.score"} | {
    scope: f"{scope}:ID" for scope in ("tenant", "project", "profile")
}


async def set_budget(session: AsyncSession, given: Mapping[str, Any], *, actor: Actor = NOBODY) -> BudgetView:
    """Set the budget of that name, whole: what is not given has its default. Return it as it is now.

    It holds from the next call on, for all processes. What its present window has spent is the sum of the ledger.
    """
    new = checked(NewBudget, given, whole="budget")
    if new.scope == "stage":
        await require_stage(session, new.scope_value)
    values = new.model_dump()
    async with acting(session, actor):
        row = insert(Budget).values(**values)
        await session.execute(
            row.on_conflict_do_update(
                constraint="uq_budgets_name", set_={key: row.excluded[key] for key in values if key != "name"}
            )
        )
    [view] = await _read(session, new.name)
    return view


async def list_budgets(session: AsyncSession) -> list[BudgetView]:
    """Return every budget with its present window."""
    return await _read(session, None)


async def remove_budget(session: AsyncSession, name: str, *, actor: Actor = NOBODY) -> None:
    """Delete a budget; calls that waited for it go on at once."""
    async with acting(session, actor):
        gone = await session.scalar(delete(Budget).where(Budget.name == name).returning(Budget.id))
    if gone is None:
        known = ", ".join(sorted(one.name for one in await _read(session, None)))
        raise Unknown(f"budget {quoted(name)} does not exist; budgets: {known or 'none'}")


async def _read(session: AsyncSession, name: str | None) -> list[BudgetView]:
    rows = await session.execute(_LIST, {"name": name})
    return [_view(dict(row._mapping)) for row in rows]  # noqa: SLF001 - SQLAlchemy's own name for a row as a mapping


def _view(row: Mapping[str, Any]) -> BudgetView:
    usd, tokens = row["usd"], row["tokens"]
    shares = [
        _share(row["reserved_usd"] + row["spent_usd"], usd),
        _share(row["reserved_tokens"] + row["spent_tokens"], tokens),
    ]
    share = max(shares)
    warned = row["warned_at"] is not None or any(share >= at for at in row["warn_at"])
    is_total = row["window"] == "total"
    return BudgetView(
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        scope_value=row["scope_value"],
        window=row["window"],
        zone=row["zone"],
        usd=usd,
        tokens=tokens,
        warn_at=list(row["warn_at"]),
        then=row["then"],
        window_start=None if is_total else row["start"],
        window_end=row["ends"],
        reserved_usd=row["reserved_usd"],
        spent_usd=row["spent_usd"],
        reserved_tokens=row["reserved_tokens"],
        spent_tokens=row["spent_tokens"],
        share=share,
        state="spent" if share >= 1 else "warned" if warned else "open",
        unpriced_calls=row["unpriced"],
        created_at=row["created_at"],
    )


def _share(used: Decimal | int, of: Decimal | int | None) -> Decimal:
    """Return which part of an amount is gone: of nothing, all of it is."""
    if of is None:
        return Decimal(0)
    return Decimal(1) if of == 0 else (Decimal(used) / Decimal(of)).quantize(Decimal("0.0001"))
