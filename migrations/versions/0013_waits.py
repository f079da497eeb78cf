"""Lifecycles that wait and end as their domain says: names of states up to 40 characters, guards that tell who listens.

Why: a job can wait for a person or a remote agent, with a deadline; a domain names its own ends; whoever follows jobs
hears on ``gristmill_done`` which of them ended or began to wait.
Previous release: still runs. It has no table with waits, and nobody is disturbed by a notification.

- ``runtime.lifecycles`` says of each table its waits, its own ends and the public names of its states;
- ``runtime.jobs`` has one column more, ``shown_as``: the public name of the state;
- ``runtime.decide`` decides a wait, as ``runtime.cancel`` cancels; a table says whether its tenants may;
- ``runtime.tell_done`` is called once by each statement that ends jobs or has jobs begin to wait.

Longer varchars rewrite no table. Postgres would build each partial index that names such a column anew: the two on
``runtime.transitions`` are dropped and made again concurrently, partition by partition. The small ones of job tables
are built under the lock of their table: about a second for each million of rows. A view of your own on
``runtime.transitions`` stops this revision: drop it before and make it again after.

Revision ID: 0013
Revises: 0012
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from migrations.kernel.v3 import JobTable, Step, downgrade_guards, upgrade_guards

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0013"
AUDIT_VIEW = "assessments.assessment_state_audit"
STATES = {
    "runtime.transitions": ("old_state", "new_state"),
    "runtime.stages": ("ready", "running", "done"),
    "runtime.lifecycles": ("initial",),
}
# As revisions 0009 and 0012 made them.
INDEXES = {
    "attempts": """(stage, created_at) WHERE change_action IN ('retry', 'fail', 'rescue')
        OR (change_action = 'complete' AND lower(new_state::text) <> 'completed')""",
    "moved_by_others": """(created_at)
        WHERE old_state IS NOT NULL AND coalesce(changed_by, '') NOT LIKE 'worker:%'""",
}
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'runtime.transitions'::regclass"

# As revision 0005 attached them.
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
    # Every statement may be run again: what follows the last index below can be interrupted.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP VIEW IF EXISTS runtime.jobs")
    for index in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS runtime.ix_transitions_{index}")
    _set_types("varchar(40)")
    op.execute("""
        ALTER TABLE runtime.lifecycles
          ADD COLUMN IF NOT EXISTS decide_statement text,
          ADD COLUMN IF NOT EXISTS waits jsonb NOT NULL DEFAULT '{}',
          ADD COLUMN IF NOT EXISTS ends jsonb NOT NULL DEFAULT '{}',
          ADD COLUMN IF NOT EXISTS shown_as jsonb NOT NULL DEFAULT '{}',
          ADD COLUMN IF NOT EXISTS wait_column varchar(63)
    """)
    op.get_bind().exec_driver_sql((SQL / "functions.sql").read_text().replace("%", "%%"))
    for table in JOB_TABLES:
        upgrade_guards(table)
    op.execute("SELECT runtime.rebuild_jobs_view()")
    partitions = list(op.get_bind().scalars(sa.text(PARTITIONS)))
    for index, what in INDEXES.items():
        op.execute(f"CREATE INDEX ix_transitions_{index} ON ONLY runtime.transitions {what}")
    with op.get_context().autocommit_block():
        for index, what in INDEXES.items():
            for partition in partitions:
                name = f"ix_{partition.removeprefix('runtime.')}_{index}"
                op.execute(f"DROP INDEX IF EXISTS runtime.{name}")
                op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {partition} {what}")
                op.execute(f"ALTER INDEX runtime.ix_transitions_{index} ATTACH PARTITION runtime.{name}")


def downgrade() -> None:
    """Undo it; Postgres refuses while a state with a longer name is recorded."""
    op.execute("DROP VIEW runtime.jobs")
    for index in INDEXES:
        op.execute(f"DROP INDEX runtime.ix_transitions_{index}")
    for table in reversed(JOB_TABLES):
        downgrade_guards(table)
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
    op.execute("""
        ALTER TABLE runtime.lifecycles
          DROP COLUMN decide_statement, DROP COLUMN waits, DROP COLUMN ends, DROP COLUMN shown_as,
          DROP COLUMN wait_column
    """)
    _set_types("varchar(20)")
    op.execute("SELECT runtime.rebuild_jobs_view()")
    for index, what in INDEXES.items():
        op.execute(f"CREATE INDEX ix_transitions_{index} ON runtime.transitions {what}")


def _set_types(type_: str) -> None:
    """Change the type of the columns that hold states; the view of the assessments' history reads two of them."""
    bind = op.get_bind()
    definition = bind.scalar(sa.text(f"SELECT pg_get_viewdef('{AUDIT_VIEW}'::regclass)"))
    granted = bind.execute(
        sa.text(f"""
            SELECT grantee::regrole::text, privilege_type FROM pg_class CROSS JOIN aclexplode(relacl)
             WHERE pg_class.oid = '{AUDIT_VIEW}'::regclass AND grantee <> relowner
        """)
    ).all()
    op.execute(f"DROP VIEW {AUDIT_VIEW}")
    for table, columns in STATES.items():
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"ALTER COLUMN {name} TYPE {type_}" for name in columns))
    bind.exec_driver_sql(f"CREATE VIEW {AUDIT_VIEW} WITH (security_barrier = true) AS {definition}".replace("%", "%%"))
    for role, right in granted:
        op.execute(f"GRANT {right} ON {AUDIT_VIEW} TO {role}")
