"""``gristmill similar``: find the records that are most similar to a text or a record."""

import textwrap
from typing import Annotated
from uuid import UUID

import typer

from cli.offline_notes import OFFLINE_EMBEDDER, OFFLINE_EMBEDDER_NOTE
from cli.output import Json, print_json, print_table, remark
from cli.query_vector import embed_query
from cli.session import in_session
from workers.operations.projects import find
from workers.operations.record_review import as_category, as_type
from workers.runtime.database import Transaction
from workers.runtime.refusals import Refusal
from workers.vectorization import similar as search

_MAX_CONTENT_CHARACTERS = 80


def similar(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="Find records similar to this text.")] = None,
    *,
    record: Annotated[UUID | None, typer.Option(help="Find records similar to this record, instead of a text.")] = None,
    project: Annotated[str | None, typer.Option(help="Only records of this project (name or id).")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks or only feedback.")] = None,
    category: Annotated[str | None, typer.Option(help="Only top_10 or bottom_10.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number of records.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every record, without the index.")] = False,
    as_json: Json = False,
) -> None:
    """Find the records that are most similar to a text or a record, by the cosine of their vectors.

    The provider that embeds records embeds the text too. Only vectors of the same model are compared. Without a
    provider the vectors are feature hashes, which compare words, not meanings.
    """
    if (text is None) == (record is None):
        raise Refusal("give a TEXT or --record ID to compare with")
    if text is not None and not text.strip():
        raise Refusal("TEXT must not be empty")
    to = record or embed_query(text or "")

    async def find_similar(session: Transaction) -> list[search.Match]:
        return await search.similar(
            session,
            to=to,
            project_id=(await find(session, project)).id if project is not None else None,
            type_=as_type(type_),
            category=as_category(category),
            limit=limit,
            exact=exact,
        )

    found = in_session(find_similar)
    if as_json:
        print_json([_match_json(match) for match in found])
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
            note = f"{OFFLINE_EMBEDDER} {OFFLINE_EMBEDDER_NOTE}"
            remark(f"{note}; set OPENAI_BASE_URL and an embedding model to compare meanings")
    else:
        remark("no records match" if record else "no records match; records of other embedding models are not compared")


def _match_json(match: search.Match) -> dict[str, object]:
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
    return textwrap.shorten(text, _MAX_CONTENT_CHARACTERS, placeholder="…")
