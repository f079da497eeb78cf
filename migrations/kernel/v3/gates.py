"""Give a job table the gate of a stage: the index along which the dispatcher passes jobs that are kept back."""

from alembic import op

from migrations.indexes import build, outside_transactions
from migrations.kernel.v3.table import JobTable, literal, literals


def attach_gate(job_table: JobTable, column: str, *, in_use: bool = True) -> None:
    """Let the values of ``column``, which is never null, decide which jobs are kept back. Can be run again.

    The index of a table ``in_use`` is built concurrently: the revision's transaction is committed before.
    """
    t = job_table
    name = f"ix_{t.table}_gated"
    op.execute(f"UPDATE runtime.lifecycles SET gate_column = {literal(column)} WHERE table_name = {literal(t.name)}")
    op.execute("SELECT runtime.rebuild_jobs_view()")
    if not in_use:
        op.execute(f"CREATE INDEX {name} ON {_columns(t, column)}")
        return
    with outside_transactions():
        build(f"{t.schema}.{name}", _columns(t, column))


def detach_gate(job_table: JobTable) -> None:
    """Undo :func:`attach_gate`."""
    t = job_table
    op.execute(f"DROP INDEX IF EXISTS {t.schema}.ix_{t.table}_gated")
    op.execute(f"UPDATE runtime.lifecycles SET gate_column = NULL WHERE table_name = {literal(t.name)}")
    op.execute("SELECT runtime.rebuild_jobs_view()")


def _columns(t: JobTable, column: str) -> str:
    key = f"{t.limit_column}, " if t.limit_column else ""
    waits = f"{t.plain_status} IN ({literals(t.ready)}) AND dispatched_at IS NULL AND {t.due_at} IS NULL"
    return f"{t.name} ({t.status}, {column}, {key}priority, {t.created_at}, id) WHERE {waits}"
