"""Fourth generation: guards that write notices of ended jobs and count jobs; callbacks, traces, errors with a print.

It adds to the third generation and reads from the database what it must know of a table: so it also brings tables here
that other packages made with ``kernel.v3``, before this generation and after it (``migrations.env``).
"""

from migrations.kernel.v1.lifecycle import Step
from migrations.kernel.v3.gates import attach_gate, detach_gate
from migrations.kernel.v3.table import JobTable, Wait
from migrations.kernel.v4.columns import job_columns
from migrations.kernel.v4.lifecycle import attach_lifecycle, detach_lifecycle
from migrations.kernel.v4.lists import build_list_indexes, build_search_index, drop_list_indexes
from migrations.kernel.v4.tables import (
    downgrade_tables,
    hide_callbacks,
    show_callbacks,
    upgrade_tables,
    validate_tables,
)

__all__ = [
    "JobTable",
    "Step",
    "Wait",
    "attach_gate",
    "attach_lifecycle",
    "build_list_indexes",
    "build_search_index",
    "detach_gate",
    "detach_lifecycle",
    "downgrade_tables",
    "drop_list_indexes",
    "hide_callbacks",
    "job_columns",
    "show_callbacks",
    "upgrade_tables",
    "validate_tables",
]
