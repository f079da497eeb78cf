"""The columns of a job table as of the third generation: those of ``models.lifecycle.Job``, for `op.create_table`."""

import sqlalchemy as sa

from migrations.kernel.v2.columns import TIME
from migrations.kernel.v2.columns import job_columns as second_job_columns
from migrations.kernel.v3.table import JobTable


def job_columns(job_table: JobTable) -> list[sa.Column[object]]:
    """Return new columns for ``job_table``, under the names that it gives them; the domain's own stand beside them."""
    t = job_table
    status: sa.Column[object] = sa.Column(t.status, sa.String(40), nullable=False, server_default=t.steps[0].ready)
    columns = [status if column.name == t.status else column for column in second_job_columns(t)]
    if t.waits:
        columns.append(sa.Column(t.wait_until, TIME))
    return columns
