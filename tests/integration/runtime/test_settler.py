"""Group commit: each run gets its own result, no job fails because of another, nothing is applied twice."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.support.fakes.wire import wire_to
from tests.support.kernel import PLAIN, AwaitedSettler
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete, Fail, Snooze, Write
from workers.runtime.store.intervene import cancel
from workers.runtime.worker.lane import WriteFailed

ONE_SETTLE = b'"change_action" = u.action'  # in the settling statement, and in no other


@asynccontextmanager
async def settling(database: Database):
    """Yield a running settler on ``database``."""
    settler = AwaitedSettler(database)
    task = asyncio.create_task(settler.run())
    try:
        yield settler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def settler(database):
    async with settling(database) as settler:
        yield settler


def adds(effects: int, *, to: object) -> Write:
    """Return a write that adds to the job's own effects."""

    async def write(session) -> None:
        await session.execute(
            text("UPDATE proving.plain_jobs SET effects = effects + :n WHERE id = :id"), {"n": effects, "id": to}
        )

    return write


async def refused(session) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def test_outcomes_that_meet_are_committed_together(jobs, plain, settler):
    """Fifty runs are settled by one statement; each learns that its fence was valid."""
    running = await jobs.running(count=50)

    accepted = await asyncio.gather(
        *(settler.settle(plain.model, jobs.outcome(job, Complete({"effects": 1}))) for job in running)
    )

    assert accepted == [True] * 50
    [row] = await jobs.sql(
        "SELECT count(*) AS n, count(DISTINCT created_at) AS statements FROM runtime.transitions "
        "WHERE change_action = 'complete'"
    )
    assert row == {"n": 50, "statements": 1}


async def test_different_outcomes_and_tables_meet_without_mixing(jobs, settler):
    """Outcomes with and without values, of two tables, are settled correctly."""
    one, other, third = await jobs.running(count=3)
    [keyed] = await jobs.running("proving.keyed", key="k")

    accepted = await asyncio.gather(
        settler.settle(type(one), jobs.outcome(one, Complete({"effects": 1}))),
        settler.settle(type(other), jobs.outcome(other, Snooze(timedelta(hours=1), "quota"))),
        settler.settle(type(third), jobs.outcome(third, Complete({"result": {"n": 3}}))),
        settler.settle(type(keyed), jobs.outcome(keyed, Fail("bad"), "proving.keyed")),
    )

    assert list(accepted) == [True] * 4
    assert [(await jobs.row(job.id))["status"] for job in (one, other, third)] == ["completed", "pending", "completed"]
    assert (await jobs.row(one.id))["effects"] == 1
    assert (await jobs.row(third.id))["result"] == {"n": 3}
    assert (await jobs.row(keyed.id, "proving.keyed"))["status"] == "failed"


async def test_a_write_commits_with_its_settle(jobs, plain, settler):
    """The handler's rows and the job's end are one transaction."""
    [job] = await jobs.running()

    assert await settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=job.id))

    row = await jobs.row(job.id)
    assert (row["status"], row["effects"]) == ("completed", 1)


async def test_a_lost_fence_writes_nothing(jobs, plain, settler):
    """The write of the other job commits."""
    lost, kept = await jobs.running(count=2)
    async with jobs.database.kernel() as conn:
        await cancel(conn, plain.model, [lost.id], reason="no more")

    accepted = await asyncio.gather(
        settler.settle(plain.model, jobs.outcome(lost, Complete()), adds(1, to=lost.id)),
        settler.settle(plain.model, jobs.outcome(kept, Complete()), adds(1, to=kept.id)),
    )

    assert list(accepted) == [False, True]
    assert (await jobs.row(lost.id))["effects"] == 0
    assert (await jobs.row(kept.id))["effects"] == 1


async def test_a_refused_write_takes_its_own_settle_along_and_nobody_elses(jobs, plain, settler):
    """Only its own run gets the error; the others are committed once."""
    bad, *good = await jobs.running(count=10)

    results = await asyncio.gather(
        settler.settle(plain.model, jobs.outcome(bad, Complete()), refused),
        *(settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=job.id)) for job in good),
        return_exceptions=True,
    )

    assert isinstance(results[0], DBAPIError)
    assert results[1:] == [True] * 9
    assert (await jobs.row(bad.id))["status"] == "processing"
    assert await jobs.count(status="completed", effects=1) == 9


async def test_a_row_that_no_column_takes_fails_alone(jobs, plain, settler):
    """A NUL in one result fails only its job."""
    bad, *good = await jobs.running(count=10)

    results = await asyncio.gather(
        settler.settle(plain.model, jobs.outcome(bad, Complete({"result": {"nul": "a\x00b"}}))),
        *(settler.settle(plain.model, jobs.outcome(job, Complete({"result": {"n": 1}}))) for job in good),
        return_exceptions=True,
    )

    assert isinstance(results[0], Exception)
    assert results[1:] == [True] * 9
    assert [await jobs.actions(job.id) for job in good] == [["enqueue", "claim", "complete"]] * 9


async def test_a_value_that_is_no_json_fails_alone(jobs, plain, settler):
    """Python refuses it before the database is asked; the result is the same."""
    bad, good = await jobs.running(count=2)

    results = await asyncio.gather(
        settler.settle(plain.model, jobs.outcome(bad, Complete({"result": {"object": object()}}))),
        settler.settle(plain.model, jobs.outcome(good, Complete({"result": {"n": 1}}))),
        return_exceptions=True,
    )

    assert isinstance(results[0], Exception)
    assert results[1] is True


@pytest.mark.parametrize("write", [False, True])
async def test_a_commit_whose_answer_was_lost_is_recognised_as_ours(jobs, plain, database_url, write):
    """The job was settled, but the connection broke before the answer: history shows it, nothing is applied twice."""
    async with wire_to(database_url) as (url, wire):
        database = Database(url, changed_by="worker:far away")
        async with settling(database) as settler:
            [job] = await jobs.running()
            wire.lose_answer(b"COMMIT" if write else ONE_SETTLE)

            accepted = await settler.settle(
                plain.model, jobs.outcome(job, Complete({"effects": 1})), *([adds(1, to=job.id)] if write else [])
            )
        await database.close()

    assert wire.lost == 1
    assert accepted
    row = await jobs.row(job.id)
    assert (row["status"], row["version"], row["effects"]) == ("completed", 3, 2 if write else 1)
    assert await jobs.actions(job.id) == ["enqueue", "claim", "complete"]


async def test_after_a_lost_answer_a_lost_fence_is_still_one(jobs, plain, database_url):
    """Somebody else moved the job on meanwhile: also without an answer, but the fence is lost."""
    async with wire_to(database_url) as (url, wire):
        database = Database(url, changed_by="worker:far away")
        async with settling(database) as settler:
            mine, theirs = await jobs.running(count=2)
            async with jobs.database.kernel() as conn:
                await cancel(conn, plain.model, [theirs.id], reason="no more")
            wire.lose_answer(ONE_SETTLE)

            accepted = await asyncio.gather(
                settler.settle(plain.model, jobs.outcome(mine, Complete())),
                settler.settle(plain.model, jobs.outcome(theirs, Complete())),
            )
        await database.close()

    assert list(accepted) == [True, False]


async def test_a_killed_connection_is_replaced_and_the_outcome_settled(jobs, plain, settler):
    """An administrator ends every connection; the settle is tried again after a moment."""
    running = await jobs.running(count=3)
    await jobs.sql(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    accepted = await asyncio.gather(*(settler.settle(plain.model, jobs.outcome(job, Complete())) for job in running))

    assert accepted == [True] * 3


async def test_settlers_that_deadlock_both_finish(jobs, plain, database_url):
    """Their writes lock the same rows in opposite order: Postgres aborts one, which tries again."""
    one, other = await jobs.running(count=2)
    shared = await jobs.ready(count=2)
    met = asyncio.Barrier(2)

    def crossing(order: list[UUID]) -> Write:
        first_time = True

        async def write(session) -> None:
            nonlocal first_time
            await adds(1, to=order[0])(session)
            if first_time:
                first_time = False
                await met.wait()
            await adds(1, to=order[1])(session)

        return write

    databases = [Database(database_url, changed_by=f"worker:{n}") for n in range(2)]
    async with settling(databases[0]) as left, settling(databases[1]) as right:
        accepted = await asyncio.gather(
            left.settle(plain.model, jobs.outcome(one, Complete()), crossing(shared)),
            right.settle(plain.model, jobs.outcome(other, Complete()), crossing(shared[::-1])),
        )
    for database in databases:
        await database.close()

    assert list(accepted) == [True, True]
    assert [(await jobs.row(job_id))["effects"] for job_id in shared] == [2, 2]


async def test_a_lone_outcome_waits_for_nobody(jobs, plain, settler):
    """It is flushed without a pause."""
    times = []
    for job in await jobs.running(count=20):
        started = asyncio.get_running_loop().time()
        await settler.settle(plain.model, jobs.outcome(job, Complete()))
        times.append(asyncio.get_running_loop().time() - started)

    assert min(times) < 0.05
    assert await jobs.count(PLAIN, status="completed") == 20


async def test_a_row_that_someone_holds_waits_alone(jobs, plain, settler, database_url):
    """The other row is settled during the lock; the locked row is settled after it."""
    held, free = await jobs.running(count=2)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM proving.plain_jobs WHERE id = %s FOR UPDATE", [held.id])
        waiting, neighbour = (
            asyncio.create_task(settler.settle(plain.model, jobs.outcome(job, Complete()))) for job in (held, free)
        )

        assert await asyncio.wait_for(neighbour, 30)
        assert not waiting.done()

    assert await asyncio.wait_for(waiting, 30)


async def test_rows_that_someone_holds_keep_no_neighbour_waiting(jobs, plain, settler, database_url):
    """Sixty of a hundred rows are locked: the others are settled together, each outcome is recorded once."""
    running = await jobs.running(count=100)
    with psycopg.connect(database_url) as holder:
        holder.execute(
            "SELECT FROM proving.plain_jobs WHERE id = ANY (%s) FOR UPDATE", [[job.id for job in running[:60]]]
        )
        tasks = [
            asyncio.create_task(settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=job.id)))
            for job in running
        ]

        assert await asyncio.wait_for(asyncio.gather(*tasks[60:]), 30) == [True] * 40
        assert not any(task.done() for task in tasks[:60])

    assert await asyncio.wait_for(asyncio.gather(*tasks[:60]), 30) == [True] * 60
    assert await jobs.count(status="completed", effects=1) == 100


async def test_a_table_that_someone_holds_keeps_no_other_table_waiting(jobs, plain, settler, database_url):
    """Each table has its own lane."""
    [held] = await jobs.running()
    keyed = await jobs.running("proving.keyed", count=3, key="k")
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE proving.plain_jobs IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(settler.settle(plain.model, jobs.outcome(held, Complete())))
        for job in keyed:
            outcome = jobs.outcome(job, Complete(), "proving.keyed")
            assert await asyncio.wait_for(settler.settle(type(job), outcome), 5)
        assert not waiting.done()

    assert await asyncio.wait_for(waiting, 30)


async def test_a_write_whose_own_lock_lasts_keeps_no_neighbour_waiting(jobs, plain, settler, database_url):
    """It waits for a row outside the batch, so it is tried alone until that row is unlocked."""
    bad, *good = await jobs.running(count=5)
    [wanted] = await jobs.ready()
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM proving.plain_jobs WHERE id = %s FOR UPDATE", [wanted])
        waiting, *others = (
            asyncio.create_task(settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=to)))
            for job, to in [(bad, wanted), *((job, job.id) for job in good)]
        )

        assert await asyncio.wait_for(asyncio.gather(*others), 30) == [True] * 4
        assert not waiting.done()

    assert await asyncio.wait_for(waiting, 30)
    assert (await jobs.row(wanted))["effects"] == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_process_that_freezes_within_a_transaction_holds_its_jobs_no_longer(jobs, plain, settler, *, cancelled):
    """Postgres ends its session and unlocks the rows; afterwards the process settles once, or finds its fence lost."""
    [job] = await jobs.running()
    froze: list[bool] = []

    async def freezes_once(session) -> None:
        if not froze:
            froze.append(True)
            await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '200ms'"))
            if cancelled:
                async with jobs.database.session() as other:  # waits until the rows are free
                    await cancel(await raw(other), plain.model, [job.id], reason="no more")
            await asyncio.sleep(0.5)
        await adds(1, to=job.id)(session)

    accepted = await asyncio.wait_for(settler.settle(plain.model, jobs.outcome(job, Complete()), freezes_once), 30)

    row = await jobs.row(job.id)
    assert (accepted, row["effects"]) == ((False, 0) if cancelled else (True, 1))
    assert (await jobs.actions(job.id))[2:] == ["cancel" if cancelled else "complete"]


async def raw(session) -> Any:
    """Return the driver's connection of ``session``."""
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def out_of_files(session) -> None:
    raise FileNotFoundError("template.txt")


async def too_slow(session) -> None:
    await session.execute(text("SET LOCAL statement_timeout = '20ms'"))
    await session.execute(text("SELECT pg_sleep(5)"))


@pytest.mark.parametrize(("write", "error"), [(out_of_files, FileNotFoundError), (too_slow, DBAPIError)])
async def test_an_error_of_a_write_that_looks_like_an_absence_fails_alone(jobs, plain, settler, write, error):
    """Postgres answers all the time: only this job gets the error, the others are settled."""
    bad, *good = await jobs.running(count=4)

    results = await asyncio.wait_for(
        asyncio.gather(
            settler.settle(plain.model, jobs.outcome(bad, Complete()), write),
            *(settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=job.id)) for job in good),
            return_exceptions=True,
        ),
        60,
    )

    assert isinstance(results[0], error)
    assert results[1:] == [True] * 3


async def test_two_runs_of_a_job_are_never_settled_by_one_statement(jobs, plain, settler):
    """The older outcome waited so long that the job was run again: it has lost its fence and writes nothing."""
    [old] = await jobs.running()
    await settler.settle(plain.model, jobs.outcome(old, Snooze(timedelta(), "again")))
    await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
    [new] = await jobs.running(count=0)
    assert new.id == old.id

    accepted = await asyncio.gather(
        *(settler.settle(plain.model, jobs.outcome(job, Complete()), adds(1, to=job.id)) for job in (old, new))
    )

    assert list(accepted) == [False, True]
    assert (await jobs.row(new.id))["effects"] == 1


async def cancelled_within(session) -> None:
    raise asyncio.CancelledError


async def test_a_write_that_is_cancelled_from_within_fails_alone(jobs, plain, settler):
    """It must not end the lane of its table, which settles all other outcomes."""
    bad, good, later = await jobs.running(count=3)

    results = await asyncio.wait_for(
        asyncio.gather(
            settler.settle(plain.model, jobs.outcome(bad, Complete()), cancelled_within),
            settler.settle(plain.model, jobs.outcome(good, Complete()), adds(1, to=good.id)),
            return_exceptions=True,
        ),
        30,
    )

    assert isinstance(results[0], WriteFailed)
    assert results[1] is True
    assert await asyncio.wait_for(settler.settle(plain.model, jobs.outcome(later, Complete())), 30)
