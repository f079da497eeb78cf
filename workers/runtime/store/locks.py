"""Find the rows that other sessions have locked, without waiting for them."""

from collections.abc import Collection
from functools import cache
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table


@cache
def _locked_sql(t: JobTable) -> str:
    # The same lock as an UPDATE of a column that is no key: a foreign key check of another session does not conflict.
    id_ = t.column["id"]
    return f"""
        WITH free AS MATERIALIZED (
          SELECT {id_} FROM {t.name} WHERE {id_} = ANY (%(ids)s) FOR NO KEY UPDATE SKIP LOCKED)
        SELECT {id_} FROM {t.name} WHERE {id_} = ANY (%(ids)s) EXCEPT SELECT {id_} FROM free"""


async def find_locked_rows(conn: Raw, model: type[Job], ids: Collection[UUID]) -> set[UUID]:
    """Return the rows that another session has locked; lock the others for the current transaction."""
    cursor = await conn.execute(_locked_sql(job_table(model)), {"ids": list(ids)})
    return {row[0] for row in await cursor.fetchall()}
