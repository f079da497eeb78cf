"""``gristmill jobs again``: jobs that ended, once more as new ones."""

from typing import Annotated
from uuid import UUID

import typer

from cli.commands.jobs_options import Age, Error, Stage, Status, first_refused, selected
from cli.connection import actor
from cli.output import Json, print_json
from cli.session import in_database
from workers.runtime.handler.registry import discover
from workers.runtime.operate.again import EnqueuedAgain, enqueue_again

JobIds = Annotated[
    list[UUID] | None, typer.Argument(metavar="[ID]...", help="Jobs that ended, by id; or none and filters.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which jobs it would be.")]
Reason = Annotated[str, typer.Option(help="Kept in the new job's history.")]


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
    """Enqueue jobs that ended once more, as new jobs with all their attempts: failed ones, or any by their ids.

    For what `jobs retry` cannot do: a table that grants no further attempt, a job that was cancelled or completed.
    """
    these = selected(job_ids, stage=stage, status=status, older_than=older_than, error=error)
    registry = discover()
    done = in_database(lambda database: enqueue_again(database, registry, these, actor(reason), dry_run=dry_run))
    _print(done, dry_run=dry_run, as_json=as_json)
    if done.refused and job_ids:
        first, why = next(iter(done.refused.items()))
        raise first_refused(first, why, others=len(done.refused) - 1)
    return 0


def _print(done: EnqueuedAgain, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        pairs = [{"old": old, "new": new} for old, new in done.again.items()]
        refused = {str(job_id): why for job_id, why in done.refused.items()}
        print_json({"dry_run": dry_run, "again": pairs, "refused": refused})
        return
    for old, new in done.again.items():
        print(old if new is None else f"{old} -> {new}")
    for job_id, why in done.refused.items():
        print(f"{job_id} {why}")
    verb = "would be enqueued again" if dry_run else "enqueued again"
    print(f"{len(done.again)} {verb}" + (f", {len(done.refused)} cannot be" if done.refused else ""))
