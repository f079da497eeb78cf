"""A stand-in for Flower's event stream: remembers what it was told, in order."""

from uuid import UUID

from models.lifecycle import Job
from workers.runtime.decisions import Settled
from workers.runtime.registry import Stage


class RecordedEvents:
    """Implements :class:`workers.runtime.runner.JobEvents`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, UUID]] = []

    def started(self, stage: Stage, job: Job) -> None:
        self.told.append(("started", job.id))

    def settled(self, stage: Stage, job: Job, row: Settled, *, seconds: float) -> None:
        self.told.append((row.action, job.id))

    def stopped(self, stage: Stage, job: Job) -> None:
        self.told.append(("stopped", job.id))

    def stale(self, stage: Stage, job: Job) -> None:
        self.told.append(("stale", job.id))

    def of(self, job_id: UUID) -> list[str]:
        """Return what was told of one job."""
        return [what for what, told_id in self.told if told_id == job_id]
