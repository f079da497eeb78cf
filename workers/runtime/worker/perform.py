"""Run a handler and turn its outcome, its exception or its stop into a settlement of its job."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from workers.runtime.database import Database, is_unusable
from workers.runtime.enqueue_validation import row_problem
from workers.runtime.handler.context import Context
from workers.runtime.handler.endurance import (
    DATABASE_WAITS,
    MAX_IDLE_RUNS,
    MAX_IDLE_TIME,
    PROVIDER_WAITS,
    IdleRuns,
    Waited,
    after_database_outage,
    after_idle_run,
    after_provider_outage,
)
from workers.runtime.handler.errors import Deferred, RateLimited, Unavailable, describe, outcome_of
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.handler.registry import Stage
from workers.runtime.store.tables import unreadable
from workers.runtime.store.waits import idle_runs, read_waited
from workers.runtime.worker.runs import Running, RunReports, Runs

log = structlog.get_logger(__name__)

DRAINING = "worker is draining"
CROWDED_DELAY = timedelta(seconds=2)
# Of a job whose time has ended while it waited for its turn.
TURN_DELAY = timedelta(seconds=5)


class Performer:
    """Runs handlers for one worker process. It does not settle their outcomes."""

    def __init__(
        self,
        database: Database,
        runs: Runs,
        *,
        context: Callable[[Running], Context],
        events: RunReports,
        draw: Callable[[], float],
        patience: timedelta | None,
        idle_runs: int = MAX_IDLE_RUNS,
        idle_time: timedelta = MAX_IDLE_TIME,
    ) -> None:
        """``patience`` is how long a job waits for a provider that is away; None: however long.

        After ``idle_runs`` rate-limited runs in a row that got a job no further, a person is told. Once they last for
        ``idle_time``, the job fails.
        """
        self._database = database
        self._runs = runs
        self._context = context
        self._events = events
        self._draw = draw
        self._patience = patience
        self._idle_runs = idle_runs
        self._idle_time = idle_time

    async def settlement(self, running: Running) -> Settlement | None:
        """Return the handler's outcome, or the settlement for its exception; None if the fence is lost."""
        if running.stop == "drain":
            return Release(DRAINING)
        running.entered = True
        if running.stop == "fence":
            return self._stopped(running)
        if reason := unreadable(running.job):
            log.warning("job_unreadable", reason=reason)
            return Fail(reason)
        if running.stage.sql and (problem := row_problem(running.stage, running.job)):
            log.warning("payload_refused", reason=str(problem))
            return Fail(str(problem))
        try:
            outcome = await running.stage.handler(running.job, self._context(running))
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - each becomes a settlement
            if running.stop is None and (isinstance(error, Unavailable) or is_unusable(error)):
                return await self._settlement_after_outage(running, error)
            if running.stop is None and isinstance(error, RateLimited) and not error.others_decide:
                return await self._settlement_after_limit(running, error)
            return self.settlement_after(running, error)
        return _checked_outcome(running.stage, outcome)

    def settlement_after(self, running: Running, error: BaseException) -> Settlement | None:
        """Return the settlement for an exception that the handler raised; None if the fence is lost."""
        if running.stop in {"fence", "drain"}:
            return self._stopped(running)
        if isinstance(error, asyncio.CancelledError):
            if running.stop == "deadline" and running.turns.interrupted is not None:
                return Snooze(TURN_DELAY, f"waited {running.seconds:g} s for its turn: {running.turns.interrupted}")
            if running.stop == "deadline":
                return Retry(f"deadline of {running.seconds:g} s passed")
            return Retry("handler was cancelled from within")
        if isinstance(error, Deferred):  # nothing went wrong: the answer comes later
            log.info("job_deferred", reason=describe(error), seconds=error.delay.total_seconds())
        else:
            log.warning("handler_raised", error=describe(error))
        if isinstance(error, PoolTimeoutError):  # this process is too busy; it is not the job's fault
            return Snooze(CROWDED_DELAY, "no database connection came free")
        return outcome_of(error)

    async def _settlement_after_outage(self, running: Running, error: BaseException) -> Settlement | None:
        """Return the settlement of a job that met an outage of its provider or database."""
        if not (isinstance(error, Unavailable) and error.paused):  # during a pause every waiting job would log the same
            log.warning("handler_raised", error=describe(error))
        like = PROVIDER_WAITS if isinstance(error, Unavailable) else DATABASE_WAITS
        before: Waited | None = None
        if not isinstance(error, Unavailable) or self._needs_history(error):
            try:
                async with self._database.kernel() as conn:
                    before = await read_waited(conn, running.stage.name, running.run.job_id, like=like)
            except (Exception, asyncio.CancelledError) as unread:  # noqa: BLE001 - then the job just waits
                log.warning("waits_not_read", error=describe(unread))
        if running.stop in {"fence", "drain"}:
            return self._stopped(running)
        if isinstance(error, Unavailable):
            return after_provider_outage(error, before, now=self._runs.clock(), patience=self._patience)
        return after_database_outage(error, before, max_time=self._idle_time, drawn=self._draw())

    async def _settlement_after_limit(self, running: Running, error: RateLimited) -> Settlement | None:
        """Return what becomes of a job whose provider refuses it; one that makes no progress is bounded."""
        log.warning("handler_raised", error=describe(error))
        if running.progress.made:
            return outcome_of(error)
        before = IdleRuns()
        if running.run.version > 2 * (self._idle_runs - 1):  # each run before it added two to the version
            try:
                async with self._database.kernel() as conn:
                    before = await idle_runs(conn, running.stage.name, running.run.job_id)
            except (Exception, asyncio.CancelledError) as unread:  # noqa: BLE001 - then it just waits
                log.warning("waits_not_read", error=describe(unread))
        if running.stop in {"fence", "drain"}:
            return self._stopped(running)
        if before.many + 1 == self._idle_runs:
            log.warning("job_makes_no_progress", runs=self._idle_runs, error=describe(error))
        return after_idle_run(error, before, now=self._runs.clock(), max_runs=self._idle_runs, max_time=self._idle_time)

    def _needs_history(self, error: Unavailable) -> bool:
        """Tell whether the job's history must be read. For a known outage, only after the patience."""
        if not (error.paused or error.certain):
            return True
        if self._patience is None:
            return False
        return error.since is None or self._runs.clock() - error.since >= self._patience

    def _stopped(self, running: Running) -> Settlement | None:
        """Return the settlement of a run that was stopped, whatever its handler did then."""
        if running.stop == "drain":
            return Release(DRAINING)
        log.info("run_stopped", reason="someone else moved its job on")
        self._events.stopped(running.run)
        return None


def _checked_outcome(stage: Stage, outcome: object) -> Settlement:
    """Return ``outcome`` if it is valid, else a Fail: another attempt would return the same."""
    match outcome:
        case Complete(values=values):
            if values and (foreign := values.keys() - stage.settable):
                return Fail(f"handler of {stage.name!r} set {sorted(foreign)}, which it may not set")
            if problem := stage.problem_of(outcome):
                return Fail(f"handler of {stage.name!r} {problem}")
            return outcome
        case Snooze() | Fail() | Cancel():
            return outcome
        case _:
            return Fail(f"handler of {stage.name!r} must return an outcome, got {type(outcome).__name__!r}")
