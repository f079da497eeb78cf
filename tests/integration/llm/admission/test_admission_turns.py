"""Calls that wait for room: in the order of arrival, one question for all, no longer than they may."""

import asyncio
import time
import uuid
from datetime import timedelta

import pytest

from gristmill_testing.waiting import until
from tests.support.admission import call, usage
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.calls import Call, NotAdmittedError


class Counting:
    """Admission that notes what it is asked."""

    def __init__(self, admission: PostgresAdmission) -> None:
        self.asked: list[list[Call]] = []
        self.admitted: list[Call] = []
        self._admission = admission

    async def reserve_many(self, calls):
        self.asked.append(list(calls))
        verdicts = await self._admission.reserve_many(calls)
        self.admitted += [one for one, verdict in zip(calls, verdicts, strict=True) if verdict is None]
        return verdicts

    async def release(self, call):
        await self._admission.release(call)

    def when_settled(self, hear):
        self._admission.when_settled(hear)


@pytest.fixture
def counting(admission):
    return Counting(admission)


@pytest.fixture
def turns(counting):
    return Turns(counting)


async def test_who_came_first_goes_first(rows, counting, turns):
    """Over several windows, whoever asks how often."""
    rows.limit("requests", 4, 1)
    calls = [call() for _ in range(16)]

    await asyncio.gather(*(turns.admitted(one) for one in calls))

    assert counting.admitted == calls
    assert turns.waiting() == 0


async def test_a_wait_is_not_asked_about(rows, counting, turns):
    """C24: until its time has come nobody asks again, neither those who wait nor those who come."""
    rows.limit("requests", 1, 3_600)
    await turns.admitted(call())
    waiting = [asyncio.create_task(turns.admitted(call())) for _ in range(20)]
    await until(lambda: turns.waiting() == 20)
    asked = len(counting.asked)

    more = [asyncio.create_task(turns.admitted(call())) for _ in range(20)]
    await until(lambda: turns.waiting() == 40)

    assert len(counting.asked) == asked
    for one in (*waiting, *more):
        one.cancel()
    await asyncio.wait([*waiting, *more])
    assert rows.states() == {"reserved": 1}


async def test_who_may_not_wait_so_long_is_told_at_once(rows, counting, turns):
    """C24: a wait of an hour is no wait in a run: it snoozes, and is told how long."""
    rows.limit("requests", 1, 3_600)
    await turns.admitted(call())
    soon = time.monotonic() + 60

    told = await asyncio.gather(*(turns.admitted(call(), until=soon) for _ in range(3)), return_exceptions=True)

    assert time.monotonic() < soon
    for one in told:
        assert isinstance(one, NotAdmittedError)
        assert timedelta(minutes=50) < one.delay <= timedelta(hours=1.1)


async def test_who_has_waited_long_enough_leaves(rows, counting, turns):
    """Those behind go on; the one that left is not admitted later for nobody."""
    rows.limit("requests", 1, 2)
    await turns.admitted(call())
    stays = asyncio.create_task(turns.admitted(call()))
    await until(lambda: turns.waiting() == 1)

    with pytest.raises(NotAdmittedError):
        await turns.admitted(call(), until=time.monotonic() + 0.2)
    await stays

    assert rows.states() == {"reserved": 2}


async def test_what_ends_makes_room_at_once(rows, admission, turns):
    """A call that ends wakes those who wait for calls at once, or for tokens that it did not use."""
    rows.limit("concurrency", 2, None)
    rows.limit("tokens", 1_000, 3_600)
    calls = [call(tokens=100, output=400) for _ in range(10)]
    order: list[Call] = []

    async def ask(one: Call) -> None:
        await turns.admitted(one)
        order.append(one)
        await admission.settle(one, usage(60, 40))

    await asyncio.gather(*(ask(one) for one in calls[:6]))

    assert order == calls[:6]
    assert rows.states() == {"settled": 6}


async def test_what_ends_elsewhere_is_seen_soon(rows, turns, start):
    """Nobody tells of another process's calls: they are looked at once a second."""
    other = await start()
    rows.limit("concurrency", 1, None)
    theirs = call()
    await other.reserve(theirs)
    mine = asyncio.create_task(turns.admitted(call()))
    await until(lambda: turns.waiting() == 1)

    await other.settle(theirs, usage())

    await asyncio.wait_for(mine, 20)


async def test_one_queue_does_not_keep_back_another(rows, turns):
    """Other providers, other owners: each limit has a queue of its own."""
    alice, bob = uuid.uuid4(), uuid.uuid4()
    rows.limit("requests", 1, 3_600, per_owner=True, provider="p")
    await turns.admitted(call(owner=alice))
    waits = asyncio.create_task(turns.admitted(call(owner=alice)))
    await until(lambda: turns.waiting() == 1)

    await turns.admitted(call(owner=bob))
    await turns.admitted(call("q", owner=alice))

    assert not waits.done()
    waits.cancel()


async def test_a_cancelled_wait_leaves_nothing(rows, turns):
    """Whenever it is cancelled."""
    limit = rows.limit("requests", 3, 1)
    for pause in (0.0, 0.002, 0.005, 0.3, 0.9, 1.0, 1.01, 1.02, 1.03, 1.05):
        waits = [asyncio.create_task(turns.admitted(call())) for _ in range(6)]
        await asyncio.sleep(pause)
        for one in waits:
            one.cancel()
        await asyncio.wait(waits)

    await until(lambda: turns.waiting() == 0)
    await turns.admitted(call())
    assert limit


async def test_many_wait_with_few_questions(rows, counting, turns):
    """Sixty calls at twenty a second: a handful of statements for each window, not one for each call."""
    rows.limit("requests", 20, 1)

    await asyncio.gather(*(turns.admitted(call()) for _ in range(60)))

    assert len(counting.admitted) == 60
    assert sum(len(asked) for asked in counting.asked[60:]) < 200


async def test_one_bad_call_fails_alone(rows, turns):
    """Among those who wait together."""
    rows.limit("requests", 1, 1)
    await turns.admitted(call())

    found = await asyncio.gather(
        turns.admitted(call()), turns.admitted(call(model="x" * 300)), turns.admitted(call()), return_exceptions=True
    )

    assert [type(one).__name__ for one in found] == ["NoneType", "StringDataRightTruncation", "NoneType"]
