"""``gristmill assessments``: create, show, change, cancel, audit, count and import assessments."""

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.assessment_view import HISTORY_COLUMNS, fact_lines, history_rows, list_cells, list_columns, result_lines
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
Reason = Annotated[str | None, typer.Option(help="Stored in the audit trail.")]
Owner = Annotated[UUID | None, typer.Option("--owner", metavar="ID", help="Owner. Default: no owner, or the only one.")]


@app.command()
def create(
    assessment_id: AssessmentId,
    *,
    request: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The whole request.")] = None,
    server: Annotated[str | None, typer.Option(help="serverName, if there is no --request.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="assessmentType, if there is no --request.")] = None,
    options: Annotated[str, typer.Option(metavar="JSON|@FILE", help="options, if there is no --request.")] = "{}",
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    timeout: Annotated[int, typer.Option(min=1, metavar="SECONDS", help="Time limit of one attempt.")] = 300,
    reason: Reason = None,
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Create one assessment and print the id of its job. The same request again prints the id of the first job."""
    data = _build_request(request, server=server, type_=type_, options=options)
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
    state: Annotated[str | None, typer.Option(help="Only this state, in any case: pending, FAILED.")] = None,
    owner: Annotated[UUID | None, typer.Option(metavar="ID", help="Only assessments of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of assessments.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Continue after this job id, the last of the page before.")] = None,
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
        cells = (list_cells(one, with_owner=owned) for one in found)
        print_table(list_columns(with_owner=owned), cells, keep={"ASSESSMENT", "OWNER", "STATE"})
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {found[-1].id}")
    else:
        remark("no assessments match")


@app.command()
def show(assessment_id: AssessmentId, owner: Owner = None, as_json: Json = False) -> None:
    """Show one assessment: its state, its result by criterion, its history."""
    found = in_session(lambda session: with_history(session, assessment_id, owner=owner))
    assessment = found.assessment
    if as_json:
        print_json({"assessment": assessment.by_column() if assessment else None, "audit": found.audit})
        return
    if assessment is None:
        remark(f"assessment {assessment_id!r} was deleted by the cleanup; only its history is left")
    else:
        lines = [*fact_lines(assessment), ""]
        if assessment.result_data is not None:
            lines += [*result_lines(assessment.result_data), ""]
        print(printable("\n".join(lines)))
    print_table(HISTORY_COLUMNS, history_rows(found.audit), keep={"WHEN"})


@app.command()
def update(
    assessment_id: AssessmentId,
    state: Annotated[str, typer.Argument(help="The new state, or the current one.")],
    *,
    version: Annotated[int, typer.Option(help="The version that you have seen. Any other version is a conflict.")],
    result: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The result.")] = None,
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="The error.")] = None,
    progress: Annotated[int | None, typer.Option(help="1 to 99 in the state processing.")] = None,
    reason: Reason = None,
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Change an assessment if it still has the version that you saw. Values that are not given stay as they are."""
    data = None if result is None else parse_payload(result)
    who = replace(actor(reason), user_id=owner)
    new_version = in_session(
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
    new_state = states.parse_state(state)
    if as_json:
        print_json({"assessment_id": assessment_id, "state": new_state, "version": new_version})
    else:
        print(f"{assessment_id} is {new_state}, version {new_version}")


@app.command()
def cancel(
    assessment_id: AssessmentId,
    *,
    reason: Annotated[str, typer.Option(help="Stored in the audit trail.")] = "cancelled on the command line",
    owner: Owner = None,
    as_json: Json = False,
) -> None:
    """Cancel an assessment that waits or runs. A running one stops within a second."""
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
    owner: Annotated[UUID, typer.Option("--owner", metavar="USER", help="The user who becomes its owner.")],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Give an assessment without an owner to a user, with its history. Only for operators. This cannot be undone."""
    who = actor(reason)
    version = in_session(lambda session: states.give(session, assessment_id, to=owner, actor=who))
    if as_json:
        print_json({"assessment_id": assessment_id, "owner_id": owner, "version": version})
    elif version is None:
        print(f"the history of {assessment_id} belongs to {owner}; the assessment itself was deleted by the cleanup")
    else:
        print(f"{assessment_id} belongs to {owner}, version {version}")


@app.command()
def audit(assessment_id: AssessmentId, owner: Owner = None, as_json: Json = False) -> None:
    """Show who changed an assessment, when, how and why. Works for a deleted assessment too."""
    trail = in_session(lambda session: audit_trail(session, assessment_id, owner=owner))
    if as_json:
        print_json(trail)
    else:
        print_table(HISTORY_COLUMNS, history_rows(trail), keep={"WHEN"})


def _build_request(request: str | None, *, server: str | None, type_: str | None, options: str) -> dict[str, Any]:
    if request is not None:
        if server or type_ or options != "{}":
            raise Refusal("--request is the whole request: leave out --server, --type and --options")
        return parse_payload(request)
    if not server or not type_:
        raise Refusal("say what to assess: --server and --type, or --request")
    return {"serverName": server, "assessmentType": type_, "options": parse_payload(options), "source": "cli"}
