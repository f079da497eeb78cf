"""The sample files are saved and skipped line by line as their README says."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from gristmill_testing.mill import mill
from gristmill_testing.waiting import until
from tests.support.paths import SAMPLES
from tests.unit.analytics.test_analytics_passages import script
from workers.ingestion.enqueue_file import ingest_file
from workers.llm.offline import OfflineEvaluator
from workers.operations.projects import get_or_create
from workers.runtime.database import Database
from workers.runtime.handler.registry import Registry


@pytest.mark.parametrize(("name", "type_"), [("tasks", "TASK"), ("feedback", "FEEDBACK")])
async def test_sample_is_saved_and_skipped_as_its_readme_says(
    database: Database, connection: Connection, database_url: str, registry: Registry, *, name: str, type_: Any
) -> None:
    """Every record is counted, and each skipped one has its reason and its line."""

    async def stream() -> AsyncIterator[bytes]:
        yield (SAMPLES / f"{name}.csv").read_bytes()

    async with database.session() as session:
        project = await get_or_create(session, f"samples {uuid.uuid4()}")
        job = await ingest_file(session, project_id=project.id, type=type_, stream=stream(), file_name=f"{name}.csv")
    sql = text("SELECT * FROM operations.ingest_jobs WHERE id = :id")

    async with mill(database_url, registry, OfflineEvaluator()):
        await until(lambda: connection.execute(sql, {"id": job.id}).one().completed_at, within=60.0)

    row = connection.execute(sql, {"id": job.id}).one()
    told = (SAMPLES / "README.md").read_text(encoding="utf-8").split(f"`{name}.csv`: ", 1)[1]
    reasons = {reason: details["count"] for reason, details in row.skippedDetails.items()}
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    assert row.status == "COMPLETED"
    assert told.startswith(f"{row.totalRecords} records, {row.savedCount} saved, skipped: {listed}.")
    made = script("make_records")
    sample = getattr(made, name)()
    sample.text(end="\n")
    lines = {one.line: one.reason for one in sample.odd.values() if one.reason}
    found = {line: reason for reason, details in row.skippedDetails.items() for line in details["lines"]}
    assert lines.items() <= found.items()
    assert len(found) == row.skippedCount
