"""The regular maintenance: prune, expire, make partitions, forget workers.

Every statement repeats its condition. So it does no harm to run an action twice, or in two processes at once.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

import structlog

from models import every_table
from models.base import Base, Expiry
from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.registry import discover
from workers.runtime.store import calls
from workers.runtime.store import partitions as store
from workers.runtime.store.expire import EXPIRE_BATCH, delete_expired, expire
from workers.runtime.store.processes import forget_silent_workers
from workers.runtime.store.rescue import prune

log = structlog.get_logger(__name__)

M = TypeVar("M")

MONTHS_AHEAD = 3


def every_model(base: type[M]) -> list[type[M]]:
    """Return every mapped class below ``base``, also classes that are defined beside their handlers."""
    discover()
    return every_table(base)


async def prune_jobs(database: Database) -> int:
    """Delete terminal jobs older than their table's retention; return how many."""
    return sum((await prune_by_table(database)).values())


async def prune_by_table(database: Database) -> dict[str, int]:
    """Delete terminal jobs older than their table's retention, 1,000 per transaction; return how many by table."""
    deleted: dict[str, int] = {}
    for model in every_model(Job):
        batch = -1
        while batch:
            async with database.kernel() as conn:
                failpoint("prune.before")
                batch = await prune(conn, model)
            if batch:
                failpoint("prune.after")
            deleted[_name(model)] = deleted.get(_name(model), 0) + batch
    return deleted


async def expire_waits(database: Database) -> dict[str, int]:
    """End waits after their deadline, 1,000 per transaction; return how many by table."""
    expired: dict[str, int] = {}
    for model in cast("list[type[Job]]", every_model(Job)):
        batch = EXPIRE_BATCH if model.__lifecycle__.waits else 0
        while batch == EXPIRE_BATCH:
            failpoint("expire.before")
            async with database.kernel() as conn:
                batch = await expire(conn, model)
            if batch:
                failpoint("expire.after")
            expired[_name(model)] = expired.get(_name(model), 0) + batch
    return expired


async def expire_rows(database: Database) -> int:
    """Delete the rows that are past the ``__expiry__`` of their model; return how many."""
    return sum((await expire_by_table(database)).values())


async def expire_by_table(database: Database) -> dict[str, int]:
    """Delete the rows that are past the ``__expiry__`` of their model; return how many by table."""
    deleted: dict[str, int] = {}
    for model in every_model(Base):
        expiry: Expiry | None = getattr(model, "__expiry__", None)
        if expiry is None:
            continue
        async with database.session() as session:
            deleted[_name(model)] = await delete_expired(session, model, expiry)
    return deleted


def _name(model: type[Any]) -> str:
    return str(model.__table__)


async def keep_partitions(database: Database, *, retention: timedelta) -> int:
    """Make the next months of transitions and calls, drop those past ``retention``; return how many."""
    async with database.session() as session:
        made, dropped = await session.run_sync(
            lambda sync: store.make_and_drop_partitions(sync, ahead=MONTHS_AHEAD, retention=retention)
        )
    if dropped:
        log.info("transitions_dropped", partitions=dropped)
    return made + len(dropped)


async def forget_workers(database: Database) -> int:
    """Delete the rows of workers that were silent for a day; return how many."""
    async with database.kernel() as conn:
        return await forget_silent_workers(conn)


async def orphan_calls(database: Database) -> dict[str, int]:
    """Give up reservations of runs that are over, delete what admission needs no more; return how many of each."""
    async with database.kernel() as conn:
        return {"llm.calls": await calls.orphan(conn), "rows of admission": await calls.tidy(conn)}


# An action returns the number of changed rows by table, also for tables without changes.
Action = Callable[[Database], Awaitable[Mapping[str, int]]]
ACTIONS = ("prune", "expire", "expire_waits", "partitions", "forget_workers", "orphan_calls")


def actions(*, transitions_retention: timedelta) -> dict[str, Action]:
    """Return every maintenance action by its name in schedules."""

    async def partitions(database: Database) -> Mapping[str, int]:
        return {
            "months of runtime.transitions and llm.calls": await keep_partitions(
                database, retention=transitions_retention
            )
        }

    async def forget(database: Database) -> Mapping[str, int]:
        return {"runtime.workers": await forget_workers(database)}

    made = (prune_by_table, expire_by_table, expire_waits, partitions, forget, orphan_calls)
    return dict(zip(ACTIONS, made, strict=True))


async def run_action(database: Database, action: Action, name: str) -> Mapping[str, int]:
    """Run one action, log what it changed and return that."""
    changed = await action(database)
    log.info(
        "maintenance_done",
        action=name,
        rows=sum(changed.values()),
        of={name: count for name, count in changed.items() if count},
    )
    return changed
