"""How the test gateway answers: an answer, or a wait for one, or a stream. No input or output happens here.

A handler is a generator that yields a :class:`Hold` to wait for a change and returns an :class:`Answer`. So the same
handlers serve threads and event loops.
"""

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import httpx2

from gristmill_client.testing.changes import Changes
from gristmill_client.testing.jobs import Jobs, StoredJob
from gristmill_client.testing.problems import invalid

MAX_WAIT_SECONDS = 60.0
TENANT_SCOPES = frozenset({"jobs:read", "jobs:write", "scoring", "operations", "assessments", "llm", "callbacks"})
OPERATOR_SCOPES = frozenset({"operate", "operate:read", "admin"})


@dataclass(frozen=True, slots=True)
class Hold:
    """Wait for a change since ``seen``, at most until this time of the monotonic clock."""

    seen: int
    until: float


Stream: TypeAlias = Generator[bytes | Hold, None, None]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. ``stream`` gives the pieces of its body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Stream | None = None


Handling: TypeAlias = Generator[Hold, None, Answer]


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of the test gateway: for whom it acts, and what it may do."""

    name: str
    tenant: UUID | None
    scopes: frozenset[str]

    @property
    def sees_all(self) -> bool:
        return bool(self.scopes & OPERATOR_SCOPES)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its caller, and what handlers need."""

    request: httpx2.Request
    key: Key
    jobs: Jobs
    changes: Changes

    def job(self, job_id: UUID) -> StoredJob:
        return self.jobs.visible(job_id, self.key.tenant, sees_all=self.key.sees_all)

    def param(self, name: str) -> str | None:
        found: str | None = self.request.url.params.get(name)
        return found

    def header(self, name: str) -> str | None:
        found: str | None = self.request.headers.get(name)
        return found


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer of JSON."""
    return Answer(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})


def wait_seconds(asked: Asked) -> float:
    """Return the value of ``?wait=``; raise Problem."""
    text = asked.param("wait")
    try:
        seconds = float(text or 0)
    except ValueError:
        raise invalid("wait", "must be a valid number", text) from None
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise invalid("wait", f"must be from 0 to {MAX_WAIT_SECONDS:g}", text)
    return seconds


def until_ended(asked: Asked, job: StoredJob, seconds: float) -> Generator[Hold, None, None]:
    """Return when the job has ended, or after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        seen = asked.changes.count
        if job.outcome is not None or time.monotonic() >= until:
            return
        yield Hold(seen, until)


def job_json(job: StoredJob) -> dict[str, Any]:
    """Return a job as the routes show it."""
    asked = job.request
    return {
        "id": str(job.id),
        "stage": job.stage,
        "status": job.status,
        "outcome": job.outcome,
        "version": job.version,
        "priority": asked.priority,
        "progress": job.progress,
        "retry_count": job.retry_count,
        "max_retries": 3,
        "due_at": asked.due_at and asked.due_at.isoformat(),
        "idempotency_key": job.key,
        "wait_reason": None,
        "error": job.error,
        "created_at": job.created_at.isoformat(),
        "started_at": job.started_at and job.started_at.isoformat(),
        "completed_at": job.completed_at and job.completed_at.isoformat(),
        "updated_at": (job.updated_at or job.created_at).isoformat(),
    }


def job_answer(job: StoredJob, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the answer that shows a job with its version."""
    return json_answer(job_json(job), status, {"ETag": f'"{job.version}"', **(headers or {})})
