"""Follow one job to its end, and say in a line where it stands."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from cli.connection import who
from cli.output import remark, status_text
from cli.values import duration
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import JobView, UnknownJob
from workers.runtime.operate.known import job_models
from workers.runtime.operate.listening import MAX_OUTAGE_SECONDS
from workers.runtime.refusals import printable


@dataclass(frozen=True, slots=True)
class Ended:
    """A job at its end, and whether that is the end its lifecycle hopes for."""

    job: JobView
    completed: bool


def is_completed(job: JobView) -> bool:
    """Tell whether ``job`` ended well."""
    model = job_models().get(job.table_name)
    return job.completed_at is not None and model is not None and job.status == model.__lifecycle__.completed


def job_events(database_url: str, *, patience: float = MAX_OUTAGE_SECONDS) -> JobEvents:
    """Return the source of job events of this command. It says on standard error when Postgres is away and back."""
    return JobEvents(database_url, changed_by=who(), tell=remark, patience=patience)


async def follow(database_url: str, job_id: UUID, *, tell: Callable[[str], None]) -> Ended:
    """Return the job once it has ended; ``tell`` gets a line for each change a person would want to see.

    A restart of Postgres is waited for.
    """
    told = ""
    async with job_events(database_url) as events:
        async for job in events.follow(job_id):
            if (line := state_line(job)) != told:
                tell(line)
                told = line
            if job.completed_at is not None:
                return Ended(job, is_completed(job))
    raise UnknownJob(job_id)


def state_line(job: JobView) -> str:
    """Return where a job stands, in a few words, as a terminal may have them."""
    if job.completed_at is not None:
        took = f" in {duration(job.completed_at - job.created_at)}"
        return printable(f"{status_text(job.status)}{took}" + (f": {job.error_message}" if job.error_message else ""))
    if job.wait_reason is not None:
        return printable(f"{status_text(job.status)}: {job.wait_reason}")
    return f"{status_text(job.status)} (attempt {job.retry_count + 1}, {job.progress} %)"
