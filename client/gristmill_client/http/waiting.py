"""Wait for the end of a job: by its stream of events, or by long polls where something keeps the events back."""

import json
import math
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import httpx2

from gristmill_client.http import requests
from gristmill_client.http.attempts import Core, answered
from gristmill_client.http.models import GatewayJob
from gristmill_client.http.sse import Event, EventParser, TooLargeError
from gristmill_client.http.steps import ATTEMPT_SECONDS, Pause, Plan, Request, read

# The gateway sends something at the beginning of a stream and after each silence of 15 s. Who hears nothing for so long
# is behind a proxy that collects events, or cut off.
SILENT_SECONDS = 20.0
# A shorter wait, and the end of a longer one, is one long poll: it ends exactly in time.
MIN_STREAM_SECONDS = 40.0
POLL_SECONDS = 30.0
# Polls that come back at once (the gateway stops) are not sent more often.
MIN_POLL_SECONDS = 0.5
EVENT_STREAM = "text/event-stream"


def wait(
    core: Core,
    job_id: UUID,
    *,
    timeout: float | timedelta | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Plan[GatewayJob]:
    """Return the job when it has ended, or as it is after ``timeout`` seconds. None: wait as long as it takes.

    A gateway that is away for less than ``retry_seconds`` is waited for. ``on_progress`` is called with percentages
    while the wait follows events. Raise NotFound.
    """
    ends = core.clock() + seconds_of(timeout)
    while True:
        left = ends - core.clock()
        if left >= MIN_STREAM_SECONDS and not core.is_buffered:
            yield from _follow(core, job_id, until=ends - SILENT_SECONDS, on_progress=on_progress)
            left = ends - core.clock()
        began = core.clock()
        job = yield from _poll(core, job_id, min(max(left, 0.0), POLL_SECONDS))
        if job.has_ended or core.clock() >= ends:
            return job
        if core.clock() - began < MIN_POLL_SECONDS:
            yield Pause(min(MIN_POLL_SECONDS, max(ends - core.clock(), 0.0)))


def seconds_of(timeout: float | timedelta | None) -> float:
    """Return a timeout in seconds; infinite for None."""
    if timeout is None:
        return math.inf
    return timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)


def _poll(core: Core, job_id: UUID, seconds: float) -> Plan[GatewayJob]:
    request = Request(
        method="GET",
        path=f"/v1/jobs/{job_id}",
        params={"wait": requests.seconds_text(seconds)} if seconds else {},
        read_seconds=seconds + ATTEMPT_SECONDS,
    )
    return requests.answer_as(GatewayJob, (yield from answered(core, request)))


def _follow(core: Core, job_id: UUID, *, until: float, on_progress: Callable[[int], None] | None) -> Plan[None]:
    """Return when the stream of the job has ended or broken, or at ``until``; a poll then says what is true."""
    request = Request(method="GET", path=f"/v1/jobs/{job_id}/events", read_seconds=SILENT_SECONDS)
    try:
        response = yield from answered(core, request, is_streamed=True)
        if not is_event_stream(response):
            core.is_buffered = response.status_code == httpx2.codes.OK
            return
        parser = EventParser()
        while core.clock() < until and (piece := (yield from read())):
            if any(_is_end(event, on_progress) for event in parser.feed(piece)):
                return
    except httpx2.ReadTimeout:
        core.is_buffered = True
    except (httpx2.RequestError, TooLargeError):
        pass


def is_event_stream(response: httpx2.Response) -> bool:
    """Tell whether a response is a stream of events; one with 204 is none."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == EVENT_STREAM


def _is_end(event: Event, on_progress: Callable[[int], None] | None) -> bool:
    if event.data is None:
        return False
    try:
        data = json.loads(event.data)
        if event.name == "progress" and on_progress is not None:
            on_progress(int(data["progress"]))
        return event.name == "transition" and data.get("outcome") is not None
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
