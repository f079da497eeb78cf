"""Checks of the logins and their rights, and of strict mode."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from cli.doctor.check import Check
from cli.values import format_count
from local.logins import FOLDER, invalid_passwords
from workers.runtime.database import Raw
from workers.runtime.operate.health import count_owners, gateway_inherits, is_strict, list_connected_logins
from workers.runtime.refusals import Failed

_MAKE_LOGINS = "`gristmill migrate --roles` makes a login for each kind of process: docs/security.md"


async def check_logins(conn: Raw) -> Check:
    """Show the logins of our connected processes; warn about a superuser among them, and about a gateway's rights."""
    if await gateway_inherits(conn):
        found = "gristmill_gateway has the rights of its callers by itself: a route without a check could use them"
        remedy = (
            "as an administrator: GRANT gristmill_service, gristmill_operator TO gristmill_gateway WITH INHERIT FALSE"
        )
        return Check("logins", "warning", found, remedy)
    connected = await list_connected_logins(conn)
    if not connected:
        return Check("logins", "unknown", "no process of ours is connected, or this login may not see it")
    found = ", ".join(f"{one.kind} as {one.role}" for one in connected)
    if superusers := sorted({one.role for one in connected if one.is_superuser}):
        found = f"{found}: {', '.join(superusers)} is a superuser, which no right restricts"
        return Check("logins", "warning", found, _MAKE_LOGINS)
    return Check("logins", "ok", found)


async def check_passwords(database_url: str, data_dir: Path) -> AsyncIterator[Check]:
    """Try each login that has a file in the data folder; yield nothing if no file is for this database.

    After a password was changed, a process keeps its connections. It fails when it must connect again.
    """
    folder = data_dir / FOLDER
    try:
        tried, wrong = await asyncio.to_thread(invalid_passwords, database_url, folder)
    except Failed as error:
        yield Check("passwords", "failed", str(error))
        return
    if wrong:
        remedy = "`gristmill migrate --roles --new-passwords` makes new ones; then restart the processes that use them"
        yield Check("passwords", "failed", "; ".join(wrong), remedy)
    elif tried:
        yield Check("passwords", "ok", f"{format_count(tried, 'login')} in {folder} can connect")


async def check_strict_mode(conn: Raw) -> Check:
    """Check whether services must sign for their users. With several tenants they should."""
    strict = await is_strict(conn)
    if strict is None:
        return Check("strict mode", "unknown", "this login may not see it")
    if strict:
        return Check("strict mode", "ok", "on: a service must sign for its users")
    tenants = await count_owners(conn)
    if tenants > 1:
        remedy = "`gristmill security new-key`, give it to the process that signs; then `gristmill security strict on`"
        found = f"off, with {tenants} owners: every service may act for each of them"
        return Check("strict mode", "warning", found, remedy)
    return Check("strict mode", "ok", "off")
