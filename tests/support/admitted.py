"""A process with admission, the ledger and kept answers, that asks a fake provider.

``python -m tests.support.admitted URL FAKE_URL`` runs the jobs that are due, as a mill does, until its failpoint
(``GRISTMILL_FAILPOINTS``) ends it.
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from gristmill_testing.mill import Heard, mill
from tests.support.admission import PriceList
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.controlled import ControlledModel
from workers.llm.kept.postgres_kept import PostgresKept
from workers.llm.pauses import Gate
from workers.llm.ports import Control
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.database import Database
from workers.runtime.handler.registry import Registry, discover

# The name of the provider in limits and in the ledger.
PROVIDER = "environment"
LIFE_SECONDS = 120


@asynccontextmanager
async def admitted_model(
    database: Database, fake_url: str, *, worker_id: UUID | None, timeout: float = 10.0
) -> AsyncIterator[ControlledModel]:
    """Yield the model of one process: its calls of ``fake_url`` are admitted, and accounted for under ``worker_id``."""
    admission = PostgresAdmission(database, worker_id, PriceList())
    kept = PostgresKept(database, ledger=admission)
    routing = merged(Environment(api_key="sk-test", base_url=fake_url), None)

    async def look() -> Seen:
        return Seen(routing)

    control = Control(admission=admission, turns=Turns(admission), learn=admission.learn)
    options = ClientOptions(connect_timeout=2.0, timeout=timeout, max_connections=64)
    model = controlled(look=look, options=options, gate=Gate(), control=control, kept=kept)
    try:
        yield model
    finally:
        await model.aclose()
        await kept.aclose()
        await admission.aclose()


@asynccontextmanager
async def admitted_mill(url: str, registry: Registry, fake_url: str, *, slots: int = 50) -> AsyncIterator[Heard]:
    """Run a mill that asks ``fake_url`` as :func:`admitted_model` does."""
    worker_id = uuid.uuid4()
    database = Database(url, changed_by=f"worker:{worker_id}")
    try:
        async with (
            admitted_model(database, fake_url, worker_id=worker_id) as model,
            mill(url, registry, model, slots=slots, worker_id=worker_id, poll_seconds=0.05) as heard,
        ):
            yield heard
    finally:
        await database.close()


async def _run(url: str, fake_url: str) -> None:
    """Run until the process is ended."""
    async with admitted_mill(url, discover(), fake_url, slots=4):
        await asyncio.sleep(LIFE_SECONDS)


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
