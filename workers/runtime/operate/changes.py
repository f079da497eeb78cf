"""Cancel jobs and retry them: one by its id, or all that a filter selects."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from models.lifecycle import Job
from workers.runtime.actor import Actor, acting_on
from workers.runtime.database import Raw
from workers.runtime.operate.jobs import UnknownJob, find_job
from workers.runtime.operate.known import check_stage, job_models
from workers.runtime.refusals import Conflict, Forbidden
from workers.runtime.refusals import StaleVersion as StaleVersion  # noqa: PLC0414 - doors import it from here
from workers.runtime.store.intervene import cancel, cancel_by_function, lock_version, retry
from workers.runtime.store.read import JobFilter, JobView, scan_jobs

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """A change that an operator makes to jobs: its participle (``done``), its check of a job, and its statement.

    ``refuses`` returns why a job cannot be changed, or None. ``missed`` says why the statement left a job unchanged. If
    ``rehearsed``, only the statement knows which jobs it can change: a dry run executes it and rolls back, which must
    not block other work. ``reason`` is written to the history if the actor gives none.
    """

    done: str
    reason: str
    refuses: Callable[[JobView, type[Job]], str | None]
    perform: Callable[..., Awaitable[set[UUID]]]
    missed: Callable[[JobView], str] = lambda _: "changed meanwhile"
    rehearsed: bool = False


def _cannot_cancel(job: JobView, _: type[Job]) -> str | None:
    return f"is {job.status.lower()} already" if job.completed_at else None


def _cannot_retry(job: JobView, model: type[Job]) -> str | None:
    if job.status == model.__lifecycle__.failed:
        return None
    remedy = "; `gristmill jobs again ID` enqueues it once more" if job.completed_at else ""
    return f"is {job.status.lower()}, only a failed one can be retried{remedy}"


def _why_not_retried(job: JobView) -> str:
    if job.retry_count < job.max_retries:
        return "changed meanwhile"
    return (
        f"has no attempt left of {job.max_retries + 1}, and {job.table_name} allows no more; "
        "`gristmill jobs again ID` enqueues it as a new job"
    )


CANCEL = Change("cancelled", "cancelled by an operator", _cannot_cancel, cancel)
# It can be rehearsed: no process waits for the row of a failed job.
RETRY = Change("retried", "retried by an operator", _cannot_retry, retry, _why_not_retried, rehearsed=True)


async def cancel_job(conn: Raw, job_id: UUID, actor: Actor, *, version: int | None = None) -> JobView:
    """Cancel one ready, waiting or running job and return its new view. A running job is stopped within a second.

    Raise UnknownJob, Conflict if it has ended, and StaleVersion if it has another version than ``version`` (if given).
    """
    return await _change_one(conn, CANCEL, job_id, actor, version=version)


async def cancel_own_job(conn: Raw, job_id: UUID, actor: Actor, *, version: int | None = None) -> JobView:
    """Cancel one job like :func:`cancel_job`, as an actor who has no right to change job tables.

    The database decides whether the actor may: a service cancels its own jobs, an operator any. Raises the errors of
    :func:`cancel_job`, and Forbidden for a job that the actor may only see.
    """
    before = await find_job(conn, job_id)
    _check_version(job_id, before.version, version)
    reason = actor.change_reason or f"cancelled by {actor.changed_by}"
    async with conn.transaction(), acting_on(conn, actor):
        is_cancelled = await cancel_by_function(conn, job_id, reason=reason)
        now = await find_job(conn, job_id)
        if is_cancelled:
            _check_version(job_id, now.version - 1, version)  # it had changed meanwhile: this rolls the cancel back
            return now
    _check_version(job_id, now.version, version)
    if now.completed_at is not None:
        raise Conflict(f"job {job_id} is {now.status.lower()} already")
    raise Forbidden(f"job {job_id} belongs to somebody else: only its owner or an operator cancels it")


def _check_version(job_id: UUID, found: int, wanted: int | None) -> None:
    if wanted not in {None, found}:
        raise StaleVersion(f"job {job_id} is at version {found}, got version {wanted}: look at it again")


async def retry_job(conn: Raw, job_id: UUID, actor: Actor, *, version: int | None = None) -> JobView:
    """Send one failed job back to the step in which it failed, and return its new view.

    A job without an attempt left gets one more, if its table allows it. Raises the errors of :func:`cancel_job`.
    """
    return await _change_one(conn, RETRY, job_id, actor, version=version)


async def _change_one(conn: Raw, change: Change, job_id: UUID, actor: Actor, *, version: int | None) -> JobView:
    model = known_model(await find_job(conn, job_id))
    async with conn.transaction(), acting_on(conn, actor):
        held = await lock_version(conn, model, job_id)
        if held is None:
            raise UnknownJob(job_id)
        _check_version(job_id, held, version)
        job = await find_job(conn, job_id)  # its state under the lock
        if (why := change.refuses(job, model)) is not None:
            raise Conflict(f"job {job_id} {why}")
        if not await change.perform(conn, model, [job_id], reason=actor.change_reason or change.reason):
            raise Conflict(f"job {job_id} {change.missed(job)}")
        return await find_job(conn, job_id)


def known_model(job: JobView) -> type[Job]:
    """Return the model of a job's table; raise Conflict if this release does not know the table."""
    model = job_models().get(job.table_name)
    if model is None:
        raise Conflict(f"job {job.id} {_of_unknown_table(job)}")
    return model


def _of_unknown_table(job: JobView) -> str:
    return f"is of table {job.table_name}, which this release does not know"


# Gets the ids of the changed jobs, and those of the refused jobs with the reason.
ReportPage = Callable[[Sequence[UUID], Mapping[UUID, str]], None]


@dataclass(slots=True)
class ChangeCounts:
    """How many jobs were changed so far (or would be), and how many were refused, by reason.

    ``samples`` has one job for each reason. ``tell`` gets the ids of each page, so that a change of a million jobs does
    not hold a million ids.
    """

    tell: ReportPage = field(default=lambda *_: None)
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


async def change_jobs(
    conn: Raw, change: Change, wanted: JobFilter, actor: Actor, *, changed: ChangeCounts, dry_run: bool = False
) -> None:
    """Change every job that ``wanted`` selects and that can be changed, one page per transaction; count in ``changed``.

    For a cancel, a filter without a status selects only jobs that have not ended; the others do not count as refused.
    With ``dry_run``, only count. The statement repeats the condition, so a job that changed in between is refused. If
    this task is cancelled, it first finishes and counts the current page.
    """
    await check_stage(conn, wanted.stage)
    models, missing = job_models(), set(wanted.ids or ())
    async for page in scan_jobs(conn, wanted, page=PAGE):
        missing -= {job.id for job in page}
        if change is CANCEL and wanted.ids is None and wanted.status is None:
            selected = [job for job in page if (model := models.get(job.table_name)) and not change.refuses(job, model)]
        else:
            selected = page
        running = asyncio.ensure_future(_change_page(conn, change, selected, models, actor, dry_run=dry_run))
        try:
            done, refused = await asyncio.shield(running)
        except asyncio.CancelledError:
            changed.add(*await running)
            raise
        changed.add(done, refused)
    if missing:
        changed.add([], {job_id: "does not exist (any more)" for job_id in wanted.ids or () if job_id in missing})


async def _change_page(
    conn: Raw, change: Change, page: Sequence[JobView], models: Mapping[str, type[Job]], actor: Actor, *, dry_run: bool
) -> tuple[list[UUID], dict[UUID, str]]:
    """Change the jobs of one page; return the changed ids, and the refused ones with the reason."""
    possible: dict[type[Job], list[JobView]] = defaultdict(list)
    ids: list[UUID] = []
    refused: dict[UUID, str] = {}
    for job in page:
        model = models.get(job.table_name)
        if model is None:
            refused[job.id] = _of_unknown_table(job)
        elif (why := change.refuses(job, model)) is not None:
            refused[job.id] = why
        else:
            possible[model].append(job)
    for model, jobs in possible.items():
        done = await _perform(conn, change, model, [job.id for job in jobs], actor, dry_run=dry_run)
        ids += [job.id for job in jobs if job.id in done]
        refused |= {job.id: change.missed(job) for job in jobs if job.id not in done}
    return ids, refused


async def _perform(
    conn: Raw, change: Change, model: type[Job], ids: Sequence[UUID], actor: Actor, *, dry_run: bool
) -> set[UUID]:
    if dry_run and not change.rehearsed:
        return set(ids)
    async with conn.transaction(force_rollback=dry_run), acting_on(conn, actor):
        return await change.perform(conn, model, ids, reason=actor.change_reason or change.reason)
