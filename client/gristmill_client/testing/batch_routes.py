"""``POST /v1/jobs/batch`` of the test gateway."""

import json
from collections.abc import Sequence
from typing import Any

from gristmill_client.testing.answers import Answer, Asked, json_answer
from gristmill_client.testing.job_routes import work_off
from gristmill_client.testing.jobs import StoredJob
from gristmill_client.testing.problems import Problem, invalid
from gristmill_client.testing.rules import MAX_JOBS, read_job

NDJSON = "application/x-ndjson"
Placed = tuple[StoredJob, bool]


def enqueue_batch(asked: Asked) -> Answer:
    """Enqueue many jobs: all or none, or each for itself."""
    mode = asked.param("mode") or "all"
    if mode not in {"all", "each"}:
        raise invalid("mode", "must be 'all' or 'each'", mode)
    items = _items(asked)
    if len(items) > MAX_JOBS:
        raise invalid("body", f"must have at most {MAX_JOBS:,} jobs", "more", kind="too-large")
    return _all(asked, items) if mode == "all" else _each(asked, items)


def _items(asked: Asked) -> Sequence[Any]:
    kind = (asked.header("content-type") or "").partition(";")[0].strip().lower()
    content = asked.request.content
    if kind == "application/json":
        found = _read(content)
        if not isinstance(found, list):
            raise invalid("body", "must be an array of objects", kind="malformed")
        return found
    if kind not in {NDJSON, "application/jsonl", "application/x-jsonlines"}:
        raise invalid("Content-Type", f"must be application/json or {NDJSON}", kind, kind="unsupported-media-type")
    return [_read(line) for line in content.splitlines() if line.strip()]


def _read(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise invalid("body", f"is not JSON: {error}", kind="malformed") from None


def _all(asked: Asked, items: Sequence[Any]) -> Answer:
    with asked.jobs.all_or_none():
        done = [_enqueue(asked, item, place) for place, item in enumerate(items)]
    _work_off(asked, done)
    jobs = [{"id": str(job.id), "created": created} for job, created in done]
    return json_answer({"jobs": jobs, "created": sum(created for _, created in done)}, 201)


def _each(asked: Asked, items: Sequence[Any]) -> Answer:
    lines, done = [], []
    for place, item in enumerate(items):
        try:
            job, created = _enqueue(asked, item, None)
        except Problem as problem:
            errors = [one._asdict() for one in problem.errors]
            lines.append({"index": place, "type": problem.type, "detail": problem.detail, "errors": errors})
        else:
            done.append((job, created))
            lines.append({"index": place, "id": str(job.id), "created": created})
    _work_off(asked, done)
    return Answer(200, b"".join(json.dumps(line).encode() + b"\n" for line in lines), {"content-type": NDJSON})


def _enqueue(asked: Asked, item: Any, place: int | None) -> Placed:
    wanted = read_job(item, place=place)
    return asked.jobs.enqueue(wanted, tenant=asked.key.tenant, by=asked.key.name, place=place)


def _work_off(asked: Asked, done: Sequence[Placed]) -> None:
    for job, created in done:
        work_off(asked, job, created=created)
