"""Cleaning up: in batches, without waiting for locked rows, and the history keeps the names."""

import asyncio

import psycopg
import pytest

from gristmill_testing.waiting import until
from models.assessments import Assessment, RetiredAssessment
from tests.support.kernel import Jobs
from workers.assessment.store.history import audit_trail
from workers.runtime.beat.maintenance import expire_rows, prune_jobs
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete

STAGE = "assessment.assess"
OLD = "now() - interval '31 days'"


def make_old(psql, count: int, *, prefix: str = "old") -> None:
    """Create assessments that ended a month ago, by legal transitions."""
    psql.execute(
        "SELECT assessments.create_assessment(%s || n, '{}') FROM generate_series(1, %s) AS n", [prefix, count]
    )
    psql.execute(
        f"UPDATE assessments.assessment_states SET state = 'cancelled', progress = 100, version = 2, "
        f"completed_at = {OLD} WHERE assessment_id LIKE %s AND state = 'pending'",
        [f"{prefix}%"],
    )


def names(psql) -> list[str]:
    rows = psql.execute("SELECT assessment_id FROM assessments.assessment_states ORDER BY assessment_id").fetchall()
    return [row["assessment_id"] for row in rows]


async def test_a_history_keeps_its_name_when_its_assessment_is_gone(psql, database):
    """If the id is used again, both histories are returned, oldest first."""
    make_old(psql, 1)
    assert await prune_jobs(database) == 1
    psql.execute("SELECT assessments.create_assessment('old1', '{}')")

    async with database.session() as session:
        trail = await audit_trail(session, "old1")

    assert names(psql) == ["old1"]
    assert [(row.version_to, row.new_state) for row in trail] == [(1, "pending"), (2, "cancelled"), (1, "pending")]


async def test_names_of_the_gone_outlive_the_transitions_and_go_then(psql, database):
    """Names are kept twice as long as the audit trail is kept by default."""
    psql.execute(
        "INSERT INTO assessments.retired_assessments (id, assessment_id, deleted_at) "
        "SELECT uuidv7(), 'gone-' || days, now() - make_interval(days => days) FROM unnest(ARRAY[799, 801]) AS days"
    )

    await expire_rows(database)

    left = psql.execute("SELECT assessment_id FROM assessments.retired_assessments").fetchall()
    assert [row["assessment_id"] for row in left] == ["gone-799"]
    assert RetiredAssessment.__expiry__.after.days == 800


def test_a_batch_takes_the_oldest_and_passes_what_somebody_holds(psql, database_url):
    """The cleanup skips locked rows and blocks nobody."""
    make_old(psql, 3)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM assessments.assessment_states WHERE assessment_id = 'old2' FOR UPDATE")
        psql.execute("SET lock_timeout = '1s'")

        deleted = [psql.execute("SELECT assessments.cleanup_old_assessments(30, 2) AS n").fetchone()["n"] for _ in "ab"]

        assert deleted == [2, 0]
        assert names(psql) == ["old2"]


@pytest.mark.parametrize("arguments", ["-1", "30, 0", "NULL", "30, NULL"])
def test_a_cleanup_that_would_delete_everything_or_nothing_is_refused(psql, arguments):
    """A typing error must not delete assessments."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="retention must be 0 days or more"):
        psql.execute(f"SELECT assessments.cleanup_old_assessments({arguments})")


async def test_what_has_not_ended_or_ended_lately_is_never_cleaned_up(psql, database):
    """The age of its other values does not matter."""
    make_old(psql, 1)
    psql.execute("""
        INSERT INTO assessments.assessment_states (assessment_id, request_data, created_at)
        SELECT name, '{}', now() - interval '1 year' FROM unnest(ARRAY['waiting', 'lately']) AS name
    """)
    psql.execute("SELECT assessments.update_assessment_state('lately', 'cancelled', 1)")

    assert await prune_jobs(database) == 1
    assert names(psql) == ["lately", "waiting"]


async def test_workers_claim_and_settle_while_a_cleanup_runs(psql, database_url, jobs: Jobs):
    """No session waits for a lock. (100,000 rows: docs/assessments.md.)"""
    make_old(psql, 3_000)
    psql.execute("SELECT assessments.create_assessment('new' || n, '{}') FROM generate_series(1, 200) AS n")
    tickets = await jobs.dispatched(STAGE, 0)
    waits: list[int] = []
    cleaner = Database(database_url, changed_by="beat")

    async def clean() -> int:
        deleted = await prune_jobs(cleaner)
        await cleaner.close()
        return deleted

    async def work() -> None:
        for start in range(0, len(tickets), 20):
            for job in await jobs.claim(tickets[start : start + 20], STAGE):
                assert await jobs.settle(job, Complete(values={"result_data": {}}), STAGE)

    async def watch() -> None:
        while True:
            found = await jobs.sql("SELECT count(*) AS n FROM pg_locks WHERE NOT granted")
            waits.append(found[0]["n"])

    watching = asyncio.create_task(watch())
    deleted, _ = await asyncio.gather(clean(), work())
    await until(lambda: len(waits) > 5)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert deleted == 3_000
    assert await jobs.count(STAGE, status="completed") == 200
    assert max(waits) == 0
    assert Assessment.__lifecycle__.retention.days == 30
