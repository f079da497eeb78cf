"""Limits: set, list with what is used of them and when there is room, remove; cooldowns are listed beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.limits import Limit
from workers.llm.admission.refusals import limit_name
from workers.llm.operate.prices import Named
from workers.llm.operate.providers import LIST as PROVIDERS
from workers.llm.operate.refusals import LlmRefusal, Unknown, checked, require_known, require_stage
from workers.llm.routing.routing import Routing
from workers.runtime.actor import NOBODY, Actor, acting

Measure = Literal["requests", "input_tokens", "output_tokens", "tokens", "requested_tokens", "concurrency"]
MINUTE, DAY = 60, 86_400
MAX_WINDOW = 31 * DAY

_LIST = text("""
    SELECT l.*, c.now, coalesce(u.used, 0) AS used, coalesce(u.subjects, 0) AS subjects, u.subject AS fullest,
           coalesce(h.reserved, 0) AS reserved,
           CASE WHEN coalesce(u.used, 0) >= l.at_most AND l.at_most > 0 THEN
             llm.free_in(l.id, u.subject, l.window_seconds, l.at_most - 1, 0, c.now) END AS wait
      FROM llm.limits AS l
     CROSS JOIN LATERAL (SELECT clock_timestamp()) AS c (now)
      LEFT JOIN LATERAL (
           SELECT w.subject, sum(w.amount)::bigint AS used, count(*) OVER () AS subjects
             FROM llm.window_counts AS w
            WHERE w.limit_id = l.id AND w.bucket BETWEEN llm.bucket(c.now, l.window_seconds) - 64
                                                     AND llm.bucket(c.now, l.window_seconds) + 64
            GROUP BY w.subject ORDER BY 2 DESC, 1 LIMIT 1) AS u ON true
      LEFT JOIN LATERAL (
           SELECT sum(llm.amount(l.measure, k.estimated_input, k.max_output))::bigint AS reserved
             FROM llm.calls AS k
            WHERE k.state = 'reserved' AND k.lane = 'normal'
              AND (l.provider IS NULL OR l.provider = k.provider) AND (l.model IS NULL OR l.model = k.model)
              AND (l.stage IS NULL OR l.stage = k.stage) AND (l.owner_id IS NULL OR l.owner_id = k.owner_id)
              AND (NOT l.per_owner OR llm.subject(true, k.owner_id) = u.subject)
              AND (l.window_seconds IS NULL
                   OR k.created_at > c.now - make_interval(secs => l.window_seconds * 65 / 64.0))) AS h ON true
     WHERE (CAST(:id AS uuid) IS NULL OR l.id = :id)
     ORDER BY l.provider NULLS FIRST, l.model NULLS FIRST, l.stage NULLS FIRST, l.measure, l.window_seconds,
              l.set_by""")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """How much may be called, what is used of it now, and when there is room for one more.

    ``used`` counts the last window, ``reserved`` is the part of it that calls under way hold. Of a limit that each
    owner has, both are the ``fullest`` owner's, of ``subjects`` who use it. ``is_full`` with ``free_at`` None: room
    comes when a call ends, or never, if nothing is allowed. ``until`` is when a learned one ends.
    """

    id: UUID
    name: str
    provider: str | None
    model: str | None
    stage: str | None
    owner_id: UUID | None
    per_owner: bool
    measure: Measure
    at_most: int
    window_seconds: int | None
    set_by: str
    until: datetime | None
    used: int
    reserved: int
    subjects: int
    fullest: str | None
    is_full: bool
    free_at: datetime | None
    created_at: datetime


class NewLimit(BaseModel):
    """How much may be called: at most so many of a measure in every window of so many seconds."""

    model_config = ConfigDict(extra="forbid")

    provider: str | None = None
    model: Named | None = None
    stage: str | None = None
    owner_id: UUID | None = None
    per_owner: bool = False
    measure: Measure
    at_most: Annotated[int, Field(ge=0, le=1_000_000_000_000)]
    window_seconds: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "NewLimit":
        if self.per_owner and self.owner_id is not None:
            raise ValueError("owner must not be given for a limit that each owner has")
        if (self.measure == "concurrency") != (self.window_seconds is None):
            raise ValueError("window must be given for all measures but concurrency, which counts calls under way")
        return self


async def set_limits(
    session: AsyncSession, given: Sequence[Mapping[str, Any]], routing: Routing, *, actor: Actor = NOBODY
) -> list[LimitView]:
    """Set limits, all or none; one for the same calls, measure and window is changed. Return them as they are now.

    They hold from the next call on, for all processes; a new one counts the calls of its last window at once.
    """
    if not given:
        raise LlmRefusal("a limit needs a measure, such as --requests-per-minute 60")
    limits = [checked(NewLimit, one, whole="limit") for one in given]
    for limit in limits:
        if limit.provider is not None:
            require_known("provider", limit.provider, routing.providers, remedy=PROVIDERS)
        await require_stage(session, limit.stage)
    ids = []
    async with acting(session, actor):
        for limit in limits:
            row = insert(Limit).values(**limit.model_dump(), set_by="operator")
            changed = row.on_conflict_do_update(
                constraint="uq_limits_one", set_={"at_most": limit.at_most, "until": None}
            )
            ids.append(await session.scalar(changed.returning(Limit.id)))
    return [view for id_ in ids for view in await _read(session, id_)]


async def list_limits(session: AsyncSession) -> list[LimitView]:
    """Return every limit with what is used of it."""
    return await _read(session, None)


async def remove_limit(session: AsyncSession, limit_id: UUID, *, actor: Actor = NOBODY) -> LimitView:
    """Delete a limit; calls that waited for it go on at once. A learned one may be learned again."""
    async with acting(session, actor):
        found = await _read(session, limit_id)
        if not found:
            raise Unknown(f"limit {limit_id} does not exist; `gristmill llm limits` shows them")
        await session.execute(text("DELETE FROM llm.limits WHERE id = :id"), {"id": limit_id})
    return found[0]


async def _read(session: AsyncSession, limit_id: UUID | None) -> list[LimitView]:
    rows = await session.execute(_LIST, {"id": limit_id})
    return [_view(dict(row._mapping)) for row in rows]  # noqa: SLF001 - SQLAlchemy's own name for a row as a mapping


def _view(row: Mapping[str, Any]) -> LimitView:
    over = row["until"] is not None and row["until"] <= row["now"]
    is_full = row["used"] >= row["at_most"] and not over
    return LimitView(
        id=row["id"],
        name=limit_name(row) + (", for each owner" if row["per_owner"] else ""),
        provider=row["provider"],
        model=row["model"],
        stage=row["stage"],
        owner_id=row["owner_id"],
        per_owner=row["per_owner"],
        measure=row["measure"],
        at_most=row["at_most"],
        window_seconds=row["window_seconds"],
        set_by=row["set_by"],
        until=row["until"],
        used=row["used"],
        reserved=row["reserved"],
        subjects=row["subjects"],
        fullest=row["fullest"] if row["per_owner"] else None,
        is_full=is_full,
        free_at=row["now"] + timedelta(seconds=row["wait"]) if is_full and row["wait"] is not None else None,
        created_at=row["created_at"],
    )
