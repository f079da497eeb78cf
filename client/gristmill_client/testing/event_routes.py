"""The streams (SSE) of the test gateway: the id of a job's event is its version; other ids are opaque positions."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from gristmill_client.testing.answers import Answer, Asked, Hold, Stream
from gristmill_client.testing.jobs import StoredJob
from gristmill_client.testing.problems import invalid, not_found

KEEP_ALIVE_SECONDS = 15.0
RETRY_MILLISECONDS = 100
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}


class Connections:
    """Which streams go on: :meth:`cut` ends all that are open."""

    def __init__(self) -> None:
        self.term = 0

    def cut(self) -> None:
        self.term += 1


def follow_job(asked: Asked, connections: Connections, job_id: UUID) -> Answer:
    after = _place(asked) or "0"
    if not after.isdecimal() or len(after) > 9:  # noqa: PLR2004 - a version has fewer digits
        raise invalid("after", "must be a version of the job", after)
    job = asked.job(job_id)
    if job.outcome is not None and int(after) >= job.version:
        return Answer(204)
    return Answer(200, headers=_HEADERS, stream=_of_job(asked, connections, job, int(after)))


def follow_many(
    asked: Asked, connections: Connections, *, stage: str | None = None, project: str | None = None
) -> Answer:
    if stage is not None and stage not in asked.jobs.stages:
        raise not_found(f"stage {stage!r}")
    place = _place(asked)
    if place is not None and not place.isdecimal():
        raise invalid("after", "must be the id of an event", place)
    begin = len(asked.jobs.events) if place is None else int(place)

    def is_wanted(job: StoredJob) -> bool:
        is_mine = asked.key.sees_all or job.tenant == asked.key.tenant
        if project is not None:
            return str(job.payload.get("project_id")) == project
        return is_mine and stage in {None, job.stage}

    return Answer(200, headers=_HEADERS, stream=_of_many(asked, connections, begin, is_wanted))


def _place(asked: Asked) -> str | None:
    return asked.header("last-event-id") or asked.param("after")


def _of_job(asked: Asked, connections: Connections, job: StoredJob, after: int) -> Stream:
    term, progress = connections.term, job.progress
    yield b"retry: %d\n:\n\n" % RETRY_MILLISECONDS
    while connections.term == term:
        seen = asked.changes.count
        for event in [one for one in job.history if one["version"] > after]:
            after = event["version"]
            yield _event(str(after), event)
        if job.outcome is not None:
            return
        if job.progress != progress:
            progress = job.progress
            shown = {"job_id": str(job.id), "stage": job.stage, "version": job.version, "progress": progress}
            yield b"event: progress\ndata: %b\n\n" % json.dumps(shown).encode()
        yield Hold(seen, time.monotonic() + KEEP_ALIVE_SECONDS)
        if asked.changes.count == seen:
            yield b":\n\n"


def _of_many(asked: Asked, connections: Connections, after: int, is_wanted: Callable[[StoredJob], bool]) -> Stream:
    term = connections.term
    yield b"retry: %d\n:\nid: %d\n\n" % (RETRY_MILLISECONDS, after)
    while connections.term == term:
        seen = asked.changes.count
        for job, event in asked.jobs.events[after:]:
            after += 1
            if is_wanted(job):
                yield _event(str(after), event)
        yield Hold(seen, time.monotonic() + KEEP_ALIVE_SECONDS)
        if asked.changes.count == seen:
            yield b":\nid: %d\n\n" % after


def _event(id_: str, data: dict[str, Any]) -> bytes:
    return b"event: transition\nid: %b\ndata: %b\n\n" % (id_.encode(), json.dumps(data).encode())
