"""Write what this worker process measured, every few seconds and when it ends."""

import asyncio
from datetime import datetime

import structlog

from models.lifecycle import Job
from workers.runtime.database import Database
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Stage
from workers.runtime.measuring import MEASUREMENTS, Measurements, Series
from workers.runtime.store.measurements import add_measurements
from workers.runtime.store.tables import READY_SINCE

log = structlog.get_logger(__name__)

REPORT_SECONDS = 5.0
LAST_REPORT_SECONDS = 1.0


class Times:
    """The times of the runs of one stage."""

    __slots__ = ("claim", "dispatch", "run", "settle")

    def __init__(self, measurements: Measurements, stage: str) -> None:
        self.dispatch = measurements.histogram("dispatch_seconds", stage=stage)
        self.claim = measurements.histogram("claim_seconds", stage=stage)
        self.run = measurements.histogram("run_seconds", stage=stage)
        self.settle = measurements.histogram("settle_seconds", stage=stage)


class Reports:
    """Measures the runs of a worker process and writes what the process measured."""

    def __init__(self, database: Database, measurements: Measurements = MEASUREMENTS) -> None:
        self._database = database
        self._measurements = measurements
        self._times: dict[str, Times] = {}

    def times(self, stage: Stage) -> Times:
        """Return the times of a stage."""
        found = self._times.get(stage.name)
        if found is None:
            found = self._times[stage.name] = Times(self._measurements, stage.name)
        return found

    def claimed(self, stage: Stage, job: Job) -> None:
        """Measure how long a claimed job waited for its dispatch, and then for its claim."""
        ready, dispatched, started = job.__dict__.get(READY_SINCE), job.dispatched_at, job.started_at
        # Without the first it was found again after a claim without an answer. A time may be unreadable.
        if isinstance(ready, datetime) and isinstance(dispatched, datetime) and isinstance(started, datetime):
            times = self.times(stage)
            times.dispatch.observe((dispatched - ready).total_seconds())
            times.claim.observe((started - dispatched).total_seconds())

    def stale(self, stage: Stage) -> Series:
        """Return the counter of writes that the fence refused."""
        return self._measurements.counter("stale_writes", stage=stage.name)

    async def run(self) -> None:
        """Write for ever. What cannot be written now is written later; a write without an answer may count twice."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self._write()

    async def write_last(self) -> None:
        """Write what is left, if Postgres answers at once."""
        try:
            async with asyncio.timeout(LAST_REPORT_SECONDS):
                await self._write()
        except TimeoutError:
            log.info("measurements_not_written", reason="no answer in time")

    async def _write(self) -> None:
        taken = self._measurements.take()
        if not taken:
            return
        try:
            async with self._database.kernel() as conn:
                await add_measurements(conn, taken)
        except Exception as error:  # noqa: BLE001 - a worker must not end because it cannot be measured
            self._measurements.give_back(taken)
            log.info("measurements_not_written", reason=describe(error))
        except BaseException:
            self._measurements.give_back(taken)
            raise
