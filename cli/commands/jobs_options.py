"""The options that several `jobs` commands share, and the filter made from them."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.completing import complete_job_id, complete_stage
from cli.values import parse_age
from workers.runtime.operate.jobs import JobFilter
from workers.runtime.refusals import Failed, Refusal

Stage = Annotated[str | None, typer.Option(help="Only this stage.", autocompletion=complete_stage)]
Status = Annotated[
    str | None,
    typer.Option(
        help="Only waiting, running, completed, failed or cancelled jobs, or a state of a table; in any case."
    ),
]
Age = Annotated[
    str | None, typer.Option("--older-than", "--age", metavar="AGE", help="Only jobs older than: 30s, 10m, 2h, 7d.")
]
Error = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Only jobs with this text in the error; … matches anything.")
]
JobId = Annotated[UUID, typer.Argument(metavar="ID", autocompletion=complete_job_id)]
JobIds = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="[ID]...", help="Ids of jobs. Without ids: filters.", autocompletion=complete_job_id),
]
Reason = Annotated[str, typer.Option(help="Stored in the history of the job.")]


def make_filter(
    *,
    stage: str | None = None,
    status: str | None = None,
    older_than: str | None = None,
    error: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> JobFilter:
    """Return the filter made from these options."""
    span = parse_age(older_than) if older_than else None
    return JobFilter(stage=stage, status=status, older_than=span, error=error, ids=ids)


def required_filter(job_ids: Sequence[UUID] | None, **filters: str | None) -> JobFilter:
    """Return the filter of a command that changes jobs. Without ids and options it would mean all jobs: refuse that."""
    if not job_ids and not any(filters.values()):
        raise Refusal("name jobs by id or by a filter (--stage, --status, --older-than, --error)")
    return make_filter(**filters, ids=job_ids or None)


def refused_error(job_id: UUID, why: str, *, others: int) -> Failed:
    """Return the error for jobs that were named by id and not changed."""
    return Failed(f"job {job_id} {why}" + (f" (and {others} more)" if others else ""))
