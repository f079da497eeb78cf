"""Checks of who connects with which rights, and whether a service must prove whom it speaks for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from cli.doctor.check import Check
from local.logins import FOLDER, invalid_passwords
from workers.runtime.database import Raw
from workers.runtime.operate.health import count_owners, is_strict, list_connected_logins
from workers.runtime.refusals import Failed

_ROLES = "`gristmill migrate --roles` makes a login for each kind of process: docs/security.md"


async def logins(conn: Raw) -> Check:
    """Tell by which logins our processes are connected; a superuser among them is worth a warning."""
    connected = await list_connected_logins(conn)
    if not connected:
        return Check("logins", "unknown", "no process of ours is connected, or this login may not see it")
    found = ", ".join(f"{one.kind} as {one.role}" for one in connected)
    if above := sorted({one.role for one in connected if one.is_superuser}):
        said = f"{found}: {', '.join(above)} is a superuser, whom no right stops"
        return Check("logins", "warning", said, _ROLES)
    return Check("logins", "ok", found)


async def passwords(database_url: str, data_dir: Path) -> AsyncIterator[Check]:
    """Try each login that has a file in the data folder; say nothing if no file is for this database.

    A process keeps its connections after its password was changed. It fails only when it must connect again.
    """
    folder = data_dir / FOLDER
    try:
        tried, wrong = await asyncio.to_thread(invalid_passwords, database_url, folder)
    except Failed as error:
        yield Check("passwords", "failed", str(error))
        return
    if wrong:
        mend = "`gristmill migrate --roles --new-passwords` makes new ones; then restart the processes that use them"
        yield Check("passwords", "failed", "; ".join(wrong), mend)
    elif tried:
        yield Check("passwords", "ok", f"{tried} logins in {folder} can connect")


async def strict_mode(conn: Raw) -> Check:
    """Tell whether services must sign whom they speak for; with several tenants they should."""
    strict = await is_strict(conn)
    if strict is None:
        return Check("strict mode", "unknown", "this login may not see it")
    if strict:
        return Check("strict mode", "ok", "on: a service must sign whom it speaks for")
    tenants = await count_owners(conn)
    if tenants > 1:
        mend = "`gristmill security new-key`, give it to the process that signs, then `gristmill security strict on`"
        found = f"off, with {tenants} owners: every service may speak for each of them"
        return Check("strict mode", "warning", found, mend)
    return Check("strict mode", "ok", "off")
