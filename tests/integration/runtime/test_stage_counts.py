"""``gristmill stages``: the jobs of a stage by state. The counts are cheap, however large the table is."""

from datetime import timedelta

import pytest

from cli.stage_view import describe_trouble
from tests.support.job_rows import INGEST, PLAIN, back_off, cancelled, complete, failed_job, new_job, start
from tests.support.proving.models import PlainJob
from workers.runtime.store.stages import ALONG_INDEXES, MAX_COUNTED, _counts_sql, list_stages
from workers.runtime.store.tables import job_table


@pytest.fixture
def plain_stage(database):
    """Return the view of the plain stage."""

    async def look():
        conn = await database.listen()
        try:
            return {one.stage: one for one in await list_stages(conn)}
        finally:
            await conn.close()

    return look


async def test_each_job_is_counted_for_what_it_does(plain_stage, psql):
    """No job counts twice, and no waiting job counts as ready."""
    new_job(psql, PLAIN)
    on_the_road = new_job(psql, PLAIN)
    psql.execute("UPDATE proving.plain_jobs SET dispatched_at = now() WHERE id = %s", [on_the_road])
    for action in ("retry", "snooze"):
        job = new_job(psql, PLAIN)
        start(psql, PLAIN, job)
        back_off(psql, PLAIN, job, "answered 503", action=action)
    psql.execute("INSERT INTO proving.plain_jobs (due_at) VALUES ('2030-01-01'), (now() - interval '1 second')")
    runs, well = new_job(psql, PLAIN), new_job(psql, PLAIN)
    start(psql, PLAIN, runs)
    start(psql, PLAIN, well)
    complete(psql, PLAIN, well)
    failed_job(psql, PLAIN, "bad")
    cancelled(psql, PLAIN, new_job(psql, PLAIN))

    stage = (await plain_stage())["proving.plain"]

    assert (stage.ready, stage.backing_off, stage.later, stage.running) == (3, 2, 1, 1)
    assert (stage.completed, stage.failed, stage.cancelled) == (1, 1, 1)
    assert (stage.done_last_minute, stage.backing_off_reason, stage.more_than) == (1, "answered 503", [])


def waits(psql, due, age):
    """Enqueue a job of this age with this due time."""
    psql.execute(
        f"""INSERT INTO proving.plain_jobs (due_at, created_at, updated_at)
            VALUES ({due}, now() - interval '{age}', now() - interval '{age}')""".encode()
    )


async def test_the_oldest_wait_is_that_of_what_is_ready(plain_stage, psql):
    """Jobs that are due in 2030 or back off do not count; a wait begins at the due time, not at the enqueue."""
    waits(psql, "'2030-01-01'", "9 days")
    assert (await plain_stage())["proving.plain"].oldest_wait is None

    waits(psql, "NULL", "1 hour")
    waits(psql, "now() - interval '3 hours'", "9 days")

    wait = (await plain_stage())["proving.plain"].oldest_wait
    assert timedelta(hours=3) <= wait < timedelta(hours=3, minutes=1)


async def test_a_stage_in_which_every_attempt_fails_says_so(plain_stage, psql):
    """It has the most common reason, whatever happened to the jobs; a person's retry is no failed attempt."""
    for number in range(3):
        job = new_job(psql, PLAIN)
        start(psql, PLAIN, job)
        back_off(psql, PLAIN, job, f"provider answered 500 to request {number + 10}")
    failed_job(psql, PLAIN, "another reason")
    psql.execute(
        """UPDATE proving.plain_jobs SET status = 'pending', version = version + 1, retry_count = retry_count + 1,
                  completed_at = NULL, lease_owner = NULL, change_action = 'retry', change_reason = 'by hand'
            WHERE status = 'failed'"""
    )

    stage = (await plain_stage())["proving.plain"]

    assert (stage.failing_attempts, stage.failing_reason) == (4, "provider answered 500 to request 12")
    assert describe_trouble(stage) == "4 attempts failed in 5 min: provider answered 500 to request 12"


async def test_a_step_before_the_last_has_a_rate_too(plain_stage, psql):
    """Its jobs continue in the next step, so only history has the rate; no job is completed in this step."""
    job = new_job(psql, INGEST)
    start(psql, INGEST, job, step=1)

    seen = await plain_stage()

    assert (seen["ingestion.ingest"].done_last_minute, seen["ingestion.ingest"].completed) == (1, None)
    assert (seen["vectorization.embed"].done_last_minute, seen["vectorization.embed"].completed) == (0, 0)


async def test_a_stage_is_paused_and_says_by_whom(plain_stage, psql):
    """Its jobs still count as ready."""
    new_job(psql, PLAIN)
    psql.execute("UPDATE runtime.stages SET paused_at = now(), paused_by = 'ada' WHERE name = 'proving.plain'")

    stage = (await plain_stage())["proving.plain"]

    assert (stage.ready, stage.paused_by) == (1, "ada")


def rows_read(node):
    """Yield how many rows each node of a plan read."""
    yield node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    for child in node.get("Plans", ()):
        yield from rows_read(child)


async def test_a_large_table_is_asked_as_cheaply_as_a_small_one(plain_stage, psql):
    """100,000 jobs in every state, not analysed: what is kept is exact; no other count reads more than ten thousand."""
    psql.execute("ALTER TABLE proving.plain_jobs DISABLE TRIGGER USER")
    try:
        psql.execute(
            """INSERT INTO proving.plain_jobs (status, version, due_at, change_action, change_reason, completed_at,
                                               created_at, updated_at)
               SELECT (ARRAY['pending', 'pending', 'completed', 'failed', 'cancelled'])[1 + n % 5], 1,
                      CASE WHEN n % 5 = 1 THEN now() + interval '1 hour' END, 'retry', 'answered 503',
                      CASE WHEN n % 5 > 1 THEN now() - n % 50 * interval '1 second' END, now() - interval '1 day',
                      now() - interval '1 hour'
                 FROM generate_series(1, 100000) AS n"""
        )
    finally:
        psql.execute("ALTER TABLE proving.plain_jobs ENABLE TRIGGER USER")
    psql.execute("SELECT runtime.recount_jobs()")

    stage = (await plain_stage())["proving.plain"]

    assert stage.more_than == ["backing_off", "later", "oldest_wait", "ready"]
    assert (stage.ready, stage.backing_off) == (MAX_COUNTED, MAX_COUNTED)
    assert (stage.completed, stage.failed, stage.cancelled) == (20_000, 20_000, 20_000)
    assert timedelta(hours=1) <= stage.oldest_wait < timedelta(hours=2)
    assert stage.done_last_minute > 0
    with psql.transaction():
        psql.execute(ALONG_INDEXES)
        counts = _counts_sql(job_table(PlainJob))
        plan = psql.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {counts}".encode()).fetchone()
    assert max(rows_read(plan["QUERY PLAN"][0]["Plan"])) <= MAX_COUNTED + 1
