"""The options that several `jobs` commands share, and the filter that they mean."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.completing import job_ids, stages
from cli.values import parse_age
from workers.runtime.operate.jobs import JobFilter
from workers.runtime.refusals import Failed, Refusal

Stage = Annotated[str | None, typer.Option(help="Only this stage.", autocompletion=stages)]
Status = Annotated[
    str | None,
    typer.Option(
        help="Only waiting, running, completed, failed or cancelled ones, or a table's own state; in any case."
    ),
]
Age = Annotated[
    str | None, typer.Option("--older-than", "--age", metavar="AGE", help="Created before: 30s, 10m, 2h, 7d.")
]
Error = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Only where the error contains this text; … stands for anything.")
]
JobId = Annotated[UUID, typer.Argument(metavar="ID", autocompletion=job_ids)]
JobIds = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="[ID]...", help="Jobs by id, or none and filters.", autocompletion=job_ids),
]
Reason = Annotated[str, typer.Option(help="Kept in the job's history.")]


def wanted(
    *,
    stage: str | None = None,
    status: str | None = None,
    older_than: str | None = None,
    error: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> JobFilter:
    """Return the filter that these options mean."""
    span = parse_age(older_than) if older_than else None
    return JobFilter(stage=stage, status=status, older_than=span, error=error, ids=ids)


def selected(job_ids: Sequence[UUID] | None, **filters: str | None) -> JobFilter:
    """Return the filter of a command that changes jobs: it must name some, for none would mean all."""
    if not job_ids and not any(filters.values()):
        raise Refusal("name jobs by id or by a filter (--stage, --status, --older-than, --error)")
    return wanted(**filters, ids=job_ids or None)


def first_refused(job_id: UUID, why: str, *, others: int) -> Failed:
    """Return the error of a command that could not do what was asked of jobs by their ids."""
    return Failed(f"job {job_id} {why}" + (f" (and {others} more)" if others else ""))
