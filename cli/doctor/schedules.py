"""Checks of schedules: those that look enabled and cannot do what they ask for."""

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from cli.complaints import complaint
from cli.connection import opened
from cli.doctor.check import Check, verdict
from workers.runtime.handler.registry import discover
from workers.runtime.operate.schedules import refused_schedules


async def schedules(database_url: str) -> Check:
    """Check that every enabled schedule can be understood and that its stage takes its payload."""
    registry = discover()
    try:
        async with opened(database_url) as database, database.session() as session:
            refused = await session.run_sync(lambda sync: refused_schedules(sync, registry))
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        return Check("schedules", "failed", f"they cannot be read: {complaint(error)[0]}", "look at the Postgres check")
    found = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "none is refused"
    return verdict("schedules", found, well=not refused, mend="`gristmill schedules edit NAME`, or pause it")
