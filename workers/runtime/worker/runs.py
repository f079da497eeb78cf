"""The jobs that run on the loop of a worker process, and who is told what becomes of them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.handler.context import Progress, Run
from workers.runtime.handler.registry import Stage
from workers.runtime.store.settle import Settled

# A deadline is met this late at most. One look at all runs costs less than a timer each.
DEADLINE_CHECK_SECONDS = 0.05
# A handler that outlives its deadline is told again this often.
REMINDER_SECONDS = 1.0

# Why a run is to end before its handler says so: its job moved on, the worker stops, or its time is up.
Stop = Literal["fence", "drain", "deadline"]


class JobEvents(Protocol):
    """Who is told what becomes of each run, for Flower and metrics; must neither block nor raise."""

    def started(self, run: Run) -> None: ...

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None: ...

    def stopped(self, run: Run) -> None: ...

    def stale(self, run: Run) -> None: ...


def seconds_of(stage: Stage, job: Job) -> float:
    """Return how long one run of ``job`` may take."""
    return job.timeout_seconds or stage.timeout.total_seconds()


@dataclass(slots=True)
class Running:
    """One run under way, since ``started``, and to be told at ``due`` that its time is up (both monotonic seconds).

    ``stop`` says why it is to end; once ``settling``, nothing stops it. ``progress``: whether it got its job forward.

    A task is cancelled only once it is ``entered``: asyncio drops one that has not begun without running any of it.
    """

    stage: Stage
    job: Job
    run: Run
    started: float
    due: float
    stop: Stop | None = None
    progress: Progress = field(default_factory=Progress)
    task: asyncio.Task[None] | None = None
    entered: bool = False
    settling: bool = False

    @property
    def seconds(self) -> float:
        """How long the run may take."""
        return seconds_of(self.stage, self.job)

    def end(self, why: Stop) -> None:
        """Have the handler cancelled because of ``why``, unless it has said its last word; again if called again."""
        if self.task and not self.settling:
            self.stop = self.stop or why
            if self.entered:
                self.task.cancel()


class Runs:
    """The runs of one worker process: the newest of each job, told to stop from here; and the database's clock.

    The runner puts runs in and takes them out. The watch stops those that lost their fence, and sets the clock.
    """

    def __init__(self) -> None:
        self.clock_offset = timedelta()
        self._running: dict[UUID, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        """Iterate over the runs of this moment; they may be put in and taken out meanwhile."""
        return iter(list(self._running.values()))

    def get(self, job_id: UUID) -> Running | None:
        return self._running.get(job_id)

    def put(self, running: Running) -> None:
        """Add a run; it takes the place of an older one of its job."""
        self._running[running.run.job_id] = running

    def remove(self, running: Running) -> None:
        """Take a run out, and not a newer run of its job."""
        if self._running.get(running.run.job_id) is running:
            del self._running[running.run.job_id]

    def stop(self, job_id: UUID, why: Stop, *, version: int | None = None) -> None:
        """Cancel the task of one job, of that run only if ``version`` is given; repeated calls cancel again."""
        running = self._running.get(job_id)
        if running and version in {None, running.run.version}:
            running.end(why)

    def clock(self) -> datetime:
        """Return the database's time, as of the last heartbeat's comparison."""
        return datetime.now(UTC) + self.clock_offset

    async def keep_deadlines(self) -> None:
        """Cancel every handler whose time is up, and again while it goes on. Runs for ever."""
        while True:
            await asyncio.sleep(DEADLINE_CHECK_SECONDS)
            now = time.monotonic()
            for running in self:
                if now >= running.due:
                    running.due = now + REMINDER_SECONDS
                    running.end("deadline")
