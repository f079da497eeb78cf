"""Write a project's records as CSV. A spreadsheet that opens it computes no formula.

Postgres returns every value as text, so no value can fail to be read and end an export.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, TextIO
from uuid import UUID

from sqlalchemy import BindParameter, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import String, Uuid

# Characters that begin a formula, or that a spreadsheet skips before one.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ROWS_AT_ONCE = 1_000
# Each column with its SQL. Ratings by people and by models are separate, because they differ.
_COLUMNS: Mapping[str, str] = {
    "id": "r.id",
    "type": "r.type",
    "category": "r.category",
    "content": "r.content",
    "source": "r.source",
    "created_by_id": 'r."createdById"',
    "created_by_name": 'r."createdByName"',
    "created_by_email": 'r."createdByEmail"',
    "created_at": """CASE WHEN isfinite(r."createdAt")
        THEN to_char(r."createdAt" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') ELSE r."createdAt"::text END""",
    "has_been_reviewed": 'r."hasBeenReviewed"',
    "is_category_correct": 'r."isCategoryCorrect"',
    "reviewed_by": 'r."reviewedBy"',
    "verdict": "CASE WHEN jsonb_typeof(r.alignment -> 'verdict') = 'string' THEN r.alignment ->> 'verdict' END",
    "judged_by": "CASE WHEN jsonb_typeof(r.alignment -> 'model') = 'string' THEN r.alignment ->> 'model' END",
    "alignment_analysis": 'r."alignmentAnalysis"',
    "people": "l.people",
    "people_realism": "l.people_realism",
    "people_quality": "l.people_quality",
    "models": "l.models",
    "models_realism": "l.models_realism",
    "models_quality": "l.models_quality",
    "embedding_model": 'r."embeddingModel"',
}
# More than any row of an ingested file has.
MAX_METADATA_BYTES = 32 * 1024 * 1024
_METADATA = "metadata"
_READABLE_METADATA = f"""CASE WHEN r.metadata IS NOT NULL THEN
    coalesce(runtime.readable(r.metadata, {MAX_METADATA_BYTES}), '(too large to be read)') END"""
_SIMILARITY = "similarity"
_FROM = """
      FROM operations.data_records AS r
      LEFT JOIN LATERAL (
        SELECT nullif(count(*) FILTER (WHERE "llmModel" IS NULL), 0) AS people,
               round(avg("realismScore") FILTER (WHERE "llmModel" IS NULL), 2) AS people_realism,
               round(avg("qualityScore") FILTER (WHERE "llmModel" IS NULL), 2) AS people_quality,
               nullif(count("llmModel"), 0) AS models,
               round(avg("realismScore") FILTER (WHERE "llmModel" IS NOT NULL), 2) AS models_realism,
               round(avg("qualityScore") FILTER (WHERE "llmModel" IS NOT NULL), 2) AS models_quality
          FROM operations.likert_scores WHERE "recordId" = r.id) AS l ON true
     WHERE r."projectId" = :project
       AND (CAST(:type AS text) IS NULL OR r.type::text = :type)
       AND (CAST(:category AS text) IS NULL OR r.category::text = :category)
     ORDER BY r.id"""
_COMPARED = (
    """CASE WHEN r."embeddingModel" = :model AND cardinality(r.embedding) = :length THEN r.embedding::text END"""
)


@dataclass(frozen=True, slots=True)
class Likeness:
    """A vector to compare records with, and its model. Vectors of other models are not compared."""

    numbers: Sequence[float]
    model: str


async def export_records(
    session: AsyncSession,
    project_id: UUID,
    into: TextIO,
    *,
    type_: str | None = None,
    category: str | None = None,
    like: Likeness | None = None,
) -> int:
    """Write the records of a project (of one type or category, if given) in the order of their ids; return the count.

    The records are streamed: at most a thousand are in memory. ``into`` must be open for text with ``newline=""``. With
    ``like`` there is a column with the cosine similarity of each record's vector to it. The last column has the
    original columns of the record as JSON.
    """
    columns = [*_COLUMNS, *([_SIMILARITY] if like else []), _METADATA]
    values: dict[str, Any] = {"project": project_id, "type": type_, "category": category}
    if like is not None:
        values |= {"model": like.model, "length": len(like.numbers)}
    writer = csv.writer(into, quoting=csv.QUOTE_ALL)  # a spreadsheet may expect another delimiter
    writer.writerow(columns)
    place = columns.index(_SIMILARITY) if like else -1
    count = 0
    query = _query(compared=like is not None)
    async for rows in (
        await session.stream(query, values, execution_options={"yield_per": _ROWS_AT_ONCE})
    ).partitions():
        for row in rows:
            cells = [neutralise(cell or "") for cell in row]
            if like is not None:
                cells[place] = similarity(row[place], like.numbers)
            writer.writerow(cells)
        count += len(rows)
    return count


def _query(*, compared: bool) -> Any:
    asked = {**_COLUMNS, **({_SIMILARITY: _COMPARED} if compared else {}), _METADATA: _READABLE_METADATA}
    selected = ", ".join(f"({sql})::text AS {name}" for name, sql in asked.items())
    given: list[BindParameter[Any]] = [
        bindparam("project", type_=Uuid()),
        bindparam("type", type_=String()),
        bindparam("category", type_=String()),
    ]
    return text(f"SELECT {selected} {_FROM}").bindparams(*given)


def neutralise(cell: str) -> str:
    """Return ``cell``, with an apostrophe before it if a spreadsheet could read it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_BEGINNINGS) else cell


def similarity(vector: str | None, numbers: Sequence[float]) -> str:
    """Return the cosine of a vector (as Postgres writes an array) with ``numbers``; the empty text if there is none."""
    if vector is None:
        return ""
    try:
        own = [float(number) for number in vector.strip("{}").split(",")]
    except ValueError:  # it contains NULL
        return ""
    length = sqrt(sum(one * one for one in own)) * sqrt(sum(one * one for one in numbers))
    cosine = sum(one * other for one, other in zip(own, numbers, strict=True)) / length if length else float("nan")
    return f"{cosine:.4f}" if isfinite(cosine) else ""
