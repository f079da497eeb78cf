"""Exactly one run asks a question that may be shared. The others get its answer, or ask if there is none."""

import asyncio
from datetime import timedelta

import pytest

from gristmill_testing.waiting import until
from tests.integration.llm.kept.conftest import SHARED, answer, question
from workers.llm.kept import AskedElsewhereError
from workers.llm.kept.postgres_kept import wait_before_look
from workers.runtime.handler.errors import outcome_of
from workers.runtime.handler.outcomes import Retry, Snooze


async def test_one_of_many_processes_asks(start_kept, run_jobs):
    """All others are told which job does, and come again without an attempt."""
    jobs = await run_jobs(16)

    found = await asyncio.gather(
        *(start_kept().find(question(job, share_for=SHARED)) for job in jobs), return_exceptions=True
    )

    asking = [job.id for job, one in zip(jobs, found, strict=True) if one is None]
    assert len(asking) == 1
    others = [one for one in found if one is not None]
    assert all(isinstance(one, AskedElsewhereError) and str(asking[0]) in str(one) for one in others)
    assert {type(outcome_of(one)) for one in others} == {Snooze}


async def test_who_waits_gets_the_answer(start_kept, run_jobs):
    """Within its run."""
    first, second = await run_jobs(2)
    one, two = start_kept(), start_kept(max_wait=timedelta(seconds=20))
    await one.find(question(first, share_for=SHARED))
    waiting = asyncio.create_task(two.find(question(second, share_for=SHARED)))
    await asyncio.sleep(0.05)

    await one.keep(question(first, share_for=SHARED), answer())

    found = await waiting
    assert found is not None
    assert found.job_id == first.id


async def test_a_dropped_question_is_asked_by_another(jobs, start_kept, run_jobs):
    """Its run goes on with something else."""
    first, second = await run_jobs(2)
    one, two = start_kept(), start_kept(max_wait=timedelta(seconds=20))
    await one.find(question(first, share_for=SHARED))

    await one.drop(question(first, share_for=SHARED))

    assert await two.find(question(second, share_for=SHARED)) is None
    assert [row["job_id"] for row in await jobs.sql("SELECT job_id FROM llm.flights")] == [second.id]


@pytest.mark.parametrize("settlement", [Snooze(timedelta(0), "429"), Retry("killed")])
async def test_the_end_of_a_run_frees_its_questions(jobs, start_kept, run_jobs, settlement):
    """Whatever it was: nobody has to clean up after a process that was killed."""
    first, second = await run_jobs(2)
    await start_kept().find(question(first, share_for=SHARED))

    await jobs.settle(first, settlement)

    assert await start_kept().find(question(second, share_for=SHARED)) is None


async def test_a_run_takes_its_question_again(start_kept, run_jobs):
    """After an answer that did not arrive: it holds the question already."""
    [job] = await run_jobs()
    await start_kept().find(question(job, share_for=SHARED))

    assert await start_kept().find(question(job, share_for=SHARED)) is None


async def test_an_answer_lets_go_of_its_question(jobs, kept, run_jobs):
    """In the same statement."""
    [job] = await run_jobs()
    await kept.find(question(job, share_for=SHARED))

    await kept.keep(question(job, share_for=SHARED), answer())

    assert await jobs.sql("SELECT 1 FROM llm.flights") == []


async def test_a_cancelled_look_holds_no_question(jobs, kept, run_jobs):
    """Its run was cancelled while Postgres was asked."""
    first, second = await run_jobs(2)
    looking = asyncio.create_task(kept.find(question(first, share_for=SHARED)))
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)

    async def is_free() -> bool:
        try:
            return await kept.find(question(second, share_for=SHARED)) is None
        except AskedElsewhereError:
            return False

    await until(is_free)


@pytest.mark.parametrize("round_", range(20))
async def test_every_question_is_asked_once_whoever_races(jobs, start_kept, run_jobs, round_):
    """Eight processes ask three questions of one owner at once; each gets an answer, and each is paid once."""
    processes = [start_kept(max_wait=timedelta(seconds=20)) for _ in range(8)]
    running = await run_jobs(24)
    paid: list[str] = []

    async def ask(place: int, job) -> None:
        process, text = processes[place % 8], f"question {place % 3} of {round_}"
        asked = question(job, text, share_for=SHARED)
        if await process.find(asked) is None:
            paid.append(text)
            await asyncio.sleep(0.01)
            await process.keep(asked, answer())

    await asyncio.gather(*(ask(place, job) for place, job in enumerate(running)))

    assert len(paid) == 3
    assert len(await jobs.sql("SELECT 1 FROM llm.answers")) == 3


async def test_a_shared_answer_is_in_the_ledger_and_costs_nothing(rows, start_kept, admission, run_jobs):
    """C22: its state is cached, its price 0, its tokens those that were saved; no limit counts it."""
    limit = rows.limit("requests", 1, 60)
    first, second = await run_jobs(2)
    kept = start_kept(ledger=admission)
    await kept.find(question(first, share_for=SHARED))
    await kept.keep(question(first, share_for=SHARED), answer())
    budget = rows.budget(usd=1)

    await kept.find(question(second, share_for=SHARED))
    await kept.aclose()  # writes what is under way

    [row] = rows.ask("SELECT state, usd, job_id, provider, model, served_model, input_tokens FROM llm.calls")
    assert (row["state"], row["usd"], row["job_id"]) == ("cached", 0, second.id)
    assert (row["provider"], row["model"], row["served_model"], row["input_tokens"]) == ("p", "m", "m-1", 7)
    assert rows.used(limit) == 0
    assert rows.totals().get("b", {"spent_usd": 0})["spent_usd"] == 0
    assert budget


async def test_the_kept_answers_of_a_job_are_in_the_ledger_of_its_next_run(rows, start_kept, admission, run_jobs):
    """C22: each of them is one cached row that costs nothing, all are written by one statement."""
    [job] = await run_jobs()
    kept = start_kept(ledger=admission)
    asked = [question(job, f"question {n}") for n in range(20)]
    for one in asked:
        await kept.keep(one, answer())

    assert all(await asyncio.gather(*map(kept.find, asked)))
    await kept.aclose()

    found = rows.ask(
        "SELECT state, usd, job_id, count(*), count(DISTINCT created_at) AS at FROM llm.calls GROUP BY 1, 2, 3"
    )
    assert found == [{"state": "cached", "usd": 0, "job_id": job.id, "count": 20, "at": 1}]


async def test_an_answer_is_found_though_the_ledger_refuses_its_row(start_kept, run_jobs, capsys):
    """The row costs nothing: no job fails for it."""

    class Broken:
        async def record_cached(self, call, usage):
            raise ValueError("no row")

    [job] = await run_jobs()
    kept = start_kept(ledger=Broken())
    await kept.keep(question(job), answer())

    assert await kept.find(question(job)) is not None
    await kept.aclose()

    assert "cached_call_not_recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(-3, 0.5), (0, 0.5), (0.2, 0.5), (2, 2), (4.9, 4.9), (90, 5), (100_000, 5)]
)
def test_wait_grows_with_the_time_already_asked_within_bounds(elapsed, expected):
    """The wait is as long as the question has been asked so far, 0.5 to 5 s. A start in the future counts as now."""
    assert wait_before_look(timedelta(seconds=elapsed)) == timedelta(seconds=expected)
