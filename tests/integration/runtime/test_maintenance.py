"""The regular maintenance: prune, expire, partitions, forgotten workers."""

import asyncio
import uuid
from datetime import timedelta

import psycopg
import pytest

from models.scoring import ScoringAnswer
from workers.runtime.beat.maintenance import (
    actions,
    expire_rows,
    forget_workers,
    keep_partitions,
    prune_jobs,
    run_action,
)
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete

FOREVER = timedelta(days=36_500)


async def test_prune_goes_through_every_table_by_its_own_retention(jobs):
    """One table keeps a day, another a week; jobs that have not ended stay."""
    done = await jobs.running(count=3)
    for job in done[:2]:
        await jobs.settle(job, Complete())
    await jobs.unguarded(
        "UPDATE proving.plain_jobs SET completed_at = now() - interval '2 days' WHERE status = 'completed'"
    )
    [profile] = await jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id")
    for _ in range(2):
        await jobs.sql("SELECT scoring.enqueue_score(%s, 'Judge.')", profile["id"])
    await jobs.sql("UPDATE scoring.scoring_jobs SET status = 'cancelled', version = 2, completed_at = now()")
    await jobs.unguarded(
        "UPDATE scoring.scoring_jobs SET completed_at = now() - interval '8 days' "
        "WHERE id = (SELECT min(id::text)::uuid FROM scoring.scoring_jobs)"
    )

    assert await prune_jobs(jobs.database) == 3

    assert await jobs.count() == 1
    assert await jobs.count("scoring.score") == 1
    assert await prune_jobs(jobs.database) == 0


async def test_prune_goes_on_until_nothing_is_left(jobs):
    """One action deletes a backlog of several batches, in short transactions."""
    await jobs.sql("INSERT INTO proving.plain_jobs (act) SELECT 'complete' FROM generate_series(1, 2500)")
    await jobs.sql(
        "UPDATE proving.plain_jobs SET status = 'cancelled', version = 2, completed_at = now() - interval '2 days'"
    )

    assert await prune_jobs(jobs.database) == 2_500


async def test_rows_with_an_expiry_are_deleted_when_their_time_is_over(jobs):
    """Shared answers expire after 25 hours, ticks after 30 days; other tables have no expiry."""
    expiry = ScoringAnswer.__expiry__
    for name, age in (("old", expiry.after + timedelta(minutes=1)), ("young", expiry.after - timedelta(minutes=1))):
        await jobs.sql(
            "INSERT INTO scoring.answers (fingerprint, job_id, job_version, claimed_at) "
            "VALUES (%s, uuidv7(), 2, now() - %s)",
            name.encode(),
            age,
        )
    await jobs.sql("INSERT INTO runtime.schedules (name, action, cron) VALUES ('s', 'prune', '* * * * *')")
    for days in (31, 29):
        await jobs.sql(
            "INSERT INTO runtime.ticks (schedule, scheduled_for, fired_at, fired_by) "
            "VALUES ('s', now() - %s, now() - %s, 'b')",
            timedelta(days=days),
            timedelta(days=days),
        )

    assert await expire_rows(jobs.database) == 2

    assert [bytes(row["fingerprint"]) for row in await jobs.sql("SELECT fingerprint FROM scoring.answers")] == [
        b"young"
    ]
    assert len(await jobs.sql("SELECT 1 FROM runtime.ticks")) == 1


async def test_workers_silent_for_a_day_are_forgotten(jobs):
    """Workers with a later heartbeat stay."""
    await jobs.worker()
    silent = await jobs.worker()
    await jobs.sql("UPDATE runtime.workers SET heartbeat_at = now() - interval '25 hours' WHERE id = %s", silent)

    assert await forget_workers(jobs.database) == 1
    assert await forget_workers(jobs.database) == 0


async def test_every_action_runs_by_its_name(jobs):
    """Beat publishes names. Each action repeats its condition, so it may run twice."""
    known = actions(transitions_retention=FOREVER)

    assert set(known) == {"prune", "expire", "expire_waits", "partitions", "forget_workers", "orphan_calls"}
    for name, action in known.items():
        changed = await run_action(jobs.database, action, name)
        assert changed
        assert all(count >= 0 for count in changed.values())


@pytest.fixture
async def months(fresh_database_url):
    """A database in which a test may make and drop partitions."""
    database = Database(fresh_database_url, changed_by="test")
    yield database
    await database.close()


@pytest.fixture
def transitions(fresh_database_url):
    """Insert transitions of any time and read in which partition they are."""
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        yield Transitions(connection)


class Transitions:
    def __init__(self, connection: psycopg.Connection[tuple[str]]) -> None:
        self.connection = connection

    def add(self, created_at: str) -> uuid.UUID:
        job_id = uuid.uuid4()
        self.connection.execute(
            "INSERT INTO runtime.transitions (job_id, version_to, created_at, stage, new_state) "
            f"VALUES (%s, 1, {created_at}, 's', 'pending')".encode(),
            [job_id],
        )
        return job_id

    def where(self, job_id: uuid.UUID) -> str:
        rows = self.connection.execute(
            "SELECT tableoid::regclass::text FROM runtime.transitions WHERE job_id = %s", [job_id]
        )
        [(name,)] = rows.fetchall()
        return name.removeprefix("runtime.")

    def partitions(self) -> list[str]:
        rows = self.connection.execute(
            "SELECT relname::text FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid "
            "WHERE inhparent = 'runtime.transitions'::regclass ORDER BY 1"
        )
        return [name for (name,) in rows.fetchall()]

    def month(self, ahead: int) -> str:
        [(name,)] = self.connection.execute(
            "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => %s), "
            "'\"transitions_\"YYYY_MM')",
            [ahead],
        ).fetchall()
        return name


async def test_a_migrated_database_has_this_month_and_three_ahead(months, transitions):
    """Beat may be away for three months before rows go to the default partition."""
    assert transitions.partitions() == sorted(["transitions_default", *(transitions.month(n) for n in range(4))])
    assert await keep_partitions(months, retention=FOREVER) == 0


async def test_a_missing_month_is_made_and_takes_its_rows_out_of_the_default(months, transitions):
    """Its rows were in the default partition and are moved, not lost."""
    transitions.connection.execute(f"DROP TABLE runtime.{transitions.month(2)}".encode())
    at = "date_trunc('month', now()) + interval '2 months 5 days'"
    stray, far = transitions.add(at), transitions.add("now() + interval '10 years'")
    assert transitions.where(stray) == "transitions_default"

    assert await keep_partitions(months, retention=FOREVER) == 1

    assert transitions.where(stray) == transitions.month(2)
    assert transitions.where(far) == "transitions_default"
    assert transitions.where(transitions.add(at)) == transitions.month(2)


async def test_months_are_utcs_whatever_the_session_thinks(transitions):
    """The last hours of a month are moved correctly by a session in a zone with clock changes."""
    connection = transitions.connection
    connection.execute("SET timezone = 'Europe/Paris'")
    edges = [
        transitions.add(f"(date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => {n}, mins => {m})) "
                        "AT TIME ZONE 'UTC'")
        for n in range(4, 16)
        for m in (-1, 0, 1)
    ]  # fmt: skip

    connection.execute("SELECT runtime.ensure_transition_partitions(16)")

    assert {transitions.where(job_id) for job_id in edges} == {transitions.month(n) for n in range(3, 16)}


async def test_months_past_their_retention_are_dropped_whole(months, transitions):
    """The month that contains the limit stays, and so do later months."""
    connection = transitions.connection
    for month in ("2020_01", "2020_02"):
        year, number = month.split("_")
        connection.execute(
            f"CREATE TABLE runtime.transitions_{month} PARTITION OF runtime.transitions "
            f"FOR VALUES FROM ('{year}-{number}-01Z') TO ('{year}-{int(number) + 1:02}-01Z')".encode()
        )
    [(since_february,)] = connection.execute("SELECT now() - '2020-02-15Z'::timestamptz").fetchall()

    assert await keep_partitions(months, retention=since_february) == 1
    assert "transitions_2020_01" not in transitions.partitions()
    assert "transitions_2020_02" in transitions.partitions()

    assert await keep_partitions(months, retention=since_february - timedelta(days=20)) == 1
    assert transitions.partitions() == sorted(["transitions_default", *(transitions.month(n) for n in range(4))])


async def test_two_at_once_make_a_month_once(months, transitions):
    """Two beats, or a person and a beat: the second one waits and then finds the partition."""
    for n in (2, 3):
        transitions.connection.execute(f"DROP TABLE runtime.{transitions.month(n)}".encode())

    made = await asyncio.gather(*(keep_partitions(months, retention=FOREVER) for _ in range(4)))

    assert sum(made) == 2
