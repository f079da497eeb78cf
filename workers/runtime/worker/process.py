"""Build a worker from its parts. The transport's worker process and the tests both use it."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog

from workers.runtime.database import Database
from workers.runtime.handler.endurance import DEFAULT_PATIENCE, MAX_IDLE_RUNS, MAX_IDLE_TIME
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.handler.resources import Resources
from workers.runtime.store.claim import Ticket
from workers.runtime.store.processes import WorkerRow
from workers.runtime.worker.claims import Claims
from workers.runtime.worker.contexts import Contexts
from workers.runtime.worker.perform import Performer
from workers.runtime.worker.reporting import Reports
from workers.runtime.worker.runner import Runner
from workers.runtime.worker.runs import RunReports, Runs
from workers.runtime.worker.settler import Settler
from workers.runtime.worker.slots import Slots
from workers.runtime.worker.watch import Watch

log = structlog.get_logger(__name__)


class Worker:
    """The kernel's part of one worker process, on one loop: start it, give it batches, drain it.

    After the start, ``parts`` are its tasks by name: settler, deadlines, heartbeat, fences, reports.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        row: WorkerRow,
        *,
        resources: Resources,
        events: RunReports,
        heartbeat_seconds: float,
        draw: Callable[[], float] = random.random,
        failed: Callable[[], None] = lambda: None,
        patience: timedelta | None = DEFAULT_PATIENCE,
        idle_runs: int = MAX_IDLE_RUNS,
        idle_time: timedelta = MAX_IDLE_TIME,
    ) -> None:
        """``failed`` is called when one of the parts has failed: then the process must end.

        ``patience`` is how long a job waits for a provider that is away; None: however long. ``idle_runs`` is after how
        many rate-limited runs that got a job no further a person is told, ``idle_time`` after how long it fails.
        """
        self.row = row
        self.slots = Slots(row.slots)
        self.runs = Runs()
        self.claims = Claims(database, worker_id=row.id, draw=draw)
        self.settler = Settler(database)
        contexts = Contexts(database, self.runs, resources=resources, patience=min(patience or idle_time, idle_time))
        performer = Performer(
            database,
            self.runs,
            context=contexts.of,
            events=events,
            draw=draw,
            patience=patience,
            idle_runs=idle_runs,
            idle_time=idle_time,
        )
        self._reports = Reports(database)
        self._runner = Runner(
            registry,
            slots=self.slots,
            runs=self.runs,
            claims=self.claims,
            performer=performer,
            settler=self.settler,
            events=events,
            reports=self._reports,
            draw=draw,
        )
        self._watch = Watch(database, row, runs=self.runs, claims=self.claims, heartbeat_seconds=heartbeat_seconds)
        self._failed = failed
        self.parts: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Write the first heartbeat, then accept batches; wait as long as Postgres is away."""
        await self.write_heartbeat()
        parts = {
            "settler": self.settler.run(),
            "deadlines": self.runs.enforce_deadlines(),
            "heartbeat": self._watch.keep_lease(),
            "fences": self._watch.watch_fences(),
            "reports": self._reports.run(),
        }
        self.parts = {name: asyncio.create_task(part, name=name) for name, part in parts.items()}
        for task in self.parts.values():
            task.add_done_callback(self._on_part_ended)

    async def write_heartbeat(self) -> None:
        """Write the worker's row, which renews its lease."""
        await self._watch.first_heartbeat()

    def report_provider(self, provider: Mapping[str, Any] | None) -> None:
        """Write with the next heartbeat which provider answers this process's language model calls; None: no change."""
        self._watch.provider = provider

    def _on_part_ended(self, ended: "asyncio.Task[None]") -> None:
        """If the part failed, stop the heartbeats, so that the lease runs out and other workers get the jobs."""
        if ended.cancelled() or (error := ended.exception()) is None:
            return
        log.critical("worker_part_failed", part=ended.get_name(), error=describe(error), exc_info=error)
        self.parts["heartbeat"].cancel()
        self._failed()

    async def accept(self, stage_name: str, tickets: Sequence[Ticket]) -> None:
        """Take one batch; return when each of its tickets is claimed, stale or given back."""
        await self._runner.accept(stage_name, tickets)

    def begin_drain(self) -> None:
        """Claim nothing more; give back the batches that wait for slots."""
        self._runner.begin_drain()

    async def drain(self, *, grace: float) -> None:
        """Let running jobs finish for ``grace`` seconds, then release the rest, remove the worker's row and close.

        Ends within ``grace`` + 5 s, whatever handlers or Postgres do.
        """
        self.begin_drain()
        await self._watch.announce_drain()
        await self._runner.drain(grace=grace)
        for task in self.parts.values():
            task.cancel()
        await asyncio.gather(*self.parts.values(), return_exceptions=True)
        if self.slots.free == self.slots.count:
            await self._watch.remove_row()
        await self._reports.write_last()
        await self._watch.close()
