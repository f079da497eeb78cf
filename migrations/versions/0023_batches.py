"""Create the batch lane: which jobs may wait for a half-price answer, their questions, and the batches of them.

Why: providers answer questions for half the price if they may take a day. A job says so when it is enqueued; its
questions are gathered and sent together.
Previous release: still runs, it knows nothing of these tables. Jobs that wait in the lane take the normal one when
their time comes.

- ``llm.lanes``: the lane of a job, and when it must be answered; ``runtime.in_lane`` writes it, for every door;
- ``llm.batches``: a job table; each job gathers questions of one provider and model, sends them and takes the answers;
- ``llm.batch_requests``: one row per question, until its answer is used;
- ``llm.batch_allowances``: how many tokens of a model may wait at a provider at once.

``runtime.jobs`` reads every job table with the rights of who asks, so services may read ``llm.batches``; row level
security shows them none of its rows.

Revision ID: 0023
Revises: 0022
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from migrations.kernel.v3 import JobTable, Step, Wait, attach_lifecycle, detach_lifecycle, job_columns

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0023"
BATCHES = JobTable(
    schema="llm",
    table="batches",
    steps=[
        Step(stage="llm.batch", ready="pending", running="submitting", done="at_provider"),
        Step(stage="llm.collect", ready="due", running="collecting", done="completed"),
    ],
    waits=[Wait(state="at_provider", waits_for="the provider's batch", decides=["due"], expires="due")],
    also=frozenset({("submitting", "completed"), ("collecting", "at_provider")}),
    payload=["provider", "model", "cancels"],
    results=[
        "input_file_id",
        "creating_since",
        "provider_batch_id",
        "provider_status",
        "counts",
        "usage",
        "submitted_at",
        "closed_at",
    ],
    times=["creating_since", "submitted_at", "closed_at"],
    may_cancel="false",
)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("CREATE SCHEMA IF NOT EXISTS llm; REVOKE ALL ON SCHEMA llm FROM PUBLIC")
    op.create_table(
        BATCHES.table,
        *job_columns(BATCHES),
        sa.Column("provider", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("cancels", sa.Uuid),
        sa.Column("input_file_id", sa.Text),
        sa.Column("creating_since", TIME),
        sa.Column("provider_batch_id", sa.Text),
        sa.Column("provider_status", sa.String(40)),
        sa.Column("counts", sa.dialects.postgresql.JSONB),
        sa.Column("usage", sa.dialects.postgresql.JSONB),
        sa.Column("submitted_at", TIME),
        sa.Column("closed_at", TIME),
        schema="llm",
    )
    attach_lifecycle(BATCHES)
    for part in ("tables", "functions", "rights"):
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    """Undo it. Jobs in the lane take the normal one; what providers have of them is lost."""
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
    detach_lifecycle(BATCHES)
    op.drop_table(BATCHES.table, schema="llm")
    op.execute("""
        DO $$ BEGIN
          DROP SCHEMA llm;
        EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
        END $$;
    """)
