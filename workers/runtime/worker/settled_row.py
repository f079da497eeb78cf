"""Compute the row that a settlement gives a job. Pure: the same inputs always give the same row."""

from collections.abc import Callable
from typing import Any

from models.lifecycle import Job, Lifecycle, Step
from workers.runtime.backoff import full_jitter
from workers.runtime.handler.errors import one_line
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.store.settle import Settled

PROGRESS_DONE, PROGRESS_NONE = 100, 0


def settled_row(
    job: Job, step: Step, lifecycle: Lifecycle, settlement: Settlement, *, draw: Callable[[], float]
) -> Settled:
    """Return the row that ``settlement`` gives the claimed ``job``.

    If attempts are left, a retry spends one and waits by the backoff, or as long as it says itself. Otherwise the job
    fails with its last error.
    Snooze and release spend no attempt.
    """

    def row(status: str, action: str, *, reason: str | None = None, error: str | None = None, **rest: Any) -> Settled:
        terminal = status in lifecycle.terminal
        full = {"progress": PROGRESS_DONE} if terminal and lifecycle.ends_at_full_progress else {}
        return Settled(
            job_id=job.id,
            fence=job.version,
            status=status,
            action=action,
            reason=None if reason is None else one_line(reason),
            error=None if error is None else one_line(error),
            terminal=terminal,
            **{"retry_count": job.retry_count, **full, **rest},
        )

    match settlement:
        case Complete(values=values, into=into, until=until):
            state = into or step.done
            wait = lifecycle.wait(state)
            ended = state in lifecycle.terminal
            progress = PROGRESS_DONE if ended else PROGRESS_NONE
            until = until or (wait.lasts if wait else None)
            return Settled(
                job.id, job.version, state, "complete", job.retry_count, ended, progress, values=values, until=until
            )
        case Snooze(delay=delay, reason=reason):
            return row(
                step.ready, "snooze", reason=reason, delay=delay, error=job.error_message, progress=PROGRESS_NONE
            )
        case Release(reason=reason):
            return row(step.ready, "release", reason=reason, error=job.error_message, progress=PROGRESS_NONE)
        case Retry(error=error, min_delay=min_delay, delay=own_delay) if job.retry_count < job.max_retries:
            attempt = job.retry_count + 1
            delay = max(full_jitter(attempt, draw=draw), min_delay * attempt) if own_delay is None else own_delay
            return row(
                step.ready,
                "retry",
                reason=error,
                error=error,
                retry_count=attempt,
                delay=delay,
                progress=PROGRESS_NONE,
            )
        case Retry(error=error):
            return row(lifecycle.failed, "fail", reason=f"no attempts left: {error}", error=error)
        case Fail(error=error):
            return row(lifecycle.failed, "fail", reason=error, error=error)
        case Cancel(reason=reason):
            return row(lifecycle.cancelled, "cancel", reason=reason, error=job.error_message)
