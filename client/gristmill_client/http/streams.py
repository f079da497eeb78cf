"""Follow jobs by Server-Sent Events: every transition once, over broken connections and restarts of the gateway."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2

from gristmill_client.errors import NotPossible, UnexpectedAnswer
from gristmill_client.http import requests
from gristmill_client.http.attempts import Core, answered
from gristmill_client.http.models import Progress, Transition
from gristmill_client.http.sse import Event, EventParser, TooLargeError
from gristmill_client.http.steps import Give, Items, Pause, Plan, Request, read
from gristmill_client.http.waiting import is_event_stream

# The gateway sends something every 15 s. Who hears nothing for so long comes back.
SILENT_SECONDS = 45.0
COME_BACK_SECONDS, MAX_COME_BACK_SECONDS = 2.0, 30.0


def follow(core: Core, job_id: UUID, *, after: int = 0) -> Items[Transition | Progress]:
    """Iterate over the transitions of a job, each once, until it ends; with its progress between them.

    They begin with the first, or behind the version ``after``. Raise NotFound, and Unavailable if the gateway is away
    for ``retry_seconds``.
    """
    place = _Place(str(after) if after else None, is_of_one_job=True)
    while True:
        yield from _connected(core, f"/v1/jobs/{job_id}/events", place, on_position=None)
        if place.has_ended:
            return


def follow_many(
    core: Core,
    *,
    stage: str | None = None,
    project_id: UUID | None = None,
    after: str | None = None,
    on_position: Callable[[str], None] | None = None,
) -> Items[Transition]:
    """Iterate without end over the transitions of all jobs that you may see, of a stage, or of a project; each once.

    They begin now, or behind the position ``after``: that of the last transition that you have worked off. While
    nothing happens, ``on_position`` is called with the position so far: keep it as well, then nothing is missed before
    the first transition. Raise Unavailable if the gateway is away for ``retry_seconds``.
    """
    if stage is not None and project_id is not None:
        raise NotPossible("follow_many takes a stage or a project, not both")
    path = "/v1/events"
    if stage is not None:
        path = f"/v1/stages/{quote(stage, safe='')}/events"
    elif project_id is not None:
        path = f"/v1/projects/{project_id}/events"
    place = _Place(after, is_of_one_job=False)
    while True:
        yield from _connected(core, path, place, on_position=on_position)


class _Place:
    """Where a follower is. ``pause`` is how long it waits before it comes back."""

    __slots__ = ("after", "has_ended", "is_of_one_job", "pause")

    def __init__(self, after: str | None, *, is_of_one_job: bool) -> None:
        self.after, self.is_of_one_job = after, is_of_one_job
        self.has_ended = False
        self.pause = COME_BACK_SECONDS


def _connected(core: Core, path: str, place: _Place, *, on_position: Callable[[str], None] | None) -> Items[Any]:
    """Give the items of one connection; afterwards wait for as long as the gateway asks."""
    headers = {} if place.after is None else {"Last-Event-ID": place.after}
    request = Request(method="GET", path=path, headers=headers, read_seconds=SILENT_SECONDS)
    try:
        response = yield from answered(core, request, is_streamed=True)
        if response.status_code == httpx2.codes.NO_CONTENT:
            place.has_ended = True
            return
        if not is_event_stream(response):
            kind = response.headers.get("content-type", "nothing")
            raise UnexpectedAnswer(f"the answer must be text/event-stream, got {kind}")
        parser = EventParser()
        while piece := (yield from read()):
            for event in parser.feed(piece):
                item = _taken(event, place, on_position)
                if item is not None:
                    yield Give(item)
                if place.has_ended:
                    return
    except httpx2.RequestError:
        pass
    except TooLargeError as error:
        raise UnexpectedAnswer(str(error)) from None
    yield from _paused(core, place)


def _taken(event: Event, place: _Place, on_position: Callable[[str], None] | None) -> Transition | Progress | None:
    """Return the item of an event, and remember its place."""
    if event.retry_milliseconds is not None:
        place.pause = min(event.retry_milliseconds / 1_000, MAX_COME_BACK_SECONDS)
    if event.id:
        place.after = event.id
    if event.data is None:
        if event.id and on_position is not None:
            on_position(event.id)
        return None
    value = requests.read_text(event.data)
    if event.name == "progress":
        return requests.fitted(Progress, value, "an event")
    if event.name != "transition":
        return None  # of a newer gateway
    found = requests.fitted(Transition, value, "an event").model_copy(update={"position": event.id})
    place.has_ended = place.is_of_one_job and found.outcome is not None
    return found


def _paused(core: Core, place: _Place) -> Plan[None]:
    yield Pause(place.pause * (0.5 + core.draw() / 2))
