"""Write a project's records as CSV that a spreadsheet may open: nothing in it is taken for a formula."""

import csv
import json
from typing import TextIO
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import DataRecord

# What a spreadsheet computes, or skips to find what it computes.
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ROWS_AT_ONCE = 1_000
_COLUMNS = (
    DataRecord.id,
    DataRecord.type,
    DataRecord.category,
    DataRecord.content,
    DataRecord.source,
    DataRecord.created_by_id,
    DataRecord.created_by_name,
    DataRecord.created_by_email,
    DataRecord.created_at,
    DataRecord.has_been_reviewed,
    DataRecord.is_category_correct,
    DataRecord.reviewed_by,
    DataRecord.alignment_analysis,
    DataRecord.metadata_,
)


async def export(
    session: AsyncSession, project_id: UUID, into: TextIO, *, type_: str | None = None, category: str | None = None
) -> int:
    """Write the records of a project, of one type or category if given, in the order they came; return how many.

    They stream through: never more than a thousand are held. ``into`` is open for text with ``newline=""``. The
    original columns of each are JSON in the last one.
    """
    query = select(*_COLUMNS).where(DataRecord.project_id == project_id).order_by(DataRecord.id)
    if type_ is not None:
        query = query.where(DataRecord.type == type_)
    if category is not None:
        query = query.where(DataRecord.category == category)
    writer = csv.writer(into, quoting=csv.QUOTE_ALL)  # a spreadsheet may cut at other characters than ours
    writer.writerow([column.key.rstrip("_") for column in _COLUMNS])
    count = 0
    async for rows in (await session.stream(query.execution_options(yield_per=_ROWS_AT_ONCE))).partitions():
        writer.writerows([_cell(value) for value in row] for row in rows)
        count += len(rows)
    return count


def neutral(cell: str) -> str:
    """Return ``cell`` so that no spreadsheet takes it for a formula: behind an apostrophe if it could be one."""
    return f"'{cell}" if cell.startswith(FORMULA_BEGINNINGS) else cell


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return neutral(str(value))
