"""Who may ask a provider that is away, without any database: one process, its own clock, its own pauses."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from workers.llm.pauses import MAX_MODELS, Away, Gate
from workers.runtime.handler.errors import Permanent, RateLimited, Unavailable

FIRST_PAUSE, MAX_PAUSE = timedelta(seconds=0.05), timedelta(seconds=0.2)


def gate(store=None):
    return Gate(store, first=FIRST_PAUSE, longest=MAX_PAUSE, draw=lambda: 0.5)


async def fail(made, *, request="r", model="m", **error):
    """Let one call fail; return what its job is told."""
    with pytest.raises(Unavailable) as told:
        async with made.asking("s", model, request=request):
            raise Unavailable("HTTP 503", **error)
    return told.value


async def succeed(made, model="m"):
    async with made.asking("s", model, request="good"):
        pass


async def test_failure_that_speaks_of_the_provider_pauses_it_at_once():
    """Nobody else asks, and each is told who is away, since when and why."""
    made = gate()
    first = await fail(made, certain=True)

    with pytest.raises(Unavailable) as paused:
        await succeed(made)

    assert not first.paused
    assert paused.value.paused
    assert paused.value.since == first.since
    assert str(paused.value).startswith("provider s is away since ")
    assert str(paused.value).endswith(" UTC (HTTP 503)")
    assert paused.value.delay > timedelta()


async def test_one_request_that_fails_over_and_over_pauses_nobody():
    """It may be its own fault; three different ones in a row are the provider's."""
    made = gate()
    for _ in range(5):
        await fail(made, request="the same")
    async with made.asking("s", "m", request="other"):
        pass
    for request in "abc":
        await fail(made, request=request)

    with pytest.raises(Unavailable, match="HTTP 503") as told:
        await succeed(made)

    assert told.value.paused


@pytest.mark.parametrize("of", ["model", "either"])
async def test_pause_is_of_one_model_of_one_server(of):
    """A key without access to one model says nothing about another."""
    made = gate()
    await fail(made, certain=True, of=of)

    async with made.asking("s", "another model", request="r"):
        pass
    async with made.asking("another server", "m", request="r"):
        pass


async def test_after_a_pause_one_call_goes_through_and_its_success_ends_it():
    """The others wait until it is known."""
    made = gate()
    await fail(made, certain=True)
    await asyncio.sleep(FIRST_PAUSE.total_seconds() * 1.5)

    async with made.asking("s", "m", request="probe"):
        with pytest.raises(Unavailable) as told:
            await succeed(made)
        with pytest.raises(Unavailable):
            await made.check("s", "m")
    await succeed(made)

    assert told.value.paused


@pytest.mark.parametrize("answer", [RateLimited("slowly", delay=timedelta(seconds=1)), Permanent("bad")])
async def test_whoever_refuses_a_request_is_not_away(answer):
    """A rate limit and a refusal are answers."""
    made = gate()
    await fail(made, certain=True)
    await asyncio.sleep(FIRST_PAUSE.total_seconds() * 1.5)

    with pytest.raises(type(answer)):
        async with made.asking("s", "m", request="probe"):
            raise answer
    await succeed(made)


async def test_cancelled_probe_leaves_the_turn_to_the_next():
    """A job that is cancelled while it asks must not keep all others waiting."""
    made = gate()
    await fail(made, certain=True)
    await asyncio.sleep(FIRST_PAUSE.total_seconds() * 1.5)

    with pytest.raises(asyncio.CancelledError):
        async with made.asking("s", "m", request="probe"):
            raise asyncio.CancelledError
    await succeed(made)


async def passed(made):
    """Return how long the pause went on."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            await made.check("s", "m")
        except Unavailable:
            await asyncio.sleep(0.005)
        else:
            return loop.time() - began


async def test_pause_grows_while_the_provider_stays_away_and_keeps_since_when():
    """To its longest, not beyond."""
    made = gate()
    told, waits = [await fail(made, certain=True)], [await passed(made)]

    for _ in range(5):
        told.append(await fail(made, certain=True))
        waits.append(await passed(made))

    assert len({one.since for one in told}) == 1
    assert waits[-1] > waits[0]
    assert max(waits) < MAX_PAUSE.total_seconds() * 10


async def test_wait_that_the_provider_asks_for_is_kept_and_others_do_not_shorten_it():
    """``Retry-After`` holds for everybody."""
    made = gate()
    told = await fail(made, certain=True, asked=timedelta(minutes=2))

    with pytest.raises(Unavailable) as paused:
        await succeed(made)

    assert told.delay >= timedelta(minutes=2)
    assert paused.value.delay > timedelta(seconds=115)


async def test_failure_tells_how_long_ago_the_provider_answered_anybody():
    """So that a request that fails while others do not can be told from an outage."""
    made = gate()
    never = await fail(made)
    await succeed(made)

    after = await fail(made)

    assert never.answered is None
    assert after.answered is not None
    assert after.answered < timedelta(seconds=5)


class Broken:
    """A store that is away itself."""

    async def find(self, server: str) -> Mapping[str, Away]:
        raise OSError(server)

    async def begin(self, provider: str, reason: str, **_: timedelta) -> Away | None:
        raise OSError(provider + reason)

    async def probe(self, provider: str, *, lasts: timedelta) -> Away | bool:
        raise OSError(f"{provider}{lasts}")

    async def release(self, provider: str) -> None:
        raise OSError(provider)

    async def end(self, provider: str) -> None:
        raise OSError(provider)


async def test_pauses_hold_in_the_process_where_postgres_cannot_keep_them():
    """What shares pauses must not stop who asks."""
    made = gate(Broken())
    await fail(made, certain=True)
    with pytest.raises(Unavailable):
        await succeed(made)
    await asyncio.sleep(FIRST_PAUSE.total_seconds() * 1.5)

    await succeed(made)
    await succeed(made)


class Kept(Broken):
    """A store that knows of a pause, and takes a moment to say so."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.asked = 0

    async def find(self, server: str) -> Mapping[str, Away]:
        self.asked += 1
        await asyncio.sleep(0.05)
        away = Away(datetime(2026, 11, 30, tzinfo=UTC), timedelta(minutes=1), f"HTTP 503 of {server}")
        return {self.provider: away}


@pytest.mark.parametrize("provider", ["s", "s|m"])
async def test_process_that_starts_in_an_outage_asks_nobody(provider):
    """However many jobs begin at once: all wait until it is known, and none asks."""
    made = gate(Kept(provider))

    told = await asyncio.gather(*(succeed(made) for _ in range(20)), return_exceptions=True)

    assert {type(one) for one in told} == {Unavailable}
    assert all(one.paused and "since 2026-11-30 00:00 UTC" in str(one) for one in told if isinstance(one, Unavailable))


async def test_dead_server_is_asked_once_whatever_models_its_jobs_name():
    """Tenants choose the models: a thousand names are not a thousand questions."""
    made = gate()
    await fail(made, certain=True, of="server", asked=timedelta(minutes=1))

    told = await asyncio.gather(*(succeed(made, f"model {n}") for n in range(1_000)), return_exceptions=True)

    assert {type(one) for one in told} == {Unavailable}
    assert all(one.paused for one in told if isinstance(one, Unavailable))


async def test_three_models_that_fail_in_a_row_are_the_server():
    """A server that answers everybody with HTTP 500 is away, whatever its models are called."""
    made = gate()
    for model in "abc":
        await fail(made, model=model)

    with pytest.raises(Unavailable) as told:
        await succeed(made, "d")

    assert told.value.paused


async def test_models_that_fail_while_others_answer_leave_the_server_open():
    """Behind a router one model may be down: its pause is its own."""
    made = gate()
    for model in "abcdef":
        await fail(made, model=model, certain=True)
        await succeed(made, "well")

    await succeed(made, "another")
    with pytest.raises(Unavailable):
        await succeed(made, "a")


async def test_probe_that_a_model_alone_refuses_opens_the_server():
    """It answered: what it says is of that model."""
    made = gate()
    await fail(made, certain=True, of="server")
    await asyncio.sleep(FIRST_PAUSE.total_seconds() * 1.5)
    await fail(made, certain=True, of="model")

    await succeed(made, "another")
    with pytest.raises(Unavailable):
        await succeed(made)


async def test_names_of_models_cost_neither_memory_nor_questions():
    """The shared pauses of a server are read once; of too many models, those used last are remembered."""
    store = Kept("s|other")
    made = gate(store)
    for n in range(MAX_MODELS + 500):
        await made.check("s", f"model {n}")

    assert store.asked == 1
    assert len(made._servers["s"].models) == MAX_MODELS
