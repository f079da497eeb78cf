"""Job events for Flower: each job appears under its own id, named by its stage, its payload redacted.

What Flower shows follows the job's whole lifecycle by Celery's own precedence of states: SUCCESS comes with the end of
the last step only, for nothing but a retry could follow it.

A job is shown from its first run on. The dispatcher tells nothing: what it told would be heard after the worker's word
of a quick retry at times, and hide it.

Events are gathered and published as one list every 100 ms from a thread of their own, the first of them ahead: where
nobody hears it, nobody would hear the others, and Redis keeps none. Above a rate that Flower could not follow anyway
only a sample of the jobs is shown, each with its whole life, and the others are counted; nothing is queued without
bound.
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
# A job that goes back is told at once, before another process tells that it has started again.
GATHER_SECONDS = 0.02
# Flower follows about 2,000 jobs a second, of all processes together.
JOBS_PER_FLUSH = 100
EVENTS_PER_FLUSH = 800
# A job is shown if the last bits of its id, which are random, are below a bound: workers, who see different rates, so
# choose among the same jobs.
ALL = 1 << 10
SAMPLE_LOG_SECONDS = 60.0
REDACTED = "(in Postgres)"


# The version that a job's first claim returns.
FIRST_CLAIM = 2


class Moved(NamedTuple):
    """What a transition made of a job. ``stage`` is the one in which it was."""

    job_id: UUID
    stage: str
    version: int
    old_state: str
    status: str
    action: str | None
    reason: str | None
    error: str | None


def flower_state(lifecycle: Lifecycle, old: str | None, new: str) -> str:
    """Return Celery's word for a job that went from ``old`` to ``new``: SUCCESS only where all of it ended well.

    A bad end is FAILURE, a neutral one REVOKED. Between two steps and in a wait it is STARTED; back before a step that
    it had entered, RETRY.
    """
    if new in lifecycle.good:
        return str(states.SUCCESS)
    if new in lifecycle.terminal:
        return str(states.FAILURE if new in lifecycle.bad else states.REVOKED)
    if new in lifecycle.running | lifecycle.waiting or old in lifecycle.waiting or _goes_on(lifecycle, old, new):
        return str(states.STARTED)
    return str(states.PENDING if old is None else states.RETRY)


def _goes_on(lifecycle: Lifecycle, old: str | None, new: str) -> bool:
    """Tell whether a run led from ``old`` to ``new`` by completing: where its step leads, or where it chose to go."""
    chosen = old in lifecycle.running and (old, new) in lifecycle.also
    return chosen or any((step.running, step.done) == (old, new) for step in lifecycle.steps)


def hides(state: str, *, before: str) -> bool:
    """Tell whether Celery's precedence keeps a task in the state ``before`` when it is told ``state``."""
    return states.RETRY not in {state, before} and bool(states.precedence(state) > states.precedence(before))


class EventStream:
    """Publishes job events under one process's name; implements :class:`workers.runtime.worker.runs.RunReports`.

    ``hidden`` counts the jobs left out of the sample, ``dropped`` the events lost with a broken connection.
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
        self._wake.set()
        self._thread.join(timeout=2)

    def started(self, run: Run) -> None:
        self._seen += 1
        if run.job_id.int % ALL >= self._below:
            self.hidden += 1
            return
        self._shown.add(run.job_id)
        self._receive(run)

    def _receive(self, run: Run) -> None:
        """Show a run as started, whatever Flower believes of its job by now: only a retry follows every state."""
        about = _redacted({"version": run.version, "attempt": run.attempt})
        if run.version > FIRST_CLAIM:
            self._add("task-retried", run.job_id, name=run.stage, retries=run.attempt - 1)
        self._add("task-received", run.job_id, name=run.stage, retries=run.attempt - 1, **about)
        self._add("task-started", run.job_id, name=run.stage)

    def settled(self, run: Run, row: Settled, *, seconds: float) -> None:
        if run.job_id in self._shown:
            self._shown.discard(run.job_id)
        elif row.action == "fail":
            self._receive(run)  # what failed is always shown
        else:
            return
        stage = self._stages[run.stage]
        job = Moved(
            run.job_id, run.stage, row.fence + 1, stage.step.running, row.status, row.action, row.reason, row.error
        )
        self._tell(stage.model.__lifecycle__, job, seconds=seconds, retries=row.retry_count)

    def moved(self, lifecycle: Lifecycle, job: "Moved") -> None:
        """Show what others than workers did to a job: a person, a service, the dispatcher."""
        before = flower_state(lifecycle, None, job.old_state)
        if hides(flower_state(lifecycle, job.old_state, job.status), before=before):
            self._add("task-retried", job.job_id, name=job.stage)
        self._tell(lifecycle, job)

    def _tell(self, lifecycle: Lifecycle, job: "Moved", *, seconds: float | None = None, **fields: Any) -> None:
        """Add the event that brings Flower to the state of a job's row."""
        reason = redact_text(": ".join(filter(None, (job.action, job.reason))))
        match flower_state(lifecycle, job.old_state, job.status):
            case states.SUCCESS:
                result = f"{job.status} (version {job.version})"
                self._add("task-succeeded", job.job_id, name=job.stage, runtime=seconds, result=result)
            case states.FAILURE:
                error = redact_text(job.error or job.reason or "")
                self._add("task-failed", job.job_id, name=job.stage, exception=error, traceback="")
            case states.REVOKED:
                self._revoke(job.job_id, name=job.stage)
            case states.STARTED if job.status in lifecycle.ready:
                # The job goes on with its next step: started it stays, under that step's name.
                step = next(step for step in lifecycle.steps if step.ready == job.status)
                self._add("task-received", job.job_id, name=step.stage)
                self._add("task-started", job.job_id, name=step.stage)
                self._wake.set()
            case states.STARTED:
                self._add("task-received", job.job_id, name=job.stage)
                self._add("task-started", job.job_id, name=job.stage)
            case _:
                self._add("task-retried", job.job_id, name=job.stage, exception=reason, traceback="", **fields)
                self._wake.set()  # whoever starts it next tells of that within moments

    def stale(self, run: Run) -> None:
        self.stopped(run)

    def stopped(self, run: Run) -> None:
        """Say nothing: what became of the job is in its table, and the follower tells that."""
        self._shown.discard(run.job_id)

    def revoked(self, job_id: UUID) -> None:
        """Show a job as revoked: cancelled by this process."""
        self._revoke(job_id)

    def _revoke(self, job_id: UUID, **about: Any) -> None:
        self._add("task-revoked", job_id, terminated=True, signum=None, expired=False, **about)

    def refused(self, letter: DeadLetter) -> None:
        """Show a message that was refused as a failed task of its own, with the reason and nothing that it brought."""
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
            last = self._stopped.wait(GATHER_SECONDS)
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
        if time.monotonic() - self._sampled_at < FLUSH_SECONDS:
            return
        self._sampled_at = time.monotonic()
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
