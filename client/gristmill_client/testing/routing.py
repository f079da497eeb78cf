"""Which handler answers which request of the test gateway, and which scope it needs."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gristmill_client.testing import batch_routes, callbacks, event_routes, file_routes, job_routes
from gristmill_client.testing.answers import Answer, Asked, Handling
from gristmill_client.testing.problems import Problem, invalid

Change = Callable[[Asked, UUID, int | None, dict[str, Any]], Answer]
_VERSION = re.compile(r'"(0|[1-9][0-9]{0,17})"')


@dataclass(frozen=True, slots=True)
class Rooms:
    """What handlers keep besides jobs."""

    files: file_routes.Files
    callbacks: callbacks.Callbacks
    connections: event_routes.Connections


@dataclass(frozen=True, slots=True)
class Route:
    """A route: ``handle`` takes the caller's request, the rooms, and what the path names."""

    method: str
    path: re.Pattern[str]
    scope: str
    handle: Callable[..., Answer | Handling]


def find(asked_method: str, path: str) -> tuple[Route, tuple[str, ...]]:
    """Return the route of a request with the values of its path; raise Problem."""
    others = set()
    for route in ROUTES:
        found = route.path.fullmatch(path)
        if found is not None and route.method == asked_method:
            return route, found.groups()
        if found is not None:
            others.add(route.method)
    if others:
        raise Problem("method-not-allowed", headers={"Allow": ", ".join(sorted(others))})
    raise Problem("not-found", f"the test gateway has no route {path}")


def _change(change: Change, *, needs_version: bool = False) -> Callable[..., Answer]:
    def handle(asked: Asked, _: Rooms, job_id: str) -> Answer:
        version = _version(asked, is_needed=needs_version)
        body = job_routes.body_of(asked) or {}
        if not isinstance(body, dict):
            raise invalid("body", "must be an object")
        return change(asked, _id(job_id), version, body)

    return handle


def _version(asked: Asked, *, is_needed: bool) -> int | None:
    text = asked.header("if-match")
    if text is None:
        if is_needed:
            remedy = "send the version of `ETag`, or * for any version"
            raise invalid("If-Match", "is required", "nothing", remedy, kind="version-required")
        return None
    if text.strip() == "*":
        return None
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise invalid("If-Match", 'must be one version in quotes, such as "7", or *', text)
    return int(found[1])


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise invalid("job_id", "must be a valid UUID", text) from None


def _route(method: str, template: str, scope: str, handle: Callable[..., Answer | Handling]) -> Route:
    return Route(method, re.compile(re.sub(r"\{\w+\}", "([^/]+)", template)), scope, handle)


ROUTES = (
    _route("POST", "/v1/jobs", "jobs:write", lambda asked, _: job_routes.enqueue(asked)),
    _route("GET", "/v1/jobs", "jobs:read", lambda asked, _: job_routes.list_jobs(asked)),
    _route("POST", "/v1/jobs/batch", "jobs:write", lambda asked, _: batch_routes.enqueue_batch(asked)),
    _route("GET", "/v1/jobs/count", "jobs:read", lambda asked, _: job_routes.count(asked)),
    _route("GET", "/v1/jobs/{id}", "jobs:read", lambda asked, _, id_: job_routes.show(asked, _id(id_))),
    _route("GET", "/v1/jobs/{id}/result", "jobs:read", lambda asked, _, id_: job_routes.result(asked, _id(id_))),
    _route(
        "GET", "/v1/jobs/{id}/transitions", "jobs:read", lambda asked, _, id_: job_routes.transitions(asked, _id(id_))
    ),
    _route("POST", "/v1/jobs/{id}/cancel", "jobs:write", _change(job_routes.cancel)),
    _route("POST", "/v1/jobs/{id}/retry", "jobs:write", _change(job_routes.retry)),
    _route("POST", "/v1/jobs/{id}/decide", "jobs:write", _change(job_routes.decide, needs_version=True)),
    _route(
        "GET",
        "/v1/jobs/{id}/events",
        "jobs:read",
        lambda asked, rooms, id_: event_routes.follow_job(asked, rooms.connections, _id(id_)),
    ),
    _route("GET", "/v1/events", "jobs:read", lambda asked, rooms: event_routes.follow_many(asked, rooms.connections)),
    _route(
        "GET",
        "/v1/stages/{stage}/events",
        "jobs:read",
        lambda asked, rooms, stage: event_routes.follow_many(asked, rooms.connections, stage=stage),
    ),
    _route(
        "GET",
        "/v1/projects/{id}/events",
        "jobs:read",
        lambda asked, rooms, id_: event_routes.follow_many(asked, rooms.connections, project=id_),
    ),
    _route("POST", "/v1/projects", "operations", lambda asked, rooms: file_routes.create_project(asked, rooms.files)),
    _route(
        "POST",
        "/v1/projects/{id}/ingest",
        "operations",
        lambda asked, rooms, id_: file_routes.ingest(asked, rooms.files, _id(id_)),
    ),
    _route(
        "POST",
        "/v1/callbacks/secret",
        "callbacks",
        lambda asked, rooms: callbacks.replace_secret(asked, rooms.callbacks),
    ),
)
