"""Group commit for one table: record the outcomes of many runs together, and report the result to each run.

Only one flush runs at a time. Outcomes that arrive meanwhile go into the next one: batches grow with the load, and a
single outcome does not wait. Outcomes of locked rows wait separately; no other row and no other table waits for them.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.runtime.backoff import full_jitter, reconnect_seconds
from workers.runtime.database import Database, is_database_away, is_locked, is_unreachable
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.outcomes import Rows, Write, WriteRows
from workers.runtime.store.locks import find_locked_rows
from workers.runtime.store.settle import Settled, find_settled, settle

log = structlog.get_logger(__name__)

MAX_PER_FLUSH = 512
# Under load a short pause collects more outcomes. A single outcome is flushed at once.
GATHER_SECONDS = 0.003
# If Postgres can be reached but aborts the writes this often, the writes themselves are wrong: they deadlock, or a
# statement takes too long.
MAX_LOST_WRITES = 5
# A row lock is mostly held for a short time. One try is one statement that does not wait.
LOCK_RETRY = timedelta(seconds=0.5)


class WriteFailed(Exception):
    """A handler's ``write`` raised an error that does not come from the database; ``__cause__`` is that error."""


@dataclass(slots=True)
class Item:
    """One outcome to record under its fence, with the handler's ``writes``.

    ``done`` is called once: with whether the fence was valid, or with the error of this row or its write.
    ``unsure``: a flush of it got no answer, but may have been committed.
    """

    model: type[Job]
    row: Settled
    writes: Sequence[Write | Rows]
    done: Callable[[bool | Exception], None]
    unsure: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the row sets beside its state: rows with the same columns are settled by one statement."""
        return tuple(sorted(self.row.values)) if self.row.values else ()

    def tell(self, answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence was valid
        try:
            self.done(answer)
        except Exception:  # the lane must go on; the run's deadline passes and its job is rescued
            log.exception("run_lost", job_id=str(self.row.job_id))


class Lane:
    """The outcomes of one table in a worker process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Item] = []
        self._arrived = asyncio.Event()
        self._held: list[Item] = []
        self._locked_arrived = asyncio.Event()

    def submit(self, item: Item) -> None:
        """Record the outcome with the next flush; wait as long as Postgres is away."""
        self._waiting.append(item)
        self._arrived.set()

    async def run(self) -> None:
        """Flush for ever. The worker cancels this when no job runs any more."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush_all())
            tasks.create_task(self._outwait_locks())

    async def _flush_all(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:MAX_PER_FLUSH], self._waiting[MAX_PER_FLUSH:]
            if not self._waiting:
                self._arrived.clear()
            for group in _parts(batch):
                self._keep_locked(await self._flush_until_done(group))
            if len(batch) > 1:
                await asyncio.sleep(GATHER_SECONDS)

    def _keep_locked(self, held: Sequence[Item]) -> None:
        if held:
            self._held += held
            self._locked_arrived.set()

    async def _outwait_locks(self) -> None:
        """Settle locked rows when they are unlocked: the free ones together, otherwise one by one."""
        while True:
            await self._locked_arrived.wait()
            self._locked_arrived.clear()
            alone = False
            while held := self._held:
                self._held = []
                await asyncio.sleep(full_jitter(1, draw=random.random, base=LOCK_RETRY).total_seconds())
                still: list[Item] = []
                for part in _parts(held, alone=alone):
                    still += await self._flush_until_done(part, free_only=True)
                # No row was free: a write may wait for a lock, or the whole table is locked.
                alone = len(still) == len(held)
                self._held += still

    async def _flush_until_done(
        self, items: Sequence[Item], *, free_only: bool = False, aborted: int = 0
    ) -> Sequence[Item]:
        """Flush ``items``; wait while Postgres is away. A row with an error of its own fails alone.

        Return the items that were not flushed because of a lock. ``aborted`` is how often a reachable Postgres has
        aborted them before.
        """
        attempt = 0
        while True:
            try:
                accepted, held = await self._flush(items, free_only=free_only)
                failpoint("commit.after")
            except Exception as error:  # noqa: BLE001 - classified below: a lock, the database, or one row
                if is_locked(error):
                    return items
                attempt += 1
                reachable, away = not is_unreachable(error), is_database_away(error)
                aborted += reachable
                for item in items:
                    item.unsure |= away
                if not away or (reachable and aborted >= MAX_LOST_WRITES and any(item.writes for item in items)):
                    return await self._flush_apart(items, error, free_only=free_only)
                log.warning("settle_waits_for_database", jobs=len(items), attempt=attempt, error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))
                continue
            # If the answer of a commit was lost, the retry looks like a lost fence. The history tells them apart.
            known = accepted | held
            accepted |= await self._already_settled(
                [item for item in items if item.unsure and item.row.job_id not in known]
            )
            for item in items:
                if item.row.job_id not in held:
                    item.tell(item.row.job_id in accepted)
            return [item for item in items if item.row.job_id in held]

    async def _flush(self, items: Sequence[Item], *, free_only: bool) -> tuple[set[object], set[object]]:
        """Settle ``items`` in one statement, or in one transaction with their writes.

        Return the ids of the jobs with a valid fence. With ``free_only``, also return the ids of the locked rows, which
        were left alone.
        """
        failpoint("settle.before")
        if not free_only and not any(item.writes for item in items):
            async with self._database.kernel() as conn:
                return set(await settle(conn, items[0].model, [item.row for item in items])), set()
        async with self._database.kernel_transaction() as (conn, session):
            ids = {item.row.job_id for item in items}
            held: set[object] = set(await find_locked_rows(conn, items[0].model, ids)) if free_only else set()
            free = [item for item in items if item.row.job_id not in held]
            if not free:
                return set(), held
            accepted = await settle(conn, items[0].model, [item.row for item in free])
            failpoint("settle.after")
            await _write_all([item for item in free if item.row.job_id in accepted], session)
            failpoint("commit.before")
            return set(accepted), held

    async def _flush_apart(self, items: Sequence[Item], error: Exception, *, free_only: bool) -> list[Item]:
        """Settle each item in a transaction of its own, so that one bad row fails alone."""
        if len(items) == 1:
            [item] = items
            own = error.__cause__ if isinstance(error, WriteFailed) else error
            # An item that got no answer once may be committed, whatever happened since.
            settled = item.unsure and bool(await self._already_settled(items))
            item.tell(settled or (own if isinstance(own, Exception) else error))
            return []
        log.warning("settle_falls_back_to_single_rows", jobs=len(items), error=describe(error))
        held: list[Item] = []
        for item in items:
            held += await self._flush_until_done([item], free_only=free_only, aborted=MAX_LOST_WRITES - 2)
        return held

    async def _already_settled(self, items: Sequence[Item]) -> set[object]:
        if not items:
            return set()
        rows = [item.row for item in items]
        while True:
            try:
                async with self._database.kernel() as conn:
                    return set(await find_settled(conn, items[0].model, rows, changed_by=self._database.changed_by))
            except Exception as error:  # noqa: BLE001 - the lane must go on; the rows are safe either way
                log.warning("settle_could_not_be_verified", jobs=len(items), error=describe(error))
                if not is_database_away(error):
                    return set()
                await asyncio.sleep(reconnect_seconds(1, draw=random.random))


async def _write_all(items: Sequence[Item], session: AsyncSession) -> None:
    """Run the writes of ``items``: those of one item in their order, rows of many items in one call.

    All first writes run, then all second ones, and so on. Items are sorted by id and bulk writes by name, so that two
    processes take their locks in the same order.
    """
    ordered = sorted(items, key=lambda item: item.row.job_id)
    for nth in range(max((len(item.writes) for item in ordered), default=0)):
        together: dict[WriteRows, list[Any]] = defaultdict(list)
        for item in ordered:
            for one in item.writes[nth : nth + 1]:
                if isinstance(one, Rows):
                    together[one.write] += one.rows
                else:
                    await _write(one, session)
        for write_rows in sorted(together, key=lambda one: (one.__module__, one.__qualname__)):
            if together[write_rows]:
                await _write(write_rows, session, together[write_rows])


async def _write(write: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Call a handler's write; raise WriteFailed for an error that is neither from Postgres nor the end of this task."""
    failpoint("write.before")
    try:
        await write(*arguments)
    except (OSError, SystemExit) as error:  # TimeoutError too: those of Postgres are errors of its driver
        raise WriteFailed(describe(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise WriteFailed("write was cancelled from within") from error
    failpoint("write.after")


def _parts(items: Sequence[Item], *, alone: bool = False) -> list[list[Item]]:
    """Return groups to settle by one statement each. A group never has two runs of one job: one of them is stale."""
    if alone:
        return [[item] for item in items]
    groups: dict[object, list[Item]] = defaultdict(list)
    before: dict[object, int] = defaultdict(int)
    for item in items:
        groups[item.columns, before[item.row.job_id]].append(item)
        before[item.row.job_id] += 1
    return list(groups.values())
