"""Many requests in flight: all results are yielded, and after an error no more work starts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from gristmill_testing.waiting import until
from workers.longrun.in_flight import InFlight
from workers.runtime.handler.errors import Deferred, Permanent, RateLimited, Retryable

AT_ONCE = 100
Numbers = InFlight[int, int]


async def numbers(count: int) -> AsyncGenerator[int]:
    for number in range(count):
        yield number


async def hand_over(
    items: AsyncGenerator[int], work: Callable[[int], Awaitable[int]], *, at_once: int = AT_ONCE
) -> AsyncIterator[int]:
    """Yield the results slowly, so that more work finishes in the meantime."""

    async def perform(item: int, numbers: Numbers) -> None:
        await numbers.deliver(await work(item))

    async with Numbers(items, perform, at_once=at_once) as in_flight:
        async for group in in_flight.groups():
            await asyncio.sleep(0.002)
            for one in group:
                yield one


async def collect(found: list[int], handed: AsyncIterator[int]) -> None:
    async for one in handed:
        found.append(one)  # noqa: PERF401 - keep the results before an error


async def test_all_that_is_fed_is_handed_over_once() -> None:
    """This includes work that finishes while a batch is being stored."""
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.001 * (number % 5))
        return number

    kept = [one async for one in hand_over(numbers(300), work)]

    assert len(set(kept)) == 300
    assert sorted(begun) == list(range(300))


async def test_rate_limit_lets_what_is_under_way_end_and_begins_nothing_more() -> None:
    """Requests in flight are paid for: their results are yielded before the longest rate limit is raised."""
    limit, answer = asyncio.Event(), asyncio.Event()
    begun: list[int] = []
    kept: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        if number in {3, 4}:
            await limit.wait()
            raise RateLimited("slow down", delay=timedelta(seconds=number))
        await answer.wait()
        return number

    running = asyncio.create_task(collect(kept, hand_over(numbers(1_000), work)))
    await until(lambda: len(begun) == AT_ONCE)
    limit.set()
    await asyncio.sleep(0)
    answer.set()
    with pytest.raises(RateLimited) as raised:
        await running

    assert raised.value.delay == timedelta(seconds=4)
    assert len(begun) == AT_ONCE
    assert len(kept) == AT_ONCE - 2


async def test_records_that_cannot_be_read_on_are_an_error_after_those_that_were() -> None:
    """Results of work in flight are yielded; waiting items are not started."""
    begun: list[int] = []
    kept: list[int] = []

    async def torn() -> AsyncGenerator[int]:
        yield 1
        yield 2
        await until(lambda: len(begun) == 2)
        yield 3
        raise Retryable("connection lost")

    async def work(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.02)
        return number

    with pytest.raises(Retryable, match="connection lost"):
        await collect(kept, hand_over(torn(), work))

    assert begun == [1, 2]
    assert len(kept) == 2


async def test_leaving_stops_all_work_at_once() -> None:
    """After a cancellation no request continues."""
    begun, ended = 0, 0

    async def work(_: int, _numbers: Numbers) -> None:
        nonlocal begun, ended
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with Numbers(numbers(200), work, at_once=AT_ONCE):
        await until(lambda: begun == AT_ONCE)

    assert (begun, ended) == (AT_ONCE, AT_ONCE)


async def test_work_waits_while_nobody_takes_results() -> None:
    """Memory holds at most as many results as there are concurrent requests, also during a slow commit."""
    begun: list[int] = []

    async def work(number: int, in_flight: Numbers) -> None:
        begun.append(number)
        await in_flight.deliver(number)

    async with Numbers(numbers(100), work, at_once=3) as in_flight:
        await until(lambda: len(begun) == 6)
        await asyncio.sleep(0)
        waiting = len(begun)
        taken = [one async for group in in_flight.groups() for one in group]

    assert waiting == 6
    assert sorted(taken) == list(range(100))


async def test_groups_are_as_large_as_a_commit_may_be() -> None:
    """A group ends with the result that reaches its limit."""

    async def work(number: int, in_flight: Numbers) -> None:
        await in_flight.deliver(number)

    async with Numbers(numbers(40), work, at_once=10) as in_flight:
        await asyncio.sleep(0.01)
        groups = [group async for group in in_flight.groups(size=lambda _: 3, at_most=8)]

    assert max(map(len, groups)) == 3
    assert sum(map(len, groups)) == 40


async def test_work_that_delivers_in_parts_stops_after_anothers_error() -> None:
    """Results that it delivered are yielded; its other requests are not sent."""
    failed = asyncio.Event()
    sent: list[str] = []

    async def work(number: int, in_flight: Numbers) -> None:
        if number == 1:
            failed.set()
            raise Permanent("refused")
        await in_flight.deliver(number)
        await failed.wait()
        await asyncio.sleep(0)
        in_flight.raise_if_stopped()
        sent.append("more")

    kept: list[int] = []

    async def run() -> None:
        async with Numbers(numbers(2), work, at_once=2) as in_flight:
            async for group in in_flight.groups():
                kept.extend(group)

    with pytest.raises(Permanent, match="refused"):
        await run()

    assert (kept, sent) == ([0], [])


async def test_all_work_is_begun_though_its_answers_come_later() -> None:
    """Every question is kept for the batch lane before the job waits; results that are there are yielded."""
    begun, found = list[int](), list[int]()

    async def work(number: int) -> int:
        begun.append(number)
        if number % 2:
            raise Deferred("in the batch lane", delay=timedelta(hours=23))
        return number

    with pytest.raises(Deferred):
        await collect(found, hand_over(numbers(300), work, at_once=7))

    assert sorted(begun) == list(range(300))
    assert sorted(found) == list(range(0, 300, 2))


async def test_another_error_ends_deferred_work_too() -> None:
    """A provider that refuses is not asked on because some answers come later."""
    begun = list[int]()

    async def work(number: int) -> int:
        begun.append(number)
        if number == 20:
            raise Permanent("no")
        raise Deferred("in the batch lane", delay=timedelta(hours=23))

    with pytest.raises(Permanent):
        await collect([], hand_over(numbers(300), work, at_once=2))

    assert len(begun) < 300
