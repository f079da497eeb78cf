"""Check jobs against their history: sound jobs pass, and each kind of damage is found."""

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from workers.runtime.database import Database
from workers.runtime.store.verify import HistoryCheck, verify_history

JOBS = "proving.plain_jobs"
WRITTEN_TWICE = """
INSERT INTO runtime.transitions (job_id, stage, old_state, new_state, version_from, version_to, created_at)
SELECT job_id, stage, old_state, new_state, version_from, version_to, now() FROM runtime.transitions
 WHERE job_id = :id AND version_to = 6"""


async def check(database: Database) -> HistoryCheck:
    async with database.kernel() as conn:
        (found,) = await verify_history(conn, stage="proving.plain")
    return found


@pytest.fixture
def job_id(connection: Connection) -> UUID:
    """A job that failed, was retried by an operator and then completed: versions 1 to 6."""
    job_id: UUID = connection.scalar(text(f"INSERT INTO {JOBS} DEFAULT VALUES RETURNING id"))
    for status in ("processing", "failed", "pending", "processing", "completed"):
        ended = "now()" if status in {"failed", "completed"} else "NULL"
        connection.execute(text(f"UPDATE {JOBS} SET dispatched_at = now() WHERE id = :id"), {"id": job_id})
        connection.execute(
            text(
                f"UPDATE {JOBS} SET status = '{status}', version = version + 1, completed_at = {ended}, "
                "lease_owner = gen_random_uuid(), retry_count = retry_count + (status = 'failed')::int WHERE id = :id"
            ),
            {"id": job_id},
        )
    return job_id


async def test_a_retried_job_ended_once_for_each_time_it_could(database: Database, job_id: UUID) -> None:
    """An operator's retry reopens a failed job, so two ends are correct."""
    found = await check(database)

    assert (found.jobs, found.completed, found.transitions) == (1, 1, 6)
    assert (found.ends, found.reopened, found.violations, found.suspects) == (2, 1, 0, [])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("DELETE FROM runtime.transitions WHERE job_id = :id AND version_to = 4", "gaps"),
        ("DELETE FROM runtime.transitions WHERE job_id = :id AND version_to = 1", "gaps"),
        (WRITTEN_TWICE, "duplicates"),
        ("DELETE FROM runtime.transitions WHERE job_id = :id", "unrecorded"),
        (f"UPDATE {JOBS} SET version = 7 WHERE id = :id", "mismatched"),
        (
            "UPDATE runtime.transitions SET old_state = 'processing' WHERE job_id = :id AND version_to = 4",
            "ended_twice",
        ),
    ],
)
async def test_damage_is_found_and_the_job_named(
    database: Database, connection: Connection, job_id: UUID, damage: str, kind: str
) -> None:
    """The triggers prevent this damage; the test makes it without them."""
    connection.execute(text("SET session_replication_role = replica"))  # as if there were no triggers
    connection.execute(text(damage), {"id": job_id})

    found = await check(database)

    assert getattr(found, kind) == 1
    assert found.violations >= 1
    assert found.suspects == [job_id]


async def test_a_pruned_job_s_history_still_counts(database: Database, connection: Connection, job_id: UUID) -> None:
    """Rows are deleted after their retention, their transitions stay: this is no violation."""
    connection.execute(text(f"DELETE FROM {JOBS}"))

    found = await check(database)

    assert (found.jobs, found.gone, found.completed, found.violations) == (0, 1, 1, 0)


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_a_job_that_is_gone_before_its_end_is_lost(
    database: Database, connection: Connection, job_id: UUID, status: str
) -> None:
    """Somebody deleted the row of a waiting or running job: it will never run."""
    lost: UUID = connection.scalar(text(f"INSERT INTO {JOBS} DEFAULT VALUES RETURNING id"))
    connection.execute(text(f"UPDATE {JOBS} SET dispatched_at = now() WHERE id = :id"), {"id": lost})
    if status == "processing":
        connection.execute(
            text(
                f"UPDATE {JOBS} SET status = 'processing', version = 2, lease_owner = gen_random_uuid() WHERE id = :id"
            ),
            {"id": lost},
        )
    connection.execute(text(f"DELETE FROM {JOBS} WHERE id IN (:id, :ended)"), {"id": lost, "ended": job_id})

    found = await check(database)

    assert (found.gone, found.lost, found.violations, found.suspects) == (2, 1, 1, [lost])


@pytest.fixture
def forget_table(connection: Connection) -> Iterator[Callable[[], None]]:
    """Return a function that removes the table from the kernel's catalogue, like a downgrade; undone after the test."""
    kept = ("runtime.lifecycles", "runtime.stages")
    for number, name in enumerate(kept):
        rows = f"SELECT * FROM {name} WHERE table_name = '{JOBS}'"
        connection.execute(text(f"CREATE TEMP TABLE kept_{number} AS {rows}"))

    def forget() -> None:
        for name in reversed(kept):
            connection.execute(text(f"DELETE FROM {name} WHERE table_name = '{JOBS}'"))
        connection.execute(text("SELECT runtime.rebuild_jobs_view()"))

    yield forget
    for number, name in enumerate(kept):
        connection.execute(text(f"INSERT INTO {name} SELECT * FROM kept_{number} ON CONFLICT DO NOTHING"))
    connection.execute(text("SELECT runtime.rebuild_jobs_view()"))


async def test_a_job_of_a_table_that_is_gone_is_lost_unless_it_ended(
    database: Database, connection: Connection, job_id: UUID, forget_table: Callable[[], None]
) -> None:
    """After a downgrade no lifecycle says which states were terminal, so the last action decides."""
    connection.execute(text(f"INSERT INTO {JOBS} DEFAULT VALUES"))
    cancelled = connection.scalar(text(f"INSERT INTO {JOBS} DEFAULT VALUES RETURNING id"))
    connection.execute(text("SELECT runtime.cancel(:id, 'with its table')"), {"id": cancelled})
    forget_table()

    found = await check(database)

    assert job_id not in found.suspects
    assert (found.jobs, found.gone, found.lost, found.violations) == (0, 3, 1, 1)
