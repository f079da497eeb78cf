"""Checks of schedules: those that look enabled and cannot do what they ask for."""

from cli.complaints import server_trouble
from cli.connection import opened
from cli.doctor.check import Check, verdict
from workers.runtime.handler.registry import discover
from workers.runtime.operate.schedules import refused_schedules


async def schedules(database_url: str) -> Check:
    """Check that every enabled schedule can be understood and that its stage takes its payload."""
    registry = discover()
    try:
        async with opened(database_url) as database, database.session() as session:
            refused = await refused_schedules(session, registry)
    except Exception as error:  # noqa: BLE001 - what is no trouble of a server is raised again
        return Check(
            "schedules", "failed", f"they cannot be read: {server_trouble(error)}", "look at the Postgres check"
        )
    found = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "none is refused"
    return verdict("schedules", found, well=not refused, mend="`gristmill schedules edit NAME`, or pause it")
