"""Second generation: attach a lifecycle to a job table whose rows have owners and whose facts cannot be rewritten.

Used by revisions only, and imports nothing from ``models``. A new job table is made with the columns of
``models.lifecycle.Job`` and handed to :func:`attach_lifecycle`; :func:`upgrade_lifecycle` brings the tables of the
revisions 0002 to 0004 here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alembic import op

from migrations.kernel.v1 import guards as v1_guards
from migrations.kernel.v1 import lifecycle as v1
from migrations.kernel.v2 import guards as v2_guards

Step = v1.Step

# What a job says of itself beside its payload, at every door.
OPTIONS = ("priority", "idempotency_key")
LATEST = "9999-12-31 00:00:00+00"
EARLIEST = "0001-01-02 00:00:00+00"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTable(v1.JobTable):
    """A job table as a revision sees it.

    ``owner``: a SQL expression for the owner of ``{row}``; without one it is the acting tenant, unless a trusted door
    says whose the job is. ``payload``: columns that never change. ``results``: columns that do not change once a job
    has ended. ``inserts``: further columns that a member of ``gristmill_service`` may give a new job. ``may_cancel``:
    a SQL condition for the row ``j`` under which the acting tenant may cancel it. ``run_by_services``: services may
    start and end a job themselves, without a lease.
    """

    owner: str | None = None
    payload: Sequence[str] = ()
    results: Sequence[str] = ()
    inserts: Sequence[str] = ()
    may_cancel: str = "j.owner_id = runtime.actor_id()"
    run_by_services: bool = False
    times: Sequence[str] = ()
    status_type: str = "varchar"

    def owner_of(self, row: str) -> str:
        """Return a SQL expression for the owner of ``row``: of what it works on; if that is nobody's, who acts."""
        return f"coalesce({self.owner.format(row=row)}, runtime.actor_id())" if self.owner else "runtime.actor_id()"

    @property
    def has_several_steps(self) -> bool:
        return len(self.steps) > 1

    @property
    def all_times(self) -> list[str]:
        """Every column that holds a time."""
        kernel = ("dispatched_at", "deadline_at", "started_at", "completed_at")
        return [self.due_at, *kernel, self.created_at, self.updated_at, *self.times]

    def stage_in(self, state: str, ended_in: str) -> str:
        """Return a SQL expression for the stage of a row in ``state``: of an ended one, the stage in which it ended."""
        if not self.has_several_steps:
            return v1.JobTable.stage_of(self, state)
        terminal = _literals(self.terminal)
        return v1.JobTable.stage_of(self, f"CASE WHEN {state} IN ({terminal}) THEN {ended_in} ELSE {state} END")


def attach_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Make ``job_table`` a job table. ``partitions`` names its partitions, if any: each gets the triggers itself."""
    t = job_table
    for statement in (*v1._checks(t), *v1._indexes(t), v1._definition(t), *v1._stages(t), v1._grants(t)):  # noqa: SLF001
        op.execute(statement)
    op.execute(v2_guards.insert_guard(t))
    op.execute(v2_guards.update_guard(t))
    for table in (t.table, *partitions):
        v1.attach_guards(t, table)
    _upgrade(t, partitions)
    op.execute(unsuccessful_index(t, concurrently=False))
    op.execute("SELECT runtime.rebuild_jobs_view()")


def unsuccessful_index(t: v1.JobTable, *, concurrently: bool) -> str:
    """Return the statement that makes the index of failed and cancelled jobs: few, and asked for by people.

    The tables of revisions 0002 to 0004 get it in 0012.
    """
    return f"""
        CREATE INDEX {"CONCURRENTLY" if concurrently else ""} ix_{t.table}_unsuccessful
            ON {t.name} ({t.status}, completed_at)
         WHERE {t.plain_status} IN ({_literals([t.failed, t.cancelled])})
    """


def detach_lifecycle(job_table: JobTable) -> None:
    """Undo :func:`attach_lifecycle` before the revision drops the table."""
    v1.detach_lifecycle(job_table)
    _drop_triggers(job_table, ())
    _drop_functions(job_table)


def upgrade_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Bring a table that the first generation attached here: new columns, owners and stages of the rows it has.

    The revision rebuilds ``runtime.jobs`` when all tables are here: its branches have one shape.
    """
    t = job_table
    op.execute(f"ALTER TABLE {t.name} ADD COLUMN owner_id uuid")
    if t.has_several_steps:
        op.execute(f"ALTER TABLE {t.name} ADD COLUMN ended_in varchar(40)")
    # The first generation's guards look on: what is changed here is none of a job's transitions.
    if t.owner:
        owner = t.owner.format(row="j")
        op.execute(f"UPDATE {t.name} AS j SET owner_id = {owner} WHERE {owner} IS NOT NULL")
    if t.has_several_steps:
        op.execute(f"""
            UPDATE {t.name} AS j SET ended_in = coalesce(
              (SELECT h.old_state FROM runtime.transitions AS h
                WHERE h.job_id = j.id AND h.version_to = j.version AND h.stage IN ({_literals(_stage_names(t))})
                LIMIT 1),
              CASE WHEN j.{t.status} = {_literal(t.steps[-1].done)} THEN {_literal(t.steps[-1].running)}
                   ELSE {_literal(t.steps[0].running)} END)
            WHERE j.completed_at IS NOT NULL
        """)
    for column in t.all_times:
        op.execute(f"UPDATE {t.name} SET {column} = {_nearest(t, column)} WHERE NOT ({_sane(column)})")
    op.execute(f"""
        UPDATE {t.name} SET max_retries = {MAX_RETRIES}, retry_count = least(retry_count, {MAX_RETRIES})
         WHERE max_retries NOT BETWEEN 0 AND {MAX_RETRIES}
    """)
    op.execute(f"UPDATE {t.name} SET timeout_seconds = {MAX_TIMEOUT} WHERE timeout_seconds > {MAX_TIMEOUT}")
    _upgrade(t, partitions)


def downgrade_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Undo :func:`upgrade_lifecycle`. Of equal keys of several owners, the oldest job keeps the key.

    The revision drops ``runtime.jobs`` before and rebuilds it after.
    """
    t = job_table
    _drop_triggers(t, partitions)
    for create in (v1_guards.insert_guard(t), v1_guards.update_guard(t)):
        op.execute(create.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    _drop_functions(t)
    for event in ("insert", "update"):
        op.execute(f"GRANT EXECUTE ON FUNCTION {t.schema}.guard_{t.table}_{event}() TO PUBLIC")
    for rule in _checks(t):
        op.execute(f"ALTER TABLE {t.name} DROP CONSTRAINT ck_{t.table}_{rule}")
    op.execute(f"DROP INDEX {t.schema}.uq_{t.table}_idempotency_key")
    op.execute(f"""
        UPDATE {t.name} AS j SET idempotency_key = NULL WHERE idempotency_key IS NOT NULL AND EXISTS (
          SELECT FROM {t.name} AS o WHERE o.idempotency_key = j.idempotency_key AND o.id < j.id)
    """)
    op.execute(f"""
        CREATE UNIQUE INDEX uq_{t.table}_idempotency_key ON {t.name} (idempotency_key)
         WHERE idempotency_key IS NOT NULL
    """)
    branch = _literal(v1._jobs_branch(t))  # noqa: SLF001 - the frozen generation's own text, to be restored
    op.execute(f"UPDATE runtime.lifecycles SET jobs_branch = {branch} WHERE table_name = {_literal(t.name)}")
    op.execute(f"ALTER TABLE {t.name} DROP COLUMN owner_id" + (", DROP COLUMN ended_in" if t.has_several_steps else ""))


MAX_RETRIES = 100
MAX_TIMEOUT = 31 * 24 * 3600


def _upgrade(t: JobTable, partitions: Sequence[str]) -> None:
    """Bring a table of the first generation here, its new columns in place."""
    for rule, condition in _checks(t).items():
        op.execute(f"ALTER TABLE {t.name} ADD CONSTRAINT ck_{t.table}_{rule} CHECK ({condition})")
    op.execute(f"DROP INDEX {t.schema}.uq_{t.table}_idempotency_key")
    op.execute(f"""
        CREATE UNIQUE INDEX uq_{t.table}_idempotency_key ON {t.name} (owner_id, idempotency_key) NULLS NOT DISTINCT
         WHERE idempotency_key IS NOT NULL
    """)
    op.execute(f"ALTER TABLE {t.name} ALTER COLUMN owner_id SET DEFAULT runtime.actor_id()")
    for create in (v2_guards.row_functions(t), v2_guards.insert_guard(t), v2_guards.update_guard(t)):
        op.execute(create)
    for table in (t.table, *partitions):
        for trigger in v2_guards.row_triggers(t, table).values():
            op.execute(trigger)
    _lock_functions(t)
    cancel = v2_guards.cancel_statement(t)
    op.execute(f"""
        UPDATE runtime.lifecycles
           SET jobs_branch = {_literal(_jobs_branch(t))}, cancel_statement = {_literal(cancel)}
         WHERE table_name = {_literal(t.name)}
    """)
    columns = ", ".join((*t.payload, *t.inserts, *OPTIONS, t.due_at))
    op.execute(f"""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            REVOKE INSERT, UPDATE, DELETE ON {t.name} FROM gristmill_service;
            GRANT INSERT ({columns}) ON {t.name} TO gristmill_service;
          END IF;
        END $$
    """)


def _checks(t: JobTable) -> dict[str, str]:
    """Return the rules of this generation by name: no time and no number that the kernel cannot reckon with."""
    rules = {
        "times": " AND ".join(f"({_sane(column)})" for column in t.all_times),
        "timeout_at_most": f"timeout_seconds <= {MAX_TIMEOUT}",
        "version_at_most": "version < 2000000000",
    }
    if t.schema != "scoring" or t.table != "scoring_jobs":  # its seed has a narrower rule of this name
        rules["max_retries"] = f"max_retries BETWEEN 0 AND {MAX_RETRIES}"
    return rules


def _sane(column: str) -> str:
    # A day's distance from the ends: no zone shows such a time as a year that Python does not have.
    return f"{column} IS NULL OR {column} >= '{EARLIEST}' AND {column} <= '{LATEST}'"


def _nearest(t: JobTable, column: str) -> str:
    """Return what becomes of an insane time: a due time stays as far away as it can be, the others were never meant."""
    return f"greatest(least({column}, '{LATEST}'), '{EARLIEST}')" if column == t.due_at else "now()"


def _lock_functions(t: JobTable) -> None:
    """Let nobody call a guard but the table it guards: EXECUTE on a trigger's function is asked when one is made."""
    for name in (*_guard_names(t), *v2_guards.trigger_function_names(t)):
        op.execute(f"REVOKE EXECUTE ON FUNCTION {name}() FROM PUBLIC")
        op.execute(f"""
            DO $$ BEGIN
              IF to_regrole('gristmill_service') IS NOT NULL THEN
                REVOKE EXECUTE ON FUNCTION {name}() FROM gristmill_service;
              END IF;
              IF to_regrole('gristmill_worker') IS NOT NULL THEN
                REVOKE EXECUTE ON FUNCTION {name}() FROM gristmill_worker;
              END IF;
            END $$
        """)
    owner_of = f"{t.schema}.owner_of_{t.table}({t.name})"
    op.execute(f"""
        REVOKE EXECUTE ON FUNCTION {owner_of} FROM PUBLIC;
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            GRANT EXECUTE ON FUNCTION {owner_of} TO gristmill_service;
          END IF;
          IF to_regrole('gristmill_worker') IS NOT NULL THEN
            GRANT EXECUTE ON FUNCTION {owner_of} TO gristmill_worker;
          END IF;
        END $$
    """)


def _guard_names(t: JobTable) -> list[str]:
    return [f"{t.schema}.guard_{t.table}_{event}" for event in ("insert", "update")]


def _drop_triggers(t: JobTable, partitions: Sequence[str]) -> None:
    for table in (t.table, *partitions):
        for name in v2_guards.row_triggers(t, table):
            op.execute(f"DROP TRIGGER {name} ON {t.schema}.{table}")


def _drop_functions(t: JobTable) -> None:
    for name in v2_guards.trigger_function_names(t):
        op.execute(f"DROP FUNCTION {name}()")
    op.execute(f"DROP FUNCTION {t.schema}.owner_of_{t.table}({t.name})")


def _stage_names(t: JobTable) -> list[str]:
    return [step.stage for step in t.steps]


def _jobs_branch(t: JobTable) -> str:
    """Return the SELECT that shows this table's jobs in ``runtime.jobs``, each with its owner, in its own stage."""
    branch: str = v1._jobs_branch(t)  # noqa: SLF001 - the frozen generation's text, which this one adds to
    status = f"j.{t.status}::text"
    old, new = f"s.name = {t.stage_of(status)}", f"s.name = {t.stage_in(status, 'j.ended_in')}"
    assert branch.count(old) == 1
    table = f"{_literal(t.name)}::text AS table_name"
    assert branch.count(table) == 1
    return branch.replace(old, new).replace(table, f"{table}, j.owner_id")


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literals(values: Sequence[str]) -> str:
    return ", ".join(_literal(value) for value in values)
