"""``gristmill projects``: containers of records, guidelines and jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Json, print_json, print_table, remark
from cli.values import moment
from workers.runtime.refusals import Refusal, printable

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from workers.operations.projects import ProjectView

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
    from cli.session import in_session
    from workers.operations.projects import get_or_create, list_projects, set_guidelines

    async def make(session: "AsyncSession") -> "tuple[UUID, ProjectView | None]":
        project = await get_or_create(session, name)
        if guidelines is not None and pdf is not None:
            await set_guidelines(session, project, pdf, guidelines.name)
        # Counting its records takes as long as it has many: only for who is shown the counts.
        return project.id, (await list_projects(session, name_or_id=str(project.id)))[0] if as_json else None

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
    from cli.session import in_session
    from workers.operations.projects import list_projects

    found = in_session(list_projects)
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
    from cli.session import in_session
    from workers.operations.projects import list_projects

    found = in_session(lambda session: list_projects(session, name_or_id=project))[0]
    if as_json:
        print_json(found)
        return
    told = {
        "project": found.name,
        "id": found.id,
        "owner": found.owner_id,
        "guidelines": (name := found.guidelines_file_name) and f"{name}, about {found.guidelines_size} bytes",
        "records": f"{found.tasks} tasks, {found.feedback} pieces of feedback",
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
    from cli.session import in_session
    from workers.operations.projects import find, set_guidelines

    async def give(session: "AsyncSession") -> None:
        await set_guidelines(session, await find(session, project), pdf, file.name)

    in_session(give)
    print(f"{project} follows {file.name}")
    _tell_of(pdf)


@app.command()
def embed(project: ProjectName, as_json: Json = False) -> None:
    """Embed the records that have no vector of the current embedding model; one job per type of record."""
    from cli.session import in_session
    from models.operations import RECORD_TYPES
    from workers.operations.projects import find
    from workers.runtime.enqueue import enqueue_many

    async def start(session: "AsyncSession") -> list[str]:
        found = await find(session, project)
        jobs = [{"project_id": str(found.id), "type": type_} for type_ in RECORD_TYPES]
        return [str(job.id) for job in await enqueue_many(session, "vectorization.embed", jobs)]

    ids = in_session(start)
    if as_json:
        print_json({"job_ids": ids})
    else:
        print("\n".join(ids))


@app.command()
def remove(
    project: ProjectName,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without this, nothing is.")] = False,
) -> None:
    """Delete a project with its records, ratings, files and jobs; whatever runs for it ends."""
    from cli.session import in_session
    from workers.operations.projects import find
    from workers.operations.projects import remove as delete
    from workers.operations.records import count

    async def gone(session: "AsyncSession") -> tuple[str, int]:
        found = await find(session, project)
        records = await count(session, found.id)
        if not yes:
            raise Refusal(f"project {found.name!r} has {records} records; say --yes to delete them with it")
        await delete(session, found)
        return found.name, records

    name, records = in_session(gone)
    print(f"{name} is removed, with {records} records")


def _tell_of(pdf: bytes) -> None:
    """Say what an analysis would find, or miss, in guidelines that were just kept."""
    import asyncio

    from workers.analytics.guidelines import without_text
    from workers.analytics.passages import empty_pages
    from workers.analytics.pdf import extracted
    from workers.runtime.handler.errors import Permanent

    try:
        pages = asyncio.run(extracted(pdf))
    except Permanent as error:
        remark(f"WARNING: no analysis can read them: {error}")
        return
    if warning := without_text(len(pages), empty_pages(pages)):
        remark(f"WARNING: {warning}")


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal(f"file {str(file)!r} cannot be read: {error.strerror}") from None
