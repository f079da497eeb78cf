"""Save one chunk of records: COPY into a staging table, then one INSERT. Find why each unsaved record was not saved."""

from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob
from workers.ingestion.chunks import Chunk, RecordIds
from workers.ingestion.record_counts import RecordCounts, SkipReason
from workers.ingestion.uploads import driver_connection


class ProjectBusy(Exception):
    """Somebody is deleting the project or changing its key. Waiting for that here could be a deadlock."""


# One table per connection, emptied by each commit. Large values are not compressed, because they are read soon.
_STAGING = """
    CREATE TEMP TABLE IF NOT EXISTS gristmill_staging (
      id uuid, content text STORAGE EXTERNAL, metadata jsonb STORAGE EXTERNAL, category operations."RecordCategory",
      "createdById" varchar(255), "createdByName" varchar(255), "createdByEmail" varchar(255)
    ) ON COMMIT DELETE ROWS"""
_COPY = "COPY pg_temp.gristmill_staging FROM STDIN"
# The rows are staged sorted by content, and read in that order.
_INSERT = """
    INSERT INTO operations.data_records
      (id, "projectId", type, category, source, content, metadata, "createdById", "createdByName", "createdByEmail",
       "ingestJobId")
    SELECT id, %(project)s, %(type)s::operations."RecordType", category, %(source)s, content, metadata, "createdById",
           "createdByName", "createdByEmail", %(job)s
      FROM pg_temp.gristmill_staging
    ON CONFLICT ("projectId", "contentHash") DO NOTHING"""
# A statement of its own, so that its snapshot sees the rows of other jobs that the INSERT conflicted with.
_CONFLICTS = """
    SELECT s.id, coalesce(r."ingestJobId" = %(job)s, false)
      FROM pg_temp.gristmill_staging AS s
      LEFT JOIN operations.data_records AS r
        ON r."projectId" = %(project)s AND r."contentHash" = operations.content_hash(s.content)
     WHERE r.id IS DISTINCT FROM s.id"""
_HOLD_PROJECT = "SELECT operations.hold_project(%s)"


async def hold_project(session: AsyncSession, project_id: UUID) -> None:
    """Prevent the deletion of the project until this transaction ends; raise ProjectBusy if it is being deleted."""
    raw = await driver_connection(session)
    if await (await raw.execute(_HOLD_PROJECT, [project_id])).fetchone() != (True,):
        raise ProjectBusy


async def save_chunk(session: AsyncSession, job: IngestJob, chunk: Chunk, ids: RecordIds) -> RecordCounts:
    """Save the records with new contents; return the counts of all records of the chunk."""
    await hold_project(session, job.project_id)
    raw = await driver_connection(session)
    values = {"project": job.project_id, "type": job.type, "source": job.source or "csv", "job": job.id}
    counts = chunk.counts.plus(RecordCounts())
    conflicts: dict[int, bool] = {}
    if chunk.rows:
        await raw.execute(_STAGING)
        async with raw.cursor() as cursor:
            async with cursor.copy(_COPY) as copy:
                await copy.write(chunk.copied)
            await cursor.execute(_INSERT, values)
            counts.saved = cursor.rowcount
        if counts.saved < len(chunk.rows):
            conflicts = await _find_conflicts(raw, values, ids)
    # A twin of a saved record is a duplicate in the file. Otherwise it has the reason of the first one.
    twins = {line: conflicts.get(first, True) for line, first in chunk.twins.items()}
    for line, ours in sorted({**conflicts, **twins}.items()):
        counts.skip(SkipReason.DUPLICATE_IN_FILE if ours else SkipReason.DUPLICATE_IN_PROJECT, line)
    return counts


async def _find_conflicts(raw: psycopg.AsyncConnection[Any], values: dict[str, Any], ids: RecordIds) -> dict[int, bool]:
    """Return the lines that were not saved, each with whether the existing record is of this job, too."""
    async with raw.cursor() as cursor:
        await cursor.execute(_CONFLICTS, values)
        return {ids.line(id_): ours for id_, ours in await cursor.fetchall()}
