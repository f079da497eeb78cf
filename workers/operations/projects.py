"""Projects: make one, find it by name or id, give it guidelines, see how far its records are, delete it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, delete, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import DataRecord, Project
from workers.operations.refusals import OperationsError, UnknownProject
from workers.runtime.handler.naming import file_name, named, nfc
from workers.runtime.refusals import quoted

NAME_LENGTH = 255
PDF_MAGIC = b"%PDF-"
LARGEST_PDF = 50 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project with how many records it has and how far they are; ``guidelines_size`` in bytes may be 2 too many."""

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


async def find(session: AsyncSession, name_or_id: str) -> Project:
    """Return the project with that name, else with that id; raise UnknownProject."""
    found = await session.scalar(select(Project).where(Project.name == nfc(name_or_id)))
    if found is None and (id_ := _uuid(name_or_id)) is not None:
        found = await session.get(Project, id_)
    if found is None:
        raise UnknownProject(f"project {quoted(name_or_id)} does not exist; `gristmill projects list` shows them")
    return found


async def get_or_create(session: AsyncSession, name: str) -> Project:
    """Return the project of that name, new if there was none; of two who make it at once, both get the same one.

    What looks like an id is one: no project is named so, or it would hide the other.
    """
    if _uuid(name) is not None:
        return await find(session, name)
    name = named("project name", name, longest=NAME_LENGTH, error=OperationsError)
    await session.execute(insert(Project).values(name=name).on_conflict_do_nothing(index_elements=[Project.name]))
    # A statement of its own sees whoever won the race.
    return (await session.scalars(select(Project).where(Project.name == name))).one()


async def list_projects(session: AsyncSession, *, name_or_id: str | None = None) -> Sequence[ProjectView]:
    """Return every project by name, or the one asked for, each with its counts."""
    one = (await find(session, name_or_id)).id if name_or_id is not None else None
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
            # Of the text's length alone: to see its padding would be to fetch all of it, up to 67 MB.
            func.octet_length(Project.guidelines) * 3 // 4,
            func.coalesce(counts.c.tasks, 0),
            func.coalesce(counts.c.feedback, 0),
            func.coalesce(counts.c.embedded, 0),
            func.coalesce(counts.c.reviewed, 0),
            Project.last_task_analysis,
            Project.last_feedback_analysis,
            Project.created_at,
        )
        .outerjoin(counts, counts.c.project_id == Project.id)
        .where(Project.id == one if one else true())
        .order_by(Project.name)
    )
    found: Sequence[Any] = (await session.execute(query)).all()
    return [ProjectView(*row) for row in found]


async def set_guidelines(session: AsyncSession, project: Project, pdf: bytes, name: str) -> None:
    """Keep ``pdf`` as the project's guidelines; whether its text can be read shows when it is analysed."""
    if not pdf.startswith(PDF_MAGIC):
        raise OperationsError(f"guidelines must be a PDF, which begins with %PDF-, got {name!r} with {pdf[:8]!r}")
    if len(pdf) > LARGEST_PDF:
        raise OperationsError(f"guidelines must have at most {LARGEST_PDF} bytes, got {len(pdf)} in {name!r}")
    kept = file_name(name, longest=NAME_LENGTH, default="guidelines.pdf")
    await session.execute(
        update(Project)
        .where(Project.id == project.id)
        .values(guidelines=base64.b64encode(pdf).decode("ascii"), guidelines_file_name=kept)
    )


async def remove(session: AsyncSession, project: Project) -> None:
    """Delete the project with its records, ratings, files and jobs; whatever runs for it ends."""
    await session.execute(delete(Project).where(Project.id == project.id))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
