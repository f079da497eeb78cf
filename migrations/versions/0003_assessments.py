"""Create the assessment store: states that several services change at once, their history, cache and reports.

Why: services that shared assessments by events get one place to keep them, and nothing is overwritten or unexplained.
Previous release: still runs, it knows nothing of this schema.

Services name things with their schema or connect with ``search_path=assessments``; the functions set their own.
There is no row level security: the seed's assessments have no owner. Services read everything, insert assessments and
measurements, and change states through the functions only.

Where the seed's text is not SQL that does what it says, this is what it means:
- ``state`` and ``next_retry_at`` are the lifecycle's status and due time; the lifecycle's other columns stand beside;
- ``id`` defaults to ``uuidv7()``; columns with a default are NOT NULL, because a NULL passes every CHECK of the seed;
- the UNIQUE constraint bears the name of the seed's index on ``assessment_id``: one index serves both;
- its audit trigger casts no text and refuses every update: history is ``runtime.transitions``, shown by a view;
- its audit trigger sees no INSERT: creation is the first row of a history here;
- its audit names whoever ``request_data`` named last: here the session or the argument says who, for each change;
- the view cannot be written to, so nobody forges history; the indexes of the seed's audit table have no counterpart;
- inline ``INDEX`` and ``UNIQUE name (…)`` are MySQL's: indexes stand by themselves;
- ``assessment_queue`` is a view of ``assessment_states``: a second list of the same work would contradict it;
- ``assessment_metrics`` is filled by each ending, or nothing would;
- ``earliest_completed`` and ``latest_completed`` read ``completed_at``, not ``created_at``;
- ``create_assessment`` with the same request returns the first id, so that a caller without an answer can ask again;
- ``update_assessment_state`` erases nothing that it is not given, fills in the progress a state demands, clears
  ``completed_at`` when an assessment starts again, and leaves ``request_data`` alone;
- it refuses an unknown assessment (the seed returns false) and a missing version (the seed overwrites without one);
- its conflict has a SQLSTATE of its own, GM409;
- ``DELETE … LIMIT`` is MySQL's: ``cleanup_old_assessments`` picks a batch that nobody holds, oldest first;
- the migration query breaks both CHECKs: ``gristmill assessments import`` writes a history and the times it knows;
- ``uuid-ossp`` and ``pgcrypto`` are not needed, and the embedded PostgreSQL has no ``pgcrypto``.

Revision ID: 0003
Revises: 0002
Created: 2026-11-22
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from migrations.kernel.v1.lifecycle import JobTable, Step, attach_lifecycle, detach_lifecycle

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.func.now()
TIME = sa.DateTime(timezone=True)
NEW_ID = sa.text("uuidv7()")
STATE = pg.ENUM(name="assessmentstate", schema="assessments", create_type=False)
SQL = Path(__file__).parents[1] / "sql" / "0003"

ASSESSMENTS = JobTable(
    schema="assessments",
    table="assessment_states",
    steps=[Step(stage="assessment.assess", ready="pending", running="processing", done="completed")],
    status="state",
    due_at="next_retry_at",
    status_is_enum=True,
    ends_at_full_progress=True,
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA assessments")
    op.execute(
        "CREATE TYPE assessments.AssessmentState AS ENUM ('pending', 'processing', 'completed', 'failed', 'cancelled')"
    )
    _states()
    _retired()
    _cache()
    _metrics()
    attach_lifecycle(ASSESSMENTS)
    for part in ("triggers", "views", "functions", "rights"):
        op.execute((SQL / f"{part}.sql").read_text())


def downgrade() -> None:
    detach_lifecycle(ASSESSMENTS)
    op.execute("DROP SCHEMA assessments CASCADE")


def _states() -> None:
    op.create_table(
        "assessment_states",
        sa.Column("id", sa.Uuid, nullable=False, server_default=NEW_ID),
        sa.Column("assessment_id", sa.String(255), nullable=False),
        sa.Column("state", STATE, nullable=False, server_default="pending"),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("request_data", pg.JSONB, nullable=False),
        sa.Column("result_data", pg.JSONB),
        sa.Column("error_message", sa.Text),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.Column("completed_at", TIME),
        sa.Column("progress", sa.Integer, nullable=False, server_default="0"),
        sa.Column("priority", sa.Integer, nullable=False, server_default="5"),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_retry_at", TIME),
        sa.Column("timeout_seconds", sa.Integer, server_default="300"),
        sa.Column("max_retries", sa.Integer, nullable=False, server_default="3"),
        sa.Column("started_at", TIME),
        sa.Column("dispatched_at", TIME),
        sa.Column("lease_owner", sa.Uuid),
        sa.Column("deadline_at", TIME),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("change_action", sa.String(100)),
        sa.Column("change_reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_assessment_states"),
        sa.UniqueConstraint("assessment_id", name="idx_assessment_states_assessment_id"),
        schema="assessments",
        # As every job table that is claimed and settled: room on the page for the row's next version.
        postgresql_with={"fillfactor": "50"},
    )
    # The seed's two CHECKs, word for word; the lifecycle's own say the same under the names of every job table.
    op.execute("""
        ALTER TABLE assessments.assessment_states
        ADD CONSTRAINT valid_state_transition CHECK (
            (state IN ('completed', 'failed', 'cancelled') AND completed_at IS NOT NULL) OR
            (state NOT IN ('completed', 'failed', 'cancelled') AND completed_at IS NULL)),
        ADD CONSTRAINT valid_progress CHECK (
            (state = 'processing' AND progress > 0) OR
            (state IN ('completed', 'failed', 'cancelled') AND progress = 100) OR
            (state = 'pending' AND progress = 0));
        CREATE INDEX idx_assessment_states_state_created ON assessments.assessment_states (state, created_at);
        CREATE INDEX idx_assessment_states_priority_created ON assessments.assessment_states (priority, created_at);
        CREATE INDEX idx_assessment_states_next_retry ON assessments.assessment_states (next_retry_at)
            WHERE next_retry_at IS NOT NULL;
        CREATE INDEX idx_assessment_states_created_completed
            ON assessments.assessment_states (created_at, completed_at) WHERE state IN ('completed', 'failed');
    """)


def _retired() -> None:
    op.create_table(
        "retired_assessments",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("assessment_id", sa.String(255), nullable=False),
        sa.Column("deleted_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_retired_assessments"),
        schema="assessments",
    )
    for column in ("assessment_id", "deleted_at"):
        op.create_index(f"ix_retired_assessments_{column}", "retired_assessments", [column], schema="assessments")


def _cache() -> None:
    op.create_table(
        "assessment_state_cache",
        sa.Column("assessment_id", sa.String(255), nullable=False),
        sa.Column("state_data", pg.JSONB, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("last_accessed", TIME, nullable=False, server_default=NOW),
        sa.Column("access_count", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("assessment_id", name="pk_assessment_state_cache"),
        schema="assessments",
        prefixes=["UNLOGGED"],
    )
    op.create_index(
        "idx_assessment_state_cache_expires", "assessment_state_cache", ["expires_at"], schema="assessments"
    )


def _metrics() -> None:
    op.create_table(
        "assessment_metrics",
        sa.Column("id", sa.Uuid, nullable=False, server_default=NEW_ID),
        sa.Column("assessment_id", sa.String(255), nullable=False),
        sa.Column("metric_type", sa.String(50), nullable=False),
        sa.Column("metric_value", sa.Integer, nullable=False),
        sa.Column("timestamp", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("id", name="pk_assessment_metrics"),
        schema="assessments",
    )
    op.create_index(
        "idx_assessment_metrics_assessment_id", "assessment_metrics", ["assessment_id"], schema="assessments"
    )
    op.create_index(
        "idx_assessment_metrics_type_timestamp",
        "assessment_metrics",
        ["metric_type", "timestamp"],
        schema="assessments",
    )
