"""Fourth generation: attach a lifecycle to a new job table.

Used by revisions only, and imports nothing from ``models``. A new job table is made with :func:`job_columns` and handed
to :func:`attach_lifecycle`.
"""

from collections.abc import Sequence

from alembic import op

from migrations.kernel.v3 import lifecycle as v3
from migrations.kernel.v3.table import JobTable, literal
from migrations.kernel.v4.lists import create_list_indexes
from migrations.kernel.v4.tables import upgrade_tables, validate_tables


def attach_lifecycle(job_table: JobTable, *, partitions: Sequence[str] = (), notices: bool = True) -> None:
    """Make ``job_table`` a job table. ``partitions`` names its partitions, if any: each gets the triggers itself.

    Without ``notices``, nobody is told of its ended jobs: for the jobs that tell of others.
    """
    v3.attach_lifecycle(job_table, partitions=partitions)
    if not notices:
        op.execute(f"UPDATE runtime.lifecycles SET gives_notices = false WHERE table_name = {literal(job_table.name)}")
    upgrade_tables()
    validate_tables()
    create_list_indexes(job_table.name)


def detach_lifecycle(job_table: JobTable) -> None:
    """Undo :func:`attach_lifecycle` before the revision drops the table."""
    v3.detach_lifecycle(job_table)
