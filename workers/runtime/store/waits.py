"""How long a job has waited, by its history. Asked only if something is away, or if many runs got it no further."""

from datetime import timedelta
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.handler.endurance import FOUND, NO_PROGRESS, IdleRuns, Waited

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


_IDLE_RUNS = """
    WITH h AS (
      SELECT version_to, created_at, change_action = 'snooze' AND strpos(change_reason, %(idle)s) > 0 AS is_idle,
             change_action
        FROM runtime.transitions WHERE job_id = %(id)s AND stage = %(stage)s)
    SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM h
     WHERE is_idle AND version_to > (SELECT coalesce(max(version_to), 0) FROM h
                                      WHERE is_idle IS NOT TRUE AND change_action NOT IN ('claim', 'release'))"""


async def idle_runs(conn: Raw, stage: str, job_id: UUID) -> IdleRuns:
    """Return how many runs in a row got this job no further: since its last retry, rescue or run with progress."""
    cursor = await conn.execute(_IDLE_RUNS, {"id": job_id, "stage": stage, "idle": NO_PROGRESS})
    row = await cursor.fetchone()
    return IdleRuns(row[0], timedelta(seconds=row[1])) if row else IdleRuns()
