"""Why jobs failed and why others back off, by stage and cause. Only reads, along indexes, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from uuid import UUID

from models import every_table
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.causes import cause_of
from workers.runtime.store.stages import ALONG_INDEXES
from workers.runtime.store.tables import JobTable, job_table

# At most this many jobs of one table are read; if there are more, only the newest.
MAX_JOBS_READ = 10_000


@dataclass(slots=True)
class Cause:
    """Jobs of one stage that failed or back off for the same reason; ``error`` is the error of the newest one.

    ``first_at`` and ``last_at`` are times of the failed jobs; if none failed, of the jobs that back off.
    """

    stage: str
    cause: str
    error: str
    failed: int
    backing_off: int
    first_at: datetime
    last_at: datetime
    sample: UUID


@dataclass(frozen=True, slots=True)
class Causes:
    """Causes, most failed jobs first; ``partial`` names the tables of which only the newest failures were read."""

    causes: Sequence[Cause]
    partial: Sequence[str]


@cache
def _failures_sql(t: JobTable) -> str:
    c, cycle = t.column, t.lifecycle
    stages = " ".join(f"WHEN '{step.ready}' THEN '{step.stage}'" for step in cycle.steps)
    places = " ".join(f"WHEN '{state}' THEN '{step.stage}'" for step in cycle.steps for state in cycle.states_of(step))
    ended = f"CASE {c['ended_in']} {places} END" if len(cycle.steps) > 1 else f"'{cycle.steps[0].stage}'"
    failed = ", ".join(f"'{state}'" for state in sorted(cycle.bad))
    ready = ", ".join(f"'{state}'" for state in sorted(cycle.ready))
    # Postgres counts equal texts, so that a million equal errors are not fetched.
    return f"""
        SELECT stage, error, is_failed, count(*)::int, min(at), max(at), (array_agg(id ORDER BY at DESC))[1],
               sum(count(*)) OVER (PARTITION BY is_failed)::int
          FROM (
            (SELECT {c["id"]} AS id, {ended}::text AS stage, coalesce({c["error_message"]}, '') AS error,
                    true AS is_failed, {c["completed_at"]} AS at
               FROM {t.name} WHERE {c["status"]} IN ({failed})
              ORDER BY {c["completed_at"]} DESC LIMIT {MAX_JOBS_READ})
            UNION ALL
            (SELECT {c["id"]}, CASE {c["status"]}::text {stages} END, coalesce({c["change_reason"]}, ''),
                    false, {c["updated_at"]}
               FROM {t.name} WHERE {c["status"]} IN ({ready}) AND {c["due_at"]} > now()
                AND {c["change_action"]} IN ('retry', 'rescue', 'snooze')
              ORDER BY {c["due_at"]} LIMIT {MAX_JOBS_READ})) AS found
         GROUP BY stage, error, is_failed"""


async def find_causes(conn: Raw, *, stage: str | None = None) -> Causes:
    """Return why jobs failed and why others back off, for one stage or for all."""
    found: dict[tuple[str, str], Cause] = {}
    partial = []
    async with conn.transaction():
        await conn.execute(ALONG_INDEXES)
        known = {name for (name,) in await (await conn.execute("SELECT table_name FROM runtime.lifecycles")).fetchall()}
        for t in (job_table(model) for model in every_table(Job)):
            if t.label not in known or (stage and stage not in {step.stage for step in t.lifecycle.steps}):
                continue
            rows = await (await conn.execute(_failures_sql(t))).fetchall()
            if any(total >= MAX_JOBS_READ for *_, total in rows):
                partial.append(t.label)
            for name, error, is_failed, n, first_at, last_at, sample, _ in rows:
                if stage in {None, name}:
                    one = Cause(name, cause_of(error), error, 0, 0, first_at, last_at, sample)
                    _add(found.setdefault((name, one.cause), one), one, n, is_failed=is_failed)
    ordered = sorted(found.values(), key=lambda one: (-one.failed, -one.backing_off, one.stage, one.cause))
    return Causes(ordered, partial)


def _add(cause: Cause, one: Cause, n: int, *, is_failed: bool) -> None:
    """Add ``n`` jobs like ``one``. The error, sample and times of failed jobs replace those of jobs that back off."""
    if is_failed and not cause.failed:
        cause.error, cause.sample, cause.first_at, cause.last_at = one.error, one.sample, one.first_at, one.last_at
    elif is_failed or not cause.failed:
        if one.last_at > cause.last_at:
            cause.error, cause.sample = one.error, one.sample
        cause.first_at, cause.last_at = min(cause.first_at, one.first_at), max(cause.last_at, one.last_at)
    if is_failed:
        cause.failed += n
    else:
        cause.backing_off += n
