"""Group commit for one table: what its runs leave is recorded together, and each is told what became of its own.

One flush is under way at a time; what finishes meanwhile joins the next, so batches grow with the load and a lone
outcome waits for nobody. Rows that somebody holds wait beside, and neither their neighbours nor another table for them.
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
from workers.runtime.backoff import full_jitter, soon
from workers.runtime.database import Database, is_database_away, is_locked, is_unreachable
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.outcomes import Rows, Write, WriteRows
from workers.runtime.store.locks import find_locked_rows
from workers.runtime.store.settle import Settled, find_settled, settle

log = structlog.get_logger(__name__)

MOST_PER_FLUSH = 512
# Under load a short pause lets outcomes gather; a lone one is flushed at once.
GATHER_SECONDS = 0.003
# If Postgres can be reached and still ends writes this often, the writes themselves are wrong: they deadlock, or a
# statement takes longer than it may.
MAX_LOST_WRITES = 5
# Who holds a row mostly lets go soon; a look is one statement that waits for nothing.
RETRY = timedelta(seconds=0.5)


class WriteFailed(Exception):
    """A handler's ``write`` met an error that is not the database's; its cause is the row's own."""


@dataclass(slots=True)
class Item:
    """One outcome on its way under its fence, with what ``writes`` add.

    ``done`` is called once, with whether the fence held or with what this row or its write did wrong by itself.
    ``unsure``: a flush of it got no answer, and may have been committed all the same.
    """

    model: type[Job]
    row: Settled
    writes: Sequence[Write | Rows]
    done: Callable[[bool | Exception], None]
    unsure: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """What the row sets beside its state: rows of the same are settled by one statement."""
        return tuple(sorted(self.row.values)) if self.row.values else ()

    def tell(self, answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence held
        try:
            self.done(answer)
        except Exception:  # the lane must outlive it; the run's deadline passes and its job is rescued
            log.exception("run_lost", job_id=str(self.row.job_id))


class Lane:
    """The outcomes of one table in a worker process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Item] = []
        self._arrived = asyncio.Event()
        self._held: list[Item] = []
        self._let_go = asyncio.Event()

    def submit(self, item: Item) -> None:
        """Record the outcome with the next flush, however long Postgres is away."""
        self._waiting.append(item)
        self._arrived.set()

    async def run(self) -> None:
        """Flush for ever; cancelled once nothing runs any more."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush_all())
            tasks.create_task(self._outwait_locks())

    async def _flush_all(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:MOST_PER_FLUSH], self._waiting[MOST_PER_FLUSH:]
            if not self._waiting:
                self._arrived.clear()
            for group in _parts(batch):
                self._put_aside(await self._flush_until_done(group))
            if len(batch) > 1:
                await asyncio.sleep(GATHER_SECONDS)

    def _put_aside(self, held: Sequence[Item]) -> None:
        if held:
            self._held += held
            self._let_go.set()

    async def _outwait_locks(self) -> None:
        """Settle what somebody holds as it is let go: what is free together, else one by one."""
        while True:
            await self._let_go.wait()
            self._let_go.clear()
            alone = False
            while held := self._held:
                self._held = []
                await asyncio.sleep(full_jitter(1, draw=random.random, base=RETRY).total_seconds())
                still: list[Item] = []
                for part in _parts(held, alone=alone):
                    still += await self._flush_until_done(part, free_only=True)
                # None was free: a write may wait for what somebody else holds, or the whole table is taken.
                alone = len(still) == len(held)
                self._held += still

    async def _flush_until_done(
        self, items: Sequence[Item], *, free_only: bool = False, ended: int = 0
    ) -> Sequence[Item]:
        """Flush ``items``, waiting out a lost database; a row that is wrong by itself fails alone.

        Return those that were not flushed, because somebody holds their rows or what they wait for. ``ended``: so
        often a Postgres that was there ended them before.
        """
        attempt = 0
        while True:
            try:
                accepted, held = await self._flush(items, free_only=free_only)
                failpoint("commit.after")
            except Exception as error:  # noqa: BLE001 - sorted below: a lock, the database's fault, or a row's own
                if is_locked(error):
                    return items
                attempt += 1
                at_hand, away = not is_unreachable(error), is_database_away(error)
                ended += at_hand
                for item in items:
                    item.unsure |= away
                if not away or (at_hand and ended >= MAX_LOST_WRITES and any(item.writes for item in items)):
                    return await self._flush_apart(items, error, free_only=free_only)
                log.warning("settle_waits_for_database", jobs=len(items), attempt=attempt, error=describe(error))
                await asyncio.sleep(soon(attempt, draw=random.random))
                continue
            # A commit whose answer was lost looks like a lost fence: history tells the two apart.
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

        Return whose fence held and, with ``free_only``, whose rows somebody holds: nothing was done about those.
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
        """Settle each item in a transaction of its own: one bad row must not take its neighbours with it."""
        if len(items) == 1:
            [item] = items
            own = error.__cause__ if isinstance(error, WriteFailed) else error
            # What got no answer once may be committed, whatever has become of it since.
            settled = item.unsure and bool(await self._already_settled(items))
            item.tell(settled or (own if isinstance(own, Exception) else error))
            return []
        log.warning("settle_falls_back_to_single_rows", jobs=len(items), error=describe(error))
        held: list[Item] = []
        for item in items:
            held += await self._flush_until_done([item], free_only=free_only, ended=MAX_LOST_WRITES - 2)
        return held

    async def _already_settled(self, items: Sequence[Item]) -> set[object]:
        if not items:
            return set()
        rows = [item.row for item in items]
        while True:
            try:
                async with self._database.kernel() as conn:
                    return set(await find_settled(conn, items[0].model, rows, changed_by=self._database.changed_by))
            except Exception as error:  # noqa: BLE001 - the lane must outlive it; the rows are safe either way
                log.warning("settle_could_not_be_verified", jobs=len(items), error=describe(error))
                if not is_database_away(error):
                    return set()
                await asyncio.sleep(soon(1, draw=random.random))


async def _write_all(items: Sequence[Item], session: AsyncSession) -> None:
    """Run the writes of ``items``: those of one item in its order, rows of many items by one call.

    All first writes run, then all second ones, and so on. Items go in the order of their ids and bulk writes in that of
    their names, so that two processes take their locks in the same order.
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
    """Call what a handler left; raise WriteFailed for an error that is neither Postgres' nor the end of this task."""
    failpoint("write.before")
    try:
        await write(*arguments)
    except (OSError, SystemExit) as error:  # TimeoutError too: Postgres' own come as its driver's
        raise WriteFailed(describe(error)) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise WriteFailed("write was cancelled from within") from error
    failpoint("write.after")


def _parts(items: Sequence[Item], *, alone: bool = False) -> list[list[Item]]:
    """Return what is to be settled by one statement each: never two runs of one job, of which one is stale."""
    if alone:
        return [[item] for item in items]
    groups: dict[object, list[Item]] = defaultdict(list)
    before: dict[object, int] = defaultdict(int)
    for item in items:
        groups[item.columns, before[item.row.job_id]].append(item)
        before[item.row.job_id] += 1
    return list(groups.values())
