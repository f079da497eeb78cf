"""Rows of handlers are written in one call for many jobs, under the same rules as every other write."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.integration.runtime.test_settler import ONE_SETTLE, adds, settling
from tests.support.fakes.wire import wire_to
from tests.support.kernel import started_worker
from workers.runtime.database import Database
from workers.runtime.handler.outcomes import Complete, Rows
from workers.runtime.store.intervene import cancel

ADD = text("""
    UPDATE proving.plain_jobs AS j SET effects = effects + n.sum
      FROM (SELECT u.id, sum(u.n) AS sum FROM unnest(CAST(:ids AS uuid[]), CAST(:n AS int[])) AS u(id, n)
             GROUP BY u.id) AS n
     WHERE j.id = n.id""")


class Counter:
    """A bulk write that remembers the rows of each call."""

    def __init__(self, name: str = "add") -> None:
        self.__qualname__ = name
        self.calls: list[list[Any]] = []

    async def __call__(self, session, rows: Sequence[tuple[Any, int]]) -> None:
        self.calls.append(list(rows))
        await session.execute(ADD, {"ids": [job_id for job_id, _ in rows], "n": [n for _, n in rows]})

    def of(self, job, *numbers: int) -> Rows:
        return Rows(self, [(job.id, n) for n in numbers])


@pytest.fixture
async def settler(database):
    async with settling(database) as settler:
        yield settler


@pytest.fixture
def add() -> Counter:
    return Counter()


def complete(jobs, settler, job, *writes):
    return settler.settle(type(job), jobs.outcome(job, Complete()), *writes)


async def test_rows_of_many_jobs_are_written_by_one_call(jobs, settler, add):
    """Fifty jobs that settle together, two rows each: one call with a hundred rows, in the order of the ids."""
    running = await jobs.running(count=50)

    accepted = await asyncio.gather(*(complete(jobs, settler, job, add.of(job, 1, 2)) for job in running[::-1]))

    assert accepted == [True] * 50
    [call] = add.calls
    assert [job_id for job_id, _ in call] == sorted([job.id for job in running] * 2)
    assert await jobs.count(status="completed", effects=3) == 50


async def test_several_writes_of_one_outcome_run_in_their_order(jobs, settler, add):
    """A callable, rows and another callable: each sees the changes of those before it."""
    [job] = await jobs.running()
    seen = []

    async def look(session) -> None:
        seen.append(await session.scalar(text("SELECT effects FROM proving.plain_jobs WHERE id = :id"), {"id": job.id}))

    assert await complete(jobs, settler, job, look, add.of(job, 1), look, adds(10, to=job.id), look)

    assert seen == [0, 1, 11]
    assert (await jobs.row(job.id))["effects"] == 11


async def test_two_kinds_of_rows_are_two_calls(jobs, settler, add):
    """Each function gets its own rows; first and second writes are separate calls."""
    one, other = await jobs.running(count=2)
    more = Counter("more")

    accepted = await asyncio.gather(
        complete(jobs, settler, one, add.of(one, 1), more.of(one, 2)),
        complete(jobs, settler, other, add.of(other, 4), more.of(other, 8)),
    )

    assert list(accepted) == [True, True]
    assert [len(call) for call in add.calls + more.calls] == [2, 2]
    assert [(await jobs.row(job.id))["effects"] for job in (one, other)] == [3, 12]


async def test_no_rows_are_no_call(jobs, settler, add):
    """A handler without rows to write still completes."""
    [job] = await jobs.running()

    assert await complete(jobs, settler, job, add.of(job))

    assert add.calls == []


async def test_a_lost_fence_writes_no_row(jobs, plain, settler, add):
    """A job that was cancelled meanwhile writes nothing; the rows of the other job are written."""
    lost, kept = await jobs.running(count=2)
    async with jobs.database.kernel() as conn:
        await cancel(conn, plain.model, [lost.id], reason="no more")

    accepted = await asyncio.gather(*(complete(jobs, settler, job, add.of(job, 1)) for job in (lost, kept)))

    assert list(accepted) == [False, True]
    assert add.calls == [[(kept.id, 1)]]
    assert [(await jobs.row(job.id))["effects"] for job in (lost, kept)] == [0, 1]


async def test_rows_of_a_job_that_still_waits_are_not_written_twice(jobs, settler, add):
    """If one run is settled twice, the second settle has lost the fence and writes nothing."""
    [job] = await jobs.running()

    accepted = await asyncio.gather(*(complete(jobs, settler, job, add.of(job, 1)) for _ in range(2)))

    assert sorted(accepted) == [False, True]
    assert (await jobs.row(job.id))["effects"] == 1


async def test_a_row_that_is_refused_fails_its_own_job_alone(jobs, settler, add):
    """One number is too large: only its job fails, and the rows of the nine others are written once."""
    bad, *good = await jobs.running(count=10)

    results = await asyncio.gather(
        complete(jobs, settler, bad, add.of(bad, 2**40)),
        *(complete(jobs, settler, job, add.of(job, 1)) for job in good),
        return_exceptions=True,
    )

    assert isinstance(results[0], DBAPIError)
    assert results[1:] == [True] * 9
    assert await jobs.count(status="completed", effects=1) == 9
    assert await jobs.count(status="processing", effects=0) == 1


async def test_a_commit_whose_answer_was_lost_writes_rows_once(jobs, plain, database_url, add):
    """The rows were committed, but the connection broke before the answer: the retry recognises its own settle."""
    async with wire_to(database_url) as (url, wire):
        database = Database(url, changed_by="worker:far away")
        async with settling(database) as settler:
            [job] = await jobs.running()
            wire.lose_answer(b"COMMIT")

            accepted = await complete(jobs, settler, job, add.of(job, 1))
        await database.close()

    assert (wire.lost, accepted) == (1, True)
    assert (await jobs.row(job.id))["effects"] == 1


async def test_a_line_that_breaks_before_the_rows_writes_them_later(jobs, database_url, add):
    """Nothing of the first try remains; the retry commits the settle and its rows together, once."""
    async with wire_to(database_url) as (url, wire):
        database = Database(url, changed_by="worker:far away")
        async with settling(database) as settler:
            [job] = await jobs.running()
            wire.lose_answer(ONE_SETTLE)

            accepted = await complete(jobs, settler, job, add.of(job, 1))
        await database.close()

    row = await jobs.row(job.id)
    assert (wire.lost, accepted) == (1, True)
    assert (row["status"], row["version"], row["effects"]) == ("completed", 3, 1)


async def test_a_handler_returns_rows_and_a_callable(jobs, database_url, perform, add):
    """The rows and the callable of every job reach the table."""

    @perform
    async def handler(job, ctx):
        return Complete({"result": {"n": 1}}, write=[add.of(job, 1), adds(2, to=job.id)])

    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(await jobs.dispatched(count=20))

    assert await jobs.count(status="completed", effects=3) == 20
    assert len(add.calls) < 20


async def test_rows_that_nothing_takes_spend_an_attempt_of_their_job_alone(jobs, database_url, perform, add):
    """Like for a callable: only the job with the refused rows is retried."""

    @perform
    async def handler(job, ctx):
        return Complete(write=add.of(job, 2**40 if job.act == "poison" else 1))

    async with started_worker(database_url, perform.registry) as worker:
        await jobs.ready(count=5)
        [poisoned] = await jobs.ready(act="poison")
        await worker.run(await jobs.dispatched(count=0))

    row = await jobs.row(poisoned)
    assert await jobs.count(status="completed", effects=1) == 5
    assert (row["status"], row["retry_count"], row["effects"]) == ("pending", 1, 0)
