"""How long a job has waited for something that is away, from its history. Read only while something is away."""

from datetime import timedelta
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.handler.endurance import FOUND, Waited

_WAITED = """
    SELECT extract(epoch FROM now() - min(h.created_at) FILTER (WHERE h.version_to > r.version))::float8,
           extract(epoch FROM now() - max(h.created_at))::float8,
           count(*) FILTER (WHERE strpos(h.change_reason, %(found)s) > 0)
      FROM runtime.transitions AS h
     CROSS JOIN (SELECT coalesce(max(version_to), 0) AS version FROM runtime.transitions
                  WHERE job_id = %(id)s AND change_action = 'retry') AS r
     WHERE h.job_id = %(id)s AND h.stage = %(stage)s AND h.change_action = 'snooze' AND h.change_reason LIKE %(like)s"""


async def read_waited(conn: Raw, stage: str, job_id: UUID, *, like: str) -> Waited | None:
    """Return how long a job has waited for reasons ``like`` this; None if it has not.

    Only waits after its last retry count for the first wait: a retried job may wait for the full time again.
    """
    cursor = await conn.execute(_WAITED, {"id": job_id, "stage": stage, "like": like, "found": FOUND})
    row = await cursor.fetchone()
    if row is None or row[1] is None:
        return None
    last = timedelta(seconds=row[1])
    return Waited(first=timedelta(seconds=row[0]) if row[0] is not None else timedelta(), last=last, found=row[2])
