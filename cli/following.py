"""Follow one job to its end by looking at its row."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from cli.output import status_text
from cli.steady import steady
from cli.values import duration
from workers.runtime.operate.known import job_models
from workers.runtime.refusals import Failed, printable
from workers.runtime.store.read import JobView, get_job

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A job at its end, and whether that is the end its lifecycle hopes for."""

    job: JobView
    completed: bool


def is_completed(job: JobView) -> bool:
    """Tell whether ``job`` ended well."""
    model = job_models().get(job.table_name)
    return job.completed_at is not None and model is not None and job.status == model.__lifecycle__.completed


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between looks, without end: short after the start, then ever longer, to a second."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.3, _LONGEST_PAUSE_SECONDS)


async def follow(database_url: str, job_id: UUID, *, tell: Callable[[str], None]) -> Ended:
    """Return the job once it has ended; ``tell`` gets a line for each change a person would want to see.

    A restart of Postgres is waited for.
    """
    told, pause = "", pauses()
    async with steady(database_url) as connection:
        while True:
            job = await connection.ask(lambda conn: get_job(conn, job_id))
            if job is None:
                raise Failed(f"job {job_id} does not exist (any more)")
            if (line := state_line(job)) != told:
                tell(line)
                told = line
            if job.completed_at is not None:
                return Ended(job, is_completed(job))
            await asyncio.sleep(next(pause))


def state_line(job: JobView) -> str:
    """Return where a job stands, in a few words, as a terminal may have them."""
    if job.completed_at is not None:
        took = f" in {duration(job.completed_at - job.created_at)}"
        return printable(f"{status_text(job.status)}{took}" + (f": {job.error_message}" if job.error_message else ""))
    if job.wait_reason is not None:
        return printable(f"{status_text(job.status)}: {job.wait_reason}")
    return f"{status_text(job.status)} (attempt {job.retry_count + 1}, {job.progress} %)"
