"""The counts of jobs are exact at any time, whoever changes jobs, and folding them changes no number."""

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.kernel import PLAIN, Jobs
from workers.runtime.beat.maintenance import expire_by_table
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete, Fail
from workers.runtime.store.counts import fold_counts, read_counts, recount_jobs
from workers.runtime.store.processes import try_to_lead
from workers.runtime.store.verify import verify_history

ACTUAL = "SELECT stage, status AS state, count(*) AS jobs FROM runtime.jobs GROUP BY stage, status"


async def assert_exact(jobs: Jobs) -> dict[tuple[str, str], int]:
    """The counts are those of the rows; return them."""
    async with jobs.database.kernel() as conn:
        counted = {(one.stage, one.state): one.jobs for one in await read_counts(conn)}
    assert counted == {(row["stage"], row["state"]): row["jobs"] for row in await jobs.sql(ACTUAL)}
    return counted


async def lead(jobs: Jobs) -> int:
    async with jobs.database.kernel() as conn:
        term = await try_to_lead(conn, name="one")
    assert term is not None
    return term


async def fold(jobs: Jobs, term: int, limit: int = 1_000) -> int:
    async with jobs.database.kernel() as conn:
        return await fold_counts(conn, term=term, limit=limit)


async def test_each_state_is_counted_before_and_after_the_fold(jobs):
    """Enqueued, running, failed, completed and deleted jobs."""
    term = await lead(jobs)
    await jobs.ready(count=7)
    done, failed, *_ = await jobs.running(count=3)
    await jobs.settle(done, Complete())
    await jobs.settle(failed, Fail("no"))
    before = await assert_exact(jobs)
    assert before[PLAIN, "completed"] == before[PLAIN, "failed"] == 1

    while await fold(jobs, term, limit=2):
        assert await assert_exact(jobs) == before

    await jobs.sql("DELETE FROM proving.plain_jobs WHERE completed_at IS NOT NULL")
    assert (PLAIN, "failed") not in await assert_exact(jobs)
    await fold(jobs, term)
    await assert_exact(jobs)


async def test_a_job_of_several_steps_is_counted_in_its_step(jobs):
    """Also an ended one: where it ended."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Complete(), "proving.first")
    assert await assert_exact(jobs) == {("proving.second", "halfway"): 1}

    [job] = await jobs.running("proving.second", count=0)
    await jobs.settle(job, Fail("no"), "proving.second")

    assert await assert_exact(jobs) == {("proving.second", "failed"): 1}
    await jobs.sql("DELETE FROM proving.two_step_jobs")
    assert await assert_exact(jobs) == {}


async def test_a_truncated_table_has_no_jobs(jobs):
    """A person may empty a table."""
    await jobs.ready(count=3)

    await jobs.sql("TRUNCATE proving.plain_jobs")

    assert await assert_exact(jobs) == {}


def test_a_truncated_table_of_partitions_counts_each_job_once(fresh_database_url):
    """TRUNCATE runs the triggers of the table and those of its partitions."""
    gone = "runtime.count_gone('proving.plain_jobs', 'status', '{}', 'proving.plain', 'NULL')"
    with psycopg.connect(fresh_database_url, autocommit=True) as psql:
        psql.execute("DROP TABLE proving.plain_jobs CASCADE")
        psql.execute("CREATE TABLE proving.plain_jobs (id integer, status text) PARTITION BY RANGE (id)")
        for n in range(2):
            values = f"FROM ({10 * n}) TO ({10 * n + 10})"
            psql.execute(f"CREATE TABLE proving.part_{n} PARTITION OF proving.plain_jobs FOR VALUES {values}")
        for table in ("plain_jobs", "part_0", "part_1"):
            psql.execute(
                f"CREATE TRIGGER gone BEFORE TRUNCATE ON proving.{table} FOR EACH STATEMENT EXECUTE FUNCTION {gone}"
            )
        psql.execute("INSERT INTO proving.plain_jobs SELECT n, 'pending' FROM generate_series(0, 19) AS n")
        counted = "SELECT coalesce(sum(jobs), 0) FROM runtime.count_deltas"

        with psql.transaction(force_rollback=True):
            psql.execute("TRUNCATE proving.plain_jobs")
            assert psql.execute(counted).fetchone() == (20,)
        psql.execute("TRUNCATE proving.part_1")
        assert psql.execute(counted).fetchone() == (10,)


async def test_a_statement_adds_one_row_for_each_kind_of_move(jobs):
    """However many jobs it moves. Progress and tickets add none."""
    await jobs.ready(count=500)
    running = await jobs.running(count=0)
    await jobs.sql("UPDATE proving.plain_jobs SET progress = 7")

    rows = await jobs.sql("SELECT old_state, new_state, action, jobs FROM runtime.count_deltas ORDER BY id")

    assert [tuple(row.values()) for row in rows] == [
        (None, "pending", "enqueue", 500),
        ("pending", "processing", "claim", len(running)),
    ]


async def test_what_is_rolled_back_is_not_counted(jobs, psql):
    """A delta belongs to the transaction of its statement."""
    with psql.transaction(force_rollback=True):
        psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")

    assert await assert_exact(jobs) == {}


async def test_a_word_of_a_session_makes_no_row_of_its_own(jobs, psql):
    """Actions that the kernel does not know are counted as one."""
    term = await lead(jobs)
    for word in ("one", "two", "three"):
        with psql.transaction():
            psql.execute("SELECT set_config('gristmill.change_action', %s, true)", [word])
            psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")
            psql.execute("UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, "
                         "completed_at = now() WHERE completed_at IS NULL")  # fmt: skip
    await fold(jobs, term)

    rows = await jobs.sql("SELECT old_state, new_state, action, sum(jobs)::int AS n FROM runtime.minute_counts "
                          "GROUP BY 1, 2, 3 ORDER BY 1")  # fmt: skip

    assert [tuple(row.values()) for row in rows] == [
        ("", "pending", "enqueue", 3),
        ("pending", "cancelled", "other", 3),
    ]


async def test_a_leader_of_the_past_folds_nothing(jobs):
    """The term fences it."""
    term = await lead(jobs)
    await jobs.ready()

    assert await fold(jobs, term - 1) == 0
    assert await fold(jobs, term) == 1


async def test_a_leader_that_dies_in_between_folds_nothing(jobs, database_url):
    """Before its commit everything is undone."""
    term = await lead(jobs)
    await jobs.ready(count=4)
    dying = await psycopg.AsyncConnection.connect(database_url)
    assert await fold_counts(dying, term=term, limit=10) == 1
    await jobs.sql("SELECT pg_terminate_backend(%s, 5000)", dying.info.backend_pid)
    await dying.close()

    assert await assert_exact(jobs) == {(PLAIN, "pending"): 4}
    assert await fold(jobs, term) == 1
    assert await assert_exact(jobs) == {(PLAIN, "pending"): 4}


async def test_leaders_that_follow_each_other_fold_each_delta_once(jobs, start_dispatcher):
    """While jobs are enqueued one by one."""
    await start_dispatcher(name="one")
    await start_dispatcher(name="two")
    for nth in range(40):
        await jobs.ready()
        if nth in {10, 25}:
            await jobs.sql("SELECT pg_terminate_backend(session_pid) FROM runtime.dispatcher")
        await assert_exact(jobs)

    await until(lambda: _is_folded(jobs))

    assert await assert_exact(jobs) == {(PLAIN, "pending"): 40}


async def _is_folded(jobs: Jobs) -> bool:
    return await jobs.sql("SELECT 1 FROM runtime.count_deltas LIMIT 1") == []


async def test_a_recount_corrects_what_was_changed_without_guards(jobs):
    """`jobs verify` finds it; the correction is a delta like others."""
    await jobs.ready(count=3)
    await jobs.unguarded("DELETE FROM proving.plain_jobs WHERE id = (SELECT id FROM proving.plain_jobs LIMIT 1)")
    async with jobs.database.kernel() as conn:
        [found] = await verify_history(conn, stage=PLAIN)
        assert found.miscounted == 1

        assert await recount_jobs(conn) == 1
        assert await recount_jobs(conn) == 0

        [found] = await verify_history(conn, stage=PLAIN)
    assert found.miscounted == 0
    assert await assert_exact(jobs) == {(PLAIN, "pending"): 2}


async def test_two_recounts_at_once_correct_once(jobs):
    """The second waits for the first, and sees what it corrected."""
    await jobs.ready(count=3)
    await jobs.unguarded("DELETE FROM proving.plain_jobs WHERE id = (SELECT id FROM proving.plain_jobs LIMIT 1)")

    assert await jobs.race(recount_jobs, recount_jobs) == (1, 0)

    assert await assert_exact(jobs) == {(PLAIN, "pending"): 2}


async def test_a_recount_with_an_old_snapshot_is_refused(jobs, database_url):
    """It would not see what another recount has just corrected."""
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

        with pytest.raises(psycopg.errors.InvalidTransactionState, match="must run in a transaction that is read"):
            await recount_jobs(conn)


def test_a_guard_of_counts_serves_its_own_table_only(psql):
    """Nobody counts jobs that are not there by a table of his own."""
    psql.execute("CREATE TEMP TABLE mine (status text, ended_in text)")
    psql.execute("INSERT INTO mine VALUES ('pending')")
    psql.execute(
        "CREATE TRIGGER forged AFTER DELETE ON mine REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT "
        "EXECUTE FUNCTION runtime.count_gone('proving.plain_jobs', 'status', '{}', 'proving.plain', 'NULL')"
    )

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        psql.execute("DELETE FROM mine")


async def test_the_dispatchers_role_folds(jobs, database_url):
    """With the rights that its login has."""
    term = await lead(jobs)
    await jobs.ready(count=2)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        await conn.execute("SET ROLE gristmill_dispatcher")

        assert await fold_counts(conn, term=term, limit=10) == 1
        assert [(one.state, one.jobs) for one in await read_counts(conn)] == [("pending", 2)]


async def test_old_notices_and_minutes_are_deleted_by_maintenance(jobs, database_url):
    """Under the role of workers, which run it."""
    await jobs.sql(
        """INSERT INTO runtime.minute_counts SELECT now() - age, 's', '', 'a', 'enqueue', 1
             FROM unnest('{7 days,9 days}'::interval[]) AS age"""
    )
    await jobs.sql(
        """INSERT INTO runtime.notices (job_id, stage, table_name, status, version, ended_at)
           SELECT uuidv7(), 's', 't', 'done', 1, now() - age FROM unnest('{29 days,31 days}'::interval[]) AS age"""
    )
    worker = Database(f"{database_url}?options=-c%20role%3Dgristmill_worker", changed_by="worker:test")

    deleted = await expire_by_table(worker)
    await worker.close()

    assert (deleted["runtime.notices"], deleted["runtime.minute_counts"]) == (1, 1)
