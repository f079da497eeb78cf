"""Projects: create, find by name or id, set guidelines, count records, delete."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, delete, exists, func, or_, select, text, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import AnalyticsJob, DataRecord, IngestJob, Project, Upload
from workers.operations.refusals import NameTaken, OperationsError, UnknownProject
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Database
from workers.runtime.handler.naming import check_name, file_name, nfc
from workers.runtime.refusals import Forbidden, Problem, quoted
from workers.runtime.versions import require_version

MAX_PROJECT_NAME_CHARACTERS = 255
PDF_MAGIC = b"%PDF-"
MAX_PDF_BYTES = 50 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project with the counts of its records. ``guidelines_size`` is in bytes and may be up to 2 too high."""

    id: UUID
    name: str
    owner_id: UUID | None
    guidelines_file_name: str | None
    guidelines_size: int | None
    tasks: int
    feedback: int
    embedded: int
    reviewed: int
    last_task_analysis: str | None
    last_feedback_analysis: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class FoundProject:
    """A project without counts, because counting the records of a large project is slow."""

    id: UUID
    name: str
    last_task_analysis: str | None
    last_feedback_analysis: str | None


@dataclass(frozen=True, slots=True)
class ListedProject:
    """A project in a list, without counts: counting the records of a page of large projects would be slow."""

    id: UUID
    name: str
    owner_id: UUID | None
    guidelines_file_name: str | None
    created_at: datetime


_FOUND = select(Project.id, Project.name, Project.last_task_analysis, Project.last_feedback_analysis)
_MAY_CHANGE = text("SELECT operations.may_change(:id) OR runtime.is_trusted()")
_DELETE = text("SELECT operations.delete_project(:id)")


async def find(session: AsyncSession, name_or_id: str) -> FoundProject:
    """Return the project with that name, or else with that id; raise UnknownProject."""
    found = (await session.execute(_FOUND.where(Project.name == nfc(name_or_id)))).one_or_none()
    if found is None and (id_ := _uuid(name_or_id)) is not None:
        found = (await session.execute(_FOUND.where(Project.id == id_))).one_or_none()
    if found is None:
        raise UnknownProject(f"project {quoted(name_or_id)} does not exist; `gristmill projects list` shows them")
    return FoundProject(*found)


async def find_by_id(session: AsyncSession, project_id: UUID) -> FoundProject:
    """Return the project with that id; raise UnknownProject."""
    found = (await session.execute(_FOUND.where(Project.id == project_id))).one_or_none()
    if found is None:
        raise UnknownProject(f"project {project_id} does not exist (any more)")
    return FoundProject(*found)


async def require_change(session: AsyncSession, project_id: UUID) -> FoundProject:
    """Return a project that the session's user may change; raise UnknownProject, or Forbidden if it is another's."""
    found = await find_by_id(session, project_id)
    if not await session.scalar(_MAY_CHANGE, {"id": project_id}):
        raise Forbidden(f"project {quoted(found.name)} belongs to another user; its owner and admins may change it")
    return found


async def list_page(session: AsyncSession, *, limit: int = 50, after: str | None = None) -> Sequence[ListedProject]:
    """Return up to ``limit`` projects in the order of their names; ``after`` is the last name of the page before."""
    query = select(Project.id, Project.name, Project.owner_id, Project.guidelines_file_name, Project.created_at)
    if after is not None:
        query = query.where(Project.name > after)
    return [ListedProject(*row) for row in await session.execute(query.order_by(Project.name).limit(limit))]


async def create(session: AsyncSession, name: str, *, actor: Actor = NOBODY) -> tuple[FoundProject, bool]:
    """Return the project of that name, and whether it is new. A new one belongs to the actor's user.

    Raise NameTaken if the name belongs to another user, OperationsError if it looks like an id.
    """
    name = _checked_name(name)
    new = insert(Project).values(name=name, owner_id=actor.user_id)
    new = new.on_conflict_do_nothing(index_elements=[Project.name])
    async with acting(session, actor):
        made = await session.scalar(new.returning(Project.id))
    return await get_or_create(session, name, actor=actor), made is not None


async def rename(
    session: AsyncSession, project_id: UUID, name: str, *, version: int | None = None, actor: Actor = NOBODY
) -> None:
    """Give a project another name, if its version is ``version`` (None: any; ``workers.runtime.versions``).

    Raise UnknownProject, Forbidden, StaleVersion, NameTaken or OperationsError.
    """
    name = _checked_name(name)
    await require_change(session, project_id)
    try:
        async with acting(session, actor), session.begin_nested():
            locked = select(Project.updated_at).where(Project.id == project_id).with_for_update()
            require_version(f"project {project_id}", (await session.scalars(locked)).one(), version)
            await session.execute(update(Project).where(Project.id == project_id).values(name=name))
    except IntegrityError:
        raise NameTaken(Problem("name", "must not be the name of another project", quoted(name))) from None


def _checked_name(name: str) -> str:
    name = check_name("name", name, longest=MAX_PROJECT_NAME_CHARACTERS, error=OperationsError)
    if _uuid(name) is not None:
        rule = "must not look like an id, because commands find a project by its name or its id"
        raise OperationsError(Problem("name", rule, quoted(name)))
    return name


async def find_by_ingestion(session: AsyncSession, job_id: UUID) -> FoundProject | None:
    """Return the project of an ingestion job, or None if the job does not exist (any more)."""
    joined = _FOUND.join(IngestJob, IngestJob.project_id == Project.id).where(IngestJob.id == job_id)
    found = (await session.execute(joined)).one_or_none()
    return None if found is None else FoundProject(*found)


async def get_or_create(session: AsyncSession, name: str, *, actor: Actor = NOBODY) -> FoundProject:
    """Return the project of that name; create it if there is none. Two concurrent callers get the same project.

    A new one belongs to the actor's user. Raise NameTaken if the name belongs to another user. A name that looks like
    an id is read as an id, because a project with such a name would hide another one.
    """
    if _uuid(name) is not None:
        return await find(session, name)
    name = check_name("project name", name, longest=MAX_PROJECT_NAME_CHARACTERS, error=OperationsError)
    new = insert(Project).values(name=name, owner_id=actor.user_id)
    mine = Project.owner_id == actor.user_id if actor.user_id else true()
    async with acting(session, actor):
        await session.execute(new.on_conflict_do_nothing(index_elements=[Project.name]))
        # A new statement also sees the row of a concurrent caller.
        found = (await session.execute(_FOUND.where(Project.name == name, mine))).one_or_none()
        if found is None:
            raise NameTaken(Problem("project name", "must not be used by another user", quoted(name)))
    return FoundProject(*found)


@asynccontextmanager
async def for_use(database: Database, name: str, *, actor: Actor = NOBODY) -> AsyncIterator[FoundProject]:
    """Yield the project of that name, committed. If it is new and unused after the block, it is deleted again.

    Others see it while the block runs, for example during a long upload.
    """
    async with database.session() as session:
        known = await session.scalar(select(Project.id).where(Project.name == nfc(name)))
        found = await get_or_create(session, name, actor=actor)
    try:
        yield found
    finally:
        if known is None and found.name == nfc(name):  # if the name was an id, the project existed before
            async with database.session() as session, acting(session, actor):
                await _remove_unused(session, found.id)


async def _remove_unused(session: AsyncSession, project_id: UUID) -> None:
    """Delete the project unless it is used. A transaction that is adding to it holds a lock on its row."""
    unused = select(Project.id).where(Project.id == project_id, Project.guidelines.is_(None))
    if await session.scalar(unused.with_for_update(skip_locked=True)) is None:
        return
    # A new statement sees everything that was committed before this transaction got the lock.
    used = (exists().where(table.project_id == project_id) for table in (Upload, DataRecord, IngestJob, AnalyticsJob))
    await session.execute(delete(Project).where(Project.id == project_id, ~or_(*used)))


async def view(session: AsyncSession, name_or_id: str) -> ProjectView:
    """Return one project with its counts; raise UnknownProject."""
    return (await list_projects(session, name_or_id=name_or_id))[0]


async def view_by_id(session: AsyncSession, project_id: UUID) -> ProjectView:
    """Return one project with its counts; raise UnknownProject."""
    return (await _views(session, (await find_by_id(session, project_id)).id))[0]


async def list_projects(session: AsyncSession, *, name_or_id: str | None = None) -> Sequence[ProjectView]:
    """Return all projects in the order of their names, or only ``name_or_id``, with their counts."""
    return await _views(session, (await find(session, name_or_id)).id if name_or_id is not None else None)


async def _views(session: AsyncSession, one: UUID | None) -> Sequence[ProjectView]:
    counts = (
        select(
            DataRecord.project_id,
            func.count(case((DataRecord.type == "TASK", 1))).label("tasks"),
            func.count(case((DataRecord.type == "FEEDBACK", 1))).label("feedback"),
            func.count(DataRecord.embedding_model).label("embedded"),
            func.count(case((DataRecord.has_been_reviewed, 1))).label("reviewed"),
        )
        .where(DataRecord.project_id == one if one else true())
        .group_by(DataRecord.project_id)
        .subquery()
    )
    query = (
        select(
            Project.id,
            Project.name,
            Project.owner_id,
            Project.guidelines_file_name,
            # Computed from the length of the text only: to read its padding, Postgres would fetch up to 67 MB.
            func.octet_length(Project.guidelines) * 3 // 4,
            func.coalesce(counts.c.tasks, 0),
            func.coalesce(counts.c.feedback, 0),
            func.coalesce(counts.c.embedded, 0),
            func.coalesce(counts.c.reviewed, 0),
            Project.last_task_analysis,
            Project.last_feedback_analysis,
            Project.created_at,
            Project.updated_at,
        )
        .outerjoin(counts, counts.c.project_id == Project.id)
        .where(Project.id == one if one else true())
        .order_by(Project.name)
    )
    found: Sequence[Any] = (await session.execute(query)).all()
    return [ProjectView(*row) for row in found]


async def set_guidelines(
    session: AsyncSession, project: FoundProject, pdf: bytes, name: str, *, actor: Actor = NOBODY
) -> None:
    """Store ``pdf`` as the project's guidelines. Only an analysis finds out whether its text can be read.

    Raise OperationsError if it is not a PDF or too large, Forbidden if the project belongs to another user.
    """
    await require_change(session, project.id)
    if not pdf.startswith(PDF_MAGIC):
        shown = f"{name!r} with {pdf[:8]!r}"
        raise OperationsError(Problem("guidelines", "must be a PDF, which begins with %PDF-", shown))
    if len(pdf) > MAX_PDF_BYTES:
        shown = f"{len(pdf)} in {name!r}"
        raise OperationsError(Problem("guidelines", f"must have at most {MAX_PDF_BYTES} bytes", shown))
    kept = file_name(name, longest=MAX_PROJECT_NAME_CHARACTERS, default="guidelines.pdf")
    async with acting(session, actor):
        await session.execute(
            update(Project)
            .where(Project.id == project.id)
            .values(guidelines=base64.b64encode(pdf).decode("ascii"), guidelines_file_name=kept)
        )


async def count_records(session: AsyncSession, project: FoundProject) -> int:
    """Return how many records a project has."""
    query = select(func.count()).select_from(DataRecord).where(DataRecord.project_id == project.id)
    return int(await session.scalar(query) or 0)


async def remove(session: AsyncSession, project: FoundProject, *, actor: Actor = NOBODY) -> None:
    """Delete the project with its records, ratings, files and jobs. Running jobs are cancelled first.

    Raise UnknownProject, or Forbidden if it belongs to another user.
    """
    async with acting(session, actor):
        if not await session.scalar(_DELETE, {"id": project.id}):
            await require_change(session, project.id)
            raise UnknownProject(f"project {project.id} does not exist (any more)")


async def remove_all(session: AsyncSession, project_ids: Sequence[UUID], *, actor: Actor = NOBODY) -> int:
    """Delete these projects as :func:`remove` does; return how many existed."""
    gone = delete(Project).where(Project.id.in_(project_ids)).returning(Project.id)
    async with acting(session, actor):
        await _cancel_jobs(session, project_ids)
        return len((await session.scalars(gone)).all())


async def _cancel_jobs(session: AsyncSession, project_ids: Sequence[UUID]) -> None:
    """Cancel the unfinished jobs, because a job without an end in its history counts as lost."""
    for job in (IngestJob, AnalyticsJob):
        unfinished = (job.project_id.in_(project_ids), job.completed_at.is_(None))
        await session.execute(select(func.runtime.cancel(job.id, "removed with its project")).where(*unfinished))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
