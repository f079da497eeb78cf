"""Save the progress of a long run, under its fence."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.store.claim import Ticket
from workers.runtime.store.tables import JobTable, job_table


@cache
def _checkpoint_sql(t: JobTable, attributes: tuple[str, ...]) -> TextClause:
    c = t.column
    running = ", ".join(f"'{state}'" for state in sorted(t.lifecycle.running))
    values = "".join(f"{c[name]} = v.{c[name]}, " for name in attributes)
    return text(f"""
        UPDATE {t.name} AS j SET {values}{c["updated_at"]} = now()
          FROM jsonb_populate_record(NULL::{t.name}, CAST(:row AS jsonb)) AS v
         WHERE j.{c["id"]} = :id AND j.{c["version"]} = :version AND j.{c["status"]} IN ({running})
        RETURNING j.{c["id"]}""")


async def checkpoint(session: AsyncSession, model: type[Job], run: Ticket, values: Mapping[str, Any]) -> bool:
    """Set ``values`` (JSON values by attribute) on the job's row under the run's fence; return whether it held.

    The row stays locked until the session's transaction ends. A cancel, a rescue or a delete of the job waits for that
    and then sees everything that the transaction wrote.
    """
    t = job_table(model)
    id_, version = run
    row = json.dumps({t.column[name].strip('"'): value for name, value in values.items()}, allow_nan=False)
    found = await session.execute(
        _checkpoint_sql(t, tuple(sorted(values))), {"row": row, "id": id_, "version": version}
    )
    return found.first() is not None
