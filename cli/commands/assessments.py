"""``gristmill assessments``: create, look at, change, cancel, audit, count and import assessments."""

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.assessment_view import HISTORY, columns, facts, history, result_lines, row
from cli.commands.assessments_import import import_
from cli.commands.assessments_metrics import metrics
from cli.commands.assessments_stats import stats
from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import parse_payload
from workers.assessment.store import states
from workers.assessment.store.history import audit_trail, with_history
from workers.runtime.refusals import Refusal, printable

app = typer.Typer(help="Create, show, change, cancel, give, audit, count and import assessments.", no_args_is_help=True)
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
    who = replace(actor(reason), user_id=owner)
    job_id = in_session(
        lambda session: states.create(
            session, assessment_id, data, priority=priority, timeout_seconds=timeout, actor=who
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
    found = in_session(
        lambda session: states.list_newest(
            session, state=state, owner=owner, limit=limit, after=after, short=not as_json
        )
    )
    if as_json:
        print_json([one.by_column() for one in found])
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
    found = in_session(lambda session: with_history(session, assessment_id, owner=owner))
    assessment = found.assessment
    if as_json:
        print_json({"assessment": assessment.by_column() if assessment else None, "audit": found.audit})
        return
    if assessment is None:
        remark(f"assessment {assessment_id!r} itself is gone (cleaned up); its history stays")
    else:
        lines = [*facts(assessment), ""]
        if assessment.result_data is not None:
            lines += [*result_lines(assessment.result_data), ""]
        print(printable("\n".join(lines)))
    print_table(HISTORY, history(found.audit), keep={"WHEN"})


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
    who = replace(actor(reason), user_id=owner)
    newer = in_session(
        lambda session: states.update(
            session,
            assessment_id,
            state,
            version=version,
            result_data=data,
            error_message=error,
            progress=progress,
            actor=who,
        )
    )
    named = states.parse_state(state)
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
    who = replace(actor(reason), user_id=owner)
    job_id = in_session(lambda session: states.cancel(session, assessment_id, actor=who))
    if as_json:
        print_json({"assessment_id": assessment_id, "id": job_id, "state": "cancelled"})
    else:
        print(f"{assessment_id} is cancelled")


@app.command()
def give(
    assessment_id: AssessmentId,
    *,
    owner: Annotated[UUID, typer.Option("--owner", metavar="USER", help="The user it belongs to from now on.")],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Give an assessment that belongs to nobody to a user, with its history. For operators; nobody can take it back."""
    who = actor(reason)
    version = in_session(lambda session: states.give(session, assessment_id, to=owner, actor=who))
    if as_json:
        print_json({"assessment_id": assessment_id, "owner_id": owner, "version": version})
    elif version is None:
        print(f"the history of {assessment_id} belongs to {owner}; the assessment itself is gone (cleaned up)")
    else:
        print(f"{assessment_id} belongs to {owner}, version {version}")


@app.command()
def audit(assessment_id: AssessmentId, owner: Owner = None, as_json: Json = False) -> None:
    """Show who changed an assessment, when, how and why; also of one that is gone."""
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
