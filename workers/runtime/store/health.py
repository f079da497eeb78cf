"""What the rows say of the system's health: who is connected, what fired last, who owns what. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.errors import InsufficientPrivilege
from psycopg.rows import class_row, dict_row

from models import every_table
from models.base import Base
from models.lifecycle import Job
from workers.runtime.database import Raw

# Names of the column that says whose a row is.
_OWNER = ("owner_id", "ownerId")


async def enabled_schedules(conn: Raw) -> Sequence[Mapping[str, Any]]:
    """Return ``name``, ``cron``, ``timezone``, ``now`` and ``since`` of every enabled schedule.

    ``since`` is the moment after which its times fire. A time of infinity, written in psql, does not count.
    """
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """SELECT name, cron, timezone, now() AS now,
                  greatest(CASE WHEN isfinite(last_scheduled_for) THEN last_scheduled_for END,
                           CASE WHEN isfinite(created_at) THEN created_at END,
                           CASE WHEN isfinite(updated_at) THEN updated_at END) AS since
             FROM runtime.schedules WHERE enabled ORDER BY name"""
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class LastTick:
    """When a schedule fired last and who fired it, if any ever did; ``now`` is the database's time."""

    now: datetime
    fired_at: datetime | None
    fired_by: str | None


async def last_tick(conn: Raw) -> LastTick:
    """Return the newest tick of all schedules."""
    cursor = conn.cursor(row_factory=class_row(LastTick))
    await cursor.execute(
        """SELECT now() AS now, last.fired_at, last.fired_by FROM (SELECT) AS one LEFT JOIN LATERAL (
             SELECT fired_at, fired_by FROM runtime.ticks WHERE isfinite(fired_at)
              ORDER BY fired_at DESC LIMIT 1) AS last ON true"""
    )
    found = await cursor.fetchone()
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class ConnectedLogin:
    """A login by which processes of one kind are connected."""

    kind: str
    role: str
    is_superuser: bool


async def connected_logins(conn: Raw) -> list[ConnectedLogin]:
    """Return by which logins our processes are connected, as far as this login may see it."""
    cursor = conn.cursor(row_factory=class_row(ConnectedLogin))
    # Our processes name themselves `kind:name`. Of other logins' sessions only some roles see the name.
    await cursor.execute(
        """SELECT split_part(a.application_name, ':', 1) AS kind, r.rolname AS role, r.rolsuper AS is_superuser
             FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid
            WHERE a.datname = current_database() AND a.application_name ~ '^(worker|dispatcher|beat):'
            GROUP BY 1, 2, 3 ORDER BY 1, 2"""
    )
    return await cursor.fetchall()


async def is_strict(conn: Raw) -> bool | None:
    """Tell whether strict mode is on; None where this login may not see it."""
    try:
        cursor = await conn.execute("SELECT EXISTS (SELECT FROM runtime.security WHERE strict)")
    except InsufficientPrivilege:
        return None
    row = await cursor.fetchone()
    return bool(row and row[0])


async def count_owners(conn: Raw) -> int:
    """Return how many users own rows of the tables that people fill.

    Jobs belong to the same users; rows that expire by themselves are too many to be counted.
    """
    owned = []
    for model in every_table(Base):
        table: Any = vars(model)["__table__"]
        names = [name for name in _OWNER if name in table.columns]
        if names and not issubclass(model, Job) and getattr(model, "__expiry__", None) is None:
            owned.append(f'SELECT "{names[0]}" FROM "{table.schema}"."{table.name}" WHERE "{names[0]}" IS NOT NULL')
    if not owned:
        return 0
    cursor = await conn.execute(f"SELECT count(*) FROM ({' UNION '.join(owned)}) AS owners".encode())
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
