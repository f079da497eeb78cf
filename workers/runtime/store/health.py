"""Read the health of the system from its rows: who is connected, what fired last, who owns rows. Only reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, dict_row

from models import every_table
from models.base import Base
from models.lifecycle import Job
from workers.runtime.database import Raw

# Names of the column with the owner of a row.
_OWNER = ("owner_id", "ownerId")


async def list_enabled_schedules(conn: Raw) -> Sequence[Mapping[str, Any]]:
    """Return ``name``, ``cron``, ``timezone``, ``now`` and ``since`` of every enabled schedule.

    Times after ``since`` fire. A time of infinity, which somebody wrote with psql, does not count.
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
    """When a schedule last fired and which beat fired it, if any did; ``now`` is the database's time."""

    now: datetime
    fired_at: datetime | None
    fired_by: str | None


async def read_last_tick(conn: Raw) -> LastTick:
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
    """A login that processes of one kind are connected with."""

    kind: str
    role: str
    is_superuser: bool


async def list_connected_logins(conn: Raw) -> list[ConnectedLogin]:
    """Return the logins that our processes are connected with, as far as this login may see them."""
    cursor = conn.cursor(row_factory=class_row(ConnectedLogin))
    # Our processes have the name `kind:name`. Only some roles see the names of other logins' sessions.
    await cursor.execute(
        """SELECT split_part(a.application_name, ':', 1) AS kind, r.rolname AS role, r.rolsuper AS is_superuser
             FROM pg_stat_activity AS a JOIN pg_roles AS r ON r.oid = a.usesysid
            WHERE a.datname = current_database() AND a.application_name ~ '^(worker|dispatcher|beat):'
            GROUP BY 1, 2, 3 ORDER BY 1, 2"""
    )
    return await cursor.fetchall()


async def gateway_inherits(conn: Raw) -> bool:
    """Tell whether the gateway's role has the rights of its callers without becoming one of them."""
    cursor = await conn.execute(
        """SELECT coalesce(bool_or(pg_has_role(g.oid, r.oid, 'USAGE')), false) FROM pg_roles AS g, pg_roles AS r
            WHERE g.rolname = 'gristmill_gateway' AND r.rolname IN ('gristmill_service', 'gristmill_operator')"""
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def is_strict(conn: Raw) -> bool:
    """Tell whether strict mode is on."""
    cursor = await conn.execute("SELECT EXISTS (SELECT FROM runtime.security WHERE strict)")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def notice_queue_usage(conn: Raw) -> float:
    """Return the used part of the NOTIFY queue, 0 to 1. Every login may read it."""
    row = await (await conn.execute("SELECT pg_notification_queue_usage()")).fetchone()
    assert row is not None
    return float(row[0])


async def count_owners(conn: Raw) -> int:
    """Return how many users own rows of the tables that people fill.

    Job tables are not read, because jobs belong to the same users; rows that expire are not, because they are many.
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
