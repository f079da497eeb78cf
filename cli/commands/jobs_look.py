"""``gristmill jobs list``, ``show``, ``watch``, ``why`` and ``verify``: show jobs and their histories."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.commands.jobs_options import Age, Error, JobId, Stage, Status, make_filter
from cli.completing import complete_job_id
from cli.connection import in_connection
from cli.output import Json, one_line, print_json, print_table, remark, status_text, to_json
from cli.score_view import score_lines
from cli.server_urls import find_server_urls
from cli.values import format_count, format_duration, format_time
from config.settings import load
from workers.runtime.database import Raw
from workers.runtime.operate.jobs import (
    HistoryCheck,
    JobDetails,
    JobView,
    explain_job,
    show_job,
    verify_jobs,
)
from workers.runtime.operate.known import job_models
from workers.runtime.operate.lists import WAITS, find_newest, list_unknown_tables, read_search, search_of
from workers.runtime.refusals import Failed, cut, printable


def list_(
    *,
    stage: Stage = None,
    status: Status = None,
    older_than: Age = None,
    error: Error = None,
    wait: Annotated[str | None, typer.Option(metavar="CLASS", help=f"Only jobs that wait: {', '.join(WAITS)}.")] = None,
    key: Annotated[str | None, typer.Option(help="Only jobs with this idempotency key.")] = None,
    owner: Annotated[str | None, typer.Option(metavar="ID", help="Only jobs of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of jobs.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Continue after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    wanted = make_filter(stage=stage, status=status, older_than=older_than, error=error)
    given = {name: value for name, value in {"wait": wait, "key": key, "owner": owner}.items() if value is not None}

    async def find(conn: Raw) -> tuple[list[JobView], list[str]]:
        more = read_search(given)
        search = replace(search_of(wanted), wait=more.wait, key=more.key, owner=more.owner)
        found = await find_newest(conn, search, limit=limit, after=after)
        return found, await list_unknown_tables(conn)

    jobs, left_out = in_connection(find)
    if left_out:
        remark(f"jobs of {', '.join(left_out)} are left out: this release does not know the table")
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

    found = in_connection(lambda conn: show_job(conn, job_id))
    calls = calls_of(job_id)
    attempts = attempts_of(calls)
    if as_json:
        print_json({**to_json(found), "attempts": attempts, "calls": calls})
        return
    if found.job is not None:
        _print_facts(found.job, found.values)
    else:
        remark(f"job {job_id} was pruned or deleted; only its history is left")
    if attempts:
        print_attempts(attempts, calls)
    _print_history(found)


def watch(
    job_id: Annotated[UUID | None, typer.Argument(metavar="[ID]", autocompletion=complete_job_id)] = None,
    stage: Stage = None,
    status: Status = None,
) -> int:
    """Follow one job to its end, or all stages and jobs until Ctrl-C. Exit code 1 unless the job completes."""
    database_url = find_server_urls(load()).database_url
    if job_id is None:
        # Imported here: the other commands need no live display.
        from cli.watching import watch as watch_all

        asyncio.run(watch_all(database_url, make_filter(stage=stage, status=status)))
        return 0
    from cli.following import follow_job  # as above

    followed = asyncio.run(follow_job(database_url, job_id, print_line=partial(print, flush=True)))
    return 0 if followed.succeeded else 1


def why(job_id: JobId, as_json: Json = False) -> None:
    """Say what a job waits for, where it runs, or how it ended."""
    found = in_connection(lambda conn: explain_job(conn, job_id))
    if as_json:
        print_json(found)
        return
    times = {
        "since": found.since,
        "due": found.due_at,
        "until": found.deadline_at,
        "lease": found.lease_until,
    }
    parts = [f"{name} {format_time(time)}" for name, time in times.items() if time is not None]
    status = status_text(found.shown_as)
    line = found.summary if found.summary.startswith(status) else f"{status}: {found.summary}"
    print(printable(line + (f" ({', '.join(parts)})" if parts else "")))
    if found.error and found.error not in found.summary:
        print(printable(f"last error: {found.error}"))
    if found.remedy:
        print(printable(f"→ {found.remedy}"))


def verify(stage: Stage = None, as_json: Json = False) -> int:
    """Check every job against its history: none lost, each ended at most once, no version missing or double.

    Prints the counts of each stage, and compares them with those that are kept for metrics and plots. If anything is
    wrong, prints the ids of the jobs; exit code 1.
    """
    checks = in_connection(lambda conn: verify_jobs(conn, stage))
    violations = sum(check.violations for check in checks)
    if as_json:
        is_ok = not violations and not any(check.miscounted for check in checks)
        print_json({"ok": is_ok, "violations": violations, "stages": checks})
    else:
        _print_checks(checks)
    if miscounted := [check.stage for check in checks if check.miscounted and not violations]:
        raise Failed(
            f"the counts of {', '.join(miscounted)} differ from the jobs",
            remedy="correct them with SELECT runtime.recount_jobs()",
        )
    if violations:
        suspects = ", ".join(str(job_id) for check in checks for job_id in check.suspects)
        raise Failed(f"{format_count(violations, 'violation')}; jobs: {suspects}")
    if not as_json:
        print(f"nothing lost: {format_count(sum(map(_all_jobs, checks)), 'job')}, each ended at most once")
    return 0


_COLUMNS = ("ID", "STAGE", "STATUS", ">PRIO", ">TRIES", ">AGE", "WAITS FOR / ERROR")


def _row(job: JobView) -> tuple[object, ...]:
    why = job.error_message if job.completed_at else job.wait_reason
    return (
        job.id,
        job.stage,
        status_text(job.shown_as),
        job.priority,
        job.retry_count + 1,
        format_duration(job.age),
        cut(why or "", 100),
    )


def _print_facts(job: JobView, own: Mapping[str, Any]) -> None:
    printed_below = _SCORE_COLUMNS if job.stage == "scoring.score" else frozenset()
    took = format_duration(job.completed_at - job.started_at) if job.completed_at and job.started_at else ""
    facts = {
        "id": job.id,
        "stage": job.stage,
        "status": status_text(job.shown_as),
        "waits for": job.wait_reason,
        "error": job.error_message,
        "progress": f"{job.progress} %",
        "attempts": f"{job.retry_count + 1} of {job.max_retries + 1}",
        "priority": job.priority,
        "version": job.version,
        "created": format_time(job.created_at),
        "due": format_time(job.due_at),
        "started": format_time(job.started_at),
        "completed": format_time(job.completed_at) + (f" (ran {took})" if took else ""),
        "key": job.idempotency_key,
        **{name: value for name, value in own.items() if name not in printed_below},
    }
    width = max(len(name) for name in facts) + 2
    for name, value in facts.items():
        if value not in (None, ""):
            print(printable(f"{name:<{width}}{cut(one_line(value), 500)}"))
    if printed_below:
        _print_score(own)
    print()


_SCORE_COLUMNS = frozenset({"prompt", "parsed_score", "llm_response"})


def _print_score(own: Mapping[str, Any]) -> None:
    """Print the prompt with its line breaks, and the score by criterion. --json has the answer of the model."""
    print("prompt")
    for line in str(own.get("prompt") or "").splitlines():
        print(printable(f"  {line}"))
    if own.get("parsed_score") is not None:
        print()
        for line in score_lines(own["parsed_score"]):
            print(printable(line))


def _print_history(found: JobDetails) -> None:
    public_names = _public_names(found.job)
    print_table(
        (">VERSION", "WHEN", "FROM", "TO", "ACTION", "BY", "REASON"),
        (
            (
                t.version_to,
                format_time(t.created_at),
                _state_text(t.old_state, public_names),
                _state_text(t.new_state, public_names),
                t.change_action,
                t.changed_by,
                t.change_reason,
            )
            for t in found.transitions
        ),
        keep={"WHEN"},
    )


def _public_names(job: JobView | None) -> Mapping[str, str]:
    """Return the public names of the states of the job's table; none if the job or its model is gone."""
    model = job_models().get(job.table_name) if job else None
    return model.__lifecycle__.shown_as if model else {}


def _state_text(state: str | None, public_names: Mapping[str, str]) -> str:
    return "–" if state is None else status_text(public_names.get(state, state))


def _all_jobs(check: HistoryCheck) -> int:
    """Return how many jobs a stage ever had: those in the table, and deleted ones that have a history."""
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
    """Print the counts of each stage, and its violations if there are any. Each job is in one column of states.

    Jobs that were pruned or that a person retried are format_count once more, each kind in its own column.
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
    columns = {name: count for name, count in counts.items() if any(map(count, checks))}
    print_table(
        (title, *(f">{name}" for name in columns)),
        ((check.stage, *(count(check) for count in columns.values())) for check in checks),
        keep={title},
    )
