"""``gristmill jobs again``: enqueue ended jobs again, as new jobs."""

from typing import Annotated
from uuid import UUID

import typer

from cli.commands.jobs_options import Age, Error, Stage, Status, refused_error, required_filter
from cli.connection import actor
from cli.output import Json, print_json
from cli.session import in_database
from workers.runtime.handler.registry import discover
from workers.runtime.operate.again import EnqueuedAgain, enqueue_again

JobIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="[ID]...", help="Ids of ended jobs. Without ids: filters.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show which jobs would be enqueued.")]
Reason = Annotated[str, typer.Option(help="Stored in the history of the new job.")]


def again(
    job_ids: JobIds = None,
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    dry_run: DryRun = False,
    reason: Reason = "enqueued again on the command line",
    as_json: Json = False,
) -> int:
    """Enqueue ended jobs again, as new jobs with all attempts: failed ones by filters, or any by their ids.

    Use it if the table allows no more attempts, so that `jobs retry` is refused, and for cancelled or completed jobs.
    """
    wanted = required_filter(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    registry = discover()
    result = in_database(lambda database: enqueue_again(database, registry, wanted, actor(reason), dry_run=dry_run))
    _print(result, dry_run=dry_run, as_json=as_json)
    if result.refused and job_ids:
        first, why = next(iter(result.refused.items()))
        raise refused_error(first, why, others=len(result.refused) - 1)
    return 0


def _print(result: EnqueuedAgain, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        pairs = [{"old": old, "new": new} for old, new in result.again.items()]
        refused = {str(job_id): why for job_id, why in result.refused.items()}
        print_json({"dry_run": dry_run, "again": pairs, "refused": refused})
        return
    for old, new in result.again.items():
        print(old if new is None else f"{old} -> {new}")
    for job_id, why in result.refused.items():
        print(f"{job_id} {why}")
    verb = "would be enqueued again" if dry_run else "enqueued again"
    print(f"{len(result.again)} {verb}" + (f", {len(result.refused)} refused" if result.refused else ""))
