"""The sources of streams: the history of one job, and the feed of many."""

from collections.abc import Hashable

from fastapi import Request
from pydantic_core import to_json

from gateway.callers.authentication import OPERATOR
from gateway.callers.caller import Caller
from gateway.callers.sessions import connection_of
from gateway.events.streams import EndOfStream
from gateway.job_views import event_of
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.feed import Following, Places, SlowFollower
from workers.runtime.operate.jobs import JobView, TransitionView, UnknownJob
from workers.runtime.store.feed import find_visible


class JobSource:
    """The transitions of one job after a version, and its progress between them. The stream ends with the job."""

    def __init__(self, events: JobEvents, job: JobView, *, after: int) -> None:
        self._changes = events.changes(job.id, after=after, table=job.table_name)

    async def take(self) -> list[bytes]:
        try:
            return [_encode(await anext(self._changes))]
        except StopAsyncIteration:
            raise EndOfStream from None
        except UnknownJob:
            raise EndOfStream("the job was deleted") from None

    def keep_alive(self) -> bytes:
        return b":\n\n"

    async def close(self) -> None:
        await self._changes.aclose()


def _encode(one: TransitionView | JobView) -> bytes:
    """Return an event: the id of a transition is its version; progress has no id, so that a client resumes exactly."""
    if isinstance(one, TransitionView):
        return b"event: transition\nid: %d\ndata: %b\n\n" % (one.version_to, event_of(one))
    progress = to_json({"job_id": one.id, "stage": one.stage, "version": one.version, "progress": one.progress})
    return b"event: progress\ndata: %b\n\n" % progress


class FeedSource:
    """The transitions of many jobs. After a silence it sends the id of the position alone, from which to resume."""

    def __init__(self, following: Following) -> None:
        self._following = following

    async def take(self) -> list[bytes]:
        try:
            return await self._following.take()
        except SlowFollower:
            raise EndOfStream("too slow: come back with the last id") from None

    def keep_alive(self) -> bytes:
        return b":\nid: %b\n\n" % str(self._following.position).encode()

    async def close(self) -> None:
        self._following.close()


class CallerViewer:
    """A caller that follows a feed. It sees what row level security lets it see; an operator sees everything."""

    def __init__(self, request: Request, caller: Caller) -> None:
        self._request, self._caller = request, caller

    @property
    def key(self) -> Hashable:
        return self._caller

    async def find_visible(self, jobs: Places) -> Places:
        if self._caller.role == OPERATOR:
            return jobs
        async with connection_of(self._request, self._caller) as conn:
            return await find_visible(conn, jobs)
