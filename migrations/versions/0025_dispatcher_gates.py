"""Let the dispatcher look at the gates: which provider answers, and which model an analysis or assessment asks.

Why: the dispatcher kept no job back, because its login may not read the system settings, and because analyses and
assessments had no column with the model that they ask.
Previous release: still runs. It reads none of this, and the trigger fills in what it inserts.

- ``llm.chosen_provider()``: what the system settings choose, without keys;
- the address of a provider and when its row was changed, for dispatchers;
- ``asked_model`` of analyses and assessments, which a trigger fills in; no table is rewritten;
- ``ix_analytics_jobs_gated``, ``ix_assessment_states_gated``: the dispatcher passes held jobs of one model along it.

Revision ID: 0025
Revises: 0024
Created: 2026-11-30
"""

from pathlib import Path

from alembic import op

from migrations.kernel.v3 import JobTable, Step, attach_gate, detach_gate

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0025"
ANALYTICS_JOBS = JobTable(
    schema="operations",
    table="analytics_jobs",
    steps=[Step(stage="analytics.align", ready="PENDING", running="PROCESSING", done="COMPLETED")],
    created_at='"createdAt"',
)
ASSESSMENTS = JobTable(
    schema="assessments",
    table="assessment_states",
    steps=[Step(stage="assessment.assess", ready="pending", running="processing", done="completed")],
    status="state",
    due_at="next_retry_at",
    status_is_enum=True,
    status_type="assessments.assessmentstate",
)


def upgrade() -> None:
    # Every statement may be run again: building an index can be interrupted.
    op.execute("SET LOCAL lock_timeout = '5s'")
    _run("DROP FUNCTION IF EXISTS llm.chosen_provider()")
    for part in ("functions", "rights", "asked_models"):
        _run((SQL / f"{part}.sql").read_text())
    for table in (ANALYTICS_JOBS, ASSESSMENTS):
        op.execute("SET LOCAL lock_timeout = '5s'")  # building an index has ended the transaction
        attach_gate(table, "asked_model")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in (ANALYTICS_JOBS, ASSESSMENTS):
        detach_gate(table)
    _run((SQL / "down.sql").read_text())


def _run(statements: str) -> None:
    """Run statements with nothing to fill in: neither their colons nor their percents are parameters."""
    op.get_bind().exec_driver_sql(statements.replace("%", "%%"))
