"""The results of ingested files: how far their jobs are, what was saved, what was skipped and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob
from workers.runtime.database import Raw


@dataclass(frozen=True, slots=True)
class IngestionOutcome:
    """The job of one file. ``skipped_details`` has the count and the first lines for each reason."""

    id: UUID
    status: str
    total_records: int
    saved_count: int
    skipped_count: int
    skipped_details: Mapping[str, Any] | None
    error_message: str | None

    @property
    def completed(self) -> bool:
        return self.status == IngestJob.__lifecycle__.completed


@dataclass(frozen=True, slots=True)
class EmbeddingProgress:
    """How many records the jobs of several files have saved and embedded, and whether all these jobs have ended."""

    saved: int
    embedded: int
    ended: bool


async def ingestion_outcomes(session: AsyncSession, job_ids: Sequence[UUID]) -> list[IngestionOutcome]:
    """Return the results of these jobs, the oldest first. Deleted jobs are left out."""
    query = select(
        IngestJob.id,
        IngestJob.status,
        IngestJob.total_records,
        IngestJob.saved_count,
        IngestJob.skipped_count,
        IngestJob.skipped_details,
        IngestJob.error_message,
    )
    rows = await session.execute(query.where(IngestJob.id.in_(job_ids)).order_by(IngestJob.id))
    return [IngestionOutcome(*row) for row in rows]


async def embedding_progress(conn: Raw, job_ids: Sequence[UUID]) -> EmbeddingProgress:
    """Return how many records of these jobs are saved and embedded."""
    cursor = await conn.execute(
        """SELECT coalesce(sum("savedCount"), 0)::int, coalesce(sum("embeddedCount"), 0)::int,
                  coalesce(bool_and(completed_at IS NOT NULL), true) FROM operations.ingest_jobs WHERE id = ANY (%s)""",
        [list(job_ids)],
    )
    return EmbeddingProgress(*(await cursor.fetchone() or (0, 0, True)))
