"""``gristmill jobs cancel`` and ``jobs retry``: by ids, or all that match filters."""

from typing import Annotated

import typer

from cli.changing import Report
from cli.commands.jobs_options import Age, Error, JobIds, Reason, Stage, Status, first_refused, selected
from cli.complaints import INTERRUPTED
from cli.connection import actor, ask
from cli.output import Json
from workers.runtime.actor import Actor
from workers.runtime.operate.changes import CANCEL, RETRY, Change, ChangeCounts, change_jobs
from workers.runtime.operate.jobs import JobFilter

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be; --ids says which.")]
Ids = Annotated[bool, typer.Option("--ids", help="Print the id of each job that is changed.")]


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
    these = selected(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    return _change(CANCEL, these, actor(reason), dry_run=dry_run, ids=ids, as_json=as_json)


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
    these = selected(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    return _change(RETRY, these, actor(reason), dry_run=dry_run, ids=ids, as_json=as_json)


def _change(change: Change, these: JobFilter, who: Actor, *, dry_run: bool, ids: bool, as_json: bool) -> int:
    with Report(change.done, dry_run=dry_run, ids=ids, as_json=as_json) as report:
        changed = ChangeCounts(report.page)
        try:
            ask(lambda conn: change_jobs(conn, change, these, who, changed=changed, dry_run=dry_run))
        except KeyboardInterrupt:
            report.end(changed, interrupted=True)
            return INTERRUPTED
        report.end(changed, reasons=not these.ids)
    if changed.first and these.ids:
        first, why = changed.first
        raise first_refused(first, why, others=changed.refused.total() - 1)
    return 0
