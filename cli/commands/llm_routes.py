"""``gristmill llm routes``: by which path calls go, and whose calls take which."""

from typing import Annotated, Literal

import typer

from cli.completing import complete_stage
from cli.connection import actor
from cli.llm_routing import with_routing
from cli.llm_values import Project, parse_step, project_id, project_names
from cli.output import Json, print_json, print_table
from cli.session import in_session
from workers.llm.operate import routes
from workers.llm.operate.routes import BindingView, RouteView, StepView
from workers.llm.routing.routing import DEFAULT_OF
from workers.runtime.refusals import printable

app = typer.Typer(help="List routes; add, bind, unbind and remove them, and set their steps.")

Name = Annotated[str, typer.Argument(metavar="ROUTE")]
Serves = Annotated[Literal["chat", "embeddings"], typer.Option(help="Which calls take it.")]
Steps = Annotated[
    list[str],
    typer.Option(
        "--step",
        metavar="PROVIDER/MODEL[,…]",
        help="A step, in their order; behind the model may stand max_tokens=N, context_tokens=N, document_prefix=TEXT, "
        "query_prefix=TEXT.",
    ),
]
Stage = Annotated[str | None, typer.Option(help="Only this stage's calls.", autocompletion=complete_stage)]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List routes; add, bind, unbind and remove them, and set their steps."""
    if context.invoked_subcommand is not None:
        return
    found = with_routing(lambda _, routing: routes.list_routes(routing))
    if as_json:
        print_json(found)
        return
    names = project_names() if any(bound.project_id for one in found for bound in one.bindings) else {}
    print_table(
        ("ROUTE", "SERVES", "STEPS", "TAKEN BY", "FROM"),
        (
            (
                one.name,
                one.serves,
                " → ".join(map(_asked, one.steps)) or "–",
                ", ".join(_taken_by(one, {str(id_): name for id_, name in names.items()})) or "–",
                "row" if one.origin == "table" else one.origin,
            )
            for one in found
        ),
        keep={"ROUTE"},
    )
    for one in found:
        if one.problem:
            print(printable(one.problem))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show ROUTE with its steps and whose calls take it."""
    found = with_routing(lambda _, routing: routes.show_route(routing, name))
    if as_json:
        print_json(found)
        return
    print(
        printable(
            f"{found.name} serves {found.serves}; taken by {', '.join(_taken_by(found, {})) or 'jobs that name it'}"
        )
    )
    print_table(
        (">STEP", "PROVIDER", "MODEL", ">MAX TOKENS", ">CONTEXT", "DOCUMENT PREFIX", "QUERY PREFIX"),
        (
            (
                step.position + 1,
                step.provider,
                step.model or "(the job's)",
                step.max_tokens or "–",
                step.context_tokens or "–",
                repr(step.document_prefix) if step.document_prefix else "–",
                repr(step.query_prefix) if step.query_prefix else "–",
            )
            for step in found.steps
        ),
        keep={"PROVIDER", "MODEL"},
    )
    if found.problem:
        print(printable(found.problem))


@app.command()
def add(name: Name, *, serves: Serves = "chat", step: Steps) -> None:
    """Add ROUTE. Its steps are tried in their order, each once; a job takes it by `route:ROUTE` or by a binding."""
    given = {"name": name, "serves": serves, "steps": [parse_step(one) for one in step]}
    made = in_session(lambda session: routes.add_route(session, given, actor=actor()))
    print(f"{made} is added; `gristmill llm routes bind {made} [--stage S] [--project P]` sends calls by it")


@app.command()
def steps(name: Name, *, step: Steps) -> None:
    """Give ROUTE these steps in the place of those it has; running processes follow within seconds."""
    new = [parse_step(one) for one in step]
    in_session(lambda session: routes.set_steps(session, name, new, actor=actor()))
    print(f"{name} has {len(new)} {'step' if len(new) == 1 else 'steps'}")


@app.command()
def bind(name: Name, *, stage: Stage = None, project: Project = None) -> None:
    """Send by ROUTE the calls of a stage, of a project, of a stage of a project, or all of them."""
    of = project_id(project)
    whose = in_session(lambda session: routes.bind_route(session, name, stage=stage, project_id=of, actor=actor()))
    print(f"{name} is taken by {whose}")


@app.command()
def unbind(*, serves: Serves = "chat", stage: Stage = None, project: Project = None) -> None:
    """Undo the binding of exactly this stage and project; their calls take the next less specific route again."""
    of = project_id(project)
    was = in_session(lambda session: routes.unbind_route(session, serves, stage=stage, project_id=of, actor=actor()))
    print(f"{was} is no longer bound there")


@app.command()
def remove(name: Name) -> None:
    """Delete ROUTE, if nothing is bound to it. Jobs that name it wait until it exists again."""
    in_session(lambda session: routes.remove_route(session, name, actor=actor()))
    print(f"{name} is removed")


def _asked(step: StepView) -> str:
    return f"{step.provider}/{step.model}" if step.model else step.provider


def _taken_by(route: RouteView, names: dict[str, str]) -> list[str]:
    """Return whose calls take a route, in words."""
    bound = [_whose(one, names) for one in route.bindings]
    if route.name == DEFAULT_OF[route.serves]:
        bound.append("all others")
    return bound


def _whose(one: BindingView, names: dict[str, str]) -> str:
    project = f"project {names.get(str(one.project_id), one.project_id)}" if one.project_id else ""
    stage = f"stage {one.stage}" if one.stage else ""
    return " of ".join(part for part in (stage, project) if part) or "all calls"
