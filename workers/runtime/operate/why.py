"""What a job waits for, where it runs and until when, or what became of it: in words, with the remedy."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.health import LEADER_SILENT
from workers.runtime.operate.known import job_models
from workers.runtime.store.read import JobView, deadline_of, dispatcher_seen, lease_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Where a job stands: ``summary`` in one line, ``facts`` by name beside it, ``remedy`` where a person can do more.

    Of a running one ``worker`` is the name of its process, ``deadline_at`` when the run is ended, ``lease_until`` when
    it is rescued if its worker falls silent now. ``shown_as`` is the public name of ``status``.
    """

    id: UUID
    stage: str
    status: str
    shown_as: str
    wait_reason: str | None
    summary: str
    remedy: str | None = None
    since: datetime | None = None
    due_at: datetime | None = None
    worker: str | None = None
    deadline_at: datetime | None = None
    lease_until: datetime | None = None
    error: str | None = None


async def why(conn: Raw, job: JobView) -> Why:
    """Return where ``job`` stands, and what to do about it."""
    if job.completed_at is not None:
        return _ended(job)
    if job.wait_reason is None:
        return await _running(conn, job)
    return _waiting(job, seen=await dispatcher_seen(conn))


def _ended(job: JobView) -> Why:
    model = job_models().get(job.table_name)
    lifecycle = model.__lifecycle__ if model else None
    remedy = None
    went_well = lifecycle is not None and job.status in lifecycle.good
    if lifecycle and job.status == lifecycle.completed:
        word = "completed"
    elif lifecycle and job.status == lifecycle.cancelled:
        word = "cancelled"
    elif lifecycle and job.status != lifecycle.failed:
        word = lifecycle.shown(job.status)
    else:
        word = "failed"
        remedy = f"gristmill jobs retry {job.id}"
    tries = f" after {job.retry_count + 1} attempts" if word == "failed" and job.retry_count else ""
    error = None if went_well else job.error_message
    summary = f"{word}{tries}" + (f": {error}" if error else "")
    return _why(job, summary, since=job.completed_at, error=error, remedy=remedy)


async def _running(conn: Raw, job: JobView) -> Why:
    owner = await lease_of(conn, job.lease_owner) if job.lease_owner is not None else None
    worker, lease_until = (owner.worker, owner.until) if owner else (None, None)
    silent = job.lease_owner is not None and (owner is None or owner.is_over)
    where = f" on {worker}" if worker else ""
    attempt = f"attempt {job.retry_count + 1} of {job.max_retries + 1}"
    summary = f"running{where}: {attempt}, {job.progress} %"
    if silent:
        summary += ", but its worker gives no sign of life" if worker else ", but its worker is gone"
    remedy = "it is rescued within seconds of its lease's end, if a dispatcher leads" if silent else None
    deadline = await _deadline(conn, job)
    return _why(
        job,
        summary,
        since=job.started_at,
        worker=worker,
        lease_until=lease_until,
        deadline_at=deadline,
        remedy=remedy,
        error=job.error_message,
    )


async def _deadline(conn: Raw, job: JobView) -> datetime | None:
    """Return when the run of ``job`` is ended; the view of all jobs does not tell."""
    model = job_models().get(job.table_name)
    return await deadline_of(conn, model, job.id) if model else None


def _waiting(job: JobView, *, seen: timedelta | None) -> Why:
    reason = job.wait_reason or ""
    queue = job.stage.partition(".")[0]
    remedy = None
    match reason.partition(" ")[0].rstrip(":"):
        case "paused":
            remedy = f"gristmill stages resume {job.stage}"
        case "no":  # no worker
            remedy = f"start one: `gristmill up`, or `gristmill worker --queues {queue}`"
        case "backing":
            remedy = f"it comes back by itself; `gristmill jobs cancel {job.id}` if it is hopeless"
        case "snoozed" | "due" | "limit" | "waiting":
            pass
        case "expired":
            remedy = "beat ends the wait within a minute; start one: `gristmill up`, or `gristmill beat`"
        case _ if seen is None or seen > LEADER_SILENT:
            reason = f"{reason}, and none leads" if seen is None else f"{reason}, and the leader gives no sign of life"
            remedy = "start one: `gristmill up`, or `gristmill dispatcher`"
        case "dispatched":
            remedy = "`gristmill workers` shows who has free slots"
    since = job.updated_at if job.due_at is None else None
    return _why(job, reason, since=since, due_at=job.due_at, remedy=remedy, error=job.error_message)


def _why(job: JobView, summary: str, **facts: Any) -> Why:
    return Why(
        id=job.id,
        stage=job.stage,
        status=job.status,
        shown_as=job.shown_as,
        wait_reason=job.wait_reason,
        summary=summary,
        **facts,
    )
