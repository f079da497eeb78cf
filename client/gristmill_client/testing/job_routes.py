"""The routes of single jobs and of their list, in the test gateway."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from gristmill_client.models import Outcome
from gristmill_client.testing.answers import (
    Answer,
    Asked,
    Handling,
    job_answer,
    job_json,
    json_answer,
    until_ended,
    wait_seconds,
)
from gristmill_client.testing.jobs import FIRST, OUTCOMES, RUNNING, StoredJob, require_version
from gristmill_client.testing.problems import Problem, invalid
from gristmill_client.testing.rules import read_job

MAX_LIMIT, DEFAULT_LIMIT = 200, 50
_FILTERS = ("stage", "state", "owner", "key", "from", "to")


def body_of(asked: Asked) -> Any:
    """Return the JSON of a body; raise Problem."""
    content = asked.request.content
    kind = (asked.header("content-type") or "").partition(";")[0].strip().lower()
    if content and kind != "application/json":
        raise invalid("Content-Type", "must be application/json", kind, kind="unsupported-media-type")
    try:
        return json.loads(content) if content else None
    except ValueError as error:
        raise invalid("body", f"is not JSON: {error}", kind="malformed") from None


def enqueue(asked: Asked) -> Handling:
    """Enqueue one job."""
    seconds = wait_seconds(asked)
    wanted = read_job(body_of(asked))
    header = asked.header("idempotency-key")
    if header is not None:
        header = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
        if wanted.idempotency_key not in {None, header}:
            raise invalid("Idempotency-Key", "must be the same as idempotency_key", header, "send one of them")
        wanted = read_job({**body_of(asked), "idempotency_key": header})
    job, created = asked.jobs.enqueue(wanted, tenant=asked.key.tenant, by=asked.key.name)
    if seconds:
        work_off(asked, job, created=created)
        yield from until_ended(asked, job, seconds)
    headers = {"Location": f"/v1/jobs/{job.id}"} | ({} if created else {"Idempotent-Replayed": "true"})
    answer = job_answer(job, 201 if created else 200, headers)
    if not seconds:
        work_off(asked, job, created=created)
    return answer


def work_off(asked: Asked, job: StoredJob, *, created: bool) -> None:
    """Run a new job if its stage has a function that does it."""
    work = asked.jobs.stages[job.stage].work
    due_at = job.request.due_at
    if work is None or not created or (due_at is not None and _aware(due_at) > datetime.now(UTC)):
        return
    asked.jobs.move(job, RUNNING, action="claim")
    try:
        found = work(dict(job.payload))
    except Exception as error:  # noqa: BLE001 - whatever the test's function raises fails the job
        asked.jobs.move(job, Outcome.FAILED, action="settle", error=f"{type(error).__name__}: {error}")
    else:
        asked.jobs.move(job, Outcome.COMPLETED, action="settle", result=result_of(found))


def result_of(found: Any) -> dict[str, Any]:
    """Return a result as JSON values: of a mapping or of a pydantic model."""
    values = found.model_dump(mode="json") if hasattr(found, "model_dump") else dict(found or {})
    copied: dict[str, Any] = json.loads(json.dumps(values))
    return copied


def show(asked: Asked, job_id: UUID) -> Handling:
    job = asked.job(job_id)
    yield from until_ended(asked, job, wait_seconds(asked))
    return job_answer(job)


def result(asked: Asked, job_id: UUID) -> Handling:
    job = asked.job(job_id)
    yield from until_ended(asked, job, wait_seconds(asked))
    completed = job.outcome is Outcome.COMPLETED
    found = {
        "id": str(job.id),
        "outcome": job.outcome,
        "version": job.version,
        "result": (job.result or {}) if completed else None,
        "error": None if completed else job.error,
    }
    return json_answer(found, headers={"ETag": f'"{job.version}"'})


def cancel(asked: Asked, job_id: UUID, version: int | None, body: dict[str, Any]) -> Answer:
    with asked.jobs.lock:
        job = asked.job(job_id)
        require_version(job, version)
        if job.outcome is not None:
            raise Problem("conflict", f"job {job_id} has ended: it is {job.status}")
        asked.jobs.move(job, Outcome.CANCELLED, action="cancel", by=asked.key.name, reason=body.get("reason"))
        return job_answer(job)


def retry(asked: Asked, job_id: UUID, version: int | None, body: dict[str, Any]) -> Answer:
    with asked.jobs.lock:
        job = asked.job(job_id)
        if not asked.key.sees_all:
            remedy = 'enqueue it again, with its key and on_failed: "rerun"'
            raise Problem("forbidden", f"only an operator retries a job; {remedy}")
        require_version(job, version)
        if job.outcome is not Outcome.FAILED:
            raise Problem("conflict", f"job {job_id} has not failed: it is {job.status}")
        asked.jobs.move(job, FIRST, action="retry", by=asked.key.name, reason=body.get("reason"))
        return job_answer(job)


def decide(asked: Asked, job_id: UUID, version: int | None, body: dict[str, Any]) -> Answer:
    into = body.get("into")
    if not isinstance(into, str) or not into:
        raise invalid("into", "is required", "nothing")
    with asked.jobs.lock:
        job = asked.job(job_id)
        if job.may_wait:
            require_version(job, version)
        if job.answers is None:
            raise Problem("conflict", f"job {job_id} waits for no decision: it is {job.status}")
        if into not in job.answers:
            raise invalid("into", f"must be one of {', '.join(job.answers)}", into)
        asked.jobs.move(job, job.answers[into], action="decide", by=asked.key.name, reason=body.get("reason"))
        return job_answer(job)


def transitions(asked: Asked, job_id: UUID) -> Answer:
    job = asked.job(job_id)
    after, limit = int(asked.param("cursor") or 0), limit_of(asked)
    found = [one for one in job.history if one["version"] > after]
    items = found[:limit]
    return json_answer({"items": items, "next": str(items[-1]["version"]) if len(found) > limit else None})


def list_jobs(asked: Asked) -> Answer:
    matching, limit = _matching(asked), limit_of(asked)
    cursor = asked.param("cursor")
    seal = _seal(asked)
    if cursor is not None:
        before = _read_cursor(cursor, seal)
        matching = [job for job in matching if job.id.int < before]
    items = matching[:limit]
    following = _cursor(items[-1].id.int, seal) if len(matching) > limit else None
    return json_answer({"items": [job_json(job) for job in items], "next": following})


def count(asked: Asked) -> Answer:
    return json_answer({"jobs": len(_matching(asked)), "is_more": False})


def limit_of(asked: Asked) -> int:
    """Return the value of ``?limit=``; raise Problem."""
    text = asked.param("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not text.isdecimal() or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid("limit", f"must be from 1 to {MAX_LIMIT}", text)
    return int(text)


def _matching(asked: Asked) -> Sequence[StoredJob]:
    """Return the jobs that the caller sees and that match the filters, newest first; raise Problem."""
    given = {name: value for name, value in asked.request.url.params.items() if name not in {"limit", "cursor"}}
    members = {name for stage in asked.jobs.stages.values() for name in stage.searchable}
    known = (*_FILTERS, *sorted(members))
    for name, value in given.items():
        if name not in known:
            raise invalid(name, f"is not a filter of the test gateway; filters are {', '.join(known)}")
        if name == "stage" and value not in asked.jobs.stages:
            raise invalid("stage", "must be a registered stage", value)
        if name == "state" and value.lower() not in {FIRST, RUNNING, *OUTCOMES, *_waits(asked)}:
            raise invalid("state", "must be a state", value)
    with asked.jobs.lock:
        jobs = sorted(asked.jobs.by_id.values(), key=lambda job: job.id.int, reverse=True)
    mine = [job for job in jobs if asked.key.sees_all or job.tenant == asked.key.tenant]
    return [job for job in mine if all(_matches(job, name, value) for name, value in given.items())]


def _waits(asked: Asked) -> set[str]:
    return {job.status.lower() for job in asked.jobs.by_id.values()}


def _matches(job: StoredJob, name: str, value: str) -> bool:
    match name:
        case "stage":
            return job.stage == value
        case "state":
            return job.status.lower() == value.lower()
        case "owner":
            return str(job.tenant) == value
        case "key":
            return job.key == value
        case "from":
            return job.created_at >= _time(name, value)
        case "to":
            return job.created_at < _time(name, value)
        case _:
            return str(job.payload.get(name)) == value


def _time(name: str, value: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        at = datetime.min  # noqa: DTZ901 - refused below
    if at.tzinfo is None:
        raise invalid(name, "must be a time with its zone, such as 2026-01-31T12:00:00Z", value)
    return at


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _seal(asked: Asked) -> str:
    """Return what a cursor is bound to: the filters and the caller."""
    filters = sorted(
        (name, value) for name, value in asked.request.url.params.items() if name not in {"limit", "cursor"}
    )
    return hashlib.sha256(json.dumps([filters, str(asked.key.tenant), asked.key.sees_all]).encode()).hexdigest()[:16]


def _cursor(place: int, seal: str) -> str:
    return base64.urlsafe_b64encode(f"{seal}{place}".encode()).decode().rstrip("=")


def _read_cursor(text: str, seal: str) -> int:
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        found = ""
    if not found.startswith(seal) or not found[len(seal) :].isdecimal():
        raise invalid("cursor", "must be `next` of a page with the same filters", text)
    return int(found[len(seal) :])
