"""``gristmill analytics``: judge the records of a project by its guidelines, and show the results."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.connection import actor
from cli.following import follow_job
from cli.output import Json, print_json, print_table, remark, status_text
from cli.server_urls import find_server_urls
from cli.session import in_session
from cli.values import format_duration, format_time
from config.settings import load
from workers.analytics import analyses
from workers.analytics.alignment import VERDICTS, model_title
from workers.analytics.analyses import AnalysisReport, AnalysisView
from workers.operations.projects import find
from workers.operations.record_review import as_type
from workers.runtime.database import Transaction
from workers.runtime.refusals import printable

app = typer.Typer(help="Judge and rate records by the guidelines of their project.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of the project.")]
_MAX_FAILURES = 20


@app.command()
def start(
    project: ProjectName,
    *,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that judges, instead of the configured one.")] = None,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the job; exit code 1 unless it completes.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Judge every record of a project again and print the id of the job."""

    async def begin(session: Transaction) -> UUID:
        found, kind = await find(session, project), as_type(type_)
        job = await analyses.start(session, found.id, type_=kind, model=model, priority=priority, actor=actor())
        return job.id

    job_id = in_session(begin)
    if not wait:
        print_json({"id": job_id}) if as_json else print(job_id)
        return 0
    return _wait(job_id, as_json=as_json)


def _wait(job_id: UUID, *, as_json: bool) -> int:
    if not as_json:
        print(job_id, flush=True)
    followed = asyncio.run(follow_job(find_server_urls(load()).database_url, job_id, print_line=remark))
    found = in_session(lambda session: analyses.report(session, job_id))
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0 if followed.succeeded else 1


@app.command("list")
def list_(
    project: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Name or id of the project. Default: all projects.")
    ] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of analyses.")] = 50,
    as_json: Json = False,
) -> None:
    """List analyses, newest first."""

    async def newest(session: Transaction) -> list[AnalysisView]:
        project_id = None if project is None else (await find(session, project)).id
        return await analyses.list_analyses(session, project_id=project_id, limit=limit)

    found = in_session(newest)
    if as_json:
        print_json(found)
    elif found:
        print_table(_COLUMNS, map(_row, found), keep={"ANALYSIS", "STATUS"})
    else:
        remark("no analyses yet; `gristmill analytics start PROJECT` starts one")


_COLUMNS = ("ANALYSIS", "PROJECT", "TYPE", "STATUS", ">DONE", ">RECORDS", ">FAILED", "CREATED", "ERROR")


def _row(one: AnalysisView) -> Sequence[object]:
    return (
        one.id,
        one.project,
        one.type or "all",
        status_text(one.status),
        f"{one.progress} %",
        f"{one.processed_count} of {one.total_records}",
        one.failed_count or "",
        format_time(one.created_at),
        one.error,
    )


@app.command()
def show(
    job_id: Annotated[UUID, typer.Argument(metavar="ANALYSIS", help="Id of its job.")], as_json: Json = False
) -> None:
    """Show one analysis: counts by verdict, the models, and the records that could not be judged, with the reasons."""
    found = in_session(lambda session: analyses.report(session, job_id, failures=10_000))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: AnalysisReport) -> None:
    print("\n".join(_facts(found)))
    if found.failures:
        print()
        first = found.failures[:_MAX_FAILURES]
        print_table(
            ("RECORD", "TYPE", "CONTENT", "REASON"),
            ((one.record_id, one.type, one.excerpt, one.error) for one in first),
            keep={"RECORD"},
        )
        if len(found.failures) > len(first):
            remark(f"{len(found.failures) - len(first)} more: --json shows them")


def _facts(found: AnalysisReport) -> Iterator[str]:
    one = found.analysis
    ran = one.completed_at and one.started_at and one.completed_at - one.started_at
    facts: dict[str, Any] = {
        "analysis": one.id,
        "project": one.project,
        "records": f"{one.processed_count} of {one.total_records}{f', {one.type} only' if one.type else ''}",
        "status": f"{status_text(one.status)}, {one.progress} %",
        "model": one.model_name,
        "judged by": "; ".join(
            model_title(judge) + (f" ({count})" if len(found.judges) > 1 else "")
            for judge, count in found.judges.items()
        ),
        "error": one.error,
        "warning": "; ".join(f"{name}: {text}" for name, text in sorted((one.warnings or {}).items())),
        "created": format_time(one.created_at),
        "completed": f"{format_time(one.completed_at)}{f' (ran {format_duration(ran)})' if ran else ''}",
        "verdicts": ", ".join(f"{count} {VERDICTS[name].lower()}" for name, count in found.verdicts.items()),
        "failed": one.failed_count or None,
    }
    for name, value in facts.items():
        if value not in (None, ""):
            yield printable(f"{name:<12}{value}")


@app.command()
def summary(project: ProjectName, as_json: Json = False) -> None:
    """Show the summaries of the last analyses of a project's tasks and feedback."""
    found = in_session(lambda session: find(session, project))
    reports = {"tasks": found.last_task_analysis, "feedback": found.last_feedback_analysis}
    if as_json:
        print_json({"project": found.name, **reports})
        return
    texts = [text for text in reports.values() if text]
    if texts:
        print(printable("\n\n".join(texts)))
    else:
        remark(f"project {found.name!r} has no analysis yet; `gristmill analytics start {found.name!r}` starts one")
