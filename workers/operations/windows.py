"""Bonus windows: people earn tiers by the number of records that they create in a period."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import and_, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, BonusWindow
from workers.operations.refusals import OperationsError, UnknownWindow
from workers.operations.seed_names import by_column
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.handler.naming import Name
from workers.runtime.refusals import Forbidden, first_problem, rule_of
from workers.runtime.versions import require_version

Target = Annotated[int, Field(ge=0, le=1_000_000)]
_DELETE = text("SELECT operations.delete_bonus_window(:id)")
# The creator of a window if the actor is no user, for example on the command line.
NO_USER = UUID(LLM_USER)


class WindowRequest(BaseModel):
    """The values of a window, from ``start`` to before ``end``. A target of 0 disables its metric."""

    model_config = ConfigDict(extra="forbid")

    name: Name = "Bonus Window"
    start: AwareDatetime
    end: AwareDatetime
    tasks: Target = 0
    feedback: Target = 0
    tasks_tier2: Target = 0
    feedback_tier2: Target = 0

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "WindowRequest":
        if self.end <= self.start:
            raise ValueError(f"end must be later than start {self.start.isoformat()}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowView:
    """One bonus window; a target of 0 disables its metric."""

    id: UUID
    name: str
    start_time: datetime
    end_time: datetime
    target_task_count: int
    target_feedback_count: int
    target_task_count_tier2: int
    target_feedback_count_tier2: int
    created_by: UUID
    created_at: datetime
    updated_at: datetime

    def by_column(self) -> dict[str, Any]:
        """Return the values by column name, for JSON."""
        return by_column(BonusWindow, self)


@dataclass(frozen=True, slots=True)
class Standing:
    """The counts of one creator in one window, and the highest tier reached: 0, 1 or 2."""

    window_id: UUID
    window_name: str
    creator_id: str
    creator_name: str | None
    creator_email: str | None
    task_count: int
    feedback_count: int
    tier: int


async def create(session: AsyncSession, request: dict[str, Any], *, actor: Actor = NOBODY) -> WindowView:
    """Create a window; raise OperationsError if a value breaks a rule. A record counts in all overlapping windows."""
    values = _columns(request)
    if actor.user_id is None:
        values["created_by"] = NO_USER  # of a user, the database writes who acts: a service may not say it
    async with acting(session, actor):
        made = (await session.scalars(insert(BonusWindow).returning(BonusWindow), values)).one()
    return _view(made)


async def change(
    session: AsyncSession,
    window_id: UUID,
    changes: dict[str, Any],
    *,
    version: int | None = None,
    actor: Actor = NOBODY,
) -> WindowView:
    """Change the given values of a window. The result must obey the rules of a new window.

    With ``version`` (``workers.runtime.versions``), raise StaleVersion if the window has another one.
    """
    async with acting(session, actor):
        window = await _get(session, window_id, lock=True)
        require_version(f"bonus window {window_id}", window.updated_at, version)
        now = {
            "name": window.name,
            "start": window.start_time,
            "end": window.end_time,
            "tasks": window.target_task_count,
            "feedback": window.target_feedback_count,
            "tasks_tier2": window.target_task_count_tier2,
            "feedback_tier2": window.target_feedback_count_tier2,
        }
        values = _columns(now | changes)
        await session.execute(update(BonusWindow).where(BonusWindow.id == window_id).values(**values))
        await session.refresh(window)
    return _view(window)


async def find_window(session: AsyncSession, window_id: UUID) -> WindowView:
    """Return one window; raise UnknownWindow."""
    return _view(await _get(session, window_id))


async def _get(session: AsyncSession, window_id: UUID, *, lock: bool = False) -> BonusWindow:
    """Return one window, locked for a change; raise UnknownWindow, or Forbidden if the actor may only read it."""
    found = await session.get(BonusWindow, window_id, with_for_update=lock)
    if found is None and lock and await session.get(BonusWindow, window_id) is not None:
        raise Forbidden("only an admin may change bonus windows")
    if found is None:
        raise UnknownWindow(f"bonus window {window_id} does not exist; `gristmill windows list` shows them")
    return found


async def list_windows(
    session: AsyncSession,
    *,
    open_only: bool = False,
    limit: int | None = None,
    after: tuple[datetime, UUID] | None = None,
) -> list[WindowView]:
    """Return the windows, latest start first; with ``open_only`` those open now by the database's clock.

    ``after`` is the start and the id of the last one of the page before.
    """
    query = select(BonusWindow).order_by(BonusWindow.start_time.desc(), BonusWindow.id).limit(limit)
    if open_only:
        query = query.where(BonusWindow.start_time <= func.now(), func.now() < BonusWindow.end_time)
    if after is not None:
        start, id_ = after
        later_id = and_(BonusWindow.start_time == start, BonusWindow.id > id_)
        query = query.where(or_(BonusWindow.start_time < start, later_id))
    return [_view(one) for one in await session.scalars(query)]


async def standings(session: AsyncSession, window_id: UUID | None = None) -> list[Standing]:
    """Return the standings, best first: of one window, or of all that are open now. One query in both cases."""
    if window_id is not None:
        await _get(session, window_id)
    found = await session.execute(text("SELECT * FROM operations.bonus_standings(:window)"), {"window": window_id})
    return [Standing(*row) for row in found]


async def remove(session: AsyncSession, window_id: UUID, *, actor: Actor = NOBODY) -> None:
    """Delete a window; raise UnknownWindow, or Forbidden if the actor may only read it."""
    async with acting(session, actor):
        if not await session.scalar(_DELETE, {"id": window_id}):
            await _get(session, window_id)
            raise Forbidden("only an admin may delete bonus windows")


def _view(window: BonusWindow) -> WindowView:
    return WindowView(**{field.name: getattr(window, field.name) for field in fields(WindowView)})


def _columns(request: dict[str, Any]) -> dict[str, Any]:
    try:
        valid = WindowRequest.model_validate(request)
    except ValidationError as error:
        if not error.errors()[0]["loc"]:  # a rule of the whole window: the message names the fields
            raise OperationsError(rule_of(error.errors()[0]["msg"])) from None
        raise OperationsError(first_problem(error, whole="window")) from None
    return {
        "name": valid.name,
        "start_time": valid.start,
        "end_time": valid.end,
        "target_task_count": valid.tasks,
        "target_feedback_count": valid.feedback,
        "target_task_count_tier2": valid.tasks_tier2,
        "target_feedback_count_tier2": valid.feedback_tier2,
    }
