"""List jobs along indexes, and keep what processes measure where the gateway can read it.

Why: a list of jobs read whole tables, and the latencies, stale writes and calls of providers that a worker counts could
be read nowhere.
Previous release: still runs. It lists as before and writes no measurements.

- each job table, also of other packages, gets the indexes of ``migrations.kernel.v4.lists``;
- ``scoring.scoring_jobs`` can be searched by ``profile_id``, the jobs of ``operations`` by ``projectId``;
- ``runtime.action_counts``: how often each action was taken, ever; the fold of counts adds to it;
- ``runtime.measurements``: counters and histograms of all processes together; each process adds what it measured.

Revision ID: 0028
Revises: 0027
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from migrations.indexes import outside_transactions
from migrations.kernel.v4 import build_list_indexes, build_search_index, drop_list_indexes

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0028"
# By the searchable column of its stages: see the registry.
SEARCHABLE = {
    "scoring.ix_scoring_jobs_profile_id_id": ("scoring.scoring_jobs", "profile_id"),
    "operations.ix_ingest_jobs_project_id": ("operations.ingest_jobs", '"projectId"'),
    "operations.ix_analytics_jobs_project_id": ("operations.analytics_jobs", '"projectId"'),
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    if not op.get_bind().scalar(sa.text("SELECT to_regclass('runtime.measurements') IS NOT NULL")):
        op.get_bind().exec_driver_sql((SQL / "tables.sql").read_text().replace("%", "%%"))
    # What follows can be interrupted and run again.
    with outside_transactions():
        for index, (table, column) in SEARCHABLE.items():
            build_search_index(index, table, column)
    build_list_indexes()


def downgrade() -> None:
    drop_list_indexes()
    for index in SEARCHABLE:
        op.execute(f"DROP INDEX IF EXISTS {index}")
    op.execute("DROP TRIGGER forget_actions ON runtime.stages; DROP FUNCTION runtime.forget_actions()")
    op.execute("DROP TABLE runtime.measurements, runtime.action_counts")
