"""Invalid rows of processes, stages and pauses: none can be written any more, and old ones stop no process."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.support.command_line import as_json
from tests.support.poison import without_checks
from workers.runtime.store.processes import forget_silent_workers, survey, try_to_lead
from workers.runtime.store.read import count_slots_by_queue

Psql = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def database_url(fresh_database_url: str) -> str:
    """A database with CHECKs that a test may drop."""
    return fresh_database_url


@pytest.fixture
def psql(database_url: str) -> Iterator[Psql]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


WORKERS = {
    "lease of no number": "lease_seconds = 'NaN'",
    "lease for ever": "lease_seconds = 1e300",
    "lease of minus for ever": "lease_seconds = '-infinity'",
    "heartbeat for ever": "heartbeat_at = 'infinity'",
    "heartbeat never": "heartbeat_at = '-infinity'",
    "heartbeat next year": "heartbeat_at = now() + interval '1 year'",
    "all slots": "slots = 2147483647",
    "slots below none": "slots = -2147483648",
    "queue of nothing": "queues = ARRAY['proving', NULL]",
    "queues of queues": "queues = '{{proving},{scoring}}'",
}


@pytest.mark.parametrize("odd", WORKERS.values(), ids=WORKERS)
async def test_a_worker_row_from_before_stops_nobody(jobs, psql, odd):
    """With any value in such a row, stages are surveyed, jobs are listed and silent workers are forgotten."""
    columns = ("lease_seconds", "heartbeat_at", "slots", "queues", "running", "started_at", "provider")
    without_checks(psql, "runtime.workers", *columns)
    insert = """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds)
                VALUES (gen_random_uuid(), %s, '{proving}', 7, 10)"""
    for name in ("good", "odd"):
        psql.execute(insert, [name])
    psql.execute(f"UPDATE runtime.workers SET {odd} WHERE name = 'odd'")

    async with jobs.database.kernel() as conn:
        surveyed = await survey(conn)
        counted = await count_slots_by_queue(conn)
        await forget_silent_workers(conn)

    assert surveyed["proving.plain"].workers >= 1
    assert counted["proving"] >= 7 or "slots" in odd
    psql.execute("SELECT * FROM runtime.jobs")
    psql.execute("SELECT runtime.has_worker('proving.plain')")


async def test_a_lease_for_ever_keeps_no_dispatcher_from_leading(jobs, psql):
    """A leader's lease lasts three seconds: a longer one does not count."""
    without_checks(psql, "runtime.dispatcher", "expires_at", "seen_at", "term")
    async with jobs.database.kernel() as conn:
        assert await try_to_lead(conn, name="first")
        psql.execute("UPDATE runtime.dispatcher SET expires_at = 'infinity'")
        assert await try_to_lead(conn, name="second")


def test_every_time_and_number_that_the_kernel_reads_of_itself_is_bounded(psql):
    """This covers every table of the schema runtime but history, which only guards write; a new column fails here."""
    unbounded = psql.execute(
        """SELECT c.relname || '.' || a.attname AS name
             FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE c.relnamespace = 'runtime'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
              AND a.atttypid = ANY ('{timestamptz,float8,float4,numeric,interval}'::regtype[])
              AND NOT EXISTS (SELECT FROM pg_constraint AS k
                               WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey))"""
    ).fetchall()

    assert unbounded == []


REFUSED = (
    *(
        f"UPDATE runtime.workers SET {odd}"
        for name, odd in WORKERS.items()
        if name not in {"heartbeat next year", "queues of queues"}
    ),
    "UPDATE runtime.workers SET running = -1",
    "UPDATE runtime.workers SET provider = jsonb_build_object('a', repeat('x', 100000))",
    "UPDATE runtime.dispatcher SET expires_at = 'infinity'",
    "UPDATE runtime.dispatcher SET seen_at = '-infinity'",
    "UPDATE runtime.dispatcher SET term = -1",
    "UPDATE runtime.stages SET limit_at_most = -1",
    "UPDATE runtime.stages SET paused_at = 'infinity', paused_by = 'x'",
    "INSERT INTO runtime.provider_pauses VALUES (repeat('x', 3000), now(), now(), NULL, 'r')",
)


@pytest.mark.parametrize("statement", REFUSED)
async def test_no_such_row_is_written_any_more(jobs, psql, statement):
    """No role can write one."""
    await jobs.worker()
    async with jobs.database.kernel() as conn:
        assert await try_to_lead(conn, name="first")

    with pytest.raises(psycopg.errors.CheckViolation):
        psql.execute(statement)


def test_a_worker_with_a_lease_of_no_number_is_listed(gristmill, psql):
    """The row is wrong, but the list works."""
    without_checks(psql, "runtime.workers", "lease_seconds")
    psql.execute(
        """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds)
           VALUES (gen_random_uuid(), 'w', '{scoring}', 1, 'NaN')"""
    )

    [worker] = as_json(gristmill, "workers")
    assert worker["lease_seconds"] is None
    assert gristmill("workers")[0] == 0
