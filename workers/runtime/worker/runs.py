"""The jobs that run on the loop of a worker process, and the protocol that reports their ends."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.handler.context import Run
from workers.runtime.handler.registry import Stage
from workers.runtime.store.settle import Settled

# A deadline is enforced at most this late. One check of all runs costs less than a timer for each run.
DEADLINE_CHECK_SECONDS = 0.05
# A handler that goes on after its deadline is cancelled again this often.
CANCEL_AGAIN_SECONDS = 1.0

# Why a run is stopped: its job was moved on, the worker stops, or the deadline passed.
Stop = Literal["fence", "drain", "deadline"]


class RunReports(Protocol):
    """Reports the start and the end of each run to Flower and metrics. Must neither block nor raise."""

    def started(self, run: Run) -> None: ...

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None: ...

    def stopped(self, run: Run) -> None: ...

    def stale(self, run: Run) -> None: ...


def max_run_seconds(stage: Stage, job: Job) -> float:
    """Return how long one run of ``job`` may take."""
    return job.timeout_seconds or stage.timeout.total_seconds()


@dataclass(slots=True)
class Running:
    """One current run. It began at ``started``; its handler is cancelled at ``due`` (both in monotonic seconds).

    ``stop`` is why it is being stopped; when it is ``settling``, nothing stops it. Its task is cancelled only when it
    is ``entered``, because asyncio drops a task that has not begun without running any of its code.
    """

    stage: Stage
    job: Job
    run: Run
    started: float
    due: float
    stop: Stop | None = None
    task: asyncio.Task[None] | None = None
    entered: bool = False
    settling: bool = False

    @property
    def seconds(self) -> float:
        """How long the run may take."""
        return max_run_seconds(self.stage, self.job)

    def end(self, why: Stop) -> None:
        """Cancel the handler because of ``why``, unless the run is settling. Each call cancels again."""
        if self.task and not self.settling:
            self.stop = self.stop or why
            if self.entered:
                self.task.cancel()


class Runs:
    """The newest run of each job in one worker process; also the offset of the database's clock.

    The runner adds and removes runs. The watch stops those that lost their fence, and sets the clock.
    """

    def __init__(self) -> None:
        self.clock_offset = timedelta()
        self._running: dict[UUID, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        """Iterate over the runs of this moment; runs may be added and removed meanwhile."""
        return iter(list(self._running.values()))

    def get(self, job_id: UUID) -> Running | None:
        return self._running.get(job_id)

    def put(self, running: Running) -> None:
        """Add a run; it replaces an older run of its job."""
        self._running[running.run.job_id] = running

    def remove(self, running: Running) -> None:
        """Remove this run; do not remove a newer run of its job."""
        if self._running.get(running.run.job_id) is running:
            del self._running[running.run.job_id]

    def stop(self, job_id: UUID, why: Stop, *, version: int | None = None) -> None:
        """Stop the run of one job; with ``version``, only that run. Each call cancels again."""
        running = self._running.get(job_id)
        if running and version in {None, running.run.version}:
            running.end(why)

    def clock(self) -> datetime:
        """Return the database's time, by the clock difference measured at the last heartbeat."""
        return datetime.now(UTC) + self.clock_offset

    async def enforce_deadlines(self) -> None:
        """Cancel each handler when its deadline passes, and again while it goes on. Runs for ever."""
        while True:
            await asyncio.sleep(DEADLINE_CHECK_SECONDS)
            now = time.monotonic()
            for running in self:
                if now >= running.due:
                    running.due = now + CANCEL_AGAIN_SECONDS
                    running.end("deadline")
