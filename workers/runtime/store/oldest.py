"""How long the ready job that waits longest has waited, by stage. Along indexes: a few rows of each. Only reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from models import every_table
from models.lifecycle import Job, Step
from workers.runtime.database import Raw
from workers.runtime.store.read import list_stage_tables
from workers.runtime.store.tables import JobTable, job_table

# At most this many jobs of a stage are looked at.
MAX_LOOKED = 1_000


@dataclass(frozen=True, slots=True)
class OldestWait:
    """The longest wait of the ready jobs of one stage; None: no job is ready. ``is_least``: it may be longer."""

    stage: str
    waited: timedelta | None
    is_least: bool


async def read_oldest_waits(conn: Raw) -> list[OldestWait]:
    """Return the longest wait of each stage.

    Exact while among the first jobs by id there is one that was ready ever since its enqueue: whatever came later waits
    less. A stage behind another has no such jobs; of its first :data:`MAX_LOOKED` the longest wait is returned.
    """
    known = set((await list_stage_tables(conn)).values())
    tables = [t for t in map(job_table, every_table(Job)) if t.label in known]
    if not tables:
        return []
    sql = " UNION ALL ".join(_waits_sql(t) for t in tables)
    cursor = await conn.execute(
        f"""SELECT stage, CASE WHEN min(since) IS NOT NULL THEN greatest(now() - min(since), interval '0') END,
                   bool_or(is_least)
              FROM ({sql}) AS waits GROUP BY stage ORDER BY stage""".encode()
    )
    return [OldestWait(stage, waited, bool(is_least)) for stage, waited, is_least in await cursor.fetchall()]


@cache
def _waits_sql(t: JobTable) -> str:
    """Return rows (stage, since, is_least): several of each stage, at least one."""
    return " UNION ALL ".join(part for step in t.lifecycle.steps for part in _waits_of(t, step))


def _waits_of(t: JobTable, step: Step) -> Iterator[str]:
    c = t.column
    ready = f"{c['status']} BETWEEN '{step.ready}' AND '{step.ready}'"
    # A job that was ready ever since its enqueue: all with higher ids were enqueued, and so ready, later.
    fresh = f"{c['version']} = 1 AND {c['updated_at']} <= {c['created_at']}"
    yield f"""
        SELECT '{step.stage}' AS stage, min(since) AS since,
               count(*) = {MAX_LOOKED} AND NOT bool_or(is_fresh) AS is_least
          FROM (SELECT since, is_fresh,
                       bool_or(is_fresh) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS past
                  FROM (SELECT {c["updated_at"]} AS since, {fresh} AS is_fresh FROM {t.name}
                         WHERE {ready} AND {c["due_at"]} IS NULL
                           AND ({c["dispatched_at"]} IS NULL OR {c["completed_at"]} IS NOT NULL)
                         ORDER BY {c["status"]}, {c["id"]} LIMIT {MAX_LOOKED}) AS first) AS looked
         WHERE past IS NOT TRUE"""
    yield f"""
        SELECT '{step.stage}', min({c["updated_at"]}), false FROM {t.name}
         WHERE {c["status"]} = '{step.ready}' AND {c["dispatched_at"]} IS NOT NULL AND {c["completed_at"]} IS NULL"""
    yield f"""
        SELECT '{step.stage}', min(since), false FROM (
          SELECT {c["due_at"]} AS since, {c["status"]} AS status FROM {t.name}
           WHERE {c["status"]} IN ({", ".join(f"'{state}'" for state in sorted(t.lifecycle.ready))})
             AND {c["due_at"]} IS NOT NULL AND {c["due_at"]} <= now()
           ORDER BY {c["due_at"]} LIMIT {MAX_LOOKED}) AS due WHERE status = '{step.ready}'"""
