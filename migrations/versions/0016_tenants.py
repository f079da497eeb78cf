"""Leave a tenant nothing by which it stops, fills, forges or probes what is others'.

Why: a right to DELETE let one service lock a table against everybody; texts and files had no bound; a row of a worker
process could stop dispatch; a service could name somebody else as the author of a record; a repeated key was compared
loosely.
Previous release: its workers, dispatchers and beat still run. Services must delete by the functions of
``sql/0016/deletes.sql``, and give neither the id of a profile nor the author of a record or a bonus window.

Rows of worker processes and of the leader that break the new rules are deleted: who is alive writes its own again.
Times out of range become the nearest one that Python can read.

Revision ID: 0016
Revises: 0015
Created: 2026-11-30
"""

import re
from pathlib import Path

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"
# The documents of tenants that had no bound yet; the domains are those of revision 0008.
COLUMNS = {
    "operations.ingest_jobs.options": "runtime.payload",
    "assessments.assessment_state_cache.state_data": "runtime.document",
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for column, domain in COLUMNS.items():
        _retype(column, domain)
    for part in ("deletes", "sizes", "kernel", "tenants", "enqueue"):
        _run((SQL / "0016" / f"{part}.sql").read_text())


def downgrade() -> None:
    for part in ("tenants", "kernel", "sizes", "deletes"):
        _run((SQL / "0016" / f"{part}_down.sql").read_text())
    _run(_as_it_was("0003/triggers.sql", "assessments.refuse_loss"))
    _run(_as_it_was("0007/partitions.sql", "runtime.drop_transition_partitions"))
    for name in ("operations.enqueue_ingest", "operations.enqueue_analytics"):
        _run(_as_it_was("0005/operations.sql", name))
    for column in COLUMNS:
        _retype(column, "jsonb")


def _run(statements: str) -> None:
    """Run statements with nothing to fill in: neither their colons nor their percents are parameters."""
    op.get_bind().exec_driver_sql(statements.replace("%", "%%"))


def _retype(column: str, type_: str) -> None:
    table, _, name = column.rpartition(".")
    op.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {type_}")


def _as_it_was(file: str, name: str) -> str:
    """Return the statement by which an earlier revision made a function, to be run over today's."""
    pattern = rf"CREATE (?:OR REPLACE )?FUNCTION {re.escape(name)}\(.*?\$\$.*?\$\$;"
    found = re.search(pattern, (SQL / file).read_text(), re.DOTALL)
    assert found is not None
    return re.sub("^CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", found[0])
