"""Third generation: lifecycles with waits and ends of their own, and guards that tell who listens."""

from migrations.kernel.v1.lifecycle import Step
from migrations.kernel.v3.columns import job_columns
from migrations.kernel.v3.gates import attach_gate, detach_gate
from migrations.kernel.v3.lifecycle import attach_lifecycle, detach_lifecycle, downgrade_guards, upgrade_guards
from migrations.kernel.v3.table import JobTable, Wait

__all__ = [
    "JobTable",
    "Step",
    "Wait",
    "attach_gate",
    "attach_lifecycle",
    "detach_gate",
    "detach_lifecycle",
    "downgrade_guards",
    "job_columns",
    "upgrade_guards",
]
