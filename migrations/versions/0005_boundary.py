"""Make the database the boundary between tenants: owners, rights by column, guards that nobody borrows.

Why: a service's role could change tickets, times, attempts and history, and met other tenants in keys and ids.
Previous release: workers, dispatcher and beat still run on it. Its enqueue doors name the old unique index of keys and
fail for jobs with a key until they are upgraded; services that changed jobs by UPDATE must call ``runtime.cancel``.

Each job table gets ``owner_id``, set by the database: whose the profile or project is that the job works on; if that is
nobody's, who acts (``gristmill.user_id``). Keys are unique per owner. ``ended_in`` of a lifecycle with several steps is
the state in which a job ended, so that it belongs to the stage in which it failed and goes on there.

Times out of range become the nearest one that Python can read (due times) or now. The checks of this revision read
each job table once under its lock: plan for that where tables are large. Those of other tables are NOT VALID: they hold
for what is written from now on.

Revision ID: 0005
Revises: 0004
Created: 2026-11-30
"""

import re
from pathlib import Path

from alembic import op

from migrations.kernel.v2 import JobTable, Step, downgrade_lifecycle, upgrade_lifecycle

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"

SCORING_JOBS = JobTable(
    schema="scoring",
    table="scoring_jobs",
    steps=[Step(stage="scoring.score", ready="pending", running="processing", done="completed")],
    limit_column="profile_id",
    owner="(SELECT p.owner_id FROM scoring.profiles AS p WHERE p.id = {row}.profile_id)",
    payload=["profile_id", "prompt", "model_name"],
    results=["llm_response", "parsed_score"],
    inserts=["profile_id", "prompt", "model_name"],
)
ASSESSMENTS = JobTable(
    schema="assessments",
    table="assessment_states",
    steps=[Step(stage="assessment.assess", ready="pending", running="processing", done="completed")],
    status="state",
    due_at="next_retry_at",
    status_is_enum=True,
    status_type="assessments.assessmentstate",
    ends_at_full_progress=True,
    results=["result_data"],
    inserts=["assessment_id", "request_data", "timeout_seconds"],
    run_by_services=True,
)
OWNER_OF_PROJECT = '(SELECT p."ownerId" FROM operations.projects AS p WHERE p.id = {row}."projectId")'
INGEST_JOBS = JobTable(
    schema="operations",
    table="ingest_jobs",
    steps=[
        Step(stage="ingestion.ingest", ready="PENDING", running="PROCESSING", done="QUEUED_FOR_VEC"),
        Step(stage="vectorization.embed", ready="QUEUED_FOR_VEC", running="VECTORIZING", done="COMPLETED"),
    ],
    failed="FAILED",
    cancelled="CANCELLED",
    error_message="error",
    created_at='"createdAt"',
    updated_at='"updatedAt"',
    owner=OWNER_OF_PROJECT,
    payload=['"projectId"', "type", "source", "mapping", '"contentHash"'],
    results=['"totalRecords"', '"savedCount"', '"skippedCount"', '"skippedDetails"', "warnings", '"embeddedCount"'],
    may_cancel='operations.may_change(j."projectId")',
)
ANALYTICS_JOBS = JobTable(
    schema="operations",
    table="analytics_jobs",
    steps=[Step(stage="analytics.align", ready="PENDING", running="PROCESSING", done="COMPLETED")],
    failed="FAILED",
    cancelled="CANCELLED",
    error_message="error",
    created_at='"createdAt"',
    updated_at='"updatedAt"',
    owner=OWNER_OF_PROJECT,
    payload=['"projectId"', "type", '"modelName"'],
    results=['"totalRecords"', '"processedCount"', '"failedCount"'],
    may_cancel='operations.may_change(j."projectId")',
)
JOB_TABLES = (SCORING_JOBS, ASSESSMENTS, INGEST_JOBS, ANALYTICS_JOBS)


def upgrade() -> None:
    op.execute("ALTER TABLE runtime.lifecycles ADD COLUMN cancel_statement text")
    op.execute('ALTER TABLE operations.ingest_jobs ADD COLUMN "contentHash" bytea')
    _run("runtime")
    for table in JOB_TABLES:
        upgrade_lifecycle(table)
    op.execute("SELECT runtime.rebuild_jobs_view()")
    _run("scoring")
    _run("operations")


def downgrade() -> None:
    op.execute("DROP VIEW runtime.jobs")
    _run("operations_down")
    _run("scoring_down")
    for table in reversed(JOB_TABLES):
        downgrade_lifecycle(table)
    op.execute("SELECT runtime.rebuild_jobs_view()")
    functions = (SQL / "0004" / "functions.sql").read_text()
    for name in ("my_id", "follow_auth_user", "enqueue_ingest", "enqueue_analytics"):
        op.execute(_as_it_was(functions, f"operations.{name}"))
    _run("runtime_down")
    op.execute('ALTER TABLE operations.ingest_jobs DROP COLUMN "contentHash"')
    op.execute("ALTER TABLE runtime.lifecycles DROP COLUMN cancel_statement")


def _run(part: str) -> None:
    op.execute((SQL / "0005" / f"{part}.sql").read_text())


def _as_it_was(functions: str, name: str) -> str:
    """Return the statement by which an earlier revision made a function, to be run over today's."""
    found = re.search(rf"CREATE FUNCTION {re.escape(name)}\(.*?\$\$.*?\$\$;", functions, re.DOTALL)
    assert found is not None
    return found[0].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
