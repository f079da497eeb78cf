"""A fake of Flower's event stream. It records the events in order."""

from uuid import UUID

from workers.runtime.handler.context import Run
from workers.runtime.store.settle import Settled


class RecordedEvents:
    """Implements :class:`workers.runtime.worker.runs.RunReports`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, UUID]] = []
        self.lost: list[tuple[str, Run]] = []

    def started(self, run: Run) -> None:
        self.told.append(("started", run.job_id))

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None:
        self.told.append((row.action, run.job_id))

    def stopped(self, run: Run) -> None:
        self.told.append(("stopped", run.job_id))
        self.lost.append(("run_stopped", run))

    def stale(self, run: Run) -> None:
        self.told.append(("stale", run.job_id))
        self.lost.append(("stale_write_rejected", run))

    def of(self, job_id: UUID) -> list[str]:
        """Return the events of one job."""
        return [what for what, told_id in self.told if told_id == job_id]
