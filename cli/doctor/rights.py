"""Checks of who connects with which rights, and whether a service must prove whom it speaks for."""

from typing import Any

import psycopg

from cli.doctor.check import Check

# Our processes name themselves `kind:name`. Of other logins' sessions only some roles see the name.
_LOGINS = """
    SELECT split_part(a.application_name, ':', 1), r.rolname, r.rolsuper
      FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid
     WHERE a.datname = current_database() AND a.application_name ~ '^(worker|dispatcher|beat):'
     GROUP BY 1, 2, 3 ORDER BY 1, 2"""
_TENANTS = """
    SELECT count(*) FROM (SELECT owner_id FROM scoring.profiles WHERE owner_id IS NOT NULL
                           UNION SELECT "ownerId" FROM operations.projects WHERE "ownerId" IS NOT NULL) AS owners"""
_STRICT = "SELECT EXISTS (SELECT FROM runtime.security WHERE strict)"
_ROLES = "`gristmill migrate --roles` makes a login for each kind of process: docs/security.md"


async def logins(connection: psycopg.AsyncConnection[Any]) -> Check:
    """Tell by which logins our processes are connected; a superuser among them is worth a warning."""
    rows = await (await connection.execute(_LOGINS)).fetchall()
    if not rows:
        return Check("logins", "ok", "no process of ours is connected, or this login may not see it")
    found = ", ".join(f"{kind} as {role}" for kind, role, _ in rows)
    if above := sorted({role for _, role, is_super in rows if is_super}):
        said = f"{found}: {', '.join(above)} is a superuser, whom no right stops"
        return Check("logins", "warning", said, _ROLES)
    return Check("logins", "ok", found)


async def strict_mode(connection: psycopg.AsyncConnection[Any]) -> Check:
    """Tell whether services must sign whom they speak for; with several tenants they should."""
    try:
        strict = await _one(connection, _STRICT)
    except psycopg.errors.InsufficientPrivilege:
        return Check("strict mode", "ok", "this login may not see it")
    if strict:
        return Check("strict mode", "ok", "on: a service must sign whom it speaks for")
    tenants = await _one(connection, _TENANTS)
    if tenants > 1:
        mend = "`gristmill security new-key`, give it to the process that signs, then `gristmill security strict on`"
        found = f"off, with {tenants} owners: every service may speak for each of them"
        return Check("strict mode", "warning", found, mend)
    return Check("strict mode", "ok", "off")


async def _one(connection: psycopg.AsyncConnection[Any], question: str) -> Any:
    row = await (await connection.execute(question.encode())).fetchone()
    return row[0] if row else None
