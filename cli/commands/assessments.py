"""``gristmill assessments``: create, look at, change, cancel, audit, count and import assessments."""

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.commands.assessments_import import import_
from cli.commands.assessments_metrics import metrics
from cli.commands.assessments_stats import stats
from cli.output import Json, print_json, print_table, remark
from cli.values import parse_payload
from workers.runtime.refusals import Refusal, printable

if TYPE_CHECKING:
    from workers.assessment.store.said import Said

app = typer.Typer(help="Create, show, change, cancel, audit, count and import assessments.", no_args_is_help=True)
app.command("stats")(stats)
app.command("metrics")(metrics)
app.command("import")(import_)

AssessmentId = Annotated[str, typer.Argument(metavar="ASSESSMENT")]
Reason = Annotated[str | None, typer.Option(help="Kept in the audit trail.")]
Owner = Annotated[UUID | None, typer.Option("--owner", metavar="ID", help="Whose; without, nobody's or the only one.")]


@app.command()
def create(
    assessment_id: AssessmentId,
    *,
    request: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The whole request.")] = None,
    server: Annotated[str | None, typer.Option(help="serverName, if there is no --request.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="assessmentType, if there is no --request.")] = None,
    options: Annotated[str, typer.Option(metavar="JSON|@FILE", help="options, if there is no --request.")] = "{}",
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Longest time of one attempt.")] = 300,
    reason: Reason = None,
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Create one assessment and print its job's id. The same request again prints the first one's."""
    data = _request(request, server=server, type_=type_, options=options)
    from cli.session import in_session
    from workers.assessment.store.states import create as put

    job_id = in_session(
        lambda session: put(
            session, assessment_id, data, priority=priority, timeout_seconds=timeout, said=_said(reason), owner=owner
        )
    )
    if as_json:
        print_json({"assessment_id": assessment_id, "id": job_id})
    else:
        print(job_id)


@app.command("list")
def list_(
    *,
    state: Annotated[str | None, typer.Option(help="Only this state, such as pending or FAILED.")] = None,
    owner: Annotated[UUID | None, typer.Option(metavar="ID", help="Only what belongs to this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most assessments to show.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Go on after this job id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List assessments, newest first."""
    from cli.assessment_view import columns, plain, row
    from cli.session import in_session
    from workers.assessment.store.states import list_newest, state_named

    wanted = None if state is None else state_named(state)
    found = in_session(lambda session: list_newest(session, state=wanted, owner=owner, limit=limit, after=after))
    if as_json:
        print_json([plain(one) for one in found])
    elif found:
        owned = any(one.owner_id for one in found)
        cells = (row(one, with_owner=owned) for one in found)
        print_table(columns(with_owner=owned), cells, keep={"ASSESSMENT", "OWNER", "STATE"})
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {found[-1].id}")
    else:
        remark("no assessments match")


@app.command()
def show(assessment_id: AssessmentId, owner: Owner = None, as_json: Json = False) -> None:
    """Show one assessment: its state, its result criterion by criterion, its history."""
    from cli.assessment_store import seen
    from cli.assessment_view import HISTORY, facts, history, plain, result
    from cli.session import in_session

    assessment, trail = in_session(lambda session: seen(session, assessment_id, owner=owner))
    if as_json:
        print_json({"assessment": plain(assessment) if assessment else None, "audit": trail})
        return
    if assessment is None:
        remark(f"assessment {assessment_id!r} itself is gone (cleaned up); its history stays")
    else:
        lines = [*facts(assessment), ""]
        if assessment.result_data is not None:
            lines += [*result(assessment.result_data), ""]
        print(printable("\n".join(lines)))
    print_table(HISTORY, history(trail), keep={"WHEN"})


@app.command()
def update(
    assessment_id: AssessmentId,
    state: Annotated[str, typer.Argument(help="Its new state, or the one it has.")],
    *,
    version: Annotated[int, typer.Option(help="The version you have seen; another one is a conflict.")],
    result: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="Its result.")] = None,
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="Its error.")] = None,
    progress: Annotated[int | None, typer.Option(help="1 to 99 while it is processed.")] = None,
    reason: Reason = None,
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Change an assessment that still has the version you saw; what is not given stays as it is."""
    data = None if result is None else parse_payload(result)
    from cli.session import in_session
    from workers.assessment.store.states import state_named
    from workers.assessment.store.states import update as change

    newer = in_session(
        lambda session: change(
            session,
            assessment_id,
            state,
            version=version,
            result_data=data,
            error_message=error,
            progress=progress,
            said=_said(reason),
            owner=owner,
        )
    )
    named = state_named(state)
    if as_json:
        print_json({"assessment_id": assessment_id, "state": named, "version": newer})
    else:
        print(f"{assessment_id} is {named}, version {newer}")


@app.command()
def cancel(
    assessment_id: AssessmentId,
    *,
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "cancelled on the command line",
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Cancel an assessment, waiting or running. A running one is stopped within a second."""
    from cli.assessment_store import stop

    job_id = stop(assessment_id, reason=reason, owner=owner)
    if as_json:
        print_json({"assessment_id": assessment_id, "id": job_id, "state": "cancelled"})
    else:
        print(f"{assessment_id} is cancelled")


@app.command()
def audit(assessment_id: AssessmentId, owner: Owner = None, as_json: Json = False) -> None:
    """Show who changed an assessment, when, how and why; also of one that is gone."""
    from cli.assessment_view import HISTORY, history
    from cli.session import in_session
    from workers.assessment.store.history import audit_trail

    trail = in_session(lambda session: audit_trail(session, assessment_id, owner=owner))
    if as_json:
        print_json(trail)
    else:
        print_table(HISTORY, history(trail), keep={"WHEN"})


def _request(request: str | None, *, server: str | None, type_: str | None, options: str) -> dict[str, Any]:
    if request is not None:
        if server or type_ or options != "{}":
            raise Refusal("--request is the whole request: leave out --server, --type and --options")
        return parse_payload(request)
    if not server or not type_:
        raise Refusal("say what to assess: --server and --type, or --request")
    return {"serverName": server, "assessmentType": type_, "options": parse_payload(options), "source": "cli"}


def _said(reason: str | None) -> "Said":
    from workers.assessment.store.said import Said

    return Said(change_reason=reason)
