"""A fake of Redis and Celery. It keeps published batches; it can be closed, blocked, and lose its data."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from workers.runtime.handler.registry import Stage
from workers.runtime.store.claim import Ticket
from workers.runtime.store.dispatch import Picked

Deliver = Callable[[str, Sequence[Ticket]], Awaitable[None]]


class FakeRoad:
    """A :class:`workers.runtime.dispatch.road.Road`. ``deliver`` carries a batch to a worker, if given."""

    def __init__(self, deliver: Deliver | None = None) -> None:
        self.batches: list[tuple[str, list[Picked]]] = []
        self.attempts = 0
        self.checks = 0
        self.closed = False
        self.lost = False
        self.empty = True
        self.passable = asyncio.Event()
        self.passable.set()
        self._deliver = deliver
        self._carriers: set[asyncio.Future[None]] = set()

    def of(self, stage: str) -> list[Picked]:
        """Return all published jobs of one stage, in order, once per delivery."""
        return [job for name, batch in self.batches if name == stage for job in batch]

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        self.attempts += 1
        await self.passable.wait()
        if self.closed:
            raise ConnectionRefusedError("the road is closed")
        self.batches.append((stage.name, list(batch)))
        if self._deliver:
            carrier = asyncio.ensure_future(self._deliver(stage.name, [(job.id, job.version) for job in batch]))
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def lost_everything(self) -> bool:
        self.checks += 1
        if self.closed:
            raise ConnectionRefusedError("the road is closed")
        lost, self.lost = self.lost, False
        return lost

    async def is_empty(self, queue: str) -> bool:
        return self.empty
