"""``gristmill llm calls``: the ledger, call by call."""

from typing import Annotated
from uuid import UUID

import typer

from cli.llm_call_view import call_facts, print_calls
from cli.llm_values import Model, Project, Provider, Since, Stage, Until, parse_since, project_id
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from workers.llm.ledger.spend import SpendFilter
from workers.llm.operate import calls

app = typer.Typer(help="List the calls in the ledger, newest first, or show one.")


@app.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    *,
    since: Since = None,
    until: Until = None,
    provider: Provider = None,
    model: Model = None,
    route: Annotated[str | None, typer.Option(help="Name of a route.")] = None,
    stage: Stage = None,
    project: Project = None,
    job: Annotated[UUID | None, typer.Option(metavar="ID", help="Only the calls of this job.")] = None,
    state: Annotated[str | None, typer.Option(help=f"One of {', '.join(calls.STATES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=calls.MAX_CALLS, help="Most calls to show.")] = 50,
    after: Annotated[UUID | None, typer.Option(help="Go on after this id, the last of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List the calls in the ledger, newest first, or show one."""
    if context.invoked_subcommand is not None:
        return
    these = SpendFilter(
        since=parse_since(since),
        until=parse_since(until),
        provider=provider,
        model=model,
        route=route,
        stage=stage,
        project=project_id(project),
        job=job,
    )
    found = in_session(lambda session: calls.list_calls(session, these, state=state, limit=limit, after=after))
    if as_json:
        print_json(found)
    elif found:
        print_calls(found)
        if len(found) == limit:
            remark(f"only the newest {limit}; more: --limit N, or --after {found[-1].id}")
    else:
        remark("no calls match")


@app.command()
def show(call: Annotated[UUID, typer.Argument(metavar="CALL", help="Its id.")], as_json: Json = False) -> None:
    """Show one call: for whom, by which path, what it used by class, at which prices, what became of it."""
    found = in_session(lambda session: calls.show_call(session, call))
    if as_json:
        print_json(found)
    else:
        print_table(("FACT", "VALUE"), call_facts(found), keep={"FACT"})
