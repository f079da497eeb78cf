"""One job on the loop of its worker process, and who is told what becomes of it."""

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol

from models.lifecycle import Job
from workers.runtime.handler.context import Run
from workers.runtime.handler.registry import Stage
from workers.runtime.worker.decisions import Settled

# Why a run is to end before its handler says so: its job moved on, the worker stops, or its time is up.
Stop = Literal["fence", "drain", "deadline"]


class JobEvents(Protocol):
    """Who is told what becomes of each run, for Flower and metrics; must neither block nor raise."""

    def started(self, run: Run) -> None: ...

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None: ...

    def stopped(self, run: Run) -> None: ...

    def stale(self, run: Run) -> None: ...


@dataclass(slots=True)
class Running:
    """One run under way, since ``started``, and to be told at ``due`` that its time is up (both monotonic seconds).

    ``stop`` says why it is to end; once ``settling``, nothing stops it.

    A task is cancelled only once it is ``entered``: asyncio drops one that has not begun without running any of it.
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

    def end(self, why: Stop) -> None:
        """Have the handler cancelled because of ``why``, unless it has said its last word; again if called again."""
        if self.task and not self.settling:
            self.stop = self.stop or why
            if self.entered:
                self.task.cancel()
