"""``gristmill jobs cancel`` and ``jobs retry``: by ids, or all that match filters."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.commands.jobs_options import Age, Error, Stage, Status, wanted
from cli.completing import job_ids
from cli.errors import CommandError, WrongUsageError
from cli.output import Json, print_json

if TYPE_CHECKING:
    from cli.selection import Change, Changed

JobIds = Annotated[
    list[UUID] | None,
    typer.Argument(metavar="[ID]...", help="Jobs by id, or none and filters.", autocompletion=job_ids),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which jobs it would be.")]
Reason = Annotated[str, typer.Option(help="Kept in the job's history.")]


def cancel(
    job_ids: JobIds = None,
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    dry_run: DryRun = False,
    reason: Reason = "cancelled on the command line",
    as_json: Json = False,
) -> int:
    """Cancel jobs, ready or running. A running one is stopped within a second."""
    from cli.selection import cancellation

    filters = {"stage": stage, "status": status, "older_than": older_than, "error": error}
    return _change(cancellation(reason), job_ids, filters, dry_run=dry_run, as_json=as_json)


def retry(
    job_ids: JobIds = None,
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    dry_run: DryRun = False,
    reason: Reason = "retried on the command line",
    as_json: Json = False,
) -> int:
    """Send failed jobs back to ready; one without an attempt left is granted one, where its table allows it."""
    from cli.selection import retrial

    filters = {"stage": stage, "status": status, "older_than": older_than, "error": error}
    return _change(retrial(reason), job_ids, filters, dry_run=dry_run, as_json=as_json)


def _change(
    change: "Change", job_ids: list[UUID] | None, filters: dict[str, str | None], *, dry_run: bool, as_json: bool
) -> int:
    from cli.connection import ask
    from cli.selection import apply

    if not job_ids and not any(filters.values()):
        raise WrongUsageError("name jobs by id or by a filter (--stage, --status, --older-than, --error)")
    selected = wanted(**filters, ids=job_ids or None)
    changed = ask(lambda conn: apply(conn, change, selected, dry_run=dry_run))
    _print(change, changed, dry_run=dry_run, as_json=as_json)
    if changed.refused and job_ids:
        first = next(iter(changed.refused.items()))
        more = f" (and {len(changed.refused) - 1} more)" if len(changed.refused) > 1 else ""
        raise CommandError(f"job {first[0]} {first[1]}{more}")
    return 0


def _print(change: "Change", changed: "Changed", *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        refused = {str(job_id): why for job_id, why in changed.refused.items()}
        print_json({"dry_run": dry_run, change.done: changed.ids, "refused": refused})
        return
    for job_id in changed.ids:
        print(job_id)
    verb = f"would be {change.done}" if dry_run else change.done
    print(f"{len(changed.ids)} {verb}" + (f", {len(changed.refused)} cannot be" if changed.refused else ""))
