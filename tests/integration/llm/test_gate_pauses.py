"""What gates read of the outages that worker processes share."""

from datetime import UTC, datetime, timedelta

from workers.llm.gates import read_pauses
from workers.llm.pause_store import SharedPauses

SECOND = timedelta(seconds=1)


async def test_an_outage_is_read_with_its_end_and_whether_somebody_asks(database):
    """An outage that has passed lets one ask; while that one asks, it says so and until when."""
    store = SharedPauses(database)
    await store.begin("http://p", "answered 503", asked=timedelta(minutes=1), first=SECOND, longest=SECOND)
    await store.begin("http://q|m", "refused", asked=timedelta(), first=timedelta(), longest=timedelta())

    before = await read_pauses(database)
    assert await store.probe("http://q|m", lasts=timedelta(minutes=2)) is True
    after = await read_pauses(database)

    assert (before["http://p"].is_over, before["http://p"].reason) == (False, "answered 503")
    assert before["http://p"].until > datetime.now(UTC)
    assert (before["http://q|m"].is_over, before["http://q|m"].is_probed) == (True, False)
    assert after["http://q|m"].is_probed
    assert after["http://q|m"].until > datetime.now(UTC) + timedelta(minutes=1)


async def test_an_outage_of_long_ago_is_none(database):
    """All processes that knew of it have ended."""
    await SharedPauses(database).begin("http://p", "x", asked=SECOND, first=SECOND, longest=SECOND)
    async with database.kernel() as conn:
        await conn.execute(
            "UPDATE runtime.provider_pauses SET since = now() - interval '1 day', until = now() - interval '1 hour'"
        )

    assert await read_pauses(database) == {}
