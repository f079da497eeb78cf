"""Let jobs go on at once that were snoozed for a cause that is over."""

from collections.abc import Sequence

from models import list_mapped
from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.store.waits import wake_all_snoozed


async def wake_jobs(database: Database, *, causes: Sequence[str]) -> int:
    """Wake the snoozed jobs of every table that have one of ``causes`` in their reason; return how many.

    They are woken slice by slice, each in its own transaction.
    """
    async with database.kernel() as conn:
        return await wake_all_snoozed(conn, list_mapped(Job), causes=causes)
