"""Job events for Flower: each job appears under its own id, with its stage as its name and its payload redacted.

The events follow the job's lifecycle and obey Celery's precedence of states. SUCCESS is sent only after the last step,
because after SUCCESS Flower accepts nothing but a retry.

A job is shown from its first run on. The dispatcher sends no event for a dispatch: such an event could arrive after the
worker's event of a quick retry and hide it.

A thread publishes the gathered events as one list every 100 ms. It publishes the first event alone: if nobody receives
it, nobody would receive the others, and Redis does not store them. Above the rate that Flower can follow, only a sample
of the jobs is shown, each with all its events. The other jobs are counted. Nothing is queued without bound.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from celery import Celery, states
from celery.events import EventDispatcher

from config.redaction import redact_text
from models.lifecycle import Lifecycle
from workers.runtime.handler.context import Run
from workers.runtime.handler.registry import Stage, registry
from workers.runtime.refusals import cut, without_value
from workers.runtime.store.settle import Settled
from workers.runtime.worker.dead_letters import DeadLetter

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 0.1
# After a wake-up, events are gathered this long. The event of a retry is published at once, before another process
# publishes the start of the next run.
EVENT_GATHER_SECONDS = 0.02
# Flower follows about 2,000 jobs a second, of all processes together.
JOBS_PER_FLUSH = 100
EVENTS_PER_FLUSH = 800
# A job is shown if the last bits of its id, which are random, are below a bound. All workers use these bits, so workers
# with different rates choose from the same jobs.
SAMPLE_BUCKETS = 1 << 10
SAMPLE_LOG_SECONDS = 60.0
REDACTED = "(in Postgres)"


# The version that a job's first claim returns.
FIRST_CLAIM_VERSION = 2


class Moved(NamedTuple):
    """One transition of a job. ``stage`` is the job's stage before it."""

    job_id: UUID
    stage: str
    version: int
    old_state: str
    status: str
    action: str | None
    reason: str | None
    error: str | None


def flower_state(lifecycle: Lifecycle, old: str | None, new: str) -> str:
    """Return Celery's state for a job that moved from ``old`` to ``new``.

    A good terminal state is SUCCESS, a bad one FAILURE, a neutral one REVOKED. A job between two steps or in a wait is
    STARTED. A job that goes back to the ready state of a step is RETRY.
    """
    if new in lifecycle.good:
        return str(states.SUCCESS)
    if new in lifecycle.terminal:
        return str(states.FAILURE if new in lifecycle.bad else states.REVOKED)
    if new in lifecycle.running | lifecycle.waiting or old in lifecycle.waiting or _is_completion(lifecycle, old, new):
        return str(states.STARTED)
    return str(states.PENDING if old is None else states.RETRY)


def _is_completion(lifecycle: Lifecycle, old: str | None, new: str) -> bool:
    """Return whether a run completed from ``old`` to ``new``, by the step's ``done`` or by the handler's choice."""
    chosen = old in lifecycle.running and (old, new) in lifecycle.also
    return chosen or any((step.running, step.done) == (old, new) for step in lifecycle.steps)


def is_ignored(state: str, *, before: str) -> bool:
    """Return whether Celery's precedence keeps a task in the state ``before`` after an event with ``state``."""
    return states.RETRY not in {state, before} and bool(states.precedence(state) > states.precedence(before))


class EventStream:
    """Publishes job events under one process's name; implements :class:`workers.runtime.worker.runs.RunReports`.

    ``hidden`` counts the jobs outside the sample, ``dropped`` the events lost by a broken connection or a full buffer.
    """

    def __init__(self, app: Celery, hostname: str, stages: Mapping[str, Stage] = registry) -> None:
        self._app = app
        self._stages = stages
        self._hostname = hostname
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._sampled_at = 0.0
        self._thread = threading.Thread(target=self._run, name="job-events", daemon=True)
        self._seen = 0
        self._below = SAMPLE_BUCKETS
        self._shown: set[UUID] = set()
        self._log_at = 0.0
        self.hidden = 0
        self.dropped = 0

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self) -> None:
        """Publish the waiting events, then stop."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(timeout=2)

    def started(self, run: Run) -> None:
        self._seen += 1
        if run.job_id.int % SAMPLE_BUCKETS >= self._below:
            self.hidden += 1
            return
        self._shown.add(run.job_id)
        self._show_start(run)

    def _show_start(self, run: Run) -> None:
        """Show a run as started. RETRY comes first, because Flower accepts it after every state."""
        about = _redacted({"version": run.version, "attempt": run.attempt})
        if run.version > FIRST_CLAIM_VERSION:
            self._add("task-retried", run.job_id, name=run.stage, retries=run.attempt - 1)
        self._add("task-received", run.job_id, name=run.stage, retries=run.attempt - 1, **about)
        self._add("task-started", run.job_id, name=run.stage)

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None:
        if run.job_id in self._shown:
            self._shown.discard(run.job_id)
        elif row.action == "fail":
            self._show_start(run)  # failed jobs are always shown
        else:
            return
        stage = self._stages[run.stage]
        job = Moved(
            run.job_id, run.stage, row.fence + 1, stage.step.running, row.status, row.action, row.reason, row.error
        )
        self._show_state(stage.model.__lifecycle__, job, seconds=seconds, retries=row.retry_count)

    def moved(self, lifecycle: Lifecycle, job: "Moved") -> None:
        """Show a transition that no worker made, but a person, a service or the dispatcher."""
        before = flower_state(lifecycle, None, job.old_state)
        if is_ignored(flower_state(lifecycle, job.old_state, job.status), before=before):
            self._add("task-retried", job.job_id, name=job.stage)
        self._show_state(lifecycle, job)

    def _show_state(self, lifecycle: Lifecycle, job: "Moved", *, seconds: float | None = None, **fields: Any) -> None:
        """Add the events that make Flower show the state of the job's row."""
        reason = redact_text(": ".join(filter(None, (job.action, job.reason))))
        match flower_state(lifecycle, job.old_state, job.status):
            case states.SUCCESS:
                result = f"{job.status} (version {job.version})"
                self._add("task-succeeded", job.job_id, name=job.stage, runtime=seconds, result=result)
            case states.FAILURE:
                error = redact_text(job.error or job.reason or "")
                self._add("task-failed", job.job_id, name=job.stage, exception=error, traceback="")
            case states.REVOKED:
                self._show_revoked(job.job_id, name=job.stage)
            case states.STARTED if job.status in lifecycle.ready:
                # The job goes on with its next step. It stays STARTED, under the name of that step.
                step = next(step for step in lifecycle.steps if step.ready == job.status)
                self._add("task-received", job.job_id, name=step.stage)
                self._add("task-started", job.job_id, name=step.stage)
                self._wake.set()
            case states.STARTED:
                self._add("task-received", job.job_id, name=job.stage)
                self._add("task-started", job.job_id, name=job.stage)
            case _:
                self._add("task-retried", job.job_id, name=job.stage, exception=reason, traceback="", **fields)
                self._wake.set()  # the process that runs it next may publish its start within moments

    def stale(self, run: Run) -> None:
        self.stopped(run)

    def stopped(self, run: Run) -> None:
        """Publish nothing: the follower reads the job's new state from its table and publishes it."""
        self._shown.discard(run.job_id)

    def revoked(self, job_id: UUID) -> None:
        """Show a job that this process cancelled as revoked."""
        self._show_revoked(job_id)

    def _show_revoked(self, job_id: UUID, **about: Any) -> None:
        self._add("task-revoked", job_id, terminated=True, signum=None, expired=False, **about)

    def refused(self, letter: DeadLetter) -> None:
        """Show a refused message as a failed task with the reason and without its content."""
        about = {"name": cut(letter.task or "no task", 100), **_redacted({})}
        self._add("task-received", cut(letter.shown_id, 100), **about)
        reason = f"refused: {redact_text(without_value(letter.reason))}"
        self._add("task-failed", cut(letter.shown_id, 100), exception=reason, traceback="", **about)

    def _add(self, type_: str, job_id: UUID | str, **fields: Any) -> None:
        with self._lock:
            if len(self._waiting) >= EVENTS_PER_FLUSH:
                self.dropped += 1
                return
            self._waiting.append((type_, {"uuid": str(job_id), "timestamp": time.time(), **fields}))

    def _run(self) -> None:
        dispatcher: EventDispatcher | None = None
        last = False
        while not last:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            last = self._stopped.wait(EVENT_GATHER_SECONDS)
            self._sample()
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                dispatcher = dispatcher or self._connect()
                if _publish(dispatcher, batch[:1]):
                    _publish(dispatcher, batch[1:])
            except Exception as error:  # noqa: BLE001 - losing events is allowed; the next flush connects again
                self.dropped += len(batch)
                log.warning("job_events_dropped", events=len(batch), error=type(error).__name__)
                _close(dispatcher)
                dispatcher = None
                self._stopped.wait(1.0)
        _close(dispatcher)

    def _sample(self) -> None:
        """Set the share of the next jobs that is shown, from the number of jobs since the last flush."""
        if time.monotonic() - self._sampled_at < FLUSH_SECONDS:
            return
        self._sampled_at = time.monotonic()
        seen, self._seen = self._seen, 0
        self._below = SAMPLE_BUCKETS if seen <= JOBS_PER_FLUSH else max(1, SAMPLE_BUCKETS * JOBS_PER_FLUSH // seen)
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
    """Publish events as one list; return the number of receivers."""
    for type_, fields in events:
        dispatcher.send(type_, **fields)
    dispatcher.flush()
    return int(vars(dispatcher)["producer"].channel.receivers)  # missing in its type stub


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
    """Return the fields that Celery shows as a task's arguments: facts about the run, never its payload."""
    return {"args": REDACTED, "kwargs": repr(dict(facts))}
