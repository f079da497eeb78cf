"""One statement stores the answers of many jobs, each only if its run still holds the question."""

import uuid

import pytest

from tests.integration.runtime.test_settler import settling
from tests.support.kernel import AwaitedSettler
from workers.runtime.handler.context import Run
from workers.runtime.handler.outcomes import Complete, Rows
from workers.scoring import answers

STAGE = "scoring.score"
VALUES = {"llm_response": {"raw": 1}, "parsed_score": {"overall": 50}}


@pytest.fixture
async def settler(database):
    async with settling(database) as settler:
        yield settler


@pytest.fixture
async def asked(jobs):
    """Running jobs; each holds its own question."""

    async def ask(count: int):
        [profile] = await jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id")
        running = await jobs.running(STAGE, count, profile_id=profile["id"], prompt="Judge.")
        held = []
        for job in running:
            run, key = Run(STAGE, job.id, job.version, 1), uuid.uuid4().bytes * 2
            async with jobs.database.session() as session:
                assert await answers.take(session, key, run=run, owner=None) == answers.MustAsk()
            held.append((job, answers.AnsweredQuestion(key, run, "some-model")))
        return held

    return ask


async def settle(jobs, settler: AwaitedSettler, job, *given: answers.AnsweredQuestion) -> bool:
    outcome = jobs.outcome(job, Complete(VALUES), STAGE)
    return await settler.settle(type(job), outcome, Rows(answers.record, given))


async def answered(jobs, key: bytes):
    [row] = await jobs.sql(
        "SELECT model, llm_response, parsed_score, answered_at FROM scoring.answers WHERE fingerprint = %s", key
    )
    return row


async def test_an_answer_is_recorded_with_its_job(jobs, settler, asked):
    """The stored answer is that of the job's row."""
    [(job, given)] = await asked(1)

    assert await settle(jobs, settler, job, given)

    row = await answered(jobs, given.fingerprint)
    assert row["answered_at"] is not None
    assert {name: row[name] for name in VALUES} == VALUES
    assert row["model"] == "some-model"


async def test_a_question_that_another_run_took_is_left_to_it(jobs, settler, asked):
    """The same statement stores the answer of the other job."""
    (taken, lost), (job, kept) = await asked(2)
    await jobs.sql("UPDATE scoring.answers SET job_version = 99 WHERE fingerprint = %s", lost.fingerprint)

    async with jobs.database.kernel_transaction() as (conn, session):
        from workers.runtime.store.settle import settle as settle_rows

        await settle_rows(conn, type(job), [jobs.outcome(one, Complete(VALUES), STAGE) for one in (taken, job)])
        await answers.record(session, [lost, kept])

    assert (await answered(jobs, lost.fingerprint))["answered_at"] is None
    assert (await answered(jobs, kept.fingerprint))["answered_at"] is not None


async def test_an_answer_is_recorded_once(jobs, settler, asked):
    """A stale run of the same job does not change the answer."""
    [(job, given)] = await asked(1)
    assert await settle(jobs, settler, job, given)
    first = await answered(jobs, given.fingerprint)

    assert not await settle(jobs, settler, job, given)

    assert await answered(jobs, given.fingerprint) == first
