"""``gristmill analytics``: have a project's records judged against its guidelines, and read what came of it."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.addresses import addresses
from cli.connection import actor
from cli.following import follow
from cli.output import Json, print_json, print_table, remark, status_text
from cli.session import in_session
from cli.values import duration, moment
from config.settings import load
from workers.analytics import analyses
from workers.analytics.alignment import VERDICTS, model_title
from workers.analytics.analyses import AnalysisReport, AnalysisView
from workers.operations.projects import find
from workers.operations.record_review import as_type
from workers.runtime.database import Transaction
from workers.runtime.refusals import printable

app = typer.Typer(help="Judge and rate records against a project's guidelines.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name or id.")]
_FAILURES_SHOWN = 20


@app.command()
def start(
    project: ProjectName,
    *,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")] = None,
    model: Annotated[str | None, typer.Option(help="Who judges, instead of the configured model.")] = None,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 unless completed.")] = False,
    as_json: Json = False,
) -> int:
    """Judge every record of a project anew and print the job's id."""

    async def begin(session: Transaction) -> UUID:
        found, kind = await find(session, project), as_type(type_)
        job = await analyses.start(session, found.id, type_=kind, model=model, priority=priority, actor=actor())
        return job.id

    job_id = in_session(begin)
    if not wait:
        print_json({"id": job_id}) if as_json else print(job_id)
        return 0
    return _followed(job_id, as_json=as_json)


def _followed(job_id: UUID, *, as_json: bool) -> int:
    if not as_json:
        print(job_id, flush=True)
    ended = asyncio.run(follow(addresses(load()).database_url, job_id, tell=remark))
    found = in_session(lambda session: analyses.report(session, job_id))
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 0 if ended.completed else 1


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Argument(metavar="[PROJECT]", help="Its name or id; all without.")] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most analyses to show.")] = 50,
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
        remark("no analyses yet; `gristmill analytics start PROJECT` makes one")


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
        moment(one.created_at),
        one.error,
    )


@app.command()
def show(
    job_id: Annotated[UUID, typer.Argument(metavar="ANALYSIS", help="Its job's id.")], as_json: Json = False
) -> None:
    """Show one analysis: counts by verdict, who judged, and each record that could not be judged with the reason."""
    found = in_session(lambda session: analyses.report(session, job_id, failures=10_000))
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: AnalysisReport) -> None:
    print("\n".join(_facts(found)))
    if found.failures:
        print()
        shown = found.failures[:_FAILURES_SHOWN]
        print_table(
            ("RECORD", "TYPE", "CONTENT", "REASON"),
            ((one.record_id, one.type, one.excerpt, one.error) for one in shown),
            keep={"RECORD"},
        )
        if len(found.failures) > len(shown):
            remark(f"{len(found.failures) - len(shown)} more: --json shows them")


def _facts(found: AnalysisReport) -> Iterator[str]:
    one = found.analysis
    ran = one.completed_at and one.started_at and one.completed_at - one.started_at
    told: dict[str, Any] = {
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
        "warning": "; ".join(f"{what}: {said}" for what, said in sorted((one.warnings or {}).items())),
        "created": moment(one.created_at),
        "completed": f"{moment(one.completed_at)}{f' (ran {duration(ran)})' if ran else ''}",
        "verdicts": ", ".join(f"{count} {VERDICTS[name].lower()}" for name, count in found.verdicts.items()),
        "failed": one.failed_count or None,
    }
    for name, value in told.items():
        if value not in (None, ""):
            yield printable(f"{name:<12}{value}")


@app.command()
def summary(project: ProjectName, as_json: Json = False) -> None:
    """Show what the last analyses say of a project's tasks and feedback together."""
    found = in_session(lambda session: find(session, project))
    reports = {"tasks": found.last_task_analysis, "feedback": found.last_feedback_analysis}
    if as_json:
        print_json({"project": found.name, **reports})
        return
    told = [text for text in reports.values() if text]
    if told:
        print(printable("\n\n".join(told)))
    else:
        remark(f"project {found.name!r} was not analysed yet; `gristmill analytics start {found.name!r}` does it")
