"""Tickets, and how urgent they are.

Why: the first version.
"""

import sqlalchemy as sa
from alembic import op

from migrations.kernel.v4 import JobTable, Step, attach_lifecycle, detach_lifecycle, job_columns

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TICKET_JOBS = JobTable(
    schema="tickets",
    table="ticket_jobs",
    steps=[Step(stage="tickets.triage", ready="pending", running="processing", done="completed")],
    payload=("text",),
    results=("urgency",),
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("CREATE SCHEMA tickets")
    op.create_table(
        "ticket_jobs",
        *job_columns(TICKET_JOBS),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("urgency", sa.Text),
        schema="tickets",
        postgresql_with={"fillfactor": "50"},
    )
    attach_lifecycle(TICKET_JOBS)


def downgrade() -> None:
    detach_lifecycle(TICKET_JOBS)
    op.drop_table("ticket_jobs", schema="tickets")
    op.execute("DROP SCHEMA tickets")
