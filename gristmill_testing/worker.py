"""A dispatcher and a worker in the test's own process. Jobs run as in production, but without Redis."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gristmill_testing.mill import Heard, mill
from gristmill_testing.waiting import until
from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.registry import Registry


class RunningWorker:
    """Runs every installed stage. ``heard`` records the events of each run."""

    def __init__(self, database: Database, registry: Registry, heard: Heard) -> None:
        self._database = database
        self._registry = registry
        self.heard = heard

    async def run(self, stage: str, payload: Mapping[str, Any], *, within: float = 10.0, **options: Any) -> Job:
        """Enqueue one job; return its row once it has ended or is in a wait.

        ``options`` are those of ``enqueue``. Retries do not wait for their backoff.
        """
        async with self._database.session() as session:
            enqueued = await enqueue(session, stage, payload, **options)
        model = self._registry[stage].model
        resting = {*model.__lifecycle__.terminal, *model.__lifecycle__.waiting}
        found: list[Job] = []

        async def rests() -> bool:
            async with self._database.session() as session:
                job = await session.get_one(model, enqueued.id)
            found[:] = [job]
            return job.status in resting

        await until(rests, within=within)
        return found[0]


@asynccontextmanager
async def running_worker(url: str, registry: Registry, llm: LanguageModel) -> AsyncIterator[RunningWorker]:
    """Run a dispatcher and a worker on the database of ``url``; stop both when the block ends."""
    database = Database(url, changed_by="test")
    try:
        async with mill(url, registry, llm, poll_seconds=0.05, draw=lambda: 0.0) as heard:
            yield RunningWorker(database, registry, heard)
    finally:
        await database.close()
