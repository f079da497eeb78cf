"""Start the embedding of a project's records that have no vector of the current embedding model."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import RECORD_TYPES
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.enqueue import enqueue_many


async def embed_project(session: AsyncSession, project_id: UUID, *, actor: Actor = NOBODY) -> list[UUID]:
    """Enqueue one job per record type; return the ids. Nothing happens before the caller commits."""
    jobs = [{"project_id": str(project_id), "type": type_} for type_ in RECORD_TYPES]
    async with acting(session, actor):
        return [job.id for job in await enqueue_many(session, "vectorization.embed", jobs)]
