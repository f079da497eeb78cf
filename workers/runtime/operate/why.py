"""Explain a job in words, with the remedy: what it waits for, where it runs and until when, or how it ended."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.health import LEADER_SILENT_AFTER
from workers.runtime.operate.known import job_models
from workers.runtime.store.read import JobView, read_deadline, read_leader_silence, read_lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The state of a job: ``summary`` in one line, then facts by name, and ``remedy`` if a person can help.

    For a running job, ``worker`` is the name of its process, ``deadline_at`` is when the run is stopped, and
    ``lease_until`` is when it is rescued if no more heartbeats come.
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


@dataclass(frozen=True, slots=True)
class LeaderSeen:
    """How long the leading dispatcher has been silent; ``silence`` is None if none ever led."""

    silence: timedelta | None


async def look_at_leader(conn: Raw) -> LeaderSeen:
    """Return what is known of the leading dispatcher."""
    return LeaderSeen(await read_leader_silence(conn))


async def explain(conn: Raw, job: JobView, *, leader: LeaderSeen | None = None) -> Why:
    """Return the state of ``job``, and what a person can do.

    ``leader`` is what another connection saw of the leading dispatcher, if ``conn`` may not look.
    """
    if job.completed_at is not None:
        return _explain_ended(job)
    if job.wait_reason is None:
        return await _explain_running(conn, job)
    return _explain_waiting(job, seen=(leader or await look_at_leader(conn)).silence)


def _explain_ended(job: JobView) -> Why:
    model = job_models().get(job.table_name)
    lifecycle = model.__lifecycle__ if model else None
    remedy = None
    went_well = lifecycle is not None and job.status in lifecycle.good
    if lifecycle and job.status == lifecycle.completed:
        word = "completed"
    elif lifecycle and job.status == lifecycle.cancelled:
        word = "cancelled"
    elif lifecycle and job.status != lifecycle.failed:
        word = lifecycle.public_name(job.status)
    else:
        word = "failed"
        remedy = f"gristmill jobs retry {job.id}"
    tries = f" after {job.retry_count + 1} attempts" if word == "failed" and job.retry_count else ""
    error = None if went_well else job.error_message
    summary = f"{word}{tries}" + (f": {error}" if error else "")
    return _why(job, summary, since=job.completed_at, error=error, remedy=remedy)


async def _explain_running(conn: Raw, job: JobView) -> Why:
    owner = await read_lease(conn, job.lease_owner) if job.lease_owner is not None else None
    worker, lease_until = (owner.worker, owner.until) if owner else (None, None)
    silent = job.lease_owner is not None and (owner is None or owner.is_over)
    where = f" on {worker}" if worker else ""
    attempt = f"attempt {job.retry_count + 1} of {job.max_retries + 1}"
    summary = f"running{where}: {attempt}, {job.progress} %"
    if silent:
        summary += ", but its worker gives no sign of life" if worker else ", but its worker is gone"
    remedy = "if a dispatcher leads, it is rescued within seconds after the lease ends" if silent else None
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
    """Return the deadline of the run of ``job``, which the view of all jobs does not have."""
    model = job_models().get(job.table_name)
    return await read_deadline(conn, model, job.id) if model else None


def _explain_waiting(job: JobView, *, seen: timedelta | None) -> Why:
    reason = job.wait_reason or ""
    queue = job.stage.partition(".")[0]
    remedy = None
    match reason.partition(" ")[0].rstrip(":"):
        case "paused":
            remedy = f"gristmill stages resume {job.stage}"
        case "no":  # no worker
            remedy = f"start one: `gristmill up`, or `gristmill worker --queues {queue}`"
        case "backing":
            remedy = f"it is retried by itself; `gristmill jobs cancel {job.id}` ends it"
        case "snoozed" | "due" | "limit" | "waiting":
            pass
        case "held" | "limited" if seen is not None and seen <= LEADER_SILENT_AFTER:
            remedy = "it goes on by itself; `gristmill llm limits` and `gristmill llm providers` show what is free"
            if paused := re.search(r"provider (\S+) is paused by operators", reason):
                remedy = f"gristmill llm resume {paused[1]}"
        case "expired":
            remedy = "beat ends the wait within a minute; start one: `gristmill up`, or `gristmill beat`"
        case _ if seen is None or seen > LEADER_SILENT_AFTER:
            problem = "no dispatcher leads" if seen is None else "the leader gives no sign of life"
            reason = f"{reason}, and {problem}"
            remedy = "start one: `gristmill up`, or `gristmill dispatcher`"
        case "dispatched":
            remedy = "`gristmill workers` shows which workers have free slots"
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
