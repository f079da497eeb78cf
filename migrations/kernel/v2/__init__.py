"""Second generation: job tables whose rows have owners, with rights by column."""

from migrations.kernel.v1.lifecycle import Step
from migrations.kernel.v2.columns import job_columns
from migrations.kernel.v2.lifecycle import (
    JobTable,
    attach_lifecycle,
    detach_lifecycle,
    downgrade_lifecycle,
    unsuccessful_index,
    upgrade_lifecycle,
)

__all__ = [
    "JobTable",
    "Step",
    "attach_lifecycle",
    "detach_lifecycle",
    "downgrade_lifecycle",
    "job_columns",
    "unsuccessful_index",
    "upgrade_lifecycle",
]
