"""Write a project's records as CSV that a spreadsheet may open: nothing in it is taken for a formula.

Postgres hands out text alone: no value of any row can fail to be read, so none ends an export.
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

# What a spreadsheet computes, or skips to find what it computes.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ROWS_AT_ONCE = 1_000
# Each column with what makes it. People's and models' ratings are apart: they answer differently.
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
# More than any row of a file that was taken.
MOST_METADATA_BYTES = 32 * 1024 * 1024
_METADATA = "metadata"
_READABLE_METADATA = f"""CASE WHEN r.metadata IS NOT NULL THEN
    coalesce(runtime.readable(r.metadata, {MOST_METADATA_BYTES}), '(too large to be read)') END"""
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
    """A vector that records are compared with, and the model that made it: others' vectors are not compared."""

    numbers: Sequence[float]
    model: str


async def export(
    session: AsyncSession,
    project_id: UUID,
    into: TextIO,
    *,
    type_: str | None = None,
    category: str | None = None,
    like: Likeness | None = None,
) -> int:
    """Write the records of a project, of one type or category if given, in the order they came; return how many.

    They stream through: never more than a thousand are held. ``into`` is open for text with ``newline=""``. With
    ``like`` there is the cosine of each record's vector with it. The original columns of each are JSON in the last one.
    """
    columns = [*_COLUMNS, *([_SIMILARITY] if like else []), _METADATA]
    values: dict[str, Any] = {"project": project_id, "type": type_, "category": category}
    if like is not None:
        values |= {"model": like.model, "length": len(like.numbers)}
    writer = csv.writer(into, quoting=csv.QUOTE_ALL)  # a spreadsheet may cut at other characters than ours
    writer.writerow(columns)
    place = columns.index(_SIMILARITY) if like else -1
    count = 0
    query = _query(compared=like is not None)
    async for rows in (
        await session.stream(query, values, execution_options={"yield_per": _ROWS_AT_ONCE})
    ).partitions():
        for row in rows:
            cells = [neutral(cell or "") for cell in row]
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


def neutral(cell: str) -> str:
    """Return ``cell`` so that no spreadsheet takes it for a formula: behind an apostrophe if it could be one."""
    return f"'{cell}" if cell.startswith(FORMULA_BEGINNINGS) else cell


def similarity(vector: str | None, numbers: Sequence[float]) -> str:
    """Return the cosine of a vector, as Postgres writes an array, with another; nothing where there is none."""
    if vector is None:
        return ""
    try:
        own = [float(number) for number in vector.strip("{}").split(",")]
    except ValueError:  # it has NULLs in it
        return ""
    length = sqrt(sum(one * one for one in own)) * sqrt(sum(one * one for one in numbers))
    cosine = sum(one * other for one, other in zip(own, numbers, strict=True)) / length if length else float("nan")
    return f"{cosine:.4f}" if isfinite(cosine) else ""
