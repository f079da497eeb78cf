"""``gristmill projects``: containers of records, guidelines and jobs."""

import asyncio
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import counted, moment
from workers.analytics.guidelines import problem_of
from workers.operations import projects
from workers.runtime.database import Transaction
from workers.runtime.refusals import Refusal, printable
from workers.vectorization.enqueue_embedding import embed_project

app = typer.Typer(help="Make, list and show projects, and give them guidelines.", no_args_is_help=True)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name or id.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    guidelines: Annotated[Path | None, typer.Option(metavar="FILE.pdf", help="What its records should follow.")] = None,
    as_json: Json = False,
) -> None:
    """Make a project; the same name again changes nothing but the guidelines, if given."""
    pdf = None if guidelines is None else _content(guidelines)

    async def make(session: Transaction) -> tuple[UUID, projects.ProjectView | None]:
        project = await projects.get_or_create(session, name, actor=actor())
        if guidelines is not None and pdf is not None:
            await projects.set_guidelines(session, project, pdf, guidelines.name, actor=actor())
        # To count its records takes long where it has many: only for a person who is shown the counts.
        return project.id, await projects.view(session, str(project.id)) if as_json else None

    id_, view = in_session(make)
    if pdf is not None:
        _tell_of(pdf)
    if view is not None:
        print_json(view)
    else:
        print(id_)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every project with its records and how far they are."""
    found = in_session(projects.list_projects)
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("PROJECT", ">TASKS", ">FEEDBACK", ">EMBEDDED", ">REVIEWED", "GUIDELINES", "CREATED"),
            (
                (p.name, p.tasks, p.feedback, p.embedded, p.reviewed, p.guidelines_file_name, moment(p.created_at))
                for p in found
            ),
            keep={"PROJECT", "CREATED"},
        )
    else:
        remark("no projects yet; `gristmill ingest FILE.csv --project NAME --type task` makes one")


@app.command()
def show(project: ProjectName, as_json: Json = False) -> None:
    """Show one project: its counts and what the last analysis says."""
    found = in_session(lambda session: projects.view(session, project))
    if as_json:
        print_json(found)
        return
    told = {
        "project": found.name,
        "id": found.id,
        "owner": found.owner_id,
        "guidelines": (name := found.guidelines_file_name) and f"{name}, about {found.guidelines_size} bytes",
        "records": f"{counted(found.tasks, 'task')}, {counted(found.feedback, 'piece')} of feedback",
        "embedded": found.embedded,
        "reviewed": found.reviewed,
        "created": moment(found.created_at),
    }
    print(printable("\n".join(f"{name:<12}{value}" for name, value in told.items() if value is not None)))
    for title, analysis in (("tasks", found.last_task_analysis), ("feedback", found.last_feedback_analysis)):
        if analysis:
            print(f"\nlast analysis of {title}:\n{printable(analysis)}")


@app.command()
def guidelines(
    project: ProjectName, file: Annotated[Path, typer.Argument(metavar="FILE.pdf", help="A PDF with text in it.")]
) -> None:
    """Give a project the guidelines that its records are compared with."""
    pdf = _content(file)

    async def give(session: Transaction) -> None:
        found = await projects.find(session, project)
        await projects.set_guidelines(session, found, pdf, file.name, actor=actor())

    in_session(give)
    print(f"{project} follows {file.name}")
    _tell_of(pdf)


@app.command()
def embed(project: ProjectName, as_json: Json = False) -> None:
    """Embed the records that have no vector of the current embedding model; one job per type of record."""

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
    yes: Annotated[bool, typer.Option("--yes", help="Delete without this, nothing is.")] = False,
) -> None:
    """Delete a project with its records, ratings, files and jobs; whatever runs for it ends."""

    async def gone(session: Transaction) -> tuple[str, int]:
        found = await projects.find(session, project)
        records = await projects.count_records(session, found)
        if not yes:
            raise Refusal(f"project {found.name!r} has {counted(records, 'record')}; say --yes to delete them with it")
        await projects.remove(session, found, actor=actor())
        return found.name, records

    name, records = in_session(gone)
    print(f"{name} is removed, with {counted(records, 'record')}")


def _tell_of(pdf: bytes) -> None:
    """Say what an analysis would not find in guidelines that were just kept."""
    if problem := asyncio.run(problem_of(pdf)):
        remark(f"WARNING: {problem}")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal(f"file {str(file)!r} cannot be read: {error.strerror}") from None
