"""Check of the schedules that are enabled and refused."""

from cli.connection import open_database
from cli.doctor.check import Check, is_denied, not_checked, ok_or_failed
from cli.error_lines import server_error_line
from workers.runtime.handler.registry import discover
from workers.runtime.operate.schedules import refused_schedules


async def check_schedules(database_url: str) -> Check:
    """Check that every enabled schedule is valid and that its stage accepts its payload."""
    registry = discover()
    try:
        async with open_database(database_url) as database, database.session() as session:
            refused = await refused_schedules(session, registry)
    except Exception as error:  # noqa: BLE001 - errors that are not of a server are raised again
        if is_denied(error):
            return not_checked("schedules")
        return Check(
            "schedules", "failed", f"they cannot be read: {server_error_line(error)}", "look at the Postgres check"
        )
    found = "; ".join(f"{name}: {reason}" for name, reason in refused.items()) or "none is refused"
    return ok_or_failed("schedules", found, ok=not refused, remedy="`gristmill schedules edit NAME`, or pause it")
