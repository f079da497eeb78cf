"""``gristmill similar``: which records are like one of them, or like a text."""

import textwrap
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from cli.output import Json, print_json, print_table, remark
from cli.words import OFFLINE_EMBEDDER, WORDS
from workers.runtime.refusals import Failed, Refusal

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from workers.vectorization.similar import Match, Vector

_SHORT = 80


def similar(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Find records like this text.")] = None,
    *,
    record: Annotated[UUID | None, typer.Option(help="Find records like this one, instead of a text.")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project's, by name or id.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")] = None,
    category: Annotated[str | None, typer.Option(help="Only top_10 or bottom_10.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most records to show.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every record, without the index.")] = False,
    as_json: Json = False,
) -> None:
    """Find the records most like a text or a record, by the cosine of their vectors.

    A text is embedded by the provider that embeds records; only vectors of the same model are compared. Without a
    provider they are feature hashes: those compare words, not meanings.
    """
    if (text is None) == (record is None):
        raise Refusal("say what to compare with: a TEXT or --record ID")
    if text is not None and not text.strip():
        raise Refusal("TEXT must not be empty")
    from cli.session import in_session
    from workers.operations.projects import find
    from workers.operations.records import as_category, as_type
    from workers.vectorization import similar as search

    to = record or _embedded(text or "")

    async def question(session: "AsyncSession") -> "list[Match]":
        return await search.similar(
            session,
            to=to,
            project_id=(await find(session, project)).id if project is not None else None,
            type_=as_type(type_),
            category=as_category(category),
            limit=limit,
            exact=exact,
        )

    try:
        found = in_session(question)
    except search.NotComparable as error:
        raise Failed(str(error)) from None
    if as_json:
        print_json([_plain(match) for match in found])
    elif found:
        print_table(
            (">SIMILARITY", "RECORD", "TYPE", "CATEGORY", "CONTENT"),
            (
                (f"{match.similarity:.3f}", one.id, one.type, one.category, _shortened(one.content))
                for match in found
                for one in (match.record,)
            ),
            keep={"RECORD"},
        )
        if any(match.record.embedding_model == OFFLINE_EMBEDDER for match in found):
            remark(f"{OFFLINE_EMBEDDER} {WORDS}; set OPENAI_BASE_URL and an embedding model to compare meanings")
    else:
        remark("no records match" if record else "no records match; those of other embedding models are not compared")


def _embedded(text: str) -> "Vector":
    """Return the vector of ``text``, made by whoever embeds records."""
    import asyncio

    from cli.addresses import addresses
    from cli.provider import provider
    from config.logging import configure
    from config.settings import load
    from workers.runtime.handler.errors import Permanent, RateLimited, Retryable
    from workers.vectorization.similar import Vector

    settings = load()
    configure(settings.log_format, "WARNING")  # the caller tells what was found

    async def ask() -> Vector:
        llm = provider(settings, database_url=addresses(settings).database_url, name="cli:similar")
        try:
            answer = await llm.embed([text], model=await llm.embedding_model())
        finally:
            await llm.aclose()
        return Vector(answer.vectors[0], answer.model)

    try:
        return asyncio.run(ask())
    except (Permanent, RateLimited, Retryable) as error:
        raise Failed(f"the text cannot be embedded: {error}") from None


def _plain(match: "Match") -> dict[str, object]:
    one = match.record
    return {
        "record": one.id,
        "similarity": round(match.similarity, 6),
        "type": one.type,
        "category": one.category,
        "source": one.source,
        "content": one.content,
        "embedding_model": one.embedding_model,
    }


def _shortened(text: str) -> str:
    return textwrap.shorten(text, _SHORT, placeholder="…")
