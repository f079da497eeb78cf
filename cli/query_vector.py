"""The vector to compare records with: that of a text, made by the provider that embeds records, or that of a record."""

import asyncio
from uuid import UUID

from cli.provider import provider
from cli.server_urls import find_server_urls
from cli.session import in_session
from config.logging import configure
from config.settings import load
from workers.runtime.refusals import Refusal
from workers.vectorization.similar import Vector, embed_text, vector_of


def find_query_vector(text: str) -> Vector:
    """Return the vector of a text, or of a record if ``text`` is its id."""
    if not text.strip():
        raise Refusal("--like must not be empty")
    try:
        record_id = UUID(text)
    except ValueError:
        return embed_query(text)
    return in_session(lambda session: vector_of(session, record_id))


def embed_query(text: str) -> Vector:
    """Return the vector of ``text``, made by the provider that embeds records."""
    settings = load()
    configure(settings.log_format, "WARNING")  # the command prints the result itself

    async def embed() -> Vector:
        llm = provider(settings, database_url=find_server_urls(settings).database_url, name="cli:similar")
        try:
            return await embed_text(llm, text)
        finally:
            await llm.aclose()

    return asyncio.run(embed())
