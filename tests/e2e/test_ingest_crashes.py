"""A worker is killed in the middle of a file. The next one continues after the last commit, with the same result."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from tests.e2e.crashes import KEEPING, Crash, arm
from tests.e2e.system import System
from workers.ingestion.enqueue_file import ingest_file
from workers.operations.projects import get_or_create
from workers.runtime.database import Database
from workers.runtime.failpoints import Point

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

ROWS = 25_000  # three chunks, and the commit that deletes the file
LAST = 4
HEAD = 'text,category,author\n"two\nlines",top 10,ann\n"never closed,,\n,,nobody\nodd,neither,ann\n'
LEASE: dict[str, Any] = {"queues": ["ingestion"], "heartbeat_seconds": 0.4, "lease_seconds": 3.0}
STATE = "SELECT status FROM operations.ingest_jobs WHERE id = %s"
COUNTS = """
    SELECT "totalRecords", "savedCount", "skippedCount", "skippedDetails", warnings
      FROM operations.ingest_jobs WHERE id = %s"""
RECORDS = """
    SELECT type::text, category::text, source, content, metadata, "createdById" FROM operations.data_records
     WHERE "projectId" = %s ORDER BY id"""
PARTS = "SELECT count(*) FROM operations.upload_parts"


def hand_in(system: System, project: str) -> tuple[UUID, UUID]:
    """Enqueue the file for a new project; return the job and the project."""
    content = (HEAD + "".join(f"row {n % 20_000},,bob\n" for n in range(ROWS))).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    async def put() -> tuple[UUID, UUID]:
        database = Database(system.database_url, changed_by="test")
        async with database.session() as session:
            found = await get_or_create(session, project)
            job = await ingest_file(session, project_id=found.id, type="TASK", stream=pieces(), file_name="f.csv")
        await database.close()
        return job.id, found.id

    return asyncio.run(put())


def ended(system: System, job: UUID) -> bool:
    return system.ask(STATE, job) == [("QUEUED_FOR_VEC",)]


@pytest.fixture(scope="module")
def undisturbed(system: System) -> list[list[tuple[Any, ...]]]:
    """The result of the file without a crash."""
    system.staff(workers=0)
    job, project = hand_in(system, "undisturbed")
    with system.lasting([system.start("worker", **LEASE)]):
        system.wait(lambda: ended(system, job), "the file is ingested", seconds=60.0)
    return [system.ask(COUNTS, job), system.ask(RECORDS, project)]


@pytest.mark.parametrize(("point", "nth"), [(KEEPING[0], 2), (KEEPING[1], 2), (KEEPING[1], LAST)])
def test_another_worker_finishes_the_file_of_a_killed_one_with_the_same_result(
    system: System, undisturbed: list[list[tuple[Any, ...]]], point: Point, nth: int
) -> None:
    """No record is missing or doubled, and every count is the same."""
    job, project = hand_in(system, f"{point} {nth}")

    victim = arm(system, "worker", point, nth=nth, **LEASE)
    victim.exit_code(within=60.0)
    saved = system.ask(COUNTS, job)[0][1]
    with system.lasting([system.start("worker", **LEASE)]):
        system.wait(lambda: ended(system, job), "another worker finishes it", seconds=60.0)

    Crash(point, victim).assert_there()
    assert system.actions(job).count("rescue") == 1
    assert (0 < saved < undisturbed[0][0][1]) == (nth < LAST)
    assert [system.ask(COUNTS, job), system.ask(RECORDS, project)] == undisturbed
    assert system.ask(PARTS) == [(0,)]
