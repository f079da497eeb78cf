"""What beat has done again and again: prune, expire, make partitions, forget workers. Every pass repeats its condition

in the statement itself, so that running one twice, or in two places at once, changes nothing.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import structlog
from sqlalchemy import Table, delete, func, text

from models.base import Base, Expiry
from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.failpoints import failpoint
from workers.runtime.store.processes import forget_silent_workers
from workers.runtime.store.rescue import prune

log = structlog.get_logger(__name__)

MONTHS_AHEAD = 3


def concrete(base: type[Any]) -> list[type[Any]]:
    """Return every mapped class below ``base``."""
    found = []
    for child in base.__subclasses__():
        found += [child] if "__table__" in child.__dict__ else []
        found += concrete(child)
    return found


async def prune_jobs(database: Database) -> int:
    """Delete terminal jobs older than their table's retention, a thousand per transaction; return how many."""
    total = 0
    for model in cast("list[type[Job]]", concrete(Job)):
        deleted = -1
        while deleted:
            async with database.kernel() as conn:
                failpoint("prune.before")
                deleted = await prune(conn, model)
            if deleted:
                failpoint("prune.after")
            total += deleted
    return total


async def expire_rows(database: Database) -> int:
    """Delete rows whose model declares ``__expiry__`` and whose time is over; return how many."""
    total = 0
    for model in concrete(Base):
        expiry: Expiry | None = getattr(model, "__expiry__", None)
        if expiry is None:
            continue
        table = cast("Table", model.__table__)
        async with database.session() as session:
            result = await session.execute(
                delete(table).where(table.c[expiry.column] < func.now() - expiry.after).returning(*table.primary_key)
            )
            total += len(result.all())
    return total


async def keep_partitions(database: Database, *, retention: timedelta) -> int:
    """Make the next months' partitions of ``runtime.transitions``, drop those past ``retention``; return how many."""
    async with database.session() as session:
        made = await session.scalar(
            text("SELECT runtime.ensure_transition_partitions(:ahead)"), {"ahead": MONTHS_AHEAD}
        )
        dropped = await session.scalar(text("SELECT runtime.drop_transition_partitions(:age)"), {"age": retention})
    if dropped:
        log.info("transitions_dropped", partitions=dropped)
    return int(made or 0) + len(dropped or [])


async def forget_workers(database: Database) -> int:
    """Forget workers silent for a day; return how many."""
    async with database.kernel() as conn:
        return await forget_silent_workers(conn)


Action = Callable[[Database], Awaitable[int]]


def actions(*, transitions_retention: timedelta) -> dict[str, Action]:
    """Return every maintenance action by the name that schedules use."""

    async def partitions(database: Database) -> int:
        return await keep_partitions(database, retention=transitions_retention)

    return {"prune": prune_jobs, "expire": expire_rows, "partitions": partitions, "forget_workers": forget_workers}


async def run_action(database: Database, action: Action, name: str) -> int:
    """Run one action to its end and log what it did."""
    changed = await action(database)
    log.info("maintenance_done", action=name, rows=changed)
    return changed
