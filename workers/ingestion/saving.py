"""Save one chunk of records: COPY into a staging table, one INSERT, and the reason of each that was not saved."""

from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob
from workers.ingestion.chunks import Chunk, Ids
from workers.ingestion.tally import Reason, Tally
from workers.ingestion.uploads import driver


class Busy(Exception):
    """Somebody is about to delete the project, or to change its key: to wait for that would be to wait in a circle."""


# One per connection, emptied by each commit; what is large is kept as it is, for a moment.
_STAGING = """
    CREATE TEMP TABLE IF NOT EXISTS gristmill_staging (
      id uuid, content text STORAGE EXTERNAL, metadata jsonb STORAGE EXTERNAL, category operations."RecordCategory",
      "createdById" varchar(255), "createdByName" varchar(255), "createdByEmail" varchar(255)
    ) ON COMMIT DELETE ROWS"""
_COPY = "COPY pg_temp.gristmill_staging FROM STDIN"
# Staged in the order of contents, and read as staged.
_INSERT = """
    INSERT INTO operations.data_records
      (id, "projectId", type, category, source, content, metadata, "createdById", "createdByName", "createdByEmail",
       "ingestJobId")
    SELECT id, %(project)s, %(type)s::operations."RecordType", category, %(source)s, content, metadata, "createdById",
           "createdByName", "createdByEmail", %(job)s
      FROM pg_temp.gristmill_staging
    ON CONFLICT ("projectId", "contentHash") DO NOTHING"""
# A statement of its own: its snapshot sees the rows of others that the INSERT met.
_IN_THE_WAY = """
    SELECT s.id, coalesce(r."ingestJobId" = %(job)s, false)
      FROM pg_temp.gristmill_staging AS s
      LEFT JOIN operations.data_records AS r
        ON r."projectId" = %(project)s AND r."contentHash" = operations.content_hash(s.content)
     WHERE r.id IS DISTINCT FROM s.id"""
_HOLD_PROJECT = "SELECT operations.hold_project(%s)"


async def hold_project(session: AsyncSession, project_id: UUID) -> None:
    """Keep the project there until this transaction ends; raise Busy where somebody else has it."""
    raw = await driver(session)
    if await (await raw.execute(_HOLD_PROJECT, [project_id])).fetchone() != (True,):
        raise Busy


async def save(session: AsyncSession, job: IngestJob, chunk: Chunk, ids: Ids) -> Tally:
    """Save what no record of the project has yet; return what became of every record of the chunk."""
    await hold_project(session, job.project_id)
    raw = await driver(session)
    values = {"project": job.project_id, "type": job.type, "source": job.source or "csv", "job": job.id}
    tally = chunk.tally.plus(Tally())
    in_the_way: dict[int, bool] = {}
    if chunk.rows:
        await raw.execute(_STAGING)
        async with raw.cursor() as cursor:
            async with cursor.copy(_COPY) as copy:
                await copy.write(chunk.copied)
            await cursor.execute(_INSERT, values)
            tally.saved = cursor.rowcount
        if tally.saved < len(chunk.rows):
            in_the_way = await _unsaved(raw, values, ids)
    # A twin shares the fate of the record that had its content first.
    twins = {line: in_the_way.get(first, True) for line, first in chunk.twins.items()}
    for line, ours in sorted({**in_the_way, **twins}.items()):
        tally.skip(Reason.DUPLICATE_IN_FILE if ours else Reason.DUPLICATE_IN_PROJECT, line)
    return tally


async def _unsaved(raw: psycopg.AsyncConnection[Any], values: dict[str, Any], ids: Ids) -> dict[int, bool]:
    """Return the lines that were not saved, each with whether the record in the way is of this job too."""
    async with raw.cursor() as cursor:
        await cursor.execute(_IN_THE_WAY, values)
        return {ids.line(id_): ours for id_, ours in await cursor.fetchall()}
