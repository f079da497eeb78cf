"""Create the schema ``notifications``: who is told of ended jobs by HTTP, and each delivery as a job of its own.

Why: a service that does not share the database wants a call when its job has ended. ``runtime.notices`` says which jobs
ended; ``notifications.take`` turns notices into deliveries, in the transaction that deletes the notices.
Previous release: still runs. It ends jobs as before; notices wait until a dispatcher of this release leads.

- ``notifications.endpoints``: the addresses that want to know of all jobs of an owner. An endpoint without a URL holds
  the secret of an owner's one-off addresses (``callback_url`` of a job). Services read all columns but the secrets;
- ``notifications.endpoint_changes``: who made, changed, disabled, enabled and deleted an endpoint;
- ``notifications.deliveries``: a job table. An ended delivery can be sent again (``notifications.resend``).

A downgrade deletes endpoints and deliveries: nobody is told of the jobs that end from then on.

Revision ID: 0030
Revises: 0029
Created: 2026-11-30
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

from migrations.kernel.v4 import JobTable, Step, attach_lifecycle, detach_lifecycle, job_columns

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql" / "0030"
DELIVERIES = JobTable(
    schema="notifications",
    table="deliveries",
    steps=[Step(stage="notifications.deliver", ready="pending", running="sending", done="delivered")],
    also=frozenset({("delivered", "pending"), ("cancelled", "pending")}),
    limit_column="lane",
    payload=["event", "endpoint_id", "url", "lane", "job_id", "job_stage", "job_status", "job_version", "ended_at"],
    results=["attempts"],
    times=["ended_at"],
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("CREATE SCHEMA notifications; REVOKE ALL ON SCHEMA notifications FROM PUBLIC")
    op.create_table(
        DELIVERIES.table,
        *job_columns(DELIVERIES),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("endpoint_id", sa.Uuid),
        sa.Column("url", sa.Text),
        sa.Column("lane", sa.String(400), nullable=False),
        sa.Column("job_id", sa.Uuid),
        sa.Column("job_stage", sa.String(100)),
        sa.Column("job_status", sa.String(40)),
        sa.Column("job_version", sa.Integer),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("attempts", sa.dialects.postgresql.JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("attempts_before", sa.Integer, nullable=False, server_default=sa.text("0")),
        schema=DELIVERIES.schema,
    )
    attach_lifecycle(DELIVERIES, notices=False)
    for part in ("tables", "functions", "rights"):
        op.get_bind().exec_driver_sql((SQL / f"{part}.sql").read_text().replace("%", "%%"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.get_bind().exec_driver_sql((SQL / "down.sql").read_text().replace("%", "%%"))
    detach_lifecycle(DELIVERIES)
    op.drop_table(DELIVERIES.table, schema=DELIVERIES.schema)
    op.execute("DROP FUNCTION notifications.begin_delivery()")
    op.execute("DROP SCHEMA notifications")
