"""What happens to jobs, for all in one process who follow some: one connection, however many they are.

Postgres tells on ``gristmill_done`` which jobs ended or began to wait. That is a hint: the row confirms it. Behind it,
all followed jobs are looked up every second, with one statement per thousand jobs. So a lost notification costs at
most a second, and a start, a retry or progress, of which Postgres does not tell, is seen within a second. No follower
has a queue: a slow one gets the newest state, or the next page of the history when it has used up the last. Leave a
stream before its end with ``contextlib.aclosing``: then its job is not looked up any more.

The source sees what its own login may see. Who follows for somebody else first asks as that actor whether the job is
theirs to see (:func:`~workers.runtime.operate.jobs.find_job`).
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.hints import CHANNEL, read_hint
from workers.runtime.operate.jobs import UnknownJob
from workers.runtime.operate.listening import Listening
from workers.runtime.store.follow import Position, jobs_of, read_histories
from workers.runtime.store.read import JobView, TransitionView

POLL_SECONDS = 1.0
# Looks are at least this far apart: what many are told of in a burst is one statement.
GAP_SECONDS = 0.02
# How many jobs or histories one statement asks for, and how many transitions of each.
TOGETHER, PAGE = 1_000, 100


@dataclass(eq=False, slots=True)
class _Follower:
    """One who follows a job; ``stirred`` is set when there may be news."""

    table: str | None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class _Followed:
    """A job that somebody follows: its rows, by table, as last seen. ``looked`` is False before the first look."""

    rows: dict[str, JobView] = field(default_factory=dict)
    looked: bool = False
    followers: set[_Follower] = field(default_factory=set)

    def row(self, table: str | None) -> JobView | None:
        """Return the row in ``table``; without one, in any."""
        return next(iter(self.rows.values()), None) if table is None else self.rows.get(table)


@dataclass(eq=False, slots=True)
class _Wanted:
    """A page of a history that somebody waits for."""

    position: Position
    page: asyncio.Future[list[TransitionView]]


class JobEvents(Listening):
    """The one source of job events of a process: enter it once, follow as many jobs as there are people to see them."""

    _channel = CHANNEL

    def __init__(
        self, database_url: str, *, poll_seconds: float = POLL_SECONDS, page: int = PAGE, **options: Any
    ) -> None:
        super().__init__(database_url, **options)
        self._poll_seconds = poll_seconds
        self._page_size = page
        self._followed: dict[UUID, _Followed] = {}
        self._suspected: set[UUID] = set()
        self._wanted: list[_Wanted] = []
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._looked_at = self._polled_at = float("-inf")

    async def follow(self, job_id: UUID, *, table: str | None = None) -> AsyncGenerator[JobView, None]:
        """Yield the job as it is, then at each change, up to its end. Who is slow misses states in between.

        Raise UnknownJob when it does not exist any more, or never did, or is not for this login to see.
        """
        with self._following(job_id, table) as (followed, follower):
            shown: JobView | None = None
            while True:
                await self._stirred(follower)
                if not followed.looked:
                    continue
                job = followed.row(table)
                if job is None:
                    raise UnknownJob(job_id)
                if shown is None or _has_changed(job, shown):
                    yield (shown := job)
                    if shown.completed_at is not None:
                        return

    async def transitions(
        self, job_id: UUID, *, after: int = 0, table: str | None = None
    ) -> AsyncGenerator[TransitionView, None]:
        """Yield every transition behind version ``after``, once each, in order of the versions, up to the job's end.

        Who lost the stream goes on with the last version it got. Raise UnknownJob, after the history that is left,
        for a job that does not exist (any more).
        """
        with self._following(job_id, table) as (followed, follower):
            while True:
                await self._stirred(follower)
                if not followed.looked:
                    continue
                job = followed.row(table)
                table = table or (job.table_name if job else None)
                while job is None or job.version > after:
                    page = await self._page(Position(job_id, table, after))
                    for one in page:
                        yield one
                        after = one.version_to
                    if len(page) < self._page_size:
                        break
                if job is None:
                    raise UnknownJob(job_id)
                after = max(after, job.version)  # where the rest is not kept any more, nothing comes of it
                if job.completed_at is not None:
                    return

    async def wait(self, job_ids: Iterable[UUID], seconds: float) -> None:
        """Return when Postgres tells of one of these jobs, at the latest after ``seconds``. Sends no statement."""
        self._check()
        told, ids = asyncio.Event(), list(job_ids)
        for job_id in ids:
            self._waiting[job_id].add(told)
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
        except TimeoutError:
            pass
        finally:
            for job_id in ids:
                self._waiting[job_id].discard(told)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    @contextmanager
    def _following(self, job_id: UUID, table: str | None) -> Iterator[tuple[_Followed, _Follower]]:
        self._check()
        followed, follower = self._followed.setdefault(job_id, _Followed()), _Follower(table)
        followed.followers.add(follower)
        # Also a job that others follow is looked at anew: what they saw last may be a second old.
        if followed.looked:
            follower.stirred.set()
        self._suspected.add(job_id)
        self._wake.set()
        try:
            yield followed, follower
        finally:
            followed.followers.discard(follower)
            if not followed.followers:
                self._followed.pop(job_id, None)

    async def _stirred(self, follower: _Follower) -> None:
        await follower.stirred.wait()
        follower.stirred.clear()
        self._check()

    async def _page(self, position: Position) -> list[TransitionView]:
        self._check()
        wanted = _Wanted(position, asyncio.get_running_loop().create_future())
        self._wanted.append(wanted)
        self._wake.set()
        return await wanted.page

    # ── what the connection's task does ───────────────────────────────────────────────────────────────────────────────

    def _hear(self, payload: str) -> None:
        hint = read_hint(payload)
        if hint is None:
            return
        if hint.job_ids is None:
            # The table of a job is known after its first look.
            self._suspected |= {id_ for id_, one in self._followed.items() if not one.looked or hint.table in one.rows}
            told: Iterable[set[asyncio.Event]] = self._waiting.values()
        else:
            self._suspected |= hint.job_ids & self._followed.keys()
            told = [self._waiting[id_] for id_ in hint.job_ids & self._waiting.keys()]
        for events in told:
            for event in events:
                event.set()

    def _miss(self) -> None:
        self._suspected |= self._followed.keys()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _seconds_to_next(self) -> float | None:
        if not self._followed:
            return None
        return max(0.0, self._polled_at + self._poll_seconds - asyncio.get_running_loop().time())

    async def _gather(self) -> None:
        await asyncio.sleep(max(0.0, self._looked_at + GAP_SECONDS - asyncio.get_running_loop().time()))

    async def _work(self, conn: Raw) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._polled_at >= self._poll_seconds:
            self._suspected |= self._followed.keys()
            self._polled_at = now
        # What is heard while a statement runs may be newer than what it sees: it is suspected once more.
        suspected, self._suspected = list(self._suspected & self._followed.keys()), set()
        for start in range(0, len(suspected), TOGETHER):
            ids = suspected[start : start + TOGETHER]
            self._show(ids, await jobs_of(conn, ids))
            self._looked_at = asyncio.get_running_loop().time()
        while self._wanted:
            await self._read_histories(conn, self._wanted[:TOGETHER])

    def _show(self, ids: Sequence[UUID], found: Sequence[JobView]) -> None:
        """Keep what was seen; stir those whom it concerns."""
        rows: dict[UUID, dict[str, JobView]] = defaultdict(dict)
        for job in found:
            rows[job.id][job.table_name] = job
        for job_id in ids:
            followed = self._followed.get(job_id)
            if followed is None:
                continue
            before, followed.rows = followed.rows, rows[job_id]
            if not followed.looked or _differ(before, followed.rows):
                followed.looked = True
                for follower in followed.followers:
                    follower.stirred.set()

    async def _read_histories(self, conn: Raw, wanted: Sequence[_Wanted]) -> None:
        pages = await read_histories(conn, [one.position for one in wanted], page=self._page_size)
        del self._wanted[: len(wanted)]
        for one, page in zip(wanted, pages, strict=True):
            if not one.page.done():
                one.page.set_result(page)

    def _tell_failure(self, error: BaseException) -> None:
        for followed in self._followed.values():
            for follower in followed.followers:
                follower.stirred.set()
        for one in self._wanted:
            if not one.page.done():
                one.page.set_exception(error)
        self._miss()


def _has_changed(job: JobView, shown: JobView) -> bool:
    """Tell whether more than the age has changed."""
    return replace(job, age=timedelta(0)) != replace(shown, age=timedelta(0))


def _differ(before: dict[str, JobView], now: dict[str, JobView]) -> bool:
    return before.keys() != now.keys() or any(_has_changed(job, before[table]) for table, job in now.items())
