"""What an export compares records with: a text, embedded by whoever embeds records, or the vector of a record."""

from typing import TYPE_CHECKING
from uuid import UUID

from cli.commands.similar import _embedded
from workers.runtime.refusals import Failed, Refusal

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncSession

    from workers.ingestion.export import Likeness


def likeness(text: str) -> "Likeness":
    """Return the vector of a text or of the record that has it as its id; raise Failed."""
    from sqlalchemy import select

    from cli.session import in_session
    from models.operations import DataRecord
    from workers.ingestion.export import Likeness

    if not text.strip():
        raise Refusal("--like must not be empty")
    try:
        record_id = UUID(text)
    except ValueError:
        vector = _embedded(text)
        return Likeness(vector.numbers, vector.model)

    async def found(session: "AsyncSession") -> "Row[list[float], str | None] | None":
        vector = select(DataRecord.embedding, DataRecord.embedding_model).where(DataRecord.id == record_id)
        return (await session.execute(vector)).one_or_none()

    record = in_session(found)
    if record is None:
        raise Failed(f"record {record_id} does not exist (any more)")
    numbers, model = record
    if model is None:
        raise Failed(f"record {record_id} is not embedded yet: nothing can be compared with it")
    return Likeness(numbers, model)
