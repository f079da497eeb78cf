"""``gristmill jobs list``, ``show``, ``watch``, ``why`` and ``verify``: look at jobs and at their histories."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.addresses import addresses
from cli.commands.jobs_options import Age, Error, JobId, Stage, Status, wanted
from cli.completing import job_ids
from cli.connection import ask
from cli.output import Json, plain, print_json, print_table, remark, status_text
from cli.score_view import score_lines
from cli.values import counted, duration, moment
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
    """Show one job, its result, what its calls of models used and cost, and its history."""
    # Imported here: of all commands of jobs only this one reads the ledger.
    from cli.llm_call_view import calls_of, print_attempts
    from workers.llm.operate.calls import attempts_of

    found = ask(lambda conn: show_job(conn, job_id))
    calls = calls_of(job_id)
    attempts = attempts_of(calls)
    if as_json:
        print_json({**plain(found), "attempts": attempts, "calls": calls})
        return
    if found.job is not None:
        _print_facts(found.job, found.values)
    else:
        remark(f"job {job_id} itself is gone (pruned or deleted); its history stays")
    if attempts:
        print_attempts(attempts, calls)
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
    """Check every job against its history: none lost, each ended at most once, no gap and nothing twice.

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
        raise Failed(f"{counted(violations, 'violation')}; jobs: {suspects}")
    if not as_json:
        print(f"nothing lost: {counted(sum(map(_all_jobs, checks)), 'job')}, each ended at most once")
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
    read_apart = _SCORE if job.stage == "scoring.score" else frozenset()
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
        **{name: value for name, value in own.items() if name not in read_apart},
    }
    width = max(len(name) for name in facts) + 2
    for name, value in facts.items():
        if value not in (None, ""):
            print(printable(f"{name:<{width}}{cut(_flat(value), 500)}"))
    if read_apart:
        _print_score(own)
    print()


_SCORE = frozenset({"prompt", "parsed_score", "llm_response"})


def _print_score(own: Mapping[str, Any]) -> None:
    """Print what was asked, with its lines, and the score criterion by criterion; --json has what the model sent."""
    print("prompt")
    for line in str(own.get("prompt") or "").splitlines():
        print(printable(f"  {line}"))
    if own.get("parsed_score") is not None:
        print()
        for line in score_lines(own["parsed_score"]):
            print(printable(line))


def _flat(value: object) -> str:
    """Return ``value`` on one line, JSON where it is no plain value."""
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
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


def _all_jobs(check: HistoryCheck) -> int:
    """Return how many jobs a stage ever had: those in the table, and those gone of which the history is left."""
    return check.jobs + check.gone


_COUNTS: Mapping[str, Callable[[HistoryCheck], int]] = {
    "JOBS": _all_jobs,
    "WAITING": lambda check: check.waiting,
    "RUNNING": lambda check: check.running,
    "COMPLETED": lambda check: check.completed,
    "FAILED": lambda check: check.failed,
    "CANCELLED": lambda check: check.cancelled,
    "LOST": lambda check: check.lost,
    "PRUNED": lambda check: check.gone - check.lost,
    "REOPENED": lambda check: check.reopened,
}
_VIOLATIONS: Mapping[str, Callable[[HistoryCheck], int]] = {
    "GONE BEFORE ITS END": lambda check: check.lost,
    "ENDED TWICE": lambda check: check.ended_twice,
    "VERSION GAPS": lambda check: check.gaps,
    "DUPLICATES": lambda check: check.duplicates,
    "ROW ≠ HISTORY": lambda check: check.mismatched,
    "NO HISTORY": lambda check: check.unrecorded,
}


def _print_checks(checks: Sequence[HistoryCheck]) -> None:
    """Print the counts of each stage, and its violations if there are any. A job is in one of the columns of states.

    Jobs that were pruned, and those that a person opened again, are counted once more in a column of their own.
    """
    _print_counts("STAGE", checks, _COUNTS)
    wrong = [check for check in checks if check.violations]
    if wrong:
        print()
        _print_counts("VIOLATIONS", wrong, _VIOLATIONS)


def _print_counts(
    title: str, checks: Sequence[HistoryCheck], counts: Mapping[str, Callable[[HistoryCheck], int]]
) -> None:
    """Print a table without the columns that are zero in every row."""
    shown = {name: count for name, count in counts.items() if any(map(count, checks))}
    print_table(
        (title, *(f">{name}" for name in shown)),
        ((check.stage, *(count(check) for count in shown.values())) for check in checks),
        keep={title},
    )
