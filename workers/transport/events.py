"""Job events for Flower: each job appears under its own id, named by its stage, its payload redacted.

Events are gathered and published as one list every 100 ms from a thread of their own; above a rate that Flower could
not follow anyway they are dropped and counted, never queued without bound.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from celery.events import EventDispatcher

from config.redaction import redact_text
from models.lifecycle import Job
from workers.runtime.decisions import Settled
from workers.runtime.registry import Stage
from workers.runtime.store.dispatch import Picked

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 0.1
# Flower follows about 2,000 jobs a second; each has four events.
MOST_PER_FLUSH = 800
REDACTED = "(in Postgres)"


class EventStream:
    """Publishes job events under one worker's name; implements :class:`workers.runtime.runner.JobEvents`."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-events", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits, then stop."""
        self._stopped.set()
        self._thread.join(timeout=2)

    def sent(self, stage: Stage, job: Picked) -> None:
        """Show that a job was handed to the road."""
        self._add("task-sent", job.id, name=stage.name, queue=stage.queue, **_redacted({}))

    def started(self, stage: Stage, job: Job) -> None:
        about = _redacted({"version": job.version, "attempt": job.retry_count + 1})
        self._add("task-received", job.id, name=stage.name, retries=job.retry_count, **about)
        self._add("task-started", job.id)

    def settled(self, stage: Stage, job: Job, row: Settled, *, seconds: float) -> None:  # noqa: ARG002 - the protocol's
        match row.action:
            case "complete":
                self._add("task-succeeded", job.id, runtime=seconds, result=f"{row.status} (version {row.fence + 1})")
            case "fail":
                self._add("task-failed", job.id, exception=redact_text(row.error or ""), traceback="")
            case "cancel":
                self._add("task-revoked", job.id, terminated=False, signum=None, expired=False)
            case _:
                reason = redact_text(f"{row.action}: {row.reason}")
                self._add("task-retried", job.id, exception=reason, traceback="", retries=row.retry_count)

    def stale(self, stage: Stage, job: Job) -> None:
        self.stopped(stage, job)

    def stopped(self, stage: Stage, job: Job) -> None:  # noqa: ARG002 - the protocol's
        self.revoked(job.id)

    def revoked(self, job_id: UUID) -> None:
        """Show a job as revoked: cancelled, or taken from its run."""
        self._add("task-revoked", job_id, terminated=True, signum=None, expired=False)

    def _add(self, type_: str, job_id: UUID, **fields: Any) -> None:
        with self._lock:
            if len(self._waiting) >= MOST_PER_FLUSH:
                self.dropped += 1
                return
            self._waiting.append((type_, {"uuid": str(job_id), "timestamp": time.time(), **fields}))

    def _run(self) -> None:
        dispatcher: EventDispatcher | None = None
        last = False
        while not last:
            last = self._stopped.wait(FLUSH_SECONDS)
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                dispatcher = dispatcher or self._connect()
                for type_, fields in batch:
                    dispatcher.send(type_, **fields)
                dispatcher.flush()
            except Exception as error:  # noqa: BLE001 - nobody waits for an event; the next flush connects again
                self.dropped += len(batch)
                log.warning("job_events_dropped", events=len(batch), error=type(error).__name__)
                _close(dispatcher)
                dispatcher = None
                self._stopped.wait(1.0)
        _close(dispatcher)

    def _connect(self) -> EventDispatcher:
        return EventDispatcher(
            self._app.connection_for_write(),
            hostname=self._hostname,
            app=self._app,
            buffer_while_offline=False,
            buffer_group=["task"],
            buffer_limit=MOST_PER_FLUSH + 1,
        )


def _close(dispatcher: EventDispatcher | None) -> None:
    if dispatcher is None:
        return
    try:
        dispatcher.close()
        if dispatcher.connection is not None:
            dispatcher.connection.release()
    except Exception:  # noqa: BLE001 - closing a dead connection
        log.debug("event_connection_close_failed")


def _redacted(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields in which Celery shows a task's arguments: facts about the run, never its payload."""
    return {"args": REDACTED, "kwargs": repr(dict(facts))}
