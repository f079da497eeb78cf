"""Many judged at once: all of them handed over, in time to stop, and failures laid at the right door."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from tests.support.waiting import until
from workers.analytics.alignment import Judged
from workers.analytics.crew import CONCURRENCY, FIRST_ALIKE, LATER_ALIKE, Crew, Doubt, Finished, Unjudged
from workers.runtime.handler.errors import InvalidAnswers, Permanent, RateLimited, Refused, Retryable


def judged() -> Judged:
    return Judged(uuid.uuid4(), "", {}, 4, 4, "m")


def failed(error: Exception) -> Unjudged:
    return Unjudged(uuid.uuid4(), error)


async def numbers(count: int) -> AsyncGenerator[int]:
    for number in range(count):
        yield number


async def hand_over(
    records: AsyncGenerator[int], judge: Callable[[int], Awaitable[Finished]]
) -> AsyncIterator[Finished]:
    """Yield what a crew hands over, slowly enough that more is finished meanwhile."""
    async with Crew(records, judge) as crew:
        async for batch in crew.batches():
            await asyncio.sleep(0.002)
            for one in batch:
                yield one


async def collect(found: list[Finished], handed: AsyncIterator[Finished]) -> None:
    async for one in handed:
        found.append(one)  # noqa: PERF401 - what came before an error counts


async def test_all_that_is_fed_is_handed_over_once() -> None:
    """Also what finishes while a batch is being kept."""
    begun: list[int] = []

    async def judge(number: int) -> Finished:
        begun.append(number)
        await asyncio.sleep(0.001 * (number % 5))
        return judged()

    kept = [one async for one in hand_over(numbers(300), judge)]

    assert len({id(one) for one in kept}) == 300
    assert sorted(begun) == list(range(300))


async def test_rate_limit_lets_what_is_under_way_end_and_begins_nothing_more() -> None:
    """What was asked is paid for: it is handed over before the longest of the limits is raised."""
    limit, answer = asyncio.Event(), asyncio.Event()
    begun: list[int] = []
    kept: list[Finished] = []

    async def judge(number: int) -> Finished:
        begun.append(number)
        if number in {3, 4}:
            await limit.wait()
            raise RateLimited("slow down", delay=timedelta(seconds=number))
        await answer.wait()
        return judged()

    running = asyncio.create_task(collect(kept, hand_over(numbers(1_000), judge)))
    await until(lambda: len(begun) == CONCURRENCY)
    limit.set()
    await asyncio.sleep(0)
    answer.set()
    with pytest.raises(RateLimited) as raised:
        await running

    assert raised.value.delay == timedelta(seconds=4)
    assert len(begun) == CONCURRENCY
    assert len(kept) == CONCURRENCY - 2


async def test_records_that_cannot_be_read_on_are_an_error_after_those_that_were() -> None:
    """What is under way by then is handed over; what only waits for its turn is not begun."""
    begun: list[int] = []
    kept: list[Finished] = []

    async def torn() -> AsyncGenerator[int]:
        yield 1
        yield 2
        await until(lambda: len(begun) == 2)
        yield 3
        raise Retryable("connection lost")

    async def judge(number: int) -> Finished:
        begun.append(number)
        await asyncio.sleep(0.02)
        return judged()

    with pytest.raises(Retryable, match="connection lost"):
        await collect(kept, hand_over(torn(), judge))

    assert begun == [1, 2]
    assert len(kept) == 2


async def test_leaving_stops_every_judgement_at_once() -> None:
    """Whoever is cancelled leaves nobody behind who asks."""
    begun, ended = 0, 0

    async def judge(_: int) -> Finished:
        nonlocal begun, ended
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1
        return judged()

    async with Crew(numbers(100), judge):
        await until(lambda: begun == CONCURRENCY)

    assert (begun, ended) == (CONCURRENCY, CONCURRENCY)


def test_failures_between_successes_are_the_records_own() -> None:
    """They are held until somebody succeeds, then kept."""
    doubt = Doubt(succeeded=False)
    bad = [failed(Permanent("refused the content")) for _ in range(FIRST_ALIKE - 1)]

    assert doubt.sift(bad) == []
    doubt.settle()
    good = judged()

    assert doubt.sift([good]) == [*bad, good]
    assert doubt.rest() == []


@pytest.mark.parametrize("error", [Permanent("refused the credentials (HTTP 401)"), Retryable("provider failed")])
def test_first_ten_failing_alike_are_the_providers(error: Exception) -> None:
    """None of them is kept as failed, and its error is the job's."""
    doubt = Doubt(succeeded=False)

    assert doubt.sift([failed(error) for _ in range(FIRST_ALIKE)]) == []
    with pytest.raises(type(error), match=str(error)[:10]):
        doubt.settle()


def test_a_server_that_is_down_says_so_in_many_ways() -> None:
    """Timeouts, lost connections and 5xx are alike; ids and counts in a refusal make no difference."""
    down = Doubt(succeeded=False)
    down.sift([failed(Retryable(f"trouble {n}")) for n in range(FIRST_ALIKE)])
    refusing = Doubt(succeeded=False)
    refusing.sift([failed(Permanent(f"no such model, request {uuid.uuid4()}")) for _ in range(FIRST_ALIKE)])

    with pytest.raises(Retryable):
        down.settle()
    with pytest.raises(Permanent):
        refusing.settle()


def test_refused_content_is_never_the_providers_trouble() -> None:
    """However many, and before anything was judged: who refuses is at work, and what was held is kept, too."""
    doubt = Doubt(succeeded=False)
    unclear = failed(Retryable("provider failed (HTTP 503)"))
    refused = [failed(Refused("provider refused the content")) for _ in range(2 * LATER_ALIKE)]

    assert doubt.sift([unclear, *refused]) == [unclear, *refused]
    doubt.settle()
    assert doubt.rest() == []


def test_invalid_answers_are_the_records_own_once_the_model_gave_a_valid_one() -> None:
    """Ten at the very end fail no finished job; of a model that never finds the form they are the job's error."""
    after, never = Doubt(succeeded=True), Doubt(succeeded=False)
    bad = [failed(InvalidAnswers("model 'm' gave two invalid answers: not JSON")) for _ in range(LATER_ALIKE)]

    assert after.sift(bad) == bad
    after.settle()
    assert after.rest() == []
    assert never.sift(bad[:FIRST_ALIKE]) == []
    with pytest.raises(InvalidAnswers):
        never.settle()


def test_run_after_a_good_one_gives_its_first_failures_the_same_patience() -> None:
    """Ten neighbours that are bad alike do not fail a job that judged others before."""
    doubt = Doubt(succeeded=True)
    doubt.sift([failed(Permanent("no")) for _ in range(LATER_ALIKE - 1)])
    doubt.settle()

    doubt.sift([failed(Permanent("no"))])

    with pytest.raises(Permanent):
        doubt.settle()


def test_first_ten_failing_differently_are_ten_bad_records() -> None:
    """Each for a reason of its own is no provider's trouble."""
    doubt = Doubt(succeeded=False)
    bad = [failed(Permanent(reason)) for reason in "abcdefghij"]

    assert doubt.sift(bad) == bad
    doubt.settle()


def test_neighbours_may_be_bad_alike_but_not_fifty_of_them() -> None:
    """After a success more is needed to blame the provider; what was judged beside them is kept first."""
    doubt = Doubt(succeeded=False)
    good = judged()
    doubt.sift([good])
    doubt.sift([failed(Permanent("too long")) for _ in range(LATER_ALIKE - 1)])
    doubt.settle()

    doubt.sift([failed(Permanent("too long"))])

    with pytest.raises(Permanent):
        doubt.settle()


def test_job_of_which_nothing_was_ever_judged_fails_with_what_all_say() -> None:
    """However few there are; of a job that judged others before, the rest are bad records."""
    first, later = Doubt(succeeded=False), Doubt(succeeded=True)
    bad = [failed(Permanent("no")) for _ in range(3)]
    first.sift(bad)
    later.sift(bad)

    with pytest.raises(Permanent, match="no"):
        first.rest()
    assert later.rest() == bad


def test_provider_that_leaves_towards_the_end_takes_no_records_along() -> None:
    """Ten that fail alike at the very end, worth another try, are tried again by another run."""
    doubt = Doubt(succeeded=True)
    doubt.sift([failed(Retryable("gone")) for _ in range(FIRST_ALIKE - 1)])
    assert len(doubt.rest()) == FIRST_ALIKE - 1

    doubt = Doubt(succeeded=False)
    doubt.sift([judged(), *(failed(Retryable("gone")) for _ in range(FIRST_ALIKE))])
    doubt.settle()
    with pytest.raises(Retryable):
        doubt.rest()
