"""Settle the outcomes of a worker process. Each table has its own lane, so no table waits for another's locks."""

import asyncio

from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.worker.lane import Item, Lane


class Settler:
    """Records outcomes by group commit; see :mod:`workers.runtime.worker.lane`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes: dict[type[Job], Lane] = {}
        self._new: asyncio.Queue[Lane] = asyncio.Queue()

    def submit(self, item: Item) -> None:
        """Record the outcome with the next flush of its table; wait as long as Postgres is away."""
        lane = self._lanes.get(item.model)
        if lane is None:
            lane = self._lanes[item.model] = Lane(self._database)
            self._new.put_nowait(lane)
        lane.submit(item)

    async def run(self) -> None:
        """Flush for ever. The worker cancels this task when no job runs any more."""
        async with asyncio.TaskGroup() as lanes:
            while True:
                lanes.create_task((await self._new.get()).run())
