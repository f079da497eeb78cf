"""The columns of a job table as of the second generation: those of ``models.lifecycle.Job``, for `op.create_table`."""

import sqlalchemy as sa

from migrations.kernel.v2.lifecycle import JobTable

TIME = sa.DateTime(timezone=True)


def job_columns(job_table: JobTable) -> list[sa.Column[object]]:
    """Return new columns for ``job_table``, under the names that it gives them; the domain's own stand beside them."""
    t = job_table
    columns: list[sa.Column[object]] = [
        sa.Column("id", sa.Uuid, primary_key=True, server_default=sa.text("uuidv7()")),
        sa.Column("owner_id", sa.Uuid, server_default=sa.text("runtime.actor_id()")),
        sa.Column(t.status, sa.String(20), nullable=False, server_default=t.steps[0].ready),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="5"),
        sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_retries", sa.Integer, nullable=False, server_default="5"),
        sa.Column(t.due_at, TIME),
        sa.Column("timeout_seconds", sa.Integer),
        sa.Column("progress", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("dispatched_at", TIME),
        sa.Column("lease_owner", sa.Uuid),
        sa.Column("deadline_at", TIME),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column(t.error_message, sa.Text),
        sa.Column("change_action", sa.String(20)),
        sa.Column("change_reason", sa.Text),
        sa.Column(t.created_at, TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("started_at", TIME),
        sa.Column("completed_at", TIME),
        sa.Column(t.updated_at, TIME, nullable=False, server_default=sa.func.now()),
    ]
    if t.has_several_steps:
        columns.append(sa.Column("ended_in", sa.String(40)))
    return columns
