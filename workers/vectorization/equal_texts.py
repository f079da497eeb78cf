"""Vectors that an owner has already: equal texts in other projects of the owner are not embedded again."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.handler.errors import Retryable
from workers.vectorization.pending import EmbeddingTarget

# Each record is looked up in so many projects of its owner, the youngest first.
MAX_PROJECTS = 50

_PROJECTS = text("""
    SELECT other.id FROM operations.projects AS own
      JOIN operations.projects AS other ON other."ownerId" IS NOT DISTINCT FROM own."ownerId" AND other.id <> own.id
     WHERE own.id = :project AND (own."ownerId" IS NOT NULL OR other."ownerId" IS NULL)
     ORDER BY other."createdAt" DESC, other.id LIMIT :most""")
# The keys are unique indexes, whatever the planner's statistics say.
_COPY = text("""
    WITH found AS (
      SELECT DISTINCT ON (r.id) r.id, e.embedding, e."embeddingModel" AS model
        FROM unnest(CAST(:ids AS uuid[])) AS wanted(id)
        JOIN operations.data_records AS r ON r.id = wanted.id
       CROSS JOIN unnest(CAST(:projects AS uuid[])) AS p(id)
        JOIN operations.data_records AS e ON e."projectId" = p.id AND e."contentHash" = r."contentHash"
       WHERE e.content = r.content AND e."embeddingModel" = :model
         AND (CAST(:dimension AS integer) IS NULL OR cardinality(e.embedding) = :dimension)
       ORDER BY r.id, e.id
    )
    UPDATE operations.data_records AS r SET embedding = f.embedding, "embeddingModel" = f.model
      FROM found AS f WHERE r.id = f.id AND r.id = ANY (CAST(:ids AS uuid[]))
    RETURNING r.id, octet_length(r.content)""")


class Copied(NamedTuple):
    """A record that got the vector of an equal text."""

    id: UUID
    bytes: int


async def list_projects(session: AsyncSession, project_id: UUID) -> list[UUID]:
    """Return the other projects of the owner of this one."""
    found = await session.scalars(_PROJECTS, {"project": project_id, "most": MAX_PROJECTS})
    return list(found)


async def copy_vectors(
    session: AsyncSession,
    ids: Sequence[UUID],
    target: EmbeddingTarget,
    *,
    project_id: UUID,
    projects: Sequence[UUID],
) -> list[Copied]:
    """Give these records the vectors that equal texts in ``projects`` have of ``target``; return those that got one.

    Call it in a checkpoint, because its transaction locks the job's row. Raises Retryable if the project is being
    deleted.
    """
    if not await session.scalar(text("SELECT operations.hold_project(:project)"), {"project": project_id}):
        raise Retryable(f"project {project_id} is being deleted")
    rows = await session.execute(
        _COPY,
        {"ids": sorted(ids), "projects": list(projects), "model": target.model, "dimension": target.dimension},
    )
    return [Copied(*row) for row in rows]
