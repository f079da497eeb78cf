"""Give assessments owners: names, history, cache and measurements are those of the user for whom a service acts.

Why: any service read, changed and measured every assessment, and by an id of another table that table's history.
Previous release: workers, dispatcher and beat still run on it. Services must set ``gristmill.user_id``; what existed
before has no owner, and only operators see it. ``put_cached_state`` has one parameter more, with a default. The import
of the previous release names the old unique index and does not run.

``assessment_id`` is unique per owner. The seed's index of that name is the unique one still, with the owner behind the
name: it serves a tenant's question and an operator's alike, and costs a settle no second index.

The cache is keyed by the job instead of the name, and each entry has a mark of the row as it was: ``get_cached_state``
compares it, so that nothing older than the row is given out. Deleting entries by a trigger would make every claim and
settle wait for whoever holds one.

The audit trail compares the stage as well as the id, casts states after that, and shows rows by owner. The guards of
revision 0005 refuse a start without a ticket: ``update_assessment_state`` gives the ticket first.

The unique index is built under the table's lock: plan for that where there are millions of rows.

Revision ID: 0006
Revises: 0005
Created: 2026-11-30
"""

import re
from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for part in ("tables", "functions", "views", "rights"):
        op.execute((SQL / "0006" / f"{part}.sql").read_text())


def downgrade() -> None:
    """Undo it; refused while two owners have an assessment of one name, which the previous schema cannot hold."""
    op.execute((SQL / "0006" / "rights_down.sql").read_text())
    op.execute("DROP VIEW assessments.assessment_state_audit, assessments.assessment_queue")
    op.execute("DROP FUNCTION assessments.put_cached_state(varchar, jsonb, integer, integer)")
    before = (SQL / "0003" / "functions.sql").read_text() + (SQL / "0003" / "triggers.sql").read_text()
    for name in (
        "create_assessment",
        "update_assessment_state",
        "cleanup_old_assessments",
        "put_cached_state",
        "get_cached_state",
        "measure_endings",
        "remember_retired",
    ):
        op.execute(_as_it_was(before, "FUNCTION", name).replace("CREATE", "CREATE OR REPLACE", 1))
    op.execute("DROP FUNCTION assessments.job_of(varchar)")
    op.execute((SQL / "0006" / "tables_down.sql").read_text())
    views = (SQL / "0003" / "views.sql").read_text()
    for name in ("assessment_state_audit", "assessment_queue"):
        op.execute(_as_it_was(views, "VIEW", name))
    op.execute((SQL / "0003" / "rights.sql").read_text())
    # That one gave services INSERT on whole rows; revision 0005 gives columns.
    op.execute("""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            REVOKE INSERT ON assessments.assessment_states FROM gristmill_service;
            GRANT INSERT (assessment_id, request_data, timeout_seconds, priority, idempotency_key, next_retry_at)
              ON assessments.assessment_states TO gristmill_service;
          END IF;
        END $$
    """)


def _as_it_was(text: str, kind: str, name: str) -> str:
    """Return the statement by which revision 0003 made a function or a view."""
    rest = r"\(.*?\$\$.*?\$\$;" if kind == "FUNCTION" else r"\s.*?;"
    found = re.search(rf"CREATE {kind} assessments\.{name}{rest}", text, re.DOTALL)
    assert found is not None
    return found[0]
