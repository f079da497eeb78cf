"""Tell the rows that somebody holds, without waiting for any."""

from collections.abc import Collection
from functools import cache
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.store.tables import JobTable, job_table


@cache
def _held_sql(t: JobTable) -> str:
    # As an update of anything but a key locks: who merely refers to a row is in nobody's way.
    id_ = t.column["id"]
    return f"""
        WITH free AS MATERIALIZED (
          SELECT {id_} FROM {t.name} WHERE {id_} = ANY (%(ids)s) FOR NO KEY UPDATE SKIP LOCKED)
        SELECT {id_} FROM {t.name} WHERE {id_} = ANY (%(ids)s) EXCEPT SELECT {id_} FROM free"""


async def held_rows(conn: Raw, model: type[Job], ids: Collection[UUID]) -> set[UUID]:
    """Return those of these rows that somebody holds; the others are locked for the transaction under way."""
    cursor = await conn.execute(_held_sql(job_table(model)), {"ids": list(ids)})
    return {row[0] for row in await cursor.fetchall()}
