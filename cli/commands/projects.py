"""``gristmill projects``: the containers of records, guidelines and jobs."""

import asyncio
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_count, format_time
from workers.analytics.guidelines import problem_of
from workers.operations import projects
from workers.runtime.database import Transaction
from workers.runtime.refusals import Refusal, printable
from workers.vectorization.enqueue_embedding import embed_project

app = typer.Typer(help="Make, list and show projects, and give them guidelines.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Name or id of the project.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    guidelines: Annotated[
        Path | None, typer.Option(metavar="FILE.pdf", help="The guidelines that its records should follow.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a project. If it exists, only its guidelines are replaced, if given."""
    pdf = None if guidelines is None else _read_file(guidelines)

    async def make(session: Transaction) -> tuple[UUID, projects.ProjectView | None]:
        project = await projects.get_or_create(session, name, actor=actor())
        if guidelines is not None and pdf is not None:
            await projects.set_guidelines(session, project, pdf, guidelines.name, actor=actor())
        # Counting many records takes long: count only if the counts are printed.
        return project.id, await projects.view(session, str(project.id)) if as_json else None

    id_, view = in_session(make)
    if pdf is not None:
        _warn_about(pdf)
    if view is not None:
        print_json(view)
    else:
        print(id_)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every project with the counts of its records: all, embedded, reviewed."""
    found = in_session(projects.list_projects)
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("PROJECT", ">TASKS", ">FEEDBACK", ">EMBEDDED", ">REVIEWED", "GUIDELINES", "CREATED"),
            (
                (p.name, p.tasks, p.feedback, p.embedded, p.reviewed, p.guidelines_file_name, format_time(p.created_at))
                for p in found
            ),
            keep={"PROJECT", "CREATED"},
        )
    else:
        remark("no projects yet; `gristmill ingest FILE.csv --project NAME --type task` makes one")


@app.command()
def show(project: ProjectName, as_json: Json = False) -> None:
    """Show one project: its counts and the summary of the last analysis."""
    found = in_session(lambda session: projects.view(session, project))
    if as_json:
        print_json(found)
        return
    facts = {
        "project": found.name,
        "id": found.id,
        "owner": found.owner_id,
        "guidelines": (name := found.guidelines_file_name) and f"{name}, about {found.guidelines_size} bytes",
        "records": f"{format_count(found.tasks, 'task')}, {format_count(found.feedback, 'piece')} of feedback",
        "embedded": found.embedded,
        "reviewed": found.reviewed,
        "created": format_time(found.created_at),
    }
    print(printable("\n".join(f"{name:<12}{value}" for name, value in facts.items() if value is not None)))
    for title, analysis in (("tasks", found.last_task_analysis), ("feedback", found.last_feedback_analysis)):
        if analysis:
            print(f"\nlast analysis of {title}:\n{printable(analysis)}")


@app.command()
def guidelines(
    project: ProjectName, file: Annotated[Path, typer.Argument(metavar="FILE.pdf", help="A PDF that contains text.")]
) -> None:
    """Set the guidelines that the records of a project are compared with."""
    pdf = _read_file(file)

    async def replace_guidelines(session: Transaction) -> None:
        found = await projects.find(session, project)
        await projects.set_guidelines(session, found, pdf, file.name, actor=actor())

    in_session(replace_guidelines)
    print(f"{project} follows {file.name}")
    _warn_about(pdf)


@app.command()
def embed(project: ProjectName, as_json: Json = False) -> None:
    """Embed the records without a vector of the current embedding model; one job per type of record."""

    async def start(session: Transaction) -> list[UUID]:
        return await embed_project(session, (await projects.find(session, project)).id, actor=actor())

    ids = in_session(start)
    if as_json:
        print_json({"job_ids": ids})
    else:
        print("\n".join(map(str, ids)))


@app.command()
def remove(
    project: ProjectName,
    yes: Annotated[bool, typer.Option("--yes", help="Really delete. Without it nothing is deleted.")] = False,
) -> None:
    """Delete a project with its records, ratings, files and jobs. Its running jobs are cancelled."""

    async def delete(session: Transaction) -> tuple[str, int]:
        found = await projects.find(session, project)
        records = await projects.count_records(session, found)
        if not yes:
            raise Refusal(f"project {found.name!r} has {format_count(records, 'record')}; add --yes to delete them too")
        await projects.remove(session, found, actor=actor())
        return found.name, records

    name, records = in_session(delete)
    print(f"{name} is removed, with {format_count(records, 'record')}")


def _warn_about(pdf: bytes) -> None:
    """Print a warning if an analysis cannot read the guidelines that were just stored."""
    if problem := asyncio.run(problem_of(pdf)):
        remark(f"WARNING: {problem}")


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal(f"file {str(file)!r} cannot be read: {error.strerror}") from None
