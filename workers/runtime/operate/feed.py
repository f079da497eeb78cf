"""Follow all transitions that somebody may see: of a stage, of a project, or all. One reader serves many followers.

A feed shares the connection of :class:`~workers.runtime.operate.events.JobEvents`. With it, it looks which stages,
owners and projects moved. Only those whom that concerns read: once for all followers of a viewer. What they find is
shown to the viewer's own role and tenant, so that row level security decides. Idle followers cost no statement.

A follower has a bounded queue. If it reads too slowly, it is cut; it goes on at its last position later.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol
from uuid import UUID

import structlog

from workers.runtime.database import Raw, is_database_away
from workers.runtime.operate.events import JobEvents
from workers.runtime.refusals import Failed
from workers.runtime.store.feed import (
    FeedFilter,
    FeedPage,
    FeedPosition,
    Horizon,
    Moved,
    read_feed,
    read_horizon,
    read_moved,
)
from workers.runtime.store.read import TransitionView

log = structlog.get_logger(__name__)

# A start or a retry sends no notification: it is found by looking.
POLL_SECONDS = 0.1
# Looks are at least this far apart. A look takes at most a third of the time, however much there is.
GAP_SECONDS, IDLE_SHARE = 0.01, 2.0
PAGE = 500
MAX_QUEUED = 2_000
# If so many transactions have passed, every viewer reads, without a look whom they concern.
MAX_LOOKED_AT = 20_000
AWAY_SECONDS = 1.0


Places = AbstractSet[tuple[UUID, str]]


class Viewer(Protocol):
    """Who follows. Viewers with equal keys see the same."""

    @property
    def key(self) -> Hashable: ...

    async def find_visible(self, jobs: Places) -> Places:
        """Return which of these jobs, each with its stage, this viewer may see."""


class SlowFollower(Exception):
    """The follower did not take its events: it was cut, and may go on at its last position."""


Encode = Callable[[FeedPosition, TransitionView], bytes]
# Runs a query in a transaction that sees every job.
Read = Callable[[Callable[[Raw], Awaitable[FeedPage]]], Awaitable[FeedPage]]


@dataclass(eq=False, slots=True)
class _Group:
    """The followers of one viewer and filter. ``after`` is where they are; None before the first look."""

    viewer: Viewer
    only: FeedFilter
    read_all: Read
    after: FeedPosition | None = None
    until: int = 0
    followers: set["Following"] = field(default_factory=set)
    reader: asyncio.Task[None] | None = None

    def is_concerned(self, moved: Moved, about: tuple[str, ...]) -> bool:
        """Tell whether the group may have to read because of this."""
        only = self.only
        if only.stages is not None and moved.stage not in only.stages:
            return False
        if only.owner_id is not None and moved.owner_id != only.owner_id:
            return False
        if only.about is None:
            return True
        name, value = only.about
        return moved.about is not None and moved.about[about.index(name)] == str(value)

    async def read(self, after: FeedPosition) -> FeedPage:
        """Return the next page after a position, with what the viewer may see."""
        page = await self.read_all(partial(read_feed, after=after, limit=PAGE, only=self.only))
        if not page.transitions:
            return page
        visible = await self.viewer.find_visible({(one.job_id, one.stage) for one in page.transitions})
        kept = [place for place, one in enumerate(page.transitions) if (one.job_id, one.stage) in visible]
        return replace(
            page,
            transitions=[page.transitions[place] for place in kept],
            positions=[page.positions[place] for place in kept],
        )

    def is_behind(self) -> bool:
        return self.after is not None and self.after < FeedPosition(self.until)


class Following:
    """One follower: the events after its position, each exactly once, in the order of the stream."""

    def __init__(self, group: _Group, encode: Encode, after: FeedPosition | None) -> None:
        self._group, self._encode = group, encode
        self._after = after
        self._is_caught_up = False
        self._joined_at: FeedPosition | None = None
        self._queue: deque[tuple[FeedPosition, bytes]] = deque()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._page: FeedPage | None = None

    @property
    def position(self) -> FeedPosition:
        """The position up to which this follower has all events. A stream may go on there."""
        assert self._after is not None
        if self._failure is None and self._is_caught_up and not self._queue and self._group.after is not None:
            return max(self._after, self._group.after)
        return self._after

    async def start(self) -> None:
        """Find the place at which to begin. Raise ForeignPosition, and what the viewer's transaction raises."""
        while self._joined_at is None:
            await self._wait()
        if self._after is None:
            self._after = self._joined_at
        else:
            self._page = await self._group.read(self._after)  # also checks the position

    async def take(self) -> list[bytes]:
        """Wait for events, and return them as bytes. Raise SlowFollower, or why there will be no more."""
        found: list[bytes] = []
        while not found:
            self._check()
            if not self._is_caught_up:
                found = await self._catch_up()
            else:
                if not self._queue:
                    await self._wait()
                found = self._take_queued()
        return found

    def close(self) -> None:
        """Follow no more."""
        self._group.followers.discard(self)

    async def _catch_up(self) -> list[bytes]:
        """Return the next page of what was before this follower joined the others."""
        assert self._after is not None
        assert self._joined_at is not None
        if self._after >= self._joined_at:
            self._is_caught_up = True
            return []
        page, self._page = self._page or await self._group.read(self._after), None
        self._after = page.after
        return [self._encode(*one) for one in zip(page.positions, page.transitions, strict=True)]

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _take_queued(self) -> list[bytes]:
        """Return the queued events, without those that were read before this follower joined."""
        assert self._after is not None
        found = []
        while self._queue:
            position, event = self._queue.popleft()
            if position > self._after:
                self._after = position
                found.append(event)
        return found

    # ── called by the feed ────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, after: FeedPosition) -> None:
        """Note that events after this position are put into the queue."""
        if self._joined_at is None:
            self._joined_at = after
            self._changed.set()

    def put(self, events: list[tuple[FeedPosition, bytes]]) -> None:
        """Queue events; cut this follower if it has too many."""
        if len(self._queue) + len(events) <= MAX_QUEUED:
            self._queue += events
            self._changed.set()
            return
        self._queue.clear()
        if self._is_caught_up:
            self.fail(SlowFollower())
        else:
            self._joined_at = events[-1][0]  # it still reads what was before: let it read this, too

    def fail(self, error: BaseException) -> None:
        """Let this follower raise ``error``."""
        self._failure = self._failure or error
        self._changed.set()


class Feed:
    """The feed of a process. ``encode`` makes the bytes of an event, once for all followers of a viewer.

    ``read_all`` and ``events`` see every job; what followers get, their viewers have seen.
    """

    def __init__(
        self, events: JobEvents, *, read_all: Read, encode: Encode, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._events, self._read_all, self._encode = events, read_all, encode
        self._poll_seconds = poll_seconds
        self._groups: dict[tuple[Hashable, FeedFilter], _Group] = {}
        self._seen: int | None = None
        self._joined = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Feed"]:
        """Serve followers while the block runs."""
        task = asyncio.create_task(self._serve(), name="feed")
        try:
            yield self
        finally:
            readers = [group.reader for group in self._groups.values() if group.reader is not None]
            for one in (task, *readers):
                one.cancel()
            await asyncio.gather(task, *readers, return_exceptions=True)
            self._fail_all(Failed("nothing is followed any more: this process stops"))

    async def follow(self, viewer: Viewer, only: FeedFilter, *, after: FeedPosition | None = None) -> Following:
        """Return a follower of what ``viewer`` sees and ``only`` asks for; close it in the end.

        It begins after the position ``after``; if that is None, now. Raise ForeignPosition if ``after`` is not of this
        database, and what the viewer's transaction raises.
        """
        group = self._groups.get((viewer.key, only))
        if group is None:
            group = self._groups[viewer.key, only] = _Group(viewer, only, self._read_all)
        following = Following(group, self._encode, after)
        group.followers.add(following)
        if group.after is not None:
            following.join(group.after)
        self._joined.set()
        try:
            await following.start()
        except BaseException:
            following.close()
            raise
        return following

    async def _serve(self) -> None:
        with self._events.bell() as bell:
            while True:
                try:
                    await self._serve_while_followed(bell)
                except Exception as error:
                    log.exception("feed_failed")
                    self._fail_all(error)
                    await asyncio.sleep(AWAY_SECONDS)

    async def _serve_while_followed(self, bell: asyncio.Event) -> None:
        """Look at each notification and at intervals, until nobody follows."""
        self._seen = None
        await self._joined.wait()
        loop = asyncio.get_running_loop()
        target, held_pause = 0, GAP_SECONDS
        while self._drop_empty_groups():
            was_rung = bell.is_set()
            bell.clear()
            self._joined.clear()
            began = loop.time()
            horizon = await self._look()
            await asyncio.sleep(max(GAP_SECONDS, IDLE_SHARE * (loop.time() - began)))
            if was_rung:
                target, held_pause = horizon.newest, GAP_SECONDS
            if horizon.until < target:
                # An open transaction holds back what rang the bell. Look again soon, and less often if it lasts.
                await self._wait(bell, held_pause)
                held_pause = min(2 * held_pause, self._poll_seconds)
            else:
                await self._wait(bell, self._poll_seconds)
        self._joined.clear()

    async def _wait(self, bell: asyncio.Event, seconds: float) -> None:
        """Wait for the bell or a new follower, at most so long."""
        if bell.is_set() or self._joined.is_set():
            return
        waits = [asyncio.ensure_future(bell.wait()), asyncio.ensure_future(self._joined.wait())]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    def _drop_empty_groups(self) -> bool:
        """Forget the groups without followers; tell whether any is left."""
        for key, group in list(self._groups.items()):
            if not group.followers:
                del self._groups[key]
                if group.reader is not None:
                    group.reader.cancel()
        return bool(self._groups)

    async def _look(self) -> Horizon:
        """Find what moved since the last look, and let those read whom it concerns."""
        horizon = await self._events.ask(read_horizon)
        groups = list(self._groups.values())
        about = tuple(sorted({group.only.about[0] for group in groups if group.only.about}))
        moved: set[Moved] | None = set()
        seen = horizon.until if self._seen is None else self._seen
        if horizon.until - seen > MAX_LOOKED_AT:
            moved = None
        elif horizon.until > seen:
            moved = await self._events.ask(partial(read_moved, after=seen, until=horizon.until, about=about))
        for group in groups:
            if group.after is None:
                group.after = FeedPosition(horizon.until)
                for following in group.followers:
                    following.join(group.after)
                continue
            if moved is None or any(group.is_concerned(one, about) for one in moved):
                group.until = horizon.until
            if group.is_behind():
                self._let_read(group)
            else:
                group.after = max(group.after, FeedPosition(horizon.until))
        self._seen = horizon.until
        return horizon

    def _let_read(self, group: _Group) -> None:
        if group.reader is None or group.reader.done():
            group.reader = asyncio.create_task(self._read(group))

    async def _read(self, group: _Group) -> None:
        """Read what is new for one group and queue it for its followers."""
        try:
            while group.is_behind() and group.followers:
                page = await self._page(group)
                events = [
                    (position, self._encode(position, one))
                    for position, one in zip(page.positions, page.transitions, strict=True)
                ]
                group.after = page.after
                if events:
                    for following in group.followers:
                        following.put(events)
        except Exception as error:  # noqa: BLE001 - the followers raise it
            self._groups = {key: one for key, one in self._groups.items() if one is not group}
            for following in list(group.followers):
                following.fail(error)

    async def _page(self, group: _Group) -> FeedPage:
        assert group.after is not None
        while True:
            try:
                return await group.read(group.after)
            except Exception as error:
                if not is_database_away(error):
                    raise
            await asyncio.sleep(AWAY_SECONDS)

    def _fail_all(self, error: BaseException) -> None:
        for group in self._groups.values():
            for following in list(group.followers):
                following.fail(error)
        self._groups.clear()
