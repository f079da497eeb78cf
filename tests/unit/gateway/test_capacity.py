"""Bounded concurrency: places, a queue, a share for each key, and the memory of bodies."""

import asyncio

import pytest

from gateway.limits import BodyMemory, Capacity
from gateway.problems import HttpProblem


async def test_the_queue_is_served_in_order() -> None:
    """Who leaves gives the place to the one who waits longest."""
    capacity = Capacity(running=1, queued=10, seconds=30)
    served: list[str] = []

    async def request(key: str) -> None:
        await capacity.enter(key)
        served.append(key)
        capacity.leave(key)

    await capacity.enter("first")
    waiting = [asyncio.create_task(request(key)) for key in "abc"]
    await asyncio.sleep(0)
    capacity.leave("first")
    await asyncio.gather(*waiting)

    assert served == ["a", "b", "c"]


async def test_a_full_queue_refuses_at_once() -> None:
    """The answer is 503 with Retry-After, before anything waits."""
    capacity = Capacity(running=1, queued=1, seconds=30)
    await capacity.enter("a")
    waiting = asyncio.create_task(capacity.enter("b"))
    await asyncio.sleep(0)

    with pytest.raises(HttpProblem) as refused:
        await capacity.enter("c")

    assert refused.value.kind.uri.endswith("#temporary-reduced-capacity")
    assert refused.value.headers == {"Retry-After": "2"}
    capacity.leave("a")
    await waiting


async def test_whoever_waits_too_long_is_refused_and_takes_no_place() -> None:
    """Later requests find the place free."""
    capacity = Capacity(running=1, queued=5, seconds=0.01)
    await capacity.enter("a")

    with pytest.raises(HttpProblem, match="503"):
        await capacity.enter("b")

    capacity.leave("a")
    await capacity.enter("c")


async def test_a_client_that_leaves_the_queue_loses_no_place() -> None:
    """Also if the place was given in the same moment."""
    capacity = Capacity(running=1, queued=5, seconds=30)
    await capacity.enter("a")
    gone = asyncio.create_task(capacity.enter("b"))
    await asyncio.sleep(0)
    capacity.leave("a")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    async with asyncio.timeout(5):
        await capacity.enter("c")


async def test_one_key_gets_half_of_all_places_at_most() -> None:
    """The others still find some; the policy is named."""
    capacity = Capacity(running=2, queued=2, seconds=30)
    await capacity.enter("greedy")
    await capacity.enter("greedy")

    with pytest.raises(HttpProblem) as refused:
        await capacity.enter("greedy")

    assert refused.value.violated_policies == ["concurrent"]
    capacity.leave("greedy")
    await capacity.enter("modest")


def test_bodies_have_a_bounded_memory() -> None:
    """What one body frees, another may use."""
    memory = BodyMemory(100)

    with memory.hold() as first:
        first.add(60)
        with memory.hold() as second, pytest.raises(HttpProblem) as refused:
            second.add(41)
        assert refused.value.headers == {"Retry-After": "2"}
    with memory.hold() as third:
        third.add(100)
