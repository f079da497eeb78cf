"""The vector to compare records with: of a text, embedded by whoever embeds records, or of a record."""

import asyncio
from uuid import UUID

from cli.addresses import addresses
from cli.provider import provider
from cli.session import in_session
from config.logging import configure
from config.settings import load
from workers.runtime.refusals import Refusal
from workers.vectorization.similar import Vector, embed_text, vector_of


def vector_like(text: str) -> Vector:
    """Return the vector of a text, or of the record with this id."""
    if not text.strip():
        raise Refusal("--like must not be empty")
    try:
        record_id = UUID(text)
    except ValueError:
        return vector_of_text(text)
    return in_session(lambda session: vector_of(session, record_id))


def vector_of_text(text: str) -> Vector:
    """Return the vector of ``text``, made by whoever embeds records."""
    settings = load()
    configure(settings.log_format, "WARNING")  # the caller tells what was found

    async def ask() -> Vector:
        llm = provider(settings, database_url=addresses(settings).database_url, name="cli:similar")
        try:
            return await embed_text(llm, text)
        finally:
            await llm.aclose()

    return asyncio.run(ask())
