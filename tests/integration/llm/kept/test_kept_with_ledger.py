"""The row of a call in the ledger and its answer are committed together, whatever is lost on the way."""

import asyncio
import json
from typing import Any

from tests.integration.llm.admission.test_admission_process import Losing
from tests.integration.llm.kept.conftest import SHARED, Score, question
from tests.support.admission import call, usage
from workers.llm.kept import KeptAnswer, answer_to_keep, being_asked, restore
from workers.llm.wire import read

BODY = {"model": "m-1", "choices": [{"message": {"content": '{"score": 4}'}, "finish_reason": "stop"}]}


def made(job: Any):
    """Return a call of the job's run."""
    return call(job=job.id, version=job.version, stage="proving.plain")


async def ask_and_settle(kept: Any, admission: Any, job: Any, *, share_for: Any = SHARED) -> Any:
    """Ask as who makes calls does: reserve, call, settle with what is to be kept, keep."""
    asked = question(job, share_for=share_for)
    assert await kept.find(asked) is None
    one = made(job)
    await admission.reserve(one)
    used = usage(7, 3, served_model="m-1")
    await admission.settle(one, used, keep=answer_to_keep(one, read(json.dumps(BODY)), used))
    answer = KeptAnswer(raw=BODY, model="m-1", prompt_tokens=7, completion_tokens=3, seconds=0.1)
    await kept.keep(asked, answer)
    return one


async def test_an_answer_has_the_id_of_its_call_and_is_kept_once(rows, jobs, kept, admission, run_jobs):
    """``keep`` finds nothing left to write."""
    [job] = await run_jobs()

    one = await ask_and_settle(kept, admission, job)

    assert rows.states() == {"settled": 1}
    assert [row["id"] for row in await jobs.sql("SELECT id FROM llm.answers")] == [one.id]
    assert await jobs.sql("SELECT 1 FROM llm.flights") == []
    found = await kept.find(question(job))
    assert found is not None
    restored = restore(found, question(job), Score)
    assert restored is not None
    assert restored.value == Score(score=4)


async def test_both_are_of_one_transaction(rows, jobs, kept, admission, run_jobs):
    """A hundred of them in one."""
    running = await run_jobs(100)

    await asyncio.gather(*(ask_and_settle(kept, admission, job, share_for=None) for job in running))

    [row] = await jobs.sql(
        "SELECT count(*)::int AS n FROM llm.calls AS c JOIN llm.answers AS a ON a.id = c.id AND a.xmin = c.xmin"
    )
    assert row["n"] == 100
    assert rows.states() == {"settled": 100}


async def test_a_lost_answer_of_postgres_loses_and_doubles_nothing(rows, jobs, kept, admission, run_jobs):
    """The settle is repeated; the call and its answer are there once."""
    [job] = await run_jobs()
    losing = Losing(admission, times=3)

    await ask_and_settle(kept, losing.admission, job)

    assert losing.lost == 3
    assert rows.states() == {"settled": 1}
    assert await jobs.sql("SELECT count(*)::int AS n FROM llm.answers") == [{"n": 1}]


async def test_an_answer_that_cannot_be_kept_does_not_keep_its_call_from_the_ledger(
    rows, jobs, kept, admission, run_jobs
):
    """The call is settled without it; the others of its batch are kept."""
    first, second = await run_jobs(2)
    await jobs.sql(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF NEW.job_id = '{first.id}' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$"
    )
    await jobs.sql("CREATE TRIGGER refuse BEFORE INSERT ON llm.answers FOR EACH ROW EXECUTE FUNCTION public.refuse()")
    try:
        await asyncio.gather(*(ask_and_settle(kept, admission, job, share_for=None) for job in (first, second)))
    finally:
        await jobs.sql("DROP TRIGGER refuse ON llm.answers")
        await jobs.sql("DROP FUNCTION public.refuse")

    assert rows.states() == {"settled": 2}
    assert [row["job_id"] for row in await jobs.sql("SELECT job_id FROM llm.answers")] == [second.id]


async def test_a_call_without_a_question_is_settled_as_before(rows, jobs, admission, run_jobs):
    """Embeddings, or a call outside of runs."""
    [job] = await run_jobs()
    being_asked.set(None)
    one = made(job)
    await admission.reserve(one)

    await admission.settle(one, usage(), keep=answer_to_keep(one, read(json.dumps(BODY)), usage()))

    assert rows.states() == {"settled": 1}
    assert await jobs.sql("SELECT 1 FROM llm.answers") == []
