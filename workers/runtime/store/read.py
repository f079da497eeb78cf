"""What people ask of jobs and stages: lists, one job, its history, counts. Reads only; never in a dispatcher's tick."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row, dict_row, scalar_row

from models.lifecycle import JOB_ATTRIBUTES, Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import job_table


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One row of ``runtime.jobs``: any job of any table, with why it waits."""

    id: UUID
    stage: str
    status: str
    version: int
    priority: int
    progress: int
    retry_count: int
    max_retries: int
    due_at: datetime | None
    idempotency_key: str | None
    wait_reason: str | None
    age: timedelta
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    lease_owner: UUID | None
    error_message: str | None
    table_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionView:
    """One row of ``runtime.transitions``."""

    job_id: UUID
    stage: str
    old_state: str | None
    new_state: str
    version_from: int | None
    version_to: int
    changed_by: str | None
    change_reason: str | None
    change_action: str | None
    created_at: datetime
    context: dict[str, Any] | None
    ip_address: Any
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage: what waits, runs and failed, the oldest wait, what was done in the last minute, who may run it."""

    stage: str
    ready: int
    running: int
    failed: int
    oldest_wait: timedelta | None
    done_last_minute: int
    slots: int
    limit_at_most: int | None
    paused_at: datetime | None
    paused_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: every part that is set must hold. ``error`` is a substring of the error message."""

    stage: str | None = None
    status: str | None = None
    older_than: timedelta | None = None
    error: str | None = None
    ids: Sequence[UUID] | None = None


async def list_jobs(conn: Raw, wanted: JobFilter, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first; ``after`` is the last id of the page before."""
    cursor = conn.cursor(row_factory=class_row(JobView))
    await cursor.execute(
        """SELECT * FROM runtime.jobs
            WHERE (%(stage)s::text IS NULL OR stage = %(stage)s) AND (%(status)s::text IS NULL OR status = %(status)s)
              AND (%(older)s::interval IS NULL OR age > %(older)s)
              AND (%(error)s::text IS NULL OR strpos(lower(error_message), lower(%(error)s)) > 0)
              AND (%(ids)s::uuid[] IS NULL OR id = ANY (%(ids)s)) AND (%(after)s::uuid IS NULL OR id < %(after)s)
            ORDER BY id DESC LIMIT %(limit)s""",
        {
            "stage": wanted.stage,
            "status": wanted.status,
            "older": wanted.older_than,
            "error": wanted.error,
            "ids": None if wanted.ids is None else list(wanted.ids),
            "after": after,
            "limit": limit,
        },
    )
    return await cursor.fetchall()


async def get_job(conn: Raw, job_id: UUID) -> JobView | None:
    """Return one job, or None if no table has it (any more)."""
    found = await list_jobs(conn, JobFilter(ids=[job_id]), limit=1)
    return found[0] if found else None


async def history(conn: Raw, job_id: UUID) -> list[TransitionView]:
    """Return a job's transitions in order; they outlive the job itself."""
    cursor = conn.cursor(row_factory=class_row(TransitionView))
    await cursor.execute(
        """SELECT job_id, stage, old_state, new_state, version_from, version_to, changed_by, change_reason,
                  change_action, created_at, context, ip_address, user_agent
             FROM runtime.transitions WHERE job_id = %(id)s ORDER BY version_to""",
        {"id": job_id},
    )
    return await cursor.fetchall()


async def list_stages(conn: Raw) -> list[StageView]:
    """Return every stage with its counts. Counts whole tables: for people, not for loops."""
    cursor = conn.cursor(row_factory=class_row(StageView))
    await cursor.execute(
        """SELECT s.name AS stage, count(j.id) FILTER (WHERE j.status = s.ready) AS ready,
                  count(j.id) FILTER (WHERE j.status = s.running) AS running,
                  count(j.id) FILTER (WHERE j.error_message IS NOT NULL AND j.completed_at IS NOT NULL) AS failed,
                  max(j.age) FILTER (WHERE j.status = s.ready AND coalesce(j.due_at <= now(), true)) AS oldest_wait,
                  (SELECT count(*) FROM runtime.transitions AS t WHERE t.created_at > now() - interval '1 minute'
                      AND t.stage = s.name AND t.new_state = s.done) AS done_last_minute,
                  (SELECT coalesce(sum(w.slots), 0) FROM runtime.workers AS w
                    WHERE split_part(s.name, '.', 1) = ANY (w.queues) AND w.draining_at IS NULL
                      AND w.heartbeat_at > now() - make_interval(secs => w.lease_seconds)) AS slots,
                  s.limit_at_most, s.paused_at, s.paused_by
             FROM runtime.stages AS s LEFT JOIN runtime.jobs AS j ON j.stage = s.name
            GROUP BY s.name, s.ready, s.running, s.done, s.limit_at_most, s.paused_at, s.paused_by ORDER BY s.name"""
    )
    return await cursor.fetchall()


async def dispatcher_seen(conn: Raw) -> timedelta | None:
    """Return how long ago the leading dispatcher last showed itself; None if none ever did."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT now() - seen_at FROM runtime.dispatcher WHERE leader IS NOT NULL")
    seen: timedelta | None = await cursor.fetchone()
    return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCheck:
    """One stage's jobs held against their histories. The last five say what must never be: all of them are 0.

    ``ends`` are transitions into a terminal state, ``reopened`` those out of one (an operator's retry), so that a
    job has ended exactly once for each time it could: ``ended_twice`` counts the others. ``gaps`` are versions that
    do not follow each other or begin above 1, ``duplicates`` versions written twice, ``mismatched`` rows that are
    not where their history ends, ``unrecorded`` rows without one. ``suspects`` are the first ids of these.
    """

    stage: str
    jobs: int
    gone: int
    waiting: int
    running: int
    completed: int
    failed: int
    cancelled: int
    transitions: int
    ends: int
    reopened: int
    ended_twice: int
    gaps: int
    duplicates: int
    mismatched: int
    unrecorded: int
    suspects: list[UUID]

    @property
    def violations(self) -> int:
        return self.ended_twice + self.gaps + self.duplicates + self.mismatched + self.unrecorded


# A history may begin late only where the months before it were dropped: its job is older than the first one kept.
_VERIFY = """
WITH recorded AS (
  SELECT t.job_id, t.stage, t.old_state, t.new_state, t.version_from, t.version_to, l.terminal,
         lag(t.version_to) OVER steps AS version_before, lag(t.new_state) OVER steps AS state_before,
         lead(t.version_to) OVER steps IS NULL AS newest
    FROM runtime.transitions AS t
    LEFT JOIN runtime.stages AS s ON s.name = t.stage LEFT JOIN runtime.lifecycles AS l USING (table_name)
  WINDOW steps AS (PARTITION BY t.job_id ORDER BY t.version_to, t.created_at)),
histories AS (
  SELECT job_id, max(stage) FILTER (WHERE newest) AS stage, max(new_state) FILTER (WHERE newest) AS state,
         max(version_to) AS version, count(*) AS transitions,
         bool_or(new_state = ANY (terminal)) FILTER (WHERE newest) AS ended,
         count(*) FILTER (WHERE new_state = ANY (terminal)) AS ends,
         count(*) FILTER (WHERE old_state = ANY (terminal)) AS reopened,
         count(*) FILTER (WHERE version_to = version_before) AS duplicates,
         count(*) FILTER (WHERE version_before IS NOT NULL AND version_to <> version_before
                            AND (version_to <> version_before + 1 OR version_from IS DISTINCT FROM version_before
                                 OR old_state IS DISTINCT FROM state_before)) AS gaps,
         bool_or(version_before IS NULL AND (version_from IS NOT NULL OR version_to <> 1)) AS begins_late
    FROM recorded GROUP BY job_id),
judged AS (
  SELECT coalesce(h.job_id, j.id) AS id, coalesce(j.stage, h.stage) AS stage, j.id IS NOT NULL AS present,
         coalesce(j.status, h.state) AS state, h.transitions, h.ends, h.reopened, h.duplicates,
         (h.ends - h.reopened <> h.ended::int AND NOT h.begins_late)::int AS ended_twice,
         h.gaps + (h.begins_late AND coalesce(j.created_at, uuid_extract_timestamp(h.job_id), now())
                   >= date_trunc('month', (SELECT min(created_at) FROM runtime.transitions), 'UTC'))::int AS gaps,
         (j.id IS NOT NULL AND (j.version <> h.version OR j.status <> h.state))::int AS mismatched,
         (h.job_id IS NULL)::int AS unrecorded
    FROM histories AS h FULL JOIN runtime.jobs AS j ON j.id = h.job_id)
SELECT d.stage, count(*) FILTER (WHERE present)::int AS jobs, count(*) FILTER (WHERE NOT present)::int AS gone,
       count(*) FILTER (WHERE present AND d.state = s.ready)::int AS waiting,
       count(*) FILTER (WHERE present AND d.state = s.running)::int AS running,
       count(*) FILTER (WHERE d.state = s.done)::int AS completed,
       count(*) FILTER (WHERE d.state = 'failed')::int AS failed,
       count(*) FILTER (WHERE d.state = 'cancelled')::int AS cancelled,
       coalesce(sum(transitions), 0)::int AS transitions, coalesce(sum(ends), 0)::int AS ends,
       coalesce(sum(reopened), 0)::int AS reopened, coalesce(sum(ended_twice), 0)::int AS ended_twice,
       coalesce(sum(gaps), 0)::int AS gaps, coalesce(sum(duplicates), 0)::int AS duplicates,
       coalesce(sum(mismatched), 0)::int AS mismatched, coalesce(sum(unrecorded), 0)::int AS unrecorded,
       coalesce((array_agg(d.id ORDER BY d.id) FILTER (WHERE ended_twice > 0 OR gaps > 0 OR duplicates > 0
                                                          OR mismatched > 0 OR unrecorded > 0))[1:20], '{}') AS suspects
  FROM judged AS d LEFT JOIN runtime.stages AS s ON s.name = d.stage
 WHERE %(stage)s::text IS NULL OR d.stage = %(stage)s
 GROUP BY d.stage ORDER BY d.stage"""


async def verify_history(conn: Raw, *, stage: str | None = None) -> list[HistoryCheck]:
    """Hold every job against its transitions, in one snapshot; return the counts per stage. Reads whole tables."""
    cursor = conn.cursor(row_factory=class_row(HistoryCheck))
    await cursor.execute(_VERIFY, {"stage": stage})
    return await cursor.fetchall()


async def known_stages(conn: Raw) -> list[str]:
    """Return the names of all stages the database knows."""
    cursor = conn.cursor(row_factory=scalar_row)
    await cursor.execute("SELECT name FROM runtime.stages ORDER BY name")
    return await cursor.fetchall()


async def own_values(conn: Raw, model: type[Job], job_id: UUID) -> dict[str, Any]:
    """Return what a job's table holds beside its lifecycle: its payload and its result, by attribute."""
    t = job_table(model)
    own = ", ".join(f'{column} AS "{name}"' for name, column in t.column.items() if name not in JOB_ATTRIBUTES)
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(f"SELECT {own} FROM {t.name} WHERE {t.column['id']} = %(id)s", {"id": job_id})
    return await cursor.fetchone() or {}


async def slots_by_queue(conn: Raw) -> dict[str, int]:
    """Return the slots of living, not draining workers on each queue that has any."""
    cursor = await conn.execute(
        """SELECT queue, sum(slots)::int FROM runtime.workers CROSS JOIN LATERAL unnest(queues) AS queue
            WHERE draining_at IS NULL AND heartbeat_at > now() - make_interval(secs => lease_seconds) GROUP BY queue"""
    )
    return dict(await cursor.fetchall())
