"""Follow one job to its end, and describe its state in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from cli.connection import person_name
from cli.output import remark, status_text
from cli.values import format_duration
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import JobView, UnknownJob
from workers.runtime.operate.known import job_models
from workers.runtime.operate.listening import MAX_OUTAGE_SECONDS
from workers.runtime.refusals import printable


@dataclass(frozen=True, slots=True)
class FollowedJob:
    """A job that has ended. ``succeeded``: it ended in a good state of its lifecycle."""

    job: JobView
    succeeded: bool


def has_succeeded(job: JobView) -> bool:
    """Return whether ``job`` ended in a good state: completed, or another end that its lifecycle declares good."""
    model = job_models().get(job.table_name)
    return job.completed_at is not None and model is not None and job.status in model.__lifecycle__.good


def job_events(database_url: str, *, patience: float = MAX_OUTAGE_SECONDS) -> JobEvents:
    """Return the job events of this command. It prints a line when Postgres does not answer, and when it is back."""
    return JobEvents(database_url, changed_by=person_name(), tell=remark, patience=patience)


async def follow_job(database_url: str, job_id: UUID, *, print_line: Callable[[str], None]) -> FollowedJob:
    """Return the job when it has ended; call ``print_line`` with a line for each change that a person should see.

    It waits while Postgres restarts.
    """
    last_line = ""
    async with job_events(database_url) as events:
        async for job in events.follow(job_id):
            if (line := state_line(job)) != last_line:
                print_line(line)
                last_line = line
            if job.completed_at is not None:
                return FollowedJob(job, has_succeeded(job))
    raise UnknownJob(job_id)


def state_line(job: JobView) -> str:
    """Return the state of a job in a few words, without control characters."""
    status = status_text(job.shown_as)
    if job.completed_at is not None:
        took = f" in {format_duration(job.completed_at - job.created_at)}"
        return printable(f"{status}{took}" + (f": {job.error_message}" if job.error_message else ""))
    if job.wait_reason is not None:
        return printable(f"{status}: {job.wait_reason}")
    return f"{status} (attempt {job.retry_count + 1}, {job.progress} %)"
