"""Runs of one process that ask the same: one asks, the others get its answer."""

import asyncio
import time
import uuid
from datetime import timedelta

import pytest

from gristmill_testing.waiting import until
from workers.llm.calls import Caller
from workers.llm.kept import AskedElsewhereError, KeptAnswer, Question
from workers.llm.kept.in_process import InProcess

ANSWER = KeptAnswer(raw={}, model="m", prompt_tokens=1, completion_tokens=1, seconds=0.1)


def question(job=None, *, shared=True):
    return Question(
        fingerprint=b"f" * 32,
        caller=Caller(job_id=job or uuid.uuid4(), version=2),
        share_for=timedelta(hours=1) if shared else None,
    )


def soon():
    return time.monotonic() + 10


async def entered(here, asked):
    """Enter, in a task of its own that stays alive."""
    return await asyncio.create_task(here.enter(asked, soon()))


async def waiting(here, *asked):
    tasks = [asyncio.create_task(here.enter(one, soon())) for one in asked]
    await asyncio.sleep(0)
    return tasks


async def test_others_get_the_answer_of_the_one_that_asks():
    """And its job's name."""
    here, asker = InProcess(), question()
    assert await here.enter(asker, soon()) is None
    others = await waiting(here, question(), question())

    here.leave(asker, ANSWER)

    assert [found.job_id for found in await asyncio.gather(*others)] == [asker.caller.job_id] * 2


async def test_one_of_the_others_asks_if_there_was_no_answer():
    """Exactly one."""
    here, asker, asking = InProcess(), question(), []

    async def ask(other):
        if await here.enter(other, soon()) is None:
            asking.append(other)
            await asyncio.Event().wait()

    await here.enter(asker, soon())
    others = [asyncio.create_task(ask(question())) for _ in range(5)]
    await asyncio.sleep(0)

    here.leave(asker, None)
    await until(lambda: asking)
    await asyncio.sleep(0)

    assert len(asking) == 1
    here.leave(asking[0], ANSWER)
    await until(lambda: sum(one.done() for one in others) == 4)
    for one in others:
        one.cancel()


async def test_a_run_that_ended_without_a_word_holds_nobody():
    """Its task is over: another asks."""
    here = InProcess()
    assert await entered(here, question()) is None

    assert await here.enter(question(), soon()) is None


async def test_who_has_waited_long_enough_comes_again():
    """The error names the job that asks, and spends no attempt."""
    here, asker = InProcess(), question()
    await here.enter(asker, soon())

    with pytest.raises(AskedElsewhereError, match=str(asker.caller.job_id)) as caught:
        await asyncio.create_task(here.enter(question(), time.monotonic()))

    assert caught.value.others_decide


async def test_questions_that_are_not_shared_wait_for_their_own_job_only():
    """Another job's answer would be of no use to them."""
    here, asker = InProcess(), question(shared=False)
    await here.enter(asker, soon())

    assert await here.enter(question(shared=False), soon()) is None
    twins = await waiting(here, question(asker.caller.job_id, shared=False))
    here.leave(asker, ANSWER)
    assert (await twins[0]).model == "m"
