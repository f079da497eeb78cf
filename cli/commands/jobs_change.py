"""``gristmill jobs cancel`` and ``jobs retry``: by ids, or all that match filters."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.commands.jobs_options import Age, Error, Stage, Status, wanted
from cli.completing import job_ids
from cli.output import Json
from workers.runtime.refusals import Failed, Refusal

if TYPE_CHECKING:
    from cli.selection import Change

INTERRUPTED = 130

JobIds = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="[ID]...", help="Jobs by id, or none and filters.", autocompletion=job_ids),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be; --ids says which.")]
Ids = Annotated[bool, typer.Option("--ids", help="Print the id of each job that is changed.")]
Reason = Annotated[str, typer.Option(help="Kept in the job's history.")]


def cancel(
    job_ids: JobIds = None,
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    dry_run: DryRun = False,
    ids: Ids = False,
    reason: Reason = "cancelled on the command line",
    as_json: Json = False,
) -> int:
    """Cancel jobs, ready or running. A running one is stopped within a second."""
    from cli.selection import cancellation

    filters = {"stage": stage, "status": status, "older_than": older_than, "error": error}
    return _change(cancellation(reason), job_ids, filters, dry_run=dry_run, ids=ids, as_json=as_json)


def retry(
    job_ids: JobIds = None,
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    dry_run: DryRun = False,
    ids: Ids = False,
    reason: Reason = "retried on the command line",
    as_json: Json = False,
) -> int:
    """Send failed jobs back to ready; one without an attempt left is granted one, where its table allows it."""
    from cli.selection import retrial

    filters = {"stage": stage, "status": status, "older_than": older_than, "error": error}
    return _change(retrial(reason), job_ids, filters, dry_run=dry_run, ids=ids, as_json=as_json)


def _change(
    change: "Change",
    job_ids: list[UUID] | None,
    filters: dict[str, str | None],
    *,
    dry_run: bool,
    ids: bool,
    as_json: bool,
) -> int:
    from cli.changing import Report
    from cli.connection import ask
    from cli.selection import Changed, apply

    if not job_ids and not any(filters.values()):
        raise Refusal("name jobs by id or by a filter (--stage, --status, --older-than, --error)")
    selected = wanted(**filters, ids=job_ids or None)
    with Report(change.done, dry_run=dry_run, ids=ids, as_json=as_json) as report:
        changed = Changed(report.page)
        try:
            ask(lambda conn: apply(conn, change, selected, changed, dry_run=dry_run))
        except KeyboardInterrupt:
            report.end(changed, interrupted=True)
            return INTERRUPTED
        report.end(changed, reasons=not job_ids)
    if changed.first and job_ids:
        more = f" (and {changed.refused.total() - 1} more)" if changed.refused.total() > 1 else ""
        raise Failed(f"job {changed.first[0]} {changed.first[1]}{more}")
    return 0
