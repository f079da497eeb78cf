"""Add what processes measured to the counters of all processes, and read those. The only statements on their tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.rows import class_row

from workers.runtime.database import Raw
from workers.runtime.measuring import Measured

# In the order of the key, so that two processes that add at once cannot deadlock.
_ADD = """
    INSERT INTO runtime.measurements AS m (name, labels, number, total, buckets)
    SELECT name, labels, number, total, buckets
      FROM jsonb_to_recordset(%(rows)s::jsonb) AS u (name text, labels text, number bigint, total float8,
                                                     buckets bigint[])
     ORDER BY name, labels
    ON CONFLICT (name, labels) DO UPDATE
       SET number = m.number + excluded.number, total = m.total + excluded.total, updated_at = now(),
           buckets = ARRAY(SELECT coalesce(old, 0) + coalesce(new, 0)
                             FROM unnest(m.buckets, excluded.buckets) WITH ORDINALITY AS b (old, new, nth)
                            ORDER BY nth)"""


@dataclass(frozen=True, slots=True)
class ActionCount:
    """How many jobs of a stage an action has moved, ever."""

    stage: str
    action: str
    jobs: int


async def become_operator(conn: Raw) -> None:
    """Act as an operator until the transaction ends: the gateway's login reads no job by itself."""
    await conn.execute("SELECT set_config('role', 'gristmill_operator', true)")


async def add_measurements(conn: Raw, measured: Sequence[Measured]) -> None:
    """Add what a process has measured."""
    rows = [asdict(one) for one in measured]
    await conn.execute(_ADD, {"rows": json.dumps(rows)})


async def read_measurements(conn: Raw) -> list[Measured]:
    """Return every counter and histogram."""
    cursor = await conn.execute("SELECT name, labels, number, total, buckets FROM runtime.measurements ORDER BY 1, 2")
    return [
        Measured(name, labels, number, total, tuple(buckets))
        for name, labels, number, total, buckets in await cursor.fetchall()
    ]


async def read_action_counts(conn: Raw) -> list[ActionCount]:
    """Return how often each action was taken, as of the last fold."""
    cursor = conn.cursor(row_factory=class_row(ActionCount))
    await cursor.execute("SELECT stage, action, jobs FROM runtime.action_counts ORDER BY 1, 2")
    return await cursor.fetchall()


def labels_of(measured: Measured) -> dict[str, Any]:
    """Return the labels of a counter or histogram. Pure."""
    found: dict[str, Any] = json.loads(measured.labels)
    return found
