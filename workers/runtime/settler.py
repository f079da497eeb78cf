"""Group commit: record the outcomes of all runs of this process together, and tell each run what became of its own.

One flush is under way at a time; what finishes meanwhile joins the next, so batches grow with the load and a lone
outcome waits for nobody.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from psycopg.errors import LockNotAvailable

from models.lifecycle import Job
from workers.runtime.backoff import full_jitter
from workers.runtime.database import Database, is_database_away
from workers.runtime.decisions import Settled
from workers.runtime.errors import describe
from workers.runtime.failpoints import failpoint
from workers.runtime.outcomes import Write
from workers.runtime.store.settle import settle, settled_by

log = structlog.get_logger(__name__)

MOST_PER_FLUSH = 512
# Under load a short pause lets outcomes gather; a lone one is flushed at once.
GATHER_SECONDS = 0.003


@dataclass(slots=True)
class Item:
    """One outcome on its way under its fence, with what ``write`` adds.

    ``done`` is called once, with whether the fence held or with what this row or its write did wrong by itself.
    """

    model: type[Job]
    row: Settled
    write: Write | None
    done: Callable[[bool | Exception], None]

    @property
    def group(self) -> tuple[type[Job], tuple[str, ...]]:
        """Rows that one statement can settle together: of one table, setting the same columns."""
        return self.model, tuple(sorted(self.row.values)) if self.row.values else ()

    def tell(self, answer: bool | Exception) -> None:  # noqa: FBT001 - whether the fence held
        try:
            self.done(answer)
        except Exception:  # the settler must outlive it; the run's deadline passes and its job is rescued
            log.exception("run_lost", job_id=str(self.row.job_id))


class Settler:
    """The settling half of a worker process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Item] = []
        self._arrived = asyncio.Event()
        self._apart: set[asyncio.Task[None]] = set()

    def submit(self, item: Item) -> None:
        """Record the outcome with the next flush, however long Postgres is away."""
        self._waiting.append(item)
        self._arrived.set()

    async def run(self) -> None:
        """Flush for ever; cancelled by the runner once nothing runs any more."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:MOST_PER_FLUSH], self._waiting[MOST_PER_FLUSH:]
            if not self._waiting:
                self._arrived.clear()
            groups: dict[object, list[Item]] = defaultdict(list)
            for item in batch:
                groups[item.group].append(item)
            for group in groups.values():
                await self._flush_until_done(group)
            if len(batch) > 1:
                await asyncio.sleep(GATHER_SECONDS)

    async def _flush_until_done(self, items: Sequence[Item], *, apart: bool = False, unsure: bool = False) -> None:
        """Flush ``items``, waiting out a lost database; a row that is wrong by itself fails alone.

        ``unsure``: an earlier flush of them got no answer, and may have been committed all the same.
        """
        attempt = 0
        while True:
            try:
                accepted = await self._flush(items)
                failpoint("commit.after")
            except Exception as error:  # noqa: BLE001 - sorted below: the database's fault, a deadlock, or a row's own
                if not is_database_away(error):
                    await self._flush_apart(items, error, unsure=unsure)
                    return
                if not apart and isinstance(getattr(error, "orig", error), LockNotAvailable):
                    # Somebody holds one of these rows: it waits by itself, and the others not at all.
                    self._spread(items, unsure=unsure)
                    return
                attempt += 1
                unsure = True
                log.warning("settle_waits_for_database", jobs=len(items), attempt=attempt, error=describe(error))
                await asyncio.sleep(full_jitter(min(attempt, 3), draw=random.random).total_seconds())
                continue
            if unsure:
                # A commit whose answer was lost looks like a lost fence: history tells the two apart.
                accepted |= await self._already_settled([i for i in items if i.row.job_id not in accepted])
            for item in items:
                item.tell(item.row.job_id in accepted)
            return

    def _spread(self, items: Sequence[Item], *, unsure: bool) -> None:
        for item in items:
            task = asyncio.create_task(self._flush_until_done([item], apart=True, unsure=unsure))
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)

    async def _flush(self, items: Sequence[Item]) -> set[object]:
        """Settle ``items`` in one statement, or in one transaction with their writes; return whose fence held."""
        rows = [item.row for item in items]
        failpoint("settle.before")
        if not any(item.write for item in items):
            async with self._database.kernel() as conn:
                return set(await settle(conn, items[0].model, rows))
        async with self._database.kernel_transaction() as (conn, session):
            accepted = await settle(conn, items[0].model, rows)
            failpoint("settle.after")
            for item in sorted(items, key=lambda item: item.row.job_id):
                if item.write and item.row.job_id in accepted:
                    failpoint("write.before")
                    await item.write(session)
                    failpoint("write.after")
            failpoint("commit.before")
            return set(accepted)

    async def _flush_apart(self, items: Sequence[Item], error: Exception, *, unsure: bool) -> None:
        """Settle each item in a transaction of its own: one bad row must not take its neighbours with it."""
        if len(items) == 1:
            items[0].tell(error)
            return
        log.warning("settle_falls_back_to_single_rows", jobs=len(items), error=describe(error))
        for item in items:
            await self._flush_until_done([item], unsure=unsure)

    async def _already_settled(self, items: Sequence[Item]) -> set[object]:
        if not items:
            return set()
        fences = [(item.row.job_id, item.row.fence) for item in items]
        while True:
            try:
                async with self._database.kernel() as conn:
                    return set(await settled_by(conn, fences, changed_by=self._database.changed_by))
            except Exception as error:  # noqa: BLE001 - the settler must outlive it; the rows are safe either way
                log.warning("settle_could_not_be_verified", jobs=len(items), error=describe(error))
                if not is_database_away(error):
                    return set()
                await asyncio.sleep(full_jitter(1, draw=random.random).total_seconds())
