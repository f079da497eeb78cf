"""A whole Gristmill in one process: the real dispatcher and worker on real Postgres, without Redis between them."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from workers.runtime.database import Database
from workers.runtime.dispatch.dispatcher import Dispatcher
from workers.runtime.handler.batches import Batches
from workers.runtime.handler.context import Run
from workers.runtime.handler.endurance import DEFAULT_PATIENCE
from workers.runtime.handler.outside import Http, Keyring
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.handler.resources import NoBatches, NoHttp, NoKeyring, Resources
from workers.runtime.store.dispatch import Picked
from workers.runtime.store.processes import WorkerRow
from workers.runtime.store.settle import Settled
from workers.runtime.worker.process import Worker


@dataclass
class Heard:
    """Records the events of jobs as ``(event, stage, job id)``."""

    events: list[tuple[str, str, uuid.UUID]] = field(default_factory=list)
    lost: list[tuple[str, Run]] = field(default_factory=list)

    def started(self, run: Run) -> None:
        self.events.append(("started", run.stage, run.job_id))

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None:
        assert seconds >= 0
        self.events.append((row.action, run.stage, run.job_id))

    def stopped(self, run: Run) -> None:
        self.events.append(("stopped", run.stage, run.job_id))
        self.lost.append(("run_stopped", run))

    def stale(self, run: Run) -> None:
        self.events.append(("stale", run.stage, run.job_id))
        self.lost.append(("stale_write_rejected", run))


class DirectRoad:
    """Passes each batch to the worker in this process at once; implements the dispatcher's ``Road``."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._carriers: set[asyncio.Task[None]] = set()

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        tickets = [(job.id, job.version) for job in batch]
        carrier = asyncio.create_task(self._worker.accept(stage.name, tickets))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)

    async def lost_everything(self) -> bool:
        return False

    async def is_empty(self, queue: str) -> bool:
        return not self._carriers or not queue


@asynccontextmanager
async def mill(
    url: str,
    registry: Registry,
    llm: LanguageModel,
    *,
    slots: int = 50,
    patience: timedelta | None = DEFAULT_PATIENCE,
    draw: Callable[[], float] = random.random,
    batches: Batches | None = None,
    http: Http | None = None,
    keyring: Keyring | None = None,
    worker_id: uuid.UUID | None = None,
    **dispatching: Any,
) -> AsyncIterator[Heard]:
    """Run one worker and one dispatcher on ``url`` while the block runs; drain and stop both at its end.

    ``draw`` returns the share of its backoff that a retry waits. If it returns 0, retries do not wait. Without
    ``batches`` the batch lane sends nothing; without ``http`` and ``keyring`` no handler calls out or reads a stored
    secret. ``worker_id`` is the id of the worker's row, by default a new one.
    """
    resources = Resources(
        llm=llm, batches=batches or NoBatches(), http=http or NoHttp(), keyring=keyring or NoKeyring()
    )
    worker_id = worker_id or uuid.uuid4()
    database = Database(url, changed_by=f"worker:{worker_id}")
    heard = Heard()
    queues = tuple({stage.queue for stage in registry.values()})
    row = WorkerRow(id=worker_id, name="mill", queues=queues, slots=slots, lease_seconds=10.0)
    worker = Worker(
        database,
        registry,
        row,
        resources=resources,
        events=heard,
        heartbeat_seconds=1.0,
        patience=patience,
        draw=draw,
    )
    await worker.start()
    dispatcher = Dispatcher(
        Database(url, changed_by="dispatcher:mill"), registry, DirectRoad(worker), name="mill", **dispatching
    )
    leading = asyncio.create_task(dispatcher.run())
    try:
        yield heard
    finally:
        dispatcher.stop()
        await leading
        await worker.drain(grace=1.0)
        await database.close()
