"""Spend: sums of the ledger, by whatever is asked for. Nothing else says what calls cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, ColumnElement, Double, Numeric, and_, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from models.llm.calls import Call
from workers.runtime.refusals import Problem, Refusal, quoted

By = Literal[
    "model", "served", "provider", "route", "stage", "tenant", "project", "profile", "job", "kind", "lane", "state",
    "hour", "day", "week", "month",
]  # fmt: skip
DIMENSIONS: Sequence[By] = get_args(By)
TIMES: frozenset[By] = frozenset({"hour", "day", "week", "month"})
MAX_ROWS = 1_000

_COLUMN: Mapping[By, InstrumentedAttribute[Any]] = {
    "model": Call.model,
    "served": Call.served_model,
    "provider": Call.provider,
    "route": Call.route,
    "stage": Call.stage,
    "tenant": Call.owner_id,
    "project": Call.project_id,
    "profile": Call.profile_id,
    "job": Call.job_id,
    "kind": Call.kind,
    "lane": Call.lane,
    "state": Call.state,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendFilter:
    """Which calls are summed up: those made from ``since`` up to, not at, ``until``; the rest as in the ledger."""

    since: datetime | None = None
    until: datetime | None = None
    provider: str | None = None
    model: str | None = None
    route: str | None = None
    stage: str | None = None
    tenant: UUID | None = None
    project: UUID | None = None
    profile: UUID | None = None
    job: UUID | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return it as conditions on the ledger."""
        said: dict[By, Any] = {
            "provider": self.provider,
            "model": self.model,
            "route": self.route,
            "stage": self.stage,
            "tenant": self.tenant,
            "project": self.project,
            "profile": self.profile,
            "job": self.job,
        }
        conditions = [_COLUMN[name] == value for name, value in said.items() if value is not None]
        if self.since is not None:
            conditions.append(Call.created_at >= self.since)
        if self.until is not None:
            conditions.append(Call.created_at < self.until)
        return conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """A sum of calls. ``by`` has a value for each dimension; None for calls without one.

    ``calls`` are all; ``answered``, ``cached``, ``failed``, ``orphaned`` and ``under_way`` are parts of them. ``usd``
    is what is paid or may have been paid (``orphaned_usd``, at their estimates); ``reserved_usd``, beside it, is what
    calls under way may cost. ``unpriced`` calls cost money that nobody knows: they are in no amount.
    ``input_tokens`` has the cached ones too, ``output_tokens`` those of reasoning.
    """

    by: Mapping[str, Any] = field(default_factory=dict)
    calls: int
    answered: int
    cached: int
    failed: int
    orphaned: int
    under_way: int
    unpriced: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    usd: Decimal
    orphaned_usd: Decimal
    reserved_usd: Decimal
    seconds: float


@dataclass(frozen=True, slots=True)
class Spend:
    """The rows and their sum. ``left_out`` is how many rows more there are."""

    rows: Sequence[SpendRow]
    total: SpendRow
    left_out: int


async def spend(
    session: AsyncSession, by: Sequence[By], these: SpendFilter, *, zone: str = "UTC", most: int = MAX_ROWS
) -> Spend:
    """Return the sums of these calls by each of ``by``: times in their order, then what costs most first.

    Days, weeks and months are those of ``zone``; ``day`` is their first moment there. Raise Refusal for an
    unknown zone.
    """
    try:
        here = find_zone(zone)
    except ValueError as error:
        raise Refusal(Problem("zone", str(error), quoted(zone))) from None
    conditions = these.conditions()
    keys = [_key(one, zone).label(f"by_{one}") for one in by]
    order = [text(f"by_{one}") for one in by if one in TIMES]
    order += [text("usd DESC"), text("calls DESC"), *(text(f"by_{one}") for one in by if one not in TIMES)]
    grouped = (
        select(*keys, *_sums(), func.count().over().label("groups"))
        .where(*conditions)
        .group_by(*(text(str(place)) for place in range(1, len(keys) + 1)))
        .order_by(*order)
        .limit(most)
    )
    found = (await session.execute(grouped)).mappings().all() if by else []
    whole = (await session.execute(select(*_sums()).where(*conditions))).mappings().one()
    left_out = found[0]["groups"] - len(found) if found else 0
    return Spend([_row(dict(row), by, here) for row in found], _row(dict(whole), (), here), left_out)


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name; raise ValueError for a name that is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # the last one is ZoneInfoNotFoundError's base
        raise ValueError("must be an IANA name such as Europe/Paris") from None


def _sums() -> list[ColumnElement[Any]]:
    """Return the columns of a sum.

    What a call counts for is said once, in ``llm.counted``: its use if that is known, else its estimate, nothing if
    nobody paid.
    """
    told = Call.state.in_(("settled", "unpriced"))
    under_way = Call.state == "reserved"
    usd = func.llm.counted(Call.state, Call.usd, Call.estimated_usd)
    unpriced = and_(
        Call.state.in_(("unpriced", "orphaned", "reserved")), Call.usd.is_(None), Call.estimated_usd.is_(None)
    )

    def count(condition: ColumnElement[bool], name: str) -> ColumnElement[Any]:
        return func.count().filter(condition).label(name)

    def total(value: Any, condition: ColumnElement[bool], name: str, of: TypeEngine[Any]) -> ColumnElement[Any]:
        return cast(func.coalesce(func.sum(value).filter(condition), 0), of).label(name)

    return [
        func.count().label("calls"),
        count(told, "answered"),
        count(Call.state == "cached", "cached"),
        count(Call.state == "failed", "failed"),
        count(Call.state == "orphaned", "orphaned"),
        count(under_way, "under_way"),
        count(unpriced, "unpriced"),
        total(
            func.llm.counted(Call.state, Call.input_tokens, Call.estimated_input),
            ~under_way,
            "input_tokens",
            BigInteger(),
        ),
        total(Call.cached_input_tokens, told, "cached_input_tokens", BigInteger()),
        total(
            func.llm.counted(Call.state, Call.output_tokens, Call.max_output), ~under_way, "output_tokens", BigInteger()
        ),
        total(Call.reasoning_tokens, told, "reasoning_tokens", BigInteger()),
        total(usd, ~under_way, "usd", Numeric()),
        total(usd, Call.state == "orphaned", "orphaned_usd", Numeric()),
        total(usd, under_way, "reserved_usd", Numeric()),
        total(Call.seconds, told, "seconds", Double()),
    ]


def _key(by: By, zone: str) -> ColumnElement[Any]:
    if by in TIMES:
        return func.date_trunc(by, Call.created_at, zone)
    return _COLUMN[by].expression


def _row(row: Mapping[str, Any], by: Sequence[By], here: ZoneInfo) -> SpendRow:
    sums = {name: value for name, value in row.items() if not name.startswith("by_") and name != "groups"}
    keys: dict[str, Any] = {one: row[f"by_{one}"] for one in by}
    # The moment is the same; its date is that of the zone, as in the question.
    keys |= {one: keys[one].astimezone(here) for one in by if one in TIMES}
    return SpendRow(by=keys, **sums)
