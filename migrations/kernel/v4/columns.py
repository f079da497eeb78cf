"""The columns of a job table as of the fourth generation: those of ``models.lifecycle.Job``, for `op.create_table`."""

import sqlalchemy as sa

from migrations.kernel.v3.columns import job_columns as third_job_columns
from migrations.kernel.v3.table import JobTable

NEW_COLUMNS = ("callback_url", "traceparent", "error_fingerprint")
# A service may give these to a new job.
OPTIONS = ("callback_url", "traceparent")
# Which addresses may be called is decided at the door: this keeps out what is no address.
RULES = {
    "callback_url": r"callback_url ~* '^https?://[^[:space:][:cntrl:]]+$' AND length(callback_url) <= 2048",
    "traceparent": (
        "length(traceparent) = 55 AND "
        "traceparent ~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'"
    ),
    "error_fingerprint": "error_fingerprint ~ '^[0-9a-f]{32}$'",
}


def job_columns(job_table: JobTable) -> list[sa.Column[object]]:
    """Return new columns for ``job_table``, under the names that it gives them; the domain's own stand beside them."""
    new: list[sa.Column[object]] = [sa.Column(name, sa.Text) for name in NEW_COLUMNS]
    return [*third_job_columns(job_table), *new]
