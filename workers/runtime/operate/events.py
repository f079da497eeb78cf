"""Follow jobs: one connection per process serves all followers, however many they are.

Postgres notifies on ``gristmill_done`` which jobs ended or began to wait. A notification is a hint; the row confirms
it. Also, all followed jobs are read every second, with one statement per thousand jobs. So a lost notification costs at
most a second, and changes without a notification (a start, a retry, progress) are seen within a second. Followers have
no queue: a slow one gets the newest state, or the next page of the history after it has consumed the last one. To leave
a stream before its end, use ``contextlib.aclosing``: then its job is not read any more.

The source sees what its own login may see. To follow for somebody else, first check as that actor that the job is
visible (:func:`~workers.runtime.operate.jobs.find_job`).
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.hints import CHANNEL, read_hint
from workers.runtime.operate.jobs import UnknownJob
from workers.runtime.operate.listening import NotificationListener
from workers.runtime.store.follow import Position, jobs_of, read_histories
from workers.runtime.store.read import JobView, TransitionView

POLL_SECONDS = 1.0
# Reads are at least this far apart, so that a burst of notifications costs one statement.
GAP_SECONDS = 0.02
# How many jobs or histories one statement reads, and how many transitions of each.
MAX_PER_STATEMENT, PAGE = 1_000, 100


@dataclass(eq=False, slots=True)
class _Follower:
    """One follower of a job; ``changed`` is set when the job may have changed."""

    table: str | None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class _FollowedJob:
    """A followed job: its rows by table, as last read. ``is_read`` is False before the first read."""

    rows: dict[str, JobView] = field(default_factory=dict)
    is_read: bool = False
    followers: set[_Follower] = field(default_factory=set)

    def row(self, table: str | None) -> JobView | None:
        """Return the row in ``table``; if None, the row in any table."""
        return next(iter(self.rows.values()), None) if table is None else self.rows.get(table)


@dataclass(eq=False, slots=True)
class _Wanted:
    """A page of a history that a follower waits for."""

    position: Position
    page: asyncio.Future[list[TransitionView]]


class JobEvents(NotificationListener):
    """The one source of job events of a process: enter it once, then follow any number of jobs."""

    _channel = CHANNEL

    def __init__(
        self, database_url: str, *, poll_seconds: float = POLL_SECONDS, page: int = PAGE, **options: Any
    ) -> None:
        super().__init__(database_url, **options)
        self._poll_seconds = poll_seconds
        self._page_size = page
        self._followed: dict[UUID, _FollowedJob] = {}
        self._to_read: set[UUID] = set()
        self._wanted_pages: list[_Wanted] = []
        self._waiting: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._bells: set[asyncio.Event] = set()
        self._read_at = self._polled_at = float("-inf")

    async def follow(self, job_id: UUID, *, table: str | None = None) -> AsyncGenerator[JobView, None]:
        """Yield the job now and after each change until it ends. A slow follower misses states in between.

        Raise UnknownJob if it does not exist (any more), or if this login may not see it.
        """
        with self._following(job_id, table) as (followed, follower):
            shown: JobView | None = None
            while True:
                await self._next_change(follower)
                if not followed.is_read:
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
        """Yield every transition after version ``after`` once, in the order of the versions, until the job ends.

        To resume a lost stream, pass the last version received. If the job does not exist (any more), yield the rest of
        its history, then raise UnknownJob.
        """
        async with aclosing(self.changes(job_id, after=after, table=table)) as changes:
            async for one in changes:
                if isinstance(one, TransitionView):
                    yield one

    async def changes(
        self, job_id: UUID, *, after: int = 0, table: str | None = None
    ) -> AsyncGenerator[TransitionView | JobView, None]:
        """Yield what :meth:`transitions` yields, and between them the job whenever its progress has changed."""
        progress: int | None = None
        with self._following(job_id, table) as (followed, follower):
            while True:
                await self._next_change(follower)
                if not followed.is_read:
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
                after = max(after, job.version)  # older transitions may be deleted: do not wait for them
                if job.completed_at is not None:
                    return
                if progress is not None and job.progress != progress:
                    yield job
                progress = job.progress

    @contextmanager
    def bell(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set at each notification about any job, and when some may have been lost."""
        event = asyncio.Event()
        self._bells.add(event)
        try:
            yield event
        finally:
            self._bells.discard(event)

    async def wait(self, job_ids: Iterable[UUID], seconds: float) -> None:
        """Return when Postgres notifies about one of these jobs, at most after ``seconds``. Sends no statement."""
        self._check()
        notified, ids = asyncio.Event(), list(job_ids)
        for job_id in ids:
            self._waiting[job_id].add(notified)
        try:
            async with asyncio.timeout(seconds):
                await notified.wait()
        except TimeoutError:
            pass
        finally:
            for job_id in ids:
                self._waiting[job_id].discard(notified)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    @contextmanager
    def _following(self, job_id: UUID, table: str | None) -> Iterator[tuple[_FollowedJob, _Follower]]:
        self._check()
        followed, follower = self._followed.setdefault(job_id, _FollowedJob()), _Follower(table)
        followed.followers.add(follower)
        # A job that others follow is read again too: their last view may be a second old.
        if followed.is_read:
            follower.changed.set()
        self._to_read.add(job_id)
        self._wake.set()
        try:
            yield followed, follower
        finally:
            followed.followers.discard(follower)
            if not followed.followers:
                self._followed.pop(job_id, None)

    async def _next_change(self, follower: _Follower) -> None:
        await follower.changed.wait()
        follower.changed.clear()
        self._check()

    async def _page(self, position: Position) -> list[TransitionView]:
        self._check()
        wanted = _Wanted(position, asyncio.get_running_loop().create_future())
        self._wanted_pages.append(wanted)
        self._wake.set()
        return await wanted.page

    # ── called by the connection's task ───────────────────────────────────────────────────────────────────────────────

    def _on_notification(self, payload: str) -> None:
        hint = read_hint(payload)
        if hint is None:
            return
        if hint.job_ids is None:
            # The table of a job is known after its first read.
            self._to_read |= {id_ for id_, one in self._followed.items() if not one.is_read or hint.table in one.rows}
            waiting: Iterable[set[asyncio.Event]] = self._waiting.values()
        else:
            self._to_read |= hint.job_ids & self._followed.keys()
            waiting = [self._waiting[id_] for id_ in hint.job_ids & self._waiting.keys()]
        for events in (*waiting, self._bells):
            for event in events:
                event.set()

    def _on_possible_loss(self) -> None:
        self._to_read |= self._followed.keys()
        for events in (*self._waiting.values(), self._bells):
            for event in events:
                event.set()

    def _seconds_to_next(self) -> float | None:
        if not self._followed:
            return None
        due = self._polled_at + self._poll_seconds
        if self._to_read:
            due = min(due, self._read_at + GAP_SECONDS)
        return max(0.0, due - asyncio.get_running_loop().time())

    async def _pause_for_more(self) -> None:
        if not self._queries:
            await asyncio.sleep(max(0.0, self._read_at + GAP_SECONDS - asyncio.get_running_loop().time()))

    async def _work(self, conn: Raw) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._polled_at >= self._poll_seconds:
            self._to_read |= self._followed.keys()
            self._polled_at = now
        if now >= self._read_at + GAP_SECONDS:
            await self._read_jobs(conn)
        while self._wanted_pages:
            await self._read_histories(conn, self._wanted_pages[:MAX_PER_STATEMENT])

    async def _read_jobs(self, conn: Raw) -> None:
        # A notification during the statement may be newer than its result: then the job is read once more.
        to_read, self._to_read = list(self._to_read & self._followed.keys()), set()
        for start in range(0, len(to_read), MAX_PER_STATEMENT):
            ids = to_read[start : start + MAX_PER_STATEMENT]
            self._store(ids, await jobs_of(conn, ids))
            self._read_at = asyncio.get_running_loop().time()

    def _store(self, ids: Sequence[UUID], found: Sequence[JobView]) -> None:
        """Store the rows that were read; wake the followers of changed jobs."""
        rows: dict[UUID, dict[str, JobView]] = defaultdict(dict)
        for job in found:
            rows[job.id][job.table_name] = job
        for job_id in ids:
            followed = self._followed.get(job_id)
            if followed is None:
                continue
            before, followed.rows = followed.rows, rows[job_id]
            if not followed.is_read or _differ(before, followed.rows):
                followed.is_read = True
                for follower in followed.followers:
                    follower.changed.set()

    async def _read_histories(self, conn: Raw, wanted: Sequence[_Wanted]) -> None:
        pages = await read_histories(conn, [one.position for one in wanted], page=self._page_size)
        del self._wanted_pages[: len(wanted)]
        for one, page in zip(wanted, pages, strict=True):
            if not one.page.done():
                one.page.set_result(page)

    def _wake_with_failure(self, error: BaseException) -> None:
        for followed in self._followed.values():
            for follower in followed.followers:
                follower.changed.set()
        for one in self._wanted_pages:
            if not one.page.done():
                one.page.set_exception(error)
        self._on_possible_loss()


def _has_changed(job: JobView, shown: JobView) -> bool:
    """Tell whether more than the age has changed."""
    return replace(job, age=timedelta(0)) != replace(shown, age=timedelta(0))


def _differ(before: dict[str, JobView], now: dict[str, JobView]) -> bool:
    return before.keys() != now.keys() or any(_has_changed(job, before[table]) for table, job in now.items())
