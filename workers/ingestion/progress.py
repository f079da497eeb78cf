"""The progress of the job of one file, for those who wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from workers.runtime.database import Raw

_COMPLETED = "COMPLETED"
_LOADING = {"PENDING", "PROCESSING"}
_LOOK = """
    SELECT status, "totalRecords" AS total, "savedCount" AS saved, "skippedCount" AS skipped,
           "embeddedCount" AS embedded, progress, coalesce("skippedDetails", '{}') AS details,
           coalesce(warnings, '{}') AS warnings, error, completed_at IS NOT NULL AS ended,
           (SELECT wait_reason FROM runtime.jobs WHERE runtime.jobs.id = ingest_jobs.id) AS wait_reason
      FROM operations.ingest_jobs WHERE id = %s"""


@dataclass(frozen=True, slots=True)
class IngestionProgress:
    """The progress of one ingestion job."""

    status: str
    total: int
    saved: int
    skipped: int
    embedded: int
    progress: int
    details: dict[str, Any]
    warnings: dict[str, Any]
    error: str | None
    ended: bool
    wait_reason: str | None

    @property
    def completed(self) -> bool:
        """Whether the job is completed."""
        return self.status == _COMPLETED

    @property
    def read_as(self) -> Mapping[str, Any]:
        """How the file was read; empty if it was read as most files are."""
        found: Mapping[str, Any] = self.warnings.get("read_as") or {}
        return found

    @property
    def loading(self) -> bool:
        """Whether the file is still being read, so that nothing is embedded yet."""
        return self.status in _LOADING


async def ingestion_progress(conn: Raw, job_id: UUID) -> IngestionProgress | None:
    """Return the progress of the job of a file; None if it does not exist (any more)."""
    return await (await conn.cursor(row_factory=class_row(IngestionProgress)).execute(_LOOK, [job_id])).fetchone()
