"""``gristmill jobs cancel`` and ``jobs retry``: jobs by their ids, or all that match filters."""

from typing import Annotated

import typer

from cli.change_report import ChangeReport
from cli.commands.jobs_options import Age, Error, JobIds, Reason, Stage, Status, refused_error, required_filter
from cli.connection import actor, in_connection
from cli.error_lines import INTERRUPTED
from cli.output import Json
from workers.runtime.actor import Actor
from workers.runtime.operate.changes import CANCEL, RETRY, Change, ChangeCounts, change_jobs
from workers.runtime.operate.jobs import JobFilter

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show how many jobs would be changed; with --ids, which.")]
Ids = Annotated[bool, typer.Option("--ids", help="Print the id of each changed job.")]


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
    """Cancel jobs that have not ended. A running one stops within a second."""
    wanted = required_filter(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    return _change(CANCEL, wanted, actor(reason), dry_run=dry_run, ids=ids, as_json=as_json)


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
    """Send failed jobs back to ready. One without attempts left gets another, if its table allows it."""
    wanted = required_filter(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    return _change(RETRY, wanted, actor(reason), dry_run=dry_run, ids=ids, as_json=as_json)


def _change(change: Change, wanted: JobFilter, who: Actor, *, dry_run: bool, ids: bool, as_json: bool) -> int:
    with ChangeReport(change.done, dry_run=dry_run, ids=ids, as_json=as_json) as report:
        changed = ChangeCounts(report.add_page)
        try:
            in_connection(lambda conn: change_jobs(conn, change, wanted, who, changed=changed, dry_run=dry_run))
        except KeyboardInterrupt:
            report.print_summary(changed, interrupted=True)
            return INTERRUPTED
        report.print_summary(changed, reasons=not wanted.ids)
    if changed.first and wanted.ids:
        first, why = changed.first
        raise refused_error(first, why, others=changed.refused.total() - 1)
    return 0
