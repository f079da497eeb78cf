"""Which progress of an assessment is stored."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from workers.assessment.assess import percent_reporter


@given(st.lists(st.floats(0, 1), max_size=30))
async def test_only_growing_percents_between_one_and_a_hundred_are_stored(reported):
    """Each percent is stored once. The claim stores 1 and the settle stores 100."""
    stored = []

    async def store(percent):
        stored.append(percent)

    progress = percent_reporter(store)
    for share in reported:
        await progress(share)

    assert stored == sorted(set(stored))
    assert all(2 <= percent <= 99 for percent in stored)
    highest = int(max(reported, default=0) * 100)
    assert stored[-1:] == ([min(highest, 99)] if highest >= 2 else [])


async def test_parts_that_report_at_once_cannot_overtake_each_other():
    """A slow write of a lower percent never comes after a higher one."""
    stored: list[object] = []
    first = asyncio.Event()

    async def store(percent):
        if not stored:
            stored.append("begun")
            await first.wait()
        stored.append(percent)

    progress = percent_reporter(store)
    reports = [asyncio.ensure_future(progress(share)) for share in (0.2, 0.9, 0.5)]
    await asyncio.sleep(0)
    first.set()
    await asyncio.gather(*reports)

    assert stored == ["begun", 20, 90]
