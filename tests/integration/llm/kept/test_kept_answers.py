"""Nothing is paid twice: what a run has paid for, every later run of its job finds, however the run ended."""

import asyncio
import uuid
from datetime import timedelta

import psycopg
import pytest

from tests.integration.llm.kept.conftest import SHARED, Score, answer, question
from workers.llm.kept import Question, restore
from workers.llm.kept.settling import MAX_ANSWER_BYTES
from workers.runtime.handler.outcomes import Retry, Snooze


async def test_the_next_run_of_a_job_finds_what_the_last_one_paid_for(jobs, kept, start_kept, run_jobs):
    """After a snooze, in another process; and so does every run after it."""
    [job] = await run_jobs()
    assert await kept.find(question(job)) is None
    await kept.keep(question(job), answer(4))

    await jobs.settle(job, Snooze(timedelta(0), "429"))
    for number in range(3):
        found = await start_kept().find(question(job, version=job.version + 2 * (number + 1)))

        assert found is not None
        restored = restore(found, question(job), Score)
        assert restored is not None
        assert (restored.value.score, restored.cached_from) == (4, None)
        assert (found.prompt_tokens, found.completion_tokens, found.model) == (7, 3, "m-1")


async def test_a_run_that_lost_its_fence_leaves_its_answer_to_the_next(jobs, kept, run_jobs):
    """The job was rescued meanwhile: what was paid for is its all the same."""
    [job] = await run_jobs()
    asked = question(job)
    await kept.find(asked)
    await jobs.settle(job, Retry("its worker fell silent"))

    await kept.keep(asked, answer())

    assert await kept.find(question(job, version=job.version + 2)) is not None


async def test_another_question_of_the_job_is_asked(kept, run_jobs):
    """Every question has an answer of its own."""
    [job] = await run_jobs()
    await kept.find(question(job, "one"))
    await kept.keep(question(job, "one"), answer())

    assert await kept.find(question(job, "two")) is None


async def test_another_job_finds_nothing_unless_its_stage_shares(kept, run_jobs):
    """Who reads decides."""
    first, second = await run_jobs(2)
    await kept.find(question(first))
    await kept.keep(question(first), answer())

    assert await kept.find(question(second)) is None
    await kept.drop(question(second))
    shared = await kept.find(question(second, share_for=SHARED))
    assert shared is not None
    assert shared.job_id == first.id


async def test_an_answer_is_shared_no_longer_than_it_may_be(jobs, kept, run_jobs):
    """Its own job still finds it."""
    first, second = await run_jobs(2)
    await kept.find(question(first))
    await kept.keep(question(first), answer())
    await jobs.sql("UPDATE llm.answers SET created_at = created_at - interval '2 hours'")

    assert await kept.find(question(second, share_for=timedelta(hours=1))) is None
    await kept.drop(question(second, share_for=timedelta(hours=1)))
    assert await kept.find(question(second, share_for=timedelta(hours=3))) is not None
    assert await kept.find(question(first)) is not None


async def test_nothing_is_shared_between_owners(kept, start_kept, run_jobs):
    """Neither an answer nor the wait for one, by which another's question could be told."""
    jobs = await run_jobs(3)
    owners = (uuid.uuid4(), uuid.uuid4(), None)
    first, *others = [question(job, owner=owner, share_for=SHARED) for job, owner in zip(jobs, owners, strict=True)]
    assert await kept.find(first) is None

    for other in others:
        assert await start_kept().find(other) is None

    await kept.keep(first, answer())
    for other in others:
        assert await start_kept().find(other) is None


async def test_the_newest_of_several_answers_is_shared(jobs, kept, run_jobs):
    """The job's own goes before."""
    first, second, third = await run_jobs(3)
    for job, score in ((first, 1), (second, 2)):
        await kept.keep(question(job), answer(score))

    assert restored(await kept.find(question(third, share_for=SHARED))) == 2
    assert restored(await kept.find(question(first, share_for=SHARED))) == 1


def restored(found):
    assert found is not None
    return Score.model_validate_json(found.raw["choices"][0]["message"]["content"]).score


async def test_outside_of_runs_nothing_is_kept_and_nothing_is_found(jobs, kept, run_jobs):
    """A command of a person is no job, and has no owner whose answers it may see."""
    [job] = await run_jobs()
    await kept.keep(question(job), answer())
    asked = Question(fingerprint=question(job).fingerprint, share_for=SHARED, into=Score)

    assert await kept.find(asked) is None
    await kept.keep(asked, answer())
    await kept.drop(asked)

    assert await jobs.sql("SELECT count(*)::int AS n FROM llm.answers") == [{"n": 1}]


async def test_the_answers_of_a_deleted_job_are_gone(jobs, kept, run_jobs):
    """They quote what they were asked about. An answer that comes later is not kept."""
    job, late = await run_jobs(2)
    await kept.keep(question(job), answer())

    await jobs.sql("DELETE FROM proving.plain_jobs")
    await kept.keep(question(late), answer())

    assert await jobs.sql("SELECT 1 FROM llm.answers") == []


async def test_every_job_table_forgets_the_answers_of_deleted_jobs(psql):
    """Those of all domains, and one that was made after the revision."""
    rows = psql.execute(
        "SELECT table_name FROM runtime.lifecycles AS l WHERE NOT EXISTS "
        "(SELECT FROM pg_trigger WHERE tgrelid = to_regclass(l.table_name) AND tgname = 'forget_answers')"
    ).fetchall()

    assert rows == []


async def test_an_answer_that_is_too_large_is_used_and_not_kept(jobs, kept, run_jobs):
    """It is none that a question asks for."""
    [job] = await run_jobs()
    assert await kept.find(question(job, share_for=SHARED)) is None

    await kept.keep(question(job, share_for=SHARED), answer(padding="x" * MAX_ANSWER_BYTES))

    assert await jobs.sql("SELECT 1 FROM llm.answers") == []


@pytest.mark.parametrize(
    "change",
    [
        "raw = '[]'",
        "raw = jsonb_build_object('x', repeat('x', 5000000))",
        "fingerprint = 'short'",
        "expires_at = created_at",
        "expires_at = 'infinity'",
        "input_tokens = -1",
        "seconds = -1",
        "path = '{}'",
    ],
)
async def test_the_table_refuses_what_is_no_answer(psql, jobs, kept, run_jobs, change):
    """By CHECK, whoever writes."""
    [job] = await run_jobs()
    await kept.keep(question(job), answer())

    with pytest.raises(psycopg.errors.CheckViolation):
        psql.execute(f"UPDATE llm.answers SET {change}")


async def test_an_answer_that_has_expired_is_not_found(jobs, kept, run_jobs):
    """Even before it is deleted."""
    [job] = await run_jobs()
    await kept.keep(question(job), answer())
    await jobs.sql("UPDATE llm.answers SET created_at = now() - interval '9 days', expires_at = now() - interval '1 s'")

    assert await kept.find(question(job)) is None


async def test_the_questions_of_one_moment_are_one_statement(jobs, kept, run_jobs):
    """A hundred of them, half of them answered."""
    found = await run_jobs(100)
    for job in found[::2]:
        await kept.keep(question(job), answer())
    await jobs.sql("SELECT pg_stat_reset()")

    answers = await asyncio.gather(*(kept.find(question(job)) for job in found))

    assert [one is not None for one in answers] == [True, False] * 50
