"""The limit of the database: the three statements of a job's life in large batches, without work per job in Python.

Table, indexes, constraints and triggers are Gristmill's, so the transitions are the same. There are no Redis, no
handlers and no events. The difference to Gristmill is the cost of a worker system.
"""

import threading
import time

import psycopg

from benchmarks.gristmill import PLAIN, Drained, fill
from benchmarks.system import Meter, System
from workers.runtime.connections import connect

BATCH = 512
OWNER = "00000000-0000-0000-0000-000000000001"
# Like the kernel's own sessions: it has a worker's name, so that nobody is notified, and plans use the primary key.
SESSION = (
    "-c gristmill.changed_by=worker:raw -c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off "
    "-c enable_hashjoin=off -c enable_mergejoin=off"
)
MARK = f"""
    WITH marked AS (
      UPDATE {PLAIN} AS j SET dispatched_at = clock_timestamp()
       WHERE j.id = ANY (ARRAY(
         SELECT i.id FROM {PLAIN} AS i WHERE i.status = 'pending' AND i.dispatched_at IS NULL AND i.due_at IS NULL
          ORDER BY i.priority, i.created_at, i.id LIMIT {BATCH} FOR UPDATE SKIP LOCKED))
      RETURNING j.id, j.version)
    SELECT array_agg(id)::text, array_agg(version)::text FROM marked"""
CLAIM = f"""
    WITH claimed AS (
      UPDATE {PLAIN} AS j
         SET status = 'processing', version = j.version + 1, lease_owner = '{OWNER}', started_at = now(),
             updated_at = now(), progress = 1, deadline_at = now() + interval '20 s', change_action = 'claim',
             change_reason = NULL
        FROM unnest(%s::uuid[], %s::int[]) AS u(id, version)
       WHERE j.id = u.id AND j.version = u.version AND j.status || '' = 'pending' AND j.dispatched_at IS NOT NULL
      RETURNING j.id, j.version)
    SELECT array_agg(id)::text, array_agg(version)::text FROM claimed"""
SETTLE = f"""
    UPDATE {PLAIN} AS j
       SET status = 'completed', version = j.version + 1, progress = 100, due_at = NULL, dispatched_at = NULL,
           deadline_at = NULL, completed_at = now(), updated_at = now(), error_message = NULL,
           change_action = 'complete', change_reason = NULL
      FROM unnest(%s::uuid[], %s::int[]) AS u(id, version)
     WHERE j.id = u.id AND j.version = u.version AND j.status || '' = 'processing'"""


def drain(system: System, jobs: int, *, connections: int) -> Drained:
    """Fill the table, then mark, claim and settle all jobs with this number of connections at once."""
    fill(system, jobs)
    opened = [connect(system.database_url, autocommit=True, settings=SESSION) for _ in range(connections)]
    try:
        # No dispatcher listens for notices.
        system.postgres.execute("UPDATE runtime.dispatcher SET listening = false")
        start, meter = time.perf_counter(), Meter(system, {})
        threads = [threading.Thread(target=_drain, args=(connection,)) for connection in opened]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, cpu = time.perf_counter() - start, meter.used()
    finally:
        for connection in opened:
            connection.close()
    done = system.value(f"SELECT count(*) FROM {PLAIN} WHERE status = 'completed'")
    assert done == jobs, f"{done} of {jobs} completed"
    return Drained(jobs, seconds, cpu)


def _drain(connection: psycopg.Connection[tuple[str | None, str | None]]) -> None:
    """Mark, claim and settle in batches. Ids are one text in each direction, to avoid work per job in the driver."""
    while (marked := connection.execute(MARK).fetchone()) and marked[0]:
        claimed = connection.execute(CLAIM, marked).fetchone()
        connection.execute(SETTLE, claimed)
