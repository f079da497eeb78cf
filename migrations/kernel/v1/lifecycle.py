"""Attach a lifecycle to a job table: checks, kernel indexes, the audit triggers and its part of ``runtime.jobs``.

Used by revisions only, and imports nothing from ``models``: a revision states the lifecycle as it was on its day.
A test compares what the newest schema enforces with what the models declare.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from alembic import op

from migrations.kernel.v1.guards import insert_guard, update_guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage and the three states it moves a job through."""

    stage: str
    ready: str
    running: str
    done: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTable:
    """A job table as a revision sees it. Column names differ from the defaults where a seed has its own.

    ``status_is_enum`` where the status column is of an enum type, which casts to text only at run time and so not in
    an index. ``ends_at_full_progress`` is what ``models.lifecycle`` says of it.
    """

    schema: str
    table: str
    steps: Sequence[Step]
    failed: str = "failed"
    cancelled: str = "cancelled"
    also: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    limit_column: str | None = None
    status: str = "status"
    due_at: str = "due_at"
    error_message: str = "error_message"
    created_at: str = "created_at"
    updated_at: str = "updated_at"
    status_is_enum: bool = False
    ends_at_full_progress: bool = False

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def ready(self) -> list[str]:
        return [step.ready for step in self.steps]

    @property
    def running(self) -> list[str]:
        return [step.running for step in self.steps]

    @property
    def terminal(self) -> list[str]:
        return [self.steps[-1].done, self.failed, self.cancelled]

    @property
    def transitions(self) -> list[str]:
        """Every legal transition as ``old>new``, sorted."""
        legal = set(self.also)
        for step in self.steps:
            legal |= {(step.ready, step.running), (step.ready, self.cancelled), (self.failed, step.ready)}
            legal |= {(step.running, new) for new in (step.done, step.ready, self.failed, self.cancelled)}
        return sorted(f"{old}>{new}" for old, new in legal)

    @property
    def states(self) -> list[str]:
        return sorted({state for pair in self.transitions for state in pair.split(">")})

    @property
    def plain_status(self) -> str:
        """The status as checks and index conditions compare it with literals."""
        return self.status if self.status_is_enum else f"{self.status}::text"

    def stage_of(self, state: str) -> str:
        """Return a SQL expression for the stage that a row in ``state`` (itself an expression) belongs to."""
        cases = " ".join(
            f"WHEN {state} IN ({_literals([step.ready, step.running])}) THEN {_literal(step.stage)}"
            for step in self.steps
        )
        return f"CASE {cases} ELSE {_literal(self.steps[-1].stage)} END"


def attach_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Make ``job_table`` a job table. ``partitions`` names its partitions, if any: each gets the triggers itself,

    because an UPDATE addressed to a partition does not fire the parent's statement trigger.
    """
    for statement in (*_checks(job_table), *_indexes(job_table), _definition(job_table), *_stages(job_table)):
        op.execute(statement)
    op.execute(insert_guard(job_table))
    op.execute(update_guard(job_table))
    for table in (job_table.table, *partitions):
        attach_guards(job_table, table)
    op.execute(_grants(job_table))
    op.execute("SELECT runtime.rebuild_jobs_view()")


def attach_guards(job_table: JobTable, table: str) -> None:
    """Put the guards of ``job_table`` on ``table``: itself or one partition of it."""
    op.execute(f"""
        CREATE TRIGGER guard_insert AFTER INSERT ON {job_table.schema}.{table}
        REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION {job_table.schema}.guard_{job_table.table}_insert();
        CREATE TRIGGER guard_update AFTER UPDATE ON {job_table.schema}.{table}
        REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION {job_table.schema}.guard_{job_table.table}_update();
    """)


def detach_lifecycle(job_table: JobTable) -> None:
    """Undo :func:`attach_lifecycle` before the revision drops the table."""
    op.execute(f"DELETE FROM runtime.lifecycles WHERE table_name = {_literal(job_table.name)}")
    op.execute("SELECT runtime.rebuild_jobs_view()")
    op.execute(f"DROP TRIGGER guard_insert ON {job_table.name}; DROP TRIGGER guard_update ON {job_table.name}")
    for event in ("insert", "update"):
        op.execute(f"DROP FUNCTION {job_table.schema}.guard_{job_table.table}_{event}()")


def _checks(t: JobTable) -> list[str]:
    terminal = f"{t.plain_status} IN ({_literals(t.terminal)})"
    rules = {
        "status": f"{t.plain_status} IN ({_literals(t.states)})",
        "terminal_timestamp": f"({terminal}) = (completed_at IS NOT NULL)",
        "version": "version >= 1",
        "priority": "priority BETWEEN 1 AND 10",
        "progress": "progress BETWEEN 0 AND 100" + (f" AND {_progress_by_state(t)}" if t.ends_at_full_progress else ""),
        "retry_count": "retry_count BETWEEN 0 AND max_retries",
        "timeout_seconds": "timeout_seconds > 0",
    }
    return [f"ALTER TABLE {t.name} ADD CONSTRAINT ck_{t.table}_{name} CHECK ({rule})" for name, rule in rules.items()]


def _progress_by_state(t: JobTable) -> str:
    return f"""CASE WHEN {t.plain_status} IN ({_literals(t.terminal)}) THEN progress = 100
        WHEN {t.plain_status} IN ({_literals(t.running)}) THEN progress > 0 ELSE progress = 0 END"""


def _indexes(t: JobTable) -> list[str]:
    waits = f"{t.plain_status} IN ({_literals(t.ready)})"
    key = f"{t.limit_column}, " if t.limit_column else ""
    in_flight = t.limit_column or "lease_owner"
    prefix = f"ix_{t.table}"
    indexes = {
        f"INDEX {prefix}_ready ON {t.name} ({t.status}, {key}priority, {t.created_at}, id)": (
            f"{waits} AND dispatched_at IS NULL AND {t.due_at} IS NULL"
        ),
        f"INDEX {prefix}_due ON {t.name} ({t.due_at})": f"{waits} AND {t.due_at} IS NOT NULL",
        f"INDEX {prefix}_in_flight ON {t.name} ({t.status}, {in_flight})": (
            "dispatched_at IS NOT NULL AND completed_at IS NULL"
        ),
        f"INDEX {prefix}_completed ON {t.name} (completed_at)": "completed_at IS NOT NULL",
        f"UNIQUE INDEX uq_{t.table}_idempotency_key ON {t.name} (idempotency_key)": "idempotency_key IS NOT NULL",
    }
    return [f"CREATE {index} WHERE {condition}" for index, condition in indexes.items()]


def _definition(t: JobTable) -> str:
    return f"""
        INSERT INTO runtime.lifecycles (table_name, initial, terminal, transitions, jobs_branch)
        VALUES ({_literal(t.name)}, {_literal(t.steps[0].ready)}, ARRAY[{_literals(t.terminal)}],
                ARRAY[{_literals(t.transitions)}], {_literal(_jobs_branch(t))})
    """


def _grants(t: JobTable) -> str:
    # `runtime.jobs` reads every job table with the rights of who asks: one that a service may not read fails them all.
    return f"""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            GRANT USAGE ON SCHEMA {t.schema} TO gristmill_service;
            GRANT SELECT ON {t.name} TO gristmill_service;
          END IF;
          IF to_regrole('gristmill_worker') IS NOT NULL THEN
            GRANT USAGE ON SCHEMA {t.schema} TO gristmill_worker;
            GRANT SELECT, INSERT, UPDATE, DELETE ON {t.name} TO gristmill_worker;
          END IF;
        END $$
    """


def _stages(t: JobTable) -> list[str]:
    return [
        "INSERT INTO runtime.stages (name, table_name, ready, running, done) "
        f"VALUES ({_literals([step.stage, t.name, step.ready, step.running, step.done])})"
        for step in t.steps
    ]


def _jobs_branch(t: JobTable) -> str:
    """Return the SELECT that shows this table's jobs in ``runtime.jobs``, with why each one waits."""
    at_limit = "false"
    if t.limit_column:
        at_limit = f"""s.limit_at_most <= (SELECT count(*) FROM {t.name} AS f
            WHERE f.{t.limit_column} = j.{t.limit_column} AND f.dispatched_at IS NOT NULL AND f.completed_at IS NULL)"""
    return f"""
        SELECT j.id, s.name AS stage, j.{t.status}::text AS status, j.version, j.priority, j.progress,
               j.retry_count, j.max_retries, j.{t.due_at} AS due_at, j.idempotency_key,
               CASE
                 WHEN j.completed_at IS NOT NULL OR j.{t.status}::text = s.running THEN NULL
                 WHEN s.paused_at IS NOT NULL THEN 'paused' || coalesce(' by ' || s.paused_by, '')
                 WHEN j.dispatched_at IS NOT NULL THEN 'dispatched, waiting for a slot'
                 WHEN j.{t.due_at} > now() THEN CASE
                   WHEN j.change_action IN ('retry', 'rescue')
                     THEN 'backing off after: ' || coalesce(j.change_reason, '')
                   WHEN j.change_action = 'snooze' THEN 'snoozed: ' || coalesce(j.change_reason, '')
                   ELSE 'due later' END
                 WHEN NOT runtime.has_worker(s.name) THEN 'no worker for queue ' || split_part(s.name, '.', 1)
                 WHEN {at_limit} THEN 'limit reached: {t.limit_column or ""} has ' || s.limit_at_most || ' in flight'
                 ELSE 'ready, waiting for the dispatcher'
               END AS wait_reason,
               now() - j.{t.created_at} AS age, j.{t.created_at} AS created_at, j.started_at, j.completed_at,
               j.{t.updated_at} AS updated_at,
               j.lease_owner, j.{t.error_message} AS error_message, {_literal(t.name)}::text AS table_name
          FROM {t.name} AS j JOIN runtime.stages AS s ON s.name = {t.stage_of(f"j.{t.status}::text")}
    """


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literals(values: Sequence[str]) -> str:
    return ", ".join(_literal(value) for value in values)
