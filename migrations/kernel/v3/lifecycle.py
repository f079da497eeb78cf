"""Third generation: attach a lifecycle that may wait and end as its domain says to a job table.

Used by revisions only, and imports nothing from ``models``. A new job table is made with :func:`job_columns` and handed
to :func:`attach_lifecycle`; :func:`upgrade_guards` brings a table of the second generation here.
"""

import json
from collections.abc import Sequence

from alembic import op

from migrations.kernel.v1 import lifecycle as v1
from migrations.kernel.v2 import guards as v2_guards
from migrations.kernel.v2 import lifecycle as v2
from migrations.kernel.v3 import guards
from migrations.kernel.v3.table import JobTable, literal, literals

# The frozen generations' own texts stand below where nothing about them has changed.
# ruff: noqa: SLF001


def attach_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Make ``job_table`` a job table. ``partitions`` names its partitions, if any: each gets the triggers itself."""
    t = job_table
    for statement in (*v1._checks(t), *v1._indexes(t), v1._definition(t), *v1._stages(t), v1._grants(t)):
        op.execute(statement)
    op.execute(v2_guards.insert_guard(t))
    op.execute(v2_guards.update_guard(t))
    for table in (t.table, *partitions):
        v1.attach_guards(t, table)
    v2._upgrade(t, partitions)
    op.execute(f"""
        CREATE INDEX ix_{t.table}_unsuccessful ON {t.name} ({t.status}, completed_at)
         WHERE {t.plain_status} IN ({literals(t.unsuccessful)})
    """)
    for statement in _waits(t):
        op.execute(statement)
    op.execute(guards.insert_guard(t))
    op.execute(guards.update_guard(t))
    _describe(t)
    op.execute("SELECT runtime.rebuild_jobs_view()")


def detach_lifecycle(job_table: JobTable) -> None:
    """Undo :func:`attach_lifecycle` before the revision drops the table."""
    v2.detach_lifecycle(job_table)


def upgrade_guards(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Bring a table without waits from the second generation here: longer names of states, guards that tell.

    The revision drops ``runtime.jobs`` before and rebuilds it after. The change of type rewrites no row, but Postgres
    builds the partial indexes that name the column anew and looks at its CHECK again, under the lock of the table.
    """
    t = job_table
    _set_status_type(t, partitions, "varchar(40)")
    op.execute(guards.insert_guard(t))
    op.execute(guards.update_guard(t))
    _describe(t)


def downgrade_guards(job_table: JobTable, *, partitions: Sequence[str] = ()) -> None:
    """Undo :func:`upgrade_guards`. The revision drops ``runtime.jobs`` before and rebuilds it after."""
    t = job_table
    op.execute(v2_guards.insert_guard(t))
    op.execute(v2_guards.update_guard(t))
    _set_status_type(t, partitions, "varchar(20)")
    branch, cancel = v2._jobs_branch(t), v2_guards.cancel_statement(t)
    op.execute(f"""
        UPDATE runtime.lifecycles SET jobs_branch = {literal(branch)}, cancel_statement = {literal(cancel)}
         WHERE table_name = {literal(t.name)}
    """)


def _set_status_type(t: JobTable, partitions: Sequence[str], type_: str) -> None:
    """Change the type of the status column; Postgres refuses that while a trigger names the column."""
    if t.status_is_enum:
        return
    for table in (t.table, *partitions):
        for name in v2_guards.row_triggers(t, table):
            op.execute(f"DROP TRIGGER {name} ON {t.schema}.{table}")
    op.execute(f"ALTER TABLE {t.name} ALTER COLUMN {t.status} TYPE {type_}")
    for table in (t.table, *partitions):
        for trigger in v2_guards.row_triggers(t, table).values():
            op.execute(trigger)


def _waits(t: JobTable) -> list[str]:
    """Return what a table with waits has beside: rules of its rows, and the index along which waits expire."""
    if not t.waits:
        return []
    waits = f"{t.plain_status} IN ({literals(t.waiting)})"
    idle = ("dispatched_at", "deadline_at", "lease_owner", "started_at", t.due_at)
    rules = {
        "wait_deadline": f"({waits}) = ({t.wait_until} IS NOT NULL)",
        "wait_is_idle": f"NOT ({waits}) OR num_nonnulls({', '.join(idle)}) = 0",
    }
    checks = [f"ALTER TABLE {t.name} ADD CONSTRAINT ck_{t.table}_{rule} CHECK ({how})" for rule, how in rules.items()]
    return [*checks, f"CREATE INDEX ix_{t.table}_waits ON {t.name} ({t.wait_until}) WHERE {waits}"]


def _describe(t: JobTable) -> None:
    """Write what the database tells of this lifecycle."""
    decide = literal(guards.decide_statement(t)) if t.waits else "NULL"
    op.execute(f"""
        UPDATE runtime.lifecycles
           SET jobs_branch = {literal(_jobs_branch(t))}, cancel_statement = {literal(guards.cancel_statement(t))},
               decide_statement = {decide}, waits = {literal(json.dumps(t.described()))},
               ends = {literal(json.dumps(dict(t.ends)))}, shown_as = {literal(json.dumps(dict(t.shown_as)))},
               wait_column = {literal(t.wait_until) if t.waits else "NULL"}
         WHERE table_name = {literal(t.name)}
    """)


def _jobs_branch(t: JobTable) -> str:
    """Return the SELECT that shows this table's jobs in ``runtime.jobs``: of a waiting one, what for and until when."""
    branch = v2._jobs_branch(t)
    if not t.waits:
        return branch
    at = f"to_char(j.{t.wait_until} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')"
    what = " ".join(f"WHEN {literal(wait.state)} THEN {literal(wait.waits_for)}" for wait in t.waits)
    waits = f"""WHEN j.{t.wait_until} <= now() THEN 'expired at ' || {at} || ', waiting for beat'
                 WHEN j.{t.wait_until} > now()
                   THEN 'waiting for ' || CASE j.{t.status}::text {what} END || ' until ' || {at}
                 """
    paused = "WHEN s.paused_at IS NOT NULL"
    assert branch.count(paused) == 1
    return branch.replace(paused, waits + paused)
