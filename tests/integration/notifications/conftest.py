"""A receiver, endpoints and deliveries."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.support.callbacks import Callbacks, Receiver, receiving
from tests.support.kernel import Jobs
from workers.runtime.store.notices import Taken, take_notices
from workers.runtime.store.processes import try_to_lead


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A real HTTP server that accepts callbacks."""
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def callbacks(jobs: Jobs) -> Callbacks:
    """Endpoints and deliveries of the test's database."""
    return Callbacks(jobs)


@pytest.fixture
def lead_and_take(jobs: Jobs) -> Callable[[], Awaitable[Taken]]:
    """Hand out the notices that there are, as a leading dispatcher does."""
    terms: list[int | None] = []

    async def take() -> Taken:
        async with jobs.database.kernel() as conn:
            if not terms:
                terms.append(await try_to_lead(conn, name="one"))
            [term] = terms
            assert term is not None
            return await take_notices(conn, term=term, limit=100)

    return take
