"""A worker's parts put together, once: the transport's worker process and the tests build the same."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog

from workers.runtime.database import Database
from workers.runtime.handler.endurance import MAX_IDLE_RUNS, PATIENCE
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.handler.resources import Resources
from workers.runtime.store.claim import Ticket
from workers.runtime.store.processes import WorkerRow
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.contexts import Contexts
from workers.runtime.worker.perform import Performer
from workers.runtime.worker.runner import Runner
from workers.runtime.worker.runs import JobEvents, Runs
from workers.runtime.worker.settler import Settler
from workers.runtime.worker.slots import Slots
from workers.runtime.worker.watch import Watch

log = structlog.get_logger(__name__)


class Worker:
    """The kernel's half of one worker process, on one loop: start it, hand it batches, drain it.

    ``parts`` are its tasks by name (settler, deadlines, heartbeat, fences) once it is started.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        row: WorkerRow,
        *,
        resources: Resources,
        events: JobEvents,
        heartbeat_seconds: float,
        draw: Callable[[], float] = random.random,
        failed: Callable[[], None] = lambda: None,
        patience: timedelta = PATIENCE,
        idle_runs: int = MAX_IDLE_RUNS,
    ) -> None:
        """``failed`` is called once a part of it has failed: the process is of no more use, and ought to end.

        ``patience`` is how long a job waits for a provider that is away, ``idle_runs`` after how many rate-limited runs
        that got a job no further a person is told.
        """
        self.row = row
        self.slots = Slots(row.slots)
        self.runs = Runs()
        self.claims = Claims(database, worker_id=row.id, draw=draw)
        self.settler = Settler(database)
        contexts = Contexts(database, self.runs, resources=resources, patience=patience)
        performer = Performer(
            database,
            self.runs,
            context=contexts.of,
            events=events,
            draw=draw,
            patience=patience,
            idle_runs=idle_runs,
        )
        self._runner = Runner(
            registry,
            slots=self.slots,
            runs=self.runs,
            claims=self.claims,
            performer=performer,
            settler=self.settler,
            events=events,
            draw=draw,
        )
        self._watch = Watch(database, row, runs=self.runs, claims=self.claims, heartbeat_seconds=heartbeat_seconds)
        self._failed = failed
        self.parts: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Show signs of life, then be ready for batches; wait as long as Postgres is away."""
        await self.show_life()
        parts = {
            "settler": self.settler.run(),
            "deadlines": self.runs.keep_deadlines(),
            "heartbeat": self._watch.keep_lease(),
            "fences": self._watch.heed_fences(),
        }
        self.parts = {name: asyncio.create_task(part, name=name) for name, part in parts.items()}
        for task in self.parts.values():
            task.add_done_callback(self._heed_failure)

    async def show_life(self) -> None:
        """Write the worker's row, which renews its lease."""
        await self._watch.first_heartbeat()

    def report_provider(self, provider: Mapping[str, Any] | None) -> None:
        """Show with the next sign of life who answers this process's language model calls; None: as before."""
        self._watch.provider = provider

    def _heed_failure(self, ended: "asyncio.Task[None]") -> None:
        """Once a part of this process has failed, claim nothing and let the lease run out: its jobs are for others."""
        if ended.cancelled() or (error := ended.exception()) is None:
            return
        log.critical("worker_part_failed", part=ended.get_name(), error=describe(error), exc_info=error)
        self.parts["heartbeat"].cancel()
        self._failed()

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Take one batch; return once all of it is claimed, stale or handed back."""
        await self._runner.accept(stage_name, tickets)

    def begin_drain(self) -> None:
        """Claim nothing more; batches that wait for slots are handed back."""
        self._runner.begin_drain()

    async def drain(self, *, grace: float) -> None:
        """Let running jobs finish for ``grace`` seconds, then release the rest, say goodbye and close.

        Ends within ``grace`` + 4 s, whatever handlers or Postgres do.
        """
        self.begin_drain()
        await self._watch.announce_drain()
        await self._runner.drain(grace=grace)
        for task in self.parts.values():
            task.cancel()
        await asyncio.gather(*self.parts.values(), return_exceptions=True)
        if self.slots.free == self.slots.count:
            await self._watch.say_goodbye()
        await self._watch.close()
