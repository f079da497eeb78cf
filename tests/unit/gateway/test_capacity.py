"""Bounded concurrency: places, a queue, a share for each key, and the memory of bodies."""

import asyncio

import pytest

from gateway.limits import BodyMemory, Capacity, OpenRequests
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


async def test_who_comes_back_from_a_wait_is_never_refused() -> None:
    """Its job exists already. It goes before those who queue, though queue and share are full."""
    capacity = Capacity(running=1, queued=1, seconds=30)
    await capacity.enter("a")
    served: list[str] = []

    async def request(name: str, *, again: bool) -> None:
        await (capacity.enter_again("b") if again else capacity.enter("b"))
        served.append(name)
        capacity.leave("b")

    waiting = [asyncio.create_task(request("queued", again=False))]
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(request(f"back {nth}", again=True)) for nth in range(5)]
    await asyncio.sleep(0)
    assert capacity.queue_length == 6
    capacity.leave("a")
    await asyncio.gather(*waiting)

    assert served == [*(f"back {nth}" for nth in range(5)), "queued"]
    assert capacity.queue_length == 0


async def test_one_key_never_has_all_places_of_a_few() -> None:
    """Its further requests wait, and those of others pass them."""
    capacity = Capacity(running=2, queued=8, seconds=30, running_per_key=1)
    await capacity.enter("greedy")
    second = asyncio.create_task(capacity.enter("greedy"))
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await capacity.enter("modest")
        capacity.leave("modest")
        assert not second.done()
        capacity.leave("greedy")
        await second


async def test_a_capped_key_that_leaves_the_queue_loses_no_place() -> None:
    """Whatever is cancelled, at the end all places are free."""
    capacity = Capacity(running=2, queued=8, seconds=30, running_per_key=1)
    await capacity.enter("a")
    waiting = [asyncio.create_task(capacity.enter("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    capacity.leave("a")
    waiting[1].cancel()
    await asyncio.gather(*waiting[:2], return_exceptions=True)

    async with asyncio.timeout(5):
        await waiting[2]
        await capacity.enter("b")
    capacity.leave("a")
    capacity.leave("b")
    async with asyncio.timeout(5):
        await asyncio.gather(capacity.enter("a"), capacity.enter("b"))


def test_one_key_has_a_share_of_open_requests() -> None:
    """Also of those that only wait; the others still get connections."""
    open_requests = OpenRequests(2)
    open_requests.enter("greedy")
    open_requests.enter("greedy")

    with pytest.raises(HttpProblem) as refused:
        open_requests.enter("greedy")

    assert refused.value.violated_policies == ["concurrent"]
    open_requests.enter("modest")
    open_requests.leave("greedy")
    open_requests.enter("greedy")


def test_bodies_have_a_bounded_memory() -> None:
    """What one body frees, another may use; one key has half of it at most."""
    memory = BodyMemory(100)

    with memory.hold("a") as first, memory.hold("b") as second, memory.hold("c") as third:
        first.add(50)
        with pytest.raises(HttpProblem) as share:
            first.add(1)
        second.add(40)
        with pytest.raises(HttpProblem) as full:
            third.add(11)
        third.add(10)
    with memory.hold("b") as fourth:
        fourth.add(50)

    assert share.value.violated_policies == ["concurrent"]
    assert full.value.headers == {"Retry-After": "2"}
