"""The jobs of the test gateway, in memory: versions, repeats of keys, history, and what is told when one ends."""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel

from gristmill_client.errors import FieldError, NotPossible
from gristmill_client.models import Outcome
from gristmill_client.testing.changes import Changes
from gristmill_client.testing.problems import Problem, invalid, not_found
from gristmill_client.testing.rules import JobRequest, read_payload

Work = Callable[[dict[str, Any]], Mapping[str, Any] | BaseModel | None]
FIRST, RUNNING = "pending", "processing"
OUTCOMES = {one.value: one for one in Outcome}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: the model of its payload, what does its jobs, and the members of payloads that lists can filter by."""

    name: str
    payload: type[BaseModel] | None = None
    work: Work | None = None
    searchable: tuple[str, ...] = ()


@dataclass(slots=True)
class StoredJob:
    """A job."""

    id: UUID
    stage: str
    tenant: UUID | None
    payload: dict[str, Any]
    request: JobRequest
    created_at: datetime
    key: str | None
    status: str = FIRST
    version: int = 1
    progress: int = 0
    retry_count: int = 0
    error: str | None = None
    result: dict[str, Any] | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    answers: Mapping[str, str] | None = None
    may_wait: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome | None:
        return OUTCOMES.get(self.status)


class Jobs:
    """All jobs. Each change happens under one lock, has a place in ``events``, and wakes all who wait."""

    def __init__(self, changes: Changes) -> None:
        self.lock = threading.RLock()
        self.changes = changes
        self.stages: dict[str, Stage] = {}
        self.by_id: dict[UUID, StoredJob] = {}
        self.events: list[tuple[StoredJob, dict[str, Any]]] = []
        self.on_end: list[Callable[[StoredJob], None]] = []
        self._keys: dict[tuple[UUID | None, str, str], UUID] = {}
        self._ids = itertools.count(1)

    def enqueue(
        self, request: JobRequest, *, tenant: UUID | None, by: str, place: int | None = None
    ) -> tuple[StoredJob, bool]:
        """Return the job of a request and whether it is new; raise Problem."""
        prefix = "" if place is None else f"{place}."
        stage = self.stages.get(request.stage)
        if stage is None:
            known = ", ".join(sorted(self.stages)) or "none"
            raise invalid(f"{prefix}stage", f"must be a registered stage; known stages: {known}", request.stage)
        payload = read_payload(stage.payload, request.payload, place=place)
        with self.lock:
            found = self._find(tenant, request)
            if found is not None and not self._may_take_key(found, request):
                if differing := sorted(_differing(found.payload, payload)):
                    rule = f"is taken by a job with another {' and '.join(differing)}"
                    raise invalid(f"{prefix}idempotency_key", rule, request.idempotency_key)
                return found, False
            if found is not None:
                found.key = None
            return self._add(request, payload, tenant, by), True

    def _find(self, tenant: UUID | None, request: JobRequest) -> StoredJob | None:
        if request.idempotency_key is None:
            return None
        id_ = self._keys.get((tenant, request.stage, request.idempotency_key))
        return None if id_ is None else self.by_id[id_]

    @staticmethod
    def _may_take_key(found: StoredJob, request: JobRequest) -> bool:
        return request.on_failed == "rerun" and found.outcome in {Outcome.FAILED, Outcome.CANCELLED}

    def _add(self, request: JobRequest, payload: dict[str, Any], tenant: UUID | None, by: str) -> StoredJob:
        key = request.idempotency_key
        job = StoredJob(_ordered_id(next(self._ids)), request.stage, tenant, payload, request, datetime.now(UTC), key)
        self.by_id[job.id] = job
        if key is not None:
            self._keys[tenant, request.stage, key] = job.id
        self._record(job, None, action="enqueue", by=by, reason=None)
        return job

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Take back what the block enqueues if it raises a Problem. Nobody sees anything of it before its end."""
        with self.lock:
            kept = (dict(self.by_id), list(self.events), dict(self._keys))
            names = {id_: job.key for id_, job in self.by_id.items()}
            try:
                yield
            except Problem:
                self.by_id, self.events, self._keys = kept
                for id_, key in names.items():
                    self.by_id[id_].key = key
                raise

    def visible(self, job_id: UUID, tenant: UUID | None, *, sees_all: bool) -> StoredJob:
        """Return a job that the caller sees; raise Problem."""
        job = self.by_id.get(job_id)
        if job is None or not (sees_all or job.tenant == tenant):
            raise not_found(f"job {job_id}")
        return job

    def move(
        self,
        job: StoredJob,
        into: str,
        *,
        action: str,
        by: str = "worker",
        reason: str | None = None,
        error: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Change the state of a job."""
        with self.lock:
            old, now = job.status, datetime.now(UTC)
            job.status, job.version, job.answers = into, job.version + 1, None
            job.error = error if into != FIRST else job.error
            if into == RUNNING:
                job.started_at = job.started_at or now
            if job.outcome is Outcome.COMPLETED:
                job.result, job.progress = result, 100
            job.completed_at = now if job.outcome else None
            self._record(job, old, action=action, by=by, reason=reason)
            ended = job.outcome is not None
        if ended:
            for tell in self.on_end:
                tell(job)

    def set_progress(self, job: StoredJob, percent: int) -> None:
        """Tell how far a running job is."""
        with self.lock:
            job.progress = percent
        self.changes.note()

    def require(self, job_id: UUID, *states: str) -> StoredJob:
        """Return a job for a control of the test; raise NotPossible if it is in no such state."""
        job = self.by_id.get(job_id)
        if job is None:
            raise NotPossible(f"job {job_id} does not exist in this test gateway")
        if job.status not in states:
            raise NotPossible(f"job {job_id} must be {' or '.join(states)}, got {job.status}")
        return job

    def _record(self, job: StoredJob, old: str | None, *, action: str, by: str, reason: str | None) -> None:
        now = job.updated_at = datetime.now(UTC)
        event = {
            "job_id": str(job.id),
            "stage": job.stage,
            "version": job.version,
            "old_state": old,
            "new_state": job.status,
            "outcome": job.outcome,
            "action": action,
            "reason": reason,
            "changed_by": by,
            "created_at": now.isoformat(),
        }
        job.history.append(event)
        self.events.append((job, event))
        self.changes.note()


def require_version(job: StoredJob, version: int | None) -> None:
    """Raise Problem if somebody changed the job since ``version``."""
    if version is not None and job.version != version:
        rule = f"is at version {job.version}, got version {version}"
        raise Problem("stale-version", f"job {job.id} {rule}", errors=[FieldError("version", rule)])


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def _ordered_id(number: int) -> UUID:
    """Return an id; later ones are larger, as those of the real gateway."""
    random = uuid4().int & ((1 << 62) - 1)
    return UUID(int=(number << 80) | (7 << 76) | (2 << 62) | random)
