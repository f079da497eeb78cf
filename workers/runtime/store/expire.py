"""End the waits whose deadline has passed: one guarded UPDATE for a batch of them."""

from functools import cache

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.waiting import AS_TEXT, deadline_of, in_list, leave, still_waits

BATCH = 1_000


@cache
def _expire_sql(t: JobTable) -> str:
    c, cycle = t.column, t.lifecycle
    waits = ", ".join(
        f"('{wait.state}', '{wait.expires}', {_quoted(wait.waits_for)}, {_lasts(t, wait.expires)}::interval)"
        for wait in cycle.waits
    )
    reason = f"'waited for ' || w.waits_for || ' until ' || {AS_TEXT.format('j.' + deadline_of(t))}"
    return f"""
        WITH due AS MATERIALIZED (
          SELECT i.{c["id"]} AS id FROM {t.name} AS i
           WHERE i.{c["status"]} IN ({in_list(cycle.waiting)}) AND i.{deadline_of(t)} <= now()
           ORDER BY i.{deadline_of(t)} LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
        UPDATE {t.name} AS j
           SET {leave(t, into="w.target", until="now() + w.lasts")},
               {c["error_message"]} = CASE WHEN w.target IN ({in_list(cycle.bad)}) THEN {reason} END,
               {c["change_action"]} = 'expire', {c["change_reason"]} = {reason}
          FROM (VALUES {waits}) AS w (state, target, waits_for, lasts)
         WHERE j.{c["id"]} = ANY (ARRAY(SELECT id FROM due)) AND w.state = j.{c["status"]}::text
           AND {still_waits(t, deadline="passed")}
        RETURNING j.{c["id"]}"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def _lasts(t: JobTable, state: str) -> str:
    wait = t.lifecycle.wait(state)
    return f"'{wait.lasts.total_seconds()} s'" if wait and wait.lasts else "NULL"


async def expire(conn: Raw, model: type[Job], *, batch: int = BATCH) -> int:
    """End up to ``batch`` waits whose deadline has passed, oldest first; return how many.

    A row that somebody holds is left for the next time: who holds it may be deciding.
    """
    cursor = await conn.execute(_expire_sql(job_table(model)), {"batch": batch})
    return len(await cursor.fetchall())
