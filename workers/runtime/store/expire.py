"""End waits after their deadline, by one guarded UPDATE for a batch of them; delete rows that have expired."""

from functools import cache
from typing import cast

from sqlalchemy import Table, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.base import Base, Expiry
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.waiting import AS_TEXT, deadline_of, in_list, leave, still_waits

EXPIRE_BATCH = 1_000


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


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "''").replace("%", "%%") + "'"


def _lasts(t: JobTable, state: str) -> str:
    wait = t.lifecycle.wait(state)
    return f"'{wait.lasts.total_seconds()} s'" if wait and wait.lasts else "NULL"


async def expire(conn: Raw, model: type[Job], *, batch: int = EXPIRE_BATCH) -> int:
    """End up to ``batch`` waits that are past their deadline, oldest first; return how many.

    A row that another session has locked is left for the next call: that session may be deciding the wait.
    """
    cursor = await conn.execute(_expire_sql(job_table(model)), {"batch": batch})
    return len(await cursor.fetchall())


@cache
def _expire_rows_sql(model: type[Base], column: str) -> TextClause:
    table = cast("Table", model.__table__)
    return text(f"""
        WITH expired AS (
          DELETE FROM "{table.schema}"."{table.name}" WHERE "{column}" < now() - CAST(:after AS interval) RETURNING 1)
        SELECT count(*) FROM expired""")


async def delete_expired(session: AsyncSession, model: type[Base], expiry: Expiry) -> int:
    """Delete the rows of ``model`` that are older than ``expiry`` allows; return how many."""
    found = await session.execute(_expire_rows_sql(model, expiry.column), {"after": expiry.after})
    return int(found.scalar_one())
