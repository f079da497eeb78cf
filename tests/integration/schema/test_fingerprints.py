"""Errors with one cause have one fingerprint, and the database finds the same causes as the command line."""

import threading

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from gristmill_testing.waiting import until
from migrations.kernel.v4.tables import make_fingerprints
from tests.conftest import sqlalchemy_url
from workers.runtime.handler.outcomes import Complete, Fail, Retry
from workers.runtime.store.causes import cause_of

ERRORS = [
    "",
    "told to fail",
    "HTTP 503 from https://api.example/v1 after 12.5 s",
    "HTTP 401: 'invalid key sk-abc' (request req_9f3a2b1c77)",
    "job 0190aaaa-0000-7000-8000-0123456789ab: row 17 of 20,000 failed at 2026-11-30T12:00:01.123Z",
    'expected "a \\" b", got `x` and «y» and “z”',
    "digest 9f86d081884c7d65 differs from 0xDEADbeef",
    "two  blanks,\ta tab\nand a line",
    "1, 2, 3; 4 5",
    "99 100 599 600 1503 5031 503.1 1.503 v503 503x",
    "x" * 400,
    "17 " * 200,
    "it's one quote",
    "Größe 12 überschritten",
    "  around  ",
]


def in_database(psql, error: str | None) -> str:
    return str(psql.execute("SELECT runtime.cause_of(%s) AS cause", [error]).fetchone()["cause"])


@pytest.mark.parametrize("error", ERRORS)
def test_the_database_finds_the_same_cause(psql, error):
    """``gristmill errors`` groups by one, the filter of lists by the other."""
    assert in_database(psql, error) == cause_of(error)


WORDS = ["HTTP ", "503", "17", " ", "  ", ",", "'a'", "ab12cd34ef56", "req_9f3a2b1c", "x", ":", "\n", "."]
PARTS = st.sampled_from(WORDS)


def test_the_database_finds_the_same_cause_of_whatever_is_put_together(psql):
    """Also where the parts touch each other."""

    @given(st.lists(PARTS, max_size=8).map("".join))
    def agree(error: str) -> None:
        assert in_database(psql, error) == cause_of(error)

    agree()


def fingerprint(psql, job_id) -> str | None:
    row = psql.execute("SELECT error_fingerprint FROM runtime.jobs WHERE id = %s", [job_id]).fetchone()
    found: str | None = row["error_fingerprint"]
    return found


async def test_errors_that_differ_in_numbers_have_one_fingerprint(jobs, psql):
    """Of another cause, or of another stage, they have another one."""
    one, two, other, *_ = await jobs.running(count=3)
    [keyed] = await jobs.running("proving.keyed")
    for job, error in ((one, "timeout after 12 s"), (two, "timeout after 700 s"), (other, "refused")):
        await jobs.settle(job, Fail(error))
    await jobs.settle(keyed, Fail("timeout after 12 s"), "proving.keyed")

    found = [fingerprint(psql, job.id) for job in (one, two, other, keyed)]

    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert all(len(one or "") == 32 for one in found)


async def test_a_fingerprint_goes_with_its_error(jobs, psql):
    """A job that completes in the end has none."""
    [job] = await jobs.running()
    await jobs.settle(job, Retry("timeout"))
    assert fingerprint(psql, job.id) is not None

    await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
    [again] = await jobs.running(count=0)
    await jobs.settle(again, Complete())

    assert fingerprint(psql, job.id) is None


async def test_a_job_of_several_steps_fails_in_its_step(jobs, psql):
    """So its fingerprint is that of the step."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")
    [job] = await jobs.running("proving.second", count=0)
    await jobs.settle(job, Fail("no"), "proving.second")

    expected = psql.execute("SELECT runtime.error_fingerprint('proving.second', 'no') AS it").fetchone()["it"]
    assert fingerprint(psql, job.id) == expected


def test_nobody_writes_a_fingerprint_of_another_shape(psql):
    """At every door."""
    psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")

    with pytest.raises(psycopg.errors.CheckViolation):
        psql.execute("UPDATE proving.plain_jobs SET error_fingerprint = 'x'")


async def test_a_row_that_others_change_does_not_end_the_migrations_batches(jobs, psql, database_url):
    """A batch with fewer rows than asked for is not the last one. Every error has its fingerprint in the end."""
    await jobs.ready(count=7)
    await jobs.unguarded("UPDATE proving.plain_jobs SET error_message = 'told to fail'")
    first = "(SELECT id FROM proving.plain_jobs ORDER BY id LIMIT 1)"
    engine = create_engine(sqlalchemy_url(database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def migrate() -> None:
        with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
            make_fingerprints(batch=3)

    async def waits() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(await jobs.sql(waiting))

    with psql.transaction():
        psql.execute(f"UPDATE proving.plain_jobs SET error_message = 'no more of it' WHERE id = {first}")
        thread = threading.Thread(target=migrate)
        thread.start()
        await until(waits)
    thread.join()
    engine.dispose()

    found = await jobs.sql("SELECT error_fingerprint, count(*) AS n FROM proving.plain_jobs GROUP BY 1 ORDER BY 2")
    assert [row["n"] for row in found] == [1, 6]
    assert all(row["error_fingerprint"] for row in found)
