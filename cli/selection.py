"""Find the jobs a command means, and change all of them."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from cli.addresses import addresses
from cli.connection import connected
from cli.output import status_text
from config.settings import load
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.operate.known import check_stage, job_models
from workers.runtime.refusals import Failed
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.read import (
    JobFilter,
    JobView,
    TransitionView,
    get_job,
    history,
    list_jobs,
    own_values,
    scan_jobs,
)
from workers.runtime.store.verify import HistoryCheck, verify_history

PAGE = 1_000


def listed(wanted: JobFilter, *, limit: int, after: UUID | None) -> list[JobView]:
    """Return up to ``limit`` jobs, newest first."""

    async def run() -> list[JobView]:
        async with connected(addresses(load()).database_url) as conn:
            await check_stage(conn, wanted.stage)
            return await list_jobs(conn, wanted, limit=limit, after=after)

    return asyncio.run(run())


async def existing(conn: Raw, job_id: UUID) -> JobView:
    """Return one job or raise Failed."""
    job = await get_job(conn, job_id)
    if job is None:
        raise Failed(f"job {job_id} does not exist (any more)")
    return job


async def inspect(conn: Raw, job_id: UUID) -> tuple[JobView | None, dict[str, Any], list[TransitionView]]:
    """Return a job, the columns that are its domain's own, and its history; the job may be gone before its history."""
    job = await get_job(conn, job_id)
    transitions = await history(conn, job_id, table=job.table_name if job else None)
    if job is None and not transitions:
        raise Failed(f"job {job_id} does not exist (any more)")
    return job, await _own_values(conn, job) if job else {}, transitions


async def _own_values(conn: Raw, job: JobView) -> dict[str, Any]:
    model = job_models().get(job.table_name)
    return await own_values(conn, model, job.id) if model else {}  # none: a table of a newer release


async def verified(conn: Raw, stage: str | None) -> list[HistoryCheck]:
    """Return the verdict on every stage, or on one."""
    await check_stage(conn, stage)
    return await verify_history(conn, stage=stage)


@dataclass(frozen=True, slots=True)
class Change:
    """Something an operator does to jobs: its name when done, which jobs refuse it, the statement that does it.

    ``missed`` tells why the statement may have left a job alone. With ``rehearsed`` only the statement knows which
    jobs it can change: a dry run performs it and rolls back, which must hurt nobody.
    """

    done: str
    reason: str
    refuses: Callable[[JobView, type[Job]], str | None]
    perform: Callable[..., Awaitable[set[UUID]]]
    missed: Callable[[JobView], str] = lambda _: "changed meanwhile"
    rehearsed: bool = False


def cancellation(reason: str) -> Change:
    """Return the change that stops jobs that have not ended."""

    def refuses(job: JobView, _: type[Job]) -> str | None:
        return f"is {status_text(job.status)} already" if job.completed_at else None

    return Change("cancelled", reason, refuses, cancel)


def retrial(reason: str) -> Change:
    """Return the change that sends failed jobs back to ready; one without attempts is granted one."""

    def refuses(job: JobView, model: type[Job]) -> str | None:
        has_failed = job.status == model.__lifecycle__.failed
        if has_failed:
            return None
        remedy = "; `gristmill jobs again ID` enqueues it once more" if job.completed_at else ""
        return f"is {status_text(job.status)}, only a failed one can be retried{remedy}"

    def missed(job: JobView) -> str:
        if job.retry_count < job.max_retries:
            return "changed meanwhile"
        return (
            f"has no attempt left of {job.max_retries + 1}, and {job.table_name} allows no more; "
            "`gristmill jobs again ID` enqueues it as a new job"
        )

    # Nobody waits for the row of a job that failed.
    return Change("retried", reason, refuses, retry, missed, rehearsed=True)


@dataclass(slots=True)
class Changed:
    """How many jobs were changed (or would be) so far, and how many were refused, by reason.

    ``samples`` has one job of each reason. ``tell`` gets the ids of each page as they come: a change of a million jobs
    holds no million ids.
    """

    tell: "Tell" = field(default=lambda *_: None)
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    first: tuple[UUID, str] | None = None
    samples: dict[str, UUID] = field(default_factory=dict)

    def add(self, ids: Sequence[UUID], refused: Mapping[UUID, str]) -> None:
        """Count one page."""
        self.done += len(ids)
        self.refused.update(refused.values())
        self.first = self.first or next(iter(refused.items()), None)
        for job_id, why in refused.items():
            self.samples.setdefault(why, job_id)
        self.tell(ids, refused)


# Gets the ids that were changed, and those that were refused with the reason.
Tell = Callable[[Sequence[UUID], Mapping[UUID, str]], None]


async def apply(conn: Raw, change: Change, wanted: JobFilter, changed: Changed, *, dry_run: bool) -> None:
    """Change every job that ``wanted`` selects and that can be; with ``dry_run`` only tell which.

    A job that moved on between the look and the statement is told as refused: the statement repeats the condition.
    A page that has begun is finished and counted before a cancellation of this task goes on.
    """
    await check_stage(conn, wanted.stage)
    models, missing = job_models(), set(wanted.ids or ())
    async for page in scan_jobs(conn, wanted, page=PAGE):
        missing -= {job.id for job in page}
        running = asyncio.ensure_future(_changed(conn, change, page, models, dry_run=dry_run))
        try:
            done, refused = await asyncio.shield(running)
        except asyncio.CancelledError:
            changed.add(*await running)
            raise
        changed.add(done, refused)
    if missing:
        changed.add([], {job_id: "does not exist (any more)" for job_id in wanted.ids or () if job_id in missing})


async def _changed(
    conn: Raw, change: Change, page: Sequence[JobView], models: Mapping[str, type[Job]], *, dry_run: bool
) -> tuple[list[UUID], dict[UUID, str]]:
    """Change the jobs of one page; return the ids, and the others with the reason."""
    possible: dict[type[Job], list[JobView]] = defaultdict(list)
    ids: list[UUID] = []
    refused: dict[UUID, str] = {}
    for job in page:
        model = models.get(job.table_name)
        if model is None:
            refused[job.id] = f"is of table {job.table_name}, which this release does not know"
        elif (why := change.refuses(job, model)) is not None:
            refused[job.id] = why
        else:
            possible[model].append(job)
    for model, jobs in possible.items():
        done = await _performed(conn, change, model, [job.id for job in jobs], dry_run=dry_run)
        ids += [job.id for job in jobs if job.id in done]
        refused |= {job.id: change.missed(job) for job in jobs if job.id not in done}
    return ids, refused


async def _performed(conn: Raw, change: Change, model: type[Job], ids: Sequence[UUID], *, dry_run: bool) -> set[UUID]:
    if dry_run and not change.rehearsed:
        return set(ids)
    async with conn.transaction(force_rollback=dry_run):
        return await change.perform(conn, model, ids, reason=change.reason)
