"""Checks of who connects with which rights, and whether a service must prove whom it speaks for."""

from cli.doctor.check import Check
from workers.runtime.database import Raw
from workers.runtime.operate.health import connected_logins, count_owners, is_strict

_ROLES = "`gristmill migrate --roles` makes a login for each kind of process: docs/security.md"


async def logins(conn: Raw) -> Check:
    """Tell by which logins our processes are connected; a superuser among them is worth a warning."""
    connected = await connected_logins(conn)
    if not connected:
        return Check("logins", "ok", "no process of ours is connected, or this login may not see it")
    found = ", ".join(f"{one.kind} as {one.role}" for one in connected)
    if above := sorted({one.role for one in connected if one.is_superuser}):
        said = f"{found}: {', '.join(above)} is a superuser, whom no right stops"
        return Check("logins", "warning", said, _ROLES)
    return Check("logins", "ok", found)


async def strict_mode(conn: Raw) -> Check:
    """Tell whether services must sign whom they speak for; with several tenants they should."""
    strict = await is_strict(conn)
    if strict is None:
        return Check("strict mode", "ok", "this login may not see it")
    if strict:
        return Check("strict mode", "ok", "on: a service must sign whom it speaks for")
    tenants = await count_owners(conn)
    if tenants > 1:
        mend = "`gristmill security new-key`, give it to the process that signs, then `gristmill security strict on`"
        found = f"off, with {tenants} owners: every service may speak for each of them"
        return Check("strict mode", "warning", found, mend)
    return Check("strict mode", "ok", "off")
