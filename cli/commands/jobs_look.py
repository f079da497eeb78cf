"""``gristmill jobs list``, ``show``, ``watch``, ``why`` and ``verify``: look at jobs and at their histories."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.addresses import addresses
from cli.commands.jobs_options import Age, Error, JobId, Stage, Status, wanted
from cli.completing import job_ids
from cli.connection import ask
from cli.output import Json, plain, print_json, print_table, remark, status_text
from cli.values import duration, moment
from config.settings import load
from workers.runtime.operate.jobs import (
    HistoryCheck,
    JobView,
    TransitionView,
    explain_job,
    list_jobs,
    show_job,
    verify_jobs,
)
from workers.runtime.refusals import Failed, cut, printable


def list_(
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most jobs to show.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Go on after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    these = wanted(stage=stage, status=status, older_than=older_than, error=error)
    jobs = ask(lambda conn: list_jobs(conn, these, limit=limit, after=after))
    if as_json:
        print_json(jobs)
    elif jobs:
        print_table(_COLUMNS, map(_row, jobs))
        if len(jobs) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {jobs[-1].id}")
    else:
        remark("no jobs match")


def show(job_id: JobId, as_json: Json = False) -> None:
    """Show one job, its result and its history."""
    found = ask(lambda conn: show_job(conn, job_id))
    if as_json:
        print_json(found)
        return
    if found.job is not None:
        _print_facts(found.job, found.values)
    else:
        remark(f"job {job_id} itself is gone (pruned or deleted); its history stays")
    _print_history(found.transitions)


def watch(
    job_id: Annotated[UUID | None, typer.Argument(metavar="[ID]", autocompletion=job_ids)] = None,
    stage: Stage = None,
    status: Status = None,
) -> int:
    """Follow one job to its end, or all that is going on until Ctrl-C. Exit code 1 unless the job completed."""
    database_url = addresses(load()).database_url
    if job_id is None:
        # Imported here: of all commands of jobs only this one draws on a terminal again and again.
        from cli.watching import watch as keep_watching

        asyncio.run(keep_watching(database_url, wanted(stage=stage, status=status)))
        return 0
    from cli.following import follow  # as above

    return 0 if asyncio.run(follow(database_url, job_id, tell=partial(print, flush=True))).completed else 1


def why(job_id: JobId, as_json: Json = False) -> None:
    """Say what a job waits for, or what became of it."""
    found = ask(lambda conn: explain_job(conn, job_id))
    if as_json:
        print_json(found)
        return
    times = {
        "since": found.since,
        "due": found.due_at,
        "until": found.deadline_at,
        "lease": found.lease_until,
    }
    told = [f"{name} {moment(time)}" for name, time in times.items() if time is not None]
    status = found.status.lower()
    line = found.summary if found.summary.startswith(status) else f"{status}: {found.summary}"
    print(printable(line + (f" ({', '.join(told)})" if told else "")))
    if found.error and found.error not in found.summary:
        print(printable(f"last error: {found.error}"))
    if found.remedy:
        print(printable(f"→ {found.remedy}"))


def verify(stage: Stage = None, as_json: Json = False) -> int:
    """Check every job against its history: ended exactly once, versions without gaps, nothing twice.

    Prints the counts per stage; exit code 1 and the ids if anything is wrong.
    """
    checks = ask(lambda conn: verify_jobs(conn, stage))
    violations = sum(check.violations for check in checks)
    if as_json:
        print_json({"ok": not violations, "violations": violations, "stages": checks})
    else:
        _print_checks(checks)
    if violations:
        suspects = ", ".join(str(job_id) for check in checks for job_id in check.suspects)
        raise Failed(f"{violations} violations; jobs: {suspects}")
    return 0


_COLUMNS = ("ID", "STAGE", "STATUS", ">PRIO", ">TRIES", ">AGE", "WAITS FOR / ERROR")


def _row(job: JobView) -> tuple[object, ...]:
    why = job.error_message if job.completed_at else job.wait_reason
    return (
        job.id,
        job.stage,
        status_text(job.status),
        job.priority,
        job.retry_count + 1,
        duration(job.age),
        cut(why or "", 100),
    )


def _print_facts(job: JobView, own: Mapping[str, Any]) -> None:
    took = duration(job.completed_at - job.started_at) if job.completed_at and job.started_at else ""
    facts = {
        "id": job.id,
        "stage": job.stage,
        "status": status_text(job.status),
        "waits for": job.wait_reason,
        "error": job.error_message,
        "progress": f"{job.progress} %",
        "attempts": f"{job.retry_count + 1} of {job.max_retries + 1}",
        "priority": job.priority,
        "version": job.version,
        "created": moment(job.created_at),
        "due": moment(job.due_at),
        "started": moment(job.started_at),
        "completed": moment(job.completed_at) + (f" (ran {took})" if took else ""),
        "key": job.idempotency_key,
        **own,
    }
    width = max(len(name) for name in facts) + 2
    for name, value in facts.items():
        if value not in (None, ""):
            print(printable(f"{name:<{width}}{cut(_flat(value), 500)}"))
    print()


def _flat(value: object) -> str:
    """Return ``value`` on one line, JSON where it is no plain value."""
    text = json.dumps(plain(value), ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else str(value)
    return " ".join(text.split())


def _print_history(transitions: Sequence[TransitionView]) -> None:
    print_table(
        (">VERSION", "WHEN", "FROM", "TO", "ACTION", "BY", "REASON"),
        (
            (
                t.version_to,
                moment(t.created_at),
                status_text(t.old_state or "–"),
                status_text(t.new_state),
                t.change_action,
                t.changed_by,
                t.change_reason,
            )
            for t in transitions
        ),
        keep={"WHEN"},
    )


def _print_checks(checks: Sequence[HistoryCheck]) -> None:
    print_table(
        (
            "STAGE",
            ">JOBS",
            ">WAITING",
            ">RUNNING",
            ">COMPLETED",
            ">FAILED",
            ">CANCELLED",
            ">GONE",
            ">TRANSITIONS",
            ">ENDS",
        ),
        (
            (c.stage, c.jobs, c.waiting, c.running, c.completed, c.failed, c.cancelled, c.gone, c.transitions, c.ends)
            for c in checks
        ),
        keep={"STAGE"},
    )
    print()
    print_table(
        ("VIOLATIONS", ">ENDED TWICE", ">VERSION GAPS", ">DUPLICATES", ">ROW ≠ HISTORY", ">NO HISTORY"),
        ((c.stage, c.ended_twice, c.gaps, c.duplicates, c.mismatched, c.unrecorded) for c in checks),
        keep={"VIOLATIONS"},
    )
