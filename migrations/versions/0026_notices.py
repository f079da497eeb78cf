"""Tell who asked when a job has ended, count jobs by state, and order their history by commits.

Why: a service that does not share the database wants to be told of an ended job, whoever ended it. Operators and plots
want the number of jobs in each state without a scan. A stream of all transitions needs an order in which nothing is
committed behind its reader.
Previous release: its dispatchers, beat and services still run. Its workers do not: they cannot read a job with columns
that they do not know, and their jobs are rescued. Stop them first. Nobody takes notices and folds counts until a
dispatcher of this release leads.

- each job table gets ``callback_url``, ``traceparent`` and ``error_fingerprint`` (of failed and retried jobs). Of the
  jobs of ``operations``, which users read of each other, a service reads all columns but ``callback_url``;
- ``runtime.notices``: the ended jobs that somebody wants to know of, until the takers of ``runtime.notice_takers`` have
  them; ``runtime.notice_interests``: who wants to know of more than the jobs with a callback;
- ``runtime.count_deltas``: what each statement changed; the leading dispatcher folds it into ``runtime.stage_counts``
  and ``runtime.minute_counts``. ``runtime.counts`` is exact at any time;
- ``runtime.transitions.transaction_id``: by whom each row was committed. Rows of before have none.

Job tables of other packages get the same. The jobs that are there are counted, and the fingerprints of their errors
made, after the lock of their tables is given back.

Revision ID: 0026
Revises: 0025
Created: 2026-11-30
"""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from migrations.indexes import build_on_partitions, outside_transactions
from migrations.kernel.v4 import downgrade_tables, hide_callbacks, show_callbacks, upgrade_tables, validate_tables
from migrations.kernel.v4.tables import make_fingerprints

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"
# Every approved user reads all projects, and so the jobs about them.
READ_BY_OTHERS = ("operations.ingest_jobs", "operations.analytics_jobs")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    if not op.get_bind().scalar(sa.text("SELECT to_regclass('runtime.notices') IS NOT NULL")):
        for part in ("tables", "functions", "rights"):
            _run((SQL / "0026" / f"{part}.sql").read_text())
        upgrade_tables()
        for table in READ_BY_OTHERS:
            hide_callbacks(table)
    # What follows can be interrupted and run again.
    with outside_transactions():
        validate_tables()
        op.execute("SELECT runtime.recount_jobs()")
        make_fingerprints()
        build_on_partitions(
            "runtime.transitions",
            "ix_transitions_transaction_id",
            "(transaction_id) WHERE transaction_id IS NOT NULL",
        )


def downgrade() -> None:
    op.execute("DROP VIEW runtime.jobs")
    for table in READ_BY_OTHERS:
        show_callbacks(table)
    downgrade_tables()
    _run((SQL / "0026" / "down.sql").read_text())
    op.execute("ALTER TABLE runtime.transitions DROP COLUMN transaction_id")
    found = re.search(
        r"CREATE OR REPLACE FUNCTION runtime.rebuild_jobs_view\(.*?\$\$.*?\$\$;",
        (SQL / "0022" / "gates.sql").read_text(),
        re.DOTALL,
    )
    assert found is not None
    _run(found[0])
    op.execute("SELECT runtime.rebuild_jobs_view()")


def _run(statements: str) -> None:
    """Run statements with nothing to fill in: neither their colons nor their percents are parameters."""
    op.get_bind().exec_driver_sql(statements.replace("%", "%%"))
