"""Job events for Flower: each job appears under its own id, named by its stage, its payload redacted.

Events are gathered and published as one list every 100 ms from a thread of their own, the first of them ahead: where
nobody hears it, nobody would hear the others, and Redis keeps none. Above a rate that Flower could not follow anyway
only a sample of the jobs is shown, each with its whole life, and the others are counted; nothing is queued without
bound.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from celery.events import EventDispatcher

from config.redaction import redact_text
from workers.runtime.context import Run
from workers.runtime.decisions import Settled
from workers.runtime.registry import Stage
from workers.runtime.store.dispatch import Picked

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 0.1
# Flower follows about 2,000 jobs a second, of all processes together.
JOBS_PER_FLUSH = 100
EVENTS_PER_FLUSH = 800
# A job is shown if the last bits of its id, which are random, are below a bound: dispatcher and workers, who see
# different rates, so choose among the same jobs.
ALL = 1 << 10
SAMPLE_LOG_SECONDS = 60.0
REDACTED = "(in Postgres)"


class EventStream:
    """Publishes job events under one process's name; implements :class:`workers.runtime.running.JobEvents`.

    ``hidden`` counts the jobs left out of the sample, ``dropped`` the events lost with a broken connection.
    """

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="job-events", daemon=True)
        self._seen = 0
        self._below = ALL
        self._shown: set[UUID] = set()
        self._log_at = 0.0
        self.hidden = 0
        self.dropped = 0

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits, then stop."""
        self._stopped.set()
        self._thread.join(timeout=2)

    def sent(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Show that jobs were handed to the road."""
        self._seen += len(batch)
        for job in batch:
            if job.id.int % ALL < self._below:
                self._add("task-sent", job.id, name=stage.name, queue=stage.queue, **_redacted({}))

    def started(self, run: Run) -> None:
        self._seen += 1
        if run.job_id.int % ALL >= self._below:
            self.hidden += 1
            return
        self._shown.add(run.job_id)
        self._receive(run)

    def _receive(self, run: Run) -> None:
        about = _redacted({"version": run.version, "attempt": run.attempt})
        self._add("task-received", run.job_id, name=run.stage, retries=run.attempt - 1, **about)
        self._add("task-started", run.job_id)

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None:
        if run.job_id in self._shown:
            self._shown.discard(run.job_id)
        elif row.action == "fail":
            self._receive(run)  # what failed is always shown
        else:
            return
        match row.action:
            case "complete":
                result = f"{row.status} (version {row.fence + 1})"
                self._add("task-succeeded", run.job_id, runtime=seconds, result=result)
            case "fail":
                self._add("task-failed", run.job_id, exception=redact_text(row.error or ""), traceback="")
            case "cancel":
                self._add("task-revoked", run.job_id, terminated=False, signum=None, expired=False)
            case _:
                reason = redact_text(f"{row.action}: {row.reason}")
                self._add("task-retried", run.job_id, exception=reason, traceback="", retries=row.retry_count)

    def stale(self, run: Run) -> None:
        self.stopped(run)

    def stopped(self, run: Run) -> None:
        self._shown.discard(run.job_id)
        self.revoked(run.job_id)

    def revoked(self, job_id: UUID) -> None:
        """Show a job as revoked: cancelled, or taken from its run."""
        self._add("task-revoked", job_id, terminated=True, signum=None, expired=False)

    def _add(self, type_: str, job_id: UUID, **fields: Any) -> None:
        with self._lock:
            if len(self._waiting) >= EVENTS_PER_FLUSH:
                self.dropped += 1
                return
            self._waiting.append((type_, {"uuid": str(job_id), "timestamp": time.time(), **fields}))

    def _run(self) -> None:
        dispatcher: EventDispatcher | None = None
        last = False
        while not last:
            last = self._stopped.wait(FLUSH_SECONDS)
            self._sample()
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                dispatcher = dispatcher or self._connect()
                if _publish(dispatcher, batch[:1]):
                    _publish(dispatcher, batch[1:])
            except Exception as error:  # noqa: BLE001 - nobody waits for an event; the next flush connects again
                self.dropped += len(batch)
                log.warning("job_events_dropped", events=len(batch), error=type(error).__name__)
                _close(dispatcher)
                dispatcher = None
                self._stopped.wait(1.0)
        _close(dispatcher)

    def _sample(self) -> None:
        """Choose how many of the next jobs are shown, from how many came since the last flush."""
        seen, self._seen = self._seen, 0
        self._below = ALL if seen <= JOBS_PER_FLUSH else max(1, ALL * JOBS_PER_FLUSH // seen)
        if self.hidden and time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + SAMPLE_LOG_SECONDS
            log.info("job_events_sampled", hidden_jobs_so_far=self.hidden, dropped_events_so_far=self.dropped)

    def _connect(self) -> EventDispatcher:
        return EventDispatcher(
            self._app.connection_for_write(),
            hostname=self._hostname,
            app=self._app,
            buffer_while_offline=False,
            buffer_group=["task"],
            buffer_limit=EVENTS_PER_FLUSH + 1,
        )


def _publish(dispatcher: EventDispatcher, events: Sequence[tuple[str, dict[str, Any]]]) -> int:
    """Publish events as one list; return how many heard it."""
    for type_, fields in events:
        dispatcher.send(type_, **fields)
    dispatcher.flush()
    return int(vars(dispatcher)["producer"].channel.hearers)  # its stub has forgotten it


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
