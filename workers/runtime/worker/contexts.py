"""The context that a handler gets with its job: progress and checkpoints under the run's fence, sessions, the clock."""

import asyncio
import math
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

from psycopg.errors import CheckViolation
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.bounds import values_problem
from workers.runtime.database import Database, is_locked, retry_while_away
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.context import CheckpointWrite, Context, Run
from workers.runtime.handler.errors import Permanent, describe
from workers.runtime.handler.registry import Stage
from workers.runtime.handler.resources import Resources
from workers.runtime.store.checkpoint import checkpoint
from workers.runtime.store.claim import Ticket, set_progress
from workers.runtime.worker.runs import Running, Runs

# Writes of progress must not use up the connections that claims and outcomes need.
MAX_PROGRESS_WRITES = 4


class Contexts:
    """Makes the context of each run of one worker process."""

    def __init__(self, database: Database, runs: Runs, *, resources: Resources, patience: timedelta) -> None:
        self._database = database
        self._runs = runs
        self._resources = resources
        self._patience = patience
        self._progress_writes = asyncio.Semaphore(MAX_PROGRESS_WRITES)

    def of(self, running: Running) -> Context:
        """Return the context of one run."""
        return Context(
            run=running.run,
            resources=self._resources,
            session=self._database.session,
            progress=partial(self._show_progress, running),
            checkpoint=partial(self._keep, running),
            clock=self._runs.clock,
            patience=self._patience,
            traceparent=running.job.traceparent,
        )

    async def _show_progress(self, running: Running, percent: int) -> None:
        run = running.run
        percentage = round(min(max(percent, 1), 99)) if percent < math.inf else 1  # a handler may pass any number

        async def write_progress() -> bool:
            ticket = (run.job_id, run.version)
            try:
                async with self._progress_writes, self._database.kernel() as conn:
                    return await set_progress(conn, running.stage.model, ticket, percentage)
            except Exception as error:
                if not is_locked(error):
                    raise
                return True  # do not wait for a percentage; the fence is checked every second anyway

        if not await retry_while_away(write_progress):
            await self._end_stale(run)

    async def _keep(self, running: Running, values: Mapping[str, Any], write: CheckpointWrite | None = None) -> None:
        run, stage = running.run, running.stage
        failpoint("checkpoint.before")
        async with self._database.session() as session:
            row = (run.job_id, run.version)
            held = await _keep(session, stage, row, values)
            if held and write and (found := await write(session)):
                await _keep(session, stage, row, found)
        failpoint("checkpoint.after")
        if not held:
            await self._end_stale(run)
        running.progress.made = True

    async def _end_stale(self, run: Run) -> NoReturn:
        """End the calling run, because its job was cancelled or moved on: it must cause no further cost."""
        self._runs.stop(run.job_id, "fence", version=run.version)
        await asyncio.sleep(0)  # the cancellation is raised here
        raise asyncio.CancelledError  # in a task that the handler started, which nobody else ends


async def _keep(session: AsyncSession, stage: Stage, row: Ticket, values: Mapping[str, Any]) -> bool:
    """Set ``values`` under the fence; raise Permanent for a value that no column can hold, as a retry cannot help."""
    try:
        return await checkpoint(session, stage.model, row, _check_settable(stage, values))
    except (DataError, IntegrityError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, IntegrityError) and not isinstance(error.orig, CheckViolation):
            raise  # a row that it refers to was deleted: the caller decides what that means
        raise Permanent(f"checkpoint refused: {values_problem(values) or describe(error)}") from error


def _check_settable(stage: Stage, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``values`` if a checkpoint may set them; else raise Permanent, as a retry of this handler cannot help."""
    if foreign := values.keys() - stage.settable - {"progress"}:
        raise Permanent(f"handler of {stage.name!r} kept {sorted(foreign)}, which it may not set")
    return values
