"""The operations on jobs, as plans: enqueue, show, result, cancel, retry, decide, list, history."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

import httpx2

from gristmill_client.errors import Conflict, Refused
from gristmill_client.http import requests
from gristmill_client.http.attempts import Core, answered
from gristmill_client.http.models import EnqueuedJob, GatewayJob, JobCount, Result, Transition
from gristmill_client.http.steps import Give, Items, Plan, Request
from gristmill_client.http.waiting import wait
from gristmill_client.models import Outcome

T = TypeVar("T")
PAGE = 200


def enqueue(
    core: Core,
    stage: str,
    payload: object,
    *,
    idempotency_key: str | None,
    priority: int | None = None,
    due_at: datetime | None = None,
    callback_url: str | None = None,
    traceparent: str | None = None,
    on_failed: Literal["return", "rerun"] | None = None,
    lane: Literal["normal", "batch"] | None = None,
    within: timedelta | None = None,
) -> Plan[EnqueuedJob]:
    """Enqueue one job. ``payload`` is a mapping or a pydantic model.

    A repeated key returns the first job as it is now; with other content it is refused. Derive the key from what the
    job is about, or give ``new_key()``. With None the request is not repeated after an answer that was lost.
    ``on_failed="rerun"`` makes a new job if the first job of the key failed or was cancelled. Raise Refused.
    """
    options = {
        "idempotency_key": idempotency_key,
        "priority": priority,
        "due_at": due_at,
        "callback_url": callback_url,
        "traceparent": traceparent,
        "on_failed": on_failed,
        "lane": lane,
        "within": within,
    }
    job = requests.new_job(stage, payload, options)
    request = requests.json_request("POST", "/v1/jobs", job, is_repeatable=idempotency_key is not None)
    response = yield from answered(core, request)
    found = requests.answer_as(GatewayJob, response)
    return EnqueuedJob(**dict(found), created=response.status_code == httpx2.codes.CREATED)


def show(core: Core, job_id: UUID) -> Plan[GatewayJob]:
    """Return a job as it is now; raise NotFound."""
    response = yield from answered(core, Request(method="GET", path=f"/v1/jobs/{job_id}"))
    return requests.answer_as(GatewayJob, response)


def result(core: Core, job_id: UUID, into: type[T], *, timeout: float | timedelta | None = 0) -> Plan[Result[T]]:
    """Return what a job has found, as ``into``: a pydantic model, or ``dict``.

    ``timeout`` waits for its end first, as :meth:`wait` does. Raise NotFound, and UnexpectedAnswer if the result does
    not fit.
    """
    if timeout != 0:
        yield from wait(core, job_id, timeout=timeout)
    response = yield from answered(core, Request(method="GET", path=f"/v1/jobs/{job_id}/result"))
    found = requests.read_json(response)
    value = found.pop("result", None) if isinstance(found, dict) else None
    base = requests.fitted(Result[Any], found, "the answer")
    if value is None:
        return Result[T](**dict(base))
    return Result[T](**(dict(base) | {"value": requests.fitted(into, value, f"the result of job {job_id}")}))


def cancel(core: Core, job_id: UUID, *, reason: str | None = None, version: int | None = None) -> Plan[GatewayJob]:
    """Cancel a job that is ready, waiting or running. ``version`` refuses it if somebody changed the job since.

    Raise Conflict if it has ended, Stale if its version is another, NotFound.
    """
    try:
        return (yield from _change(core, job_id, "cancel", {"reason": reason}, version))
    except Conflict as error:
        # Perhaps an attempt without an answer has cancelled it.
        if error.may_have_happened:
            job = yield from show(core, job_id)
            if job.outcome is Outcome.CANCELLED:
                return job
        raise


def retry(core: Core, job_id: UUID, *, reason: str | None = None, version: int | None = None) -> Plan[GatewayJob]:
    """Send a failed job back to the step in which it failed. For operators; raise Forbidden, Conflict, Stale.

    A service enqueues the job again, with its key and ``on_failed="rerun"``.
    """
    return _change(core, job_id, "retry", {"reason": reason}, version)


def decide(
    core: Core, job_id: UUID, into: str, *, version: int, reason: str | None = None, until: datetime | None = None
) -> Plan[GatewayJob]:
    """Let a waiting job go on, or end it. Of several decisions about one version, exactly one wins.

    Raise Stale for all others, and Conflict if the job waits for no decision.
    """
    body = {"into": into, "reason": reason, "until": requests.option_of(until)}
    return _change(core, job_id, "decide", body, version)


def _change(core: Core, job_id: UUID, action: str, body: Mapping[str, Any], version: int | None) -> Plan[GatewayJob]:
    given = {name: value for name, value in body.items() if value is not None}
    request = requests.json_request(
        "POST",
        f"/v1/jobs/{job_id}/{action}",
        given,
        headers=requests.version_header(version),
        # A second cancel changes nothing. Everything else is safe to repeat only with a version.
        is_repeatable=version is not None or action == "cancel",
    )
    return requests.answer_as(GatewayJob, (yield from answered(core, request)))


def list_jobs(
    core: Core,
    *,
    stage: str | None = None,
    state: str | None = None,
    wait: str | None = None,
    owner: UUID | None = None,
    key: str | None = None,
    error: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    members: Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> Items[GatewayJob]:
    """Iterate over the jobs that you may see, newest first: all pages, or the first ``limit`` jobs.

    ``state`` is a state or a group of states, ``error`` a fingerprint. ``members`` are the columns that stages declare
    as searchable, such as ``{"profile_id": …}``. Jobs that are added meanwhile do not come.
    """
    given = {
        "stage": stage,
        "state": state,
        "wait": wait,
        "owner": owner,
        "key": key,
        "error": error,
        "since": since,
        "until": until,
        **(members or {}),
    }
    return _pages(core, "/v1/jobs", GatewayJob, requests.filters_of(given), limit)


def count_jobs(
    core: Core,
    *,
    stage: str | None = None,
    state: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    members: Mapping[str, Any] | None = None,
) -> Plan[JobCount]:
    """Count the jobs that you may see, up to a bound of the gateway."""
    given = {"stage": stage, "state": state, "since": since, "until": until, **(members or {})}
    request = Request(method="GET", path="/v1/jobs/count", params=requests.filters_of(given))
    return requests.answer_as(JobCount, (yield from answered(core, request)))


def transitions(core: Core, job_id: UUID) -> Items[Transition]:
    """Iterate over the history of a job, oldest first."""
    return _pages(core, f"/v1/jobs/{job_id}/transitions", Transition, {}, None)


def iterate_pages(core: Core, path: str, into: type[T], *, params: Mapping[str, Any] | None = None) -> Items[T]:
    """Iterate over the items of any list of the gateway, such as ``/v1/profiles``."""
    return _pages(core, path, into, requests.filters_of(params or {}), None)


def _pages(core: Core, path: str, kind: type[T], params: Mapping[str, str], limit: int | None) -> Items[T]:
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        more = {"limit": str(min(PAGE, left or PAGE))} | ({} if cursor is None else {"cursor": cursor})
        response = yield from answered(core, Request(method="GET", path=path, params={**params, **more}))
        page = requests.answer_as(dict[str, Any], response)
        for item in page.get("items", ()):
            yield Give(requests.fitted(kind, item, "an item of the list"))
            left = None if left is None else left - 1
        cursor = page.get("next")
        if cursor is None:
            return


def request(
    core: Core,
    method: str,
    path: str,
    into: type[T],
    *,
    json: object = None,
    params: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    version: int | None = None,
) -> Plan[T]:
    """Send any other request of the gateway (see its ``/docs``) and return its answer as ``into``.

    It has the retries and errors of all operations. It is repeated after a lost answer if it is a GET, or has an
    idempotency key or a version.
    """
    if not path.startswith("/"):
        raise Refused(f"path must begin with /, got {path!r}", field="path", rule="must begin with /", value=repr(path))
    headers = requests.version_header(version)
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    is_repeatable = method.upper() in {"GET", "PUT", "DELETE"} or idempotency_key is not None or version is not None
    given: dict[str, Any] = {
        "params": requests.filters_of(params or {}),
        "headers": headers,
        "is_repeatable": is_repeatable,
    }
    if json is None:
        wanted = Request(method=method, path=path, **given)
    else:
        wanted = requests.json_request(method, path, requests.json_value(json, "json"), **given)
    response = yield from answered(core, wanted)
    return requests.answer_as(into, response) if response.content else requests.fitted(into, None, "the answer")
